"""Generate pictures and enlarge each of them: the pack's main job."""

from __future__ import annotations

from typing import Literal

from prefect import flow

from prefect_kosmokrator.flows.generate_image import Model, Prompt, Seed, Variants, make_images
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.output import default_output
from prefect_kosmokrator.integrations.stability_types import AspectRatio
from prefect_kosmokrator.tasks import stability
from prefect_kosmokrator.tasks.artifacts import publish
from prefect_kosmokrator.tasks.hooks import HOOKS
from prefect_kosmokrator.tasks.spending import MaxCost


@flow(**HOOKS)
def generate_and_upscale(
    prompt: Prompt,
    model: Model = "stability/core",
    upscale: Literal["fast", "creative"] = "fast",
    variants: Variants = 1,
    aspect_ratio: AspectRatio = "1:1",
    negative_prompt: str = "",
    seed: Seed = 0,
    account: str = "default",
    upscale_account: str = "",
    output: str = "",
    max_cost: MaxCost = "",  # noqa: ARG001 - read by every call of the run
) -> list[Media]:
    """Generate pictures from a prompt, upscale each of them at Stability AI and store both versions.

    Args:
        prompt: What to show, in English; up to 10,000 characters.
        model: What generates the pictures. Models with "fal-ai" run at fal.ai, the others at Stability AI.
        upscale: "fast" enlarges four times for 2 credits; "creative" invents detail, takes minutes and 60 credits.
        variants: How many different pictures of the prompt, 1 to 16.
        aspect_ratio: Width to height.
        negative_prompt: What not to show (Stability AI models only).
        seed: Repeats an earlier result; 0 picks one at random. Variants count up from it.
        account: Name of the account that generates: a credentials block or KOSMO_* variables.
        upscale_account: Name of the Stability AI account that upscales. Empty: the same name.
        output: Output store's name or URL prefix such as s3://bucket/folder. Empty: the setting KOSMO_OUTPUT.
        max_cost: Budget of the run such as "5 USD" or "300 credits". Empty: none.

    Returns:
        References to the stored pictures: each generated one followed by its upscaled version.
    """
    images = make_images(prompt, model, variants, aspect_ratio, negative_prompt, seed, account, output)
    payer, store = upscale_account or account, output or default_output()
    if upscale == "creative":
        jobs = [stability.upscale_creative(image, prompt, account=payer) for image in images]
        waits = [stability.get_result.submit(job.id, timeout=1800, account=payer, output=store) for job in jobs]
    else:
        waits = [stability.upscale_fast.submit(image, account=payer, output=store) for image in images]
    media = [item for image, wait in zip(images, waits, strict=True) for item in (image, wait.result())]
    publish(media, key="generate-and-upscale", title=prompt)
    return media
