"""Generate pictures from a prompt with any of the models of both providers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from prefect import flow
from prefect.futures import PrefectFuture
from pydantic import Field

from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.output import default_output
from prefect_kosmokrator.integrations.stability_types import AspectRatio
from prefect_kosmokrator.tasks import fal, stability
from prefect_kosmokrator.tasks.artifacts import publish
from prefect_kosmokrator.tasks.hooks import HOOKS
from prefect_kosmokrator.tasks.spending import MaxCost

Model = Literal[
    "stability/core",
    "stability/ultra",
    "stability/sd3.5-large",
    "stability/sd3.5-large-turbo",
    "stability/sd3.5-medium",
    "stability/sd3.5-flash",
    "fal-ai/flux/schnell",
    "fal-ai/flux/dev",
]
Prompt = Annotated[str, Field(min_length=1, max_length=10_000)]
Variants = Annotated[int, Field(ge=1, le=16)]
Seed = Annotated[int, Field(ge=0, le=4_294_967_294)]


@flow(**HOOKS)
def generate_image(
    prompt: Prompt,
    model: Model = "stability/core",
    variants: Variants = 1,
    aspect_ratio: AspectRatio = "1:1",
    negative_prompt: str = "",
    seed: Seed = 0,
    account: str = "default",
    output: str = "",
    max_cost: MaxCost = "",  # noqa: ARG001 - read by every call of the run
) -> list[Media]:
    """Generate pictures from a prompt and store them.

    Args:
        prompt: What to show, in English; up to 10,000 characters.
        model: What generates the pictures. Models with "fal-ai" run at fal.ai, the others at Stability AI.
        variants: How many different pictures of the prompt, 1 to 16.
        aspect_ratio: Width to height.
        negative_prompt: What not to show (Stability AI models only).
        seed: Repeats an earlier result; 0 picks one at random. Variants count up from it.
        account: Name of the account that is used and billed: a credentials block or KOSMO_* variables.
        output: Output store's name or URL prefix such as s3://bucket/folder. Empty: the setting KOSMO_OUTPUT.
        max_cost: Budget of the run such as "5 USD" or "300 credits". Empty: none.

    Returns:
        References to the stored pictures.
    """
    media = make_images(prompt, model, variants, aspect_ratio, negative_prompt, seed, account, output)
    publish(media, key="generate-image", title=prompt)
    return media


def make_images(
    prompt: str,
    model: Model,
    variants: int,
    aspect_ratio: AspectRatio,
    negative_prompt: str,
    seed: int,
    account: str,
    output: str,
) -> list[Media]:
    """Runs the tasks that generate `variants` pictures, inside the flow that calls it."""
    store = output or default_output()
    seeds = [seed + number if seed else None for number in range(variants)]
    if model.startswith("fal-ai/"):
        jobs = [fal.submit_request(model, _fal_input(prompt, aspect_ratio, one), account=account) for one in seeds]
        waits = [fal.wait_for_request.submit(job, account=account, output=store) for job in jobs]
        return [media for wait in waits for media in wait.result().media]
    common: dict[str, Any] = {
        "aspect_ratio": aspect_ratio,
        "negative_prompt": negative_prompt or None,
        "account": account,
        "output": store,
    }
    futures: list[PrefectFuture[Media]]
    if model == "stability/core":
        futures = [stability.generate_core.submit(prompt, seed=one, **common) for one in seeds]
    elif model == "stability/ultra":
        futures = [stability.generate_ultra.submit(prompt, seed=one, **common) for one in seeds]
    else:
        name = model.removeprefix("stability/")
        futures = [stability.generate_sd3.submit(prompt, model=name, seed=one, **common) for one in seeds]
    return [future.result() for future in futures]


def _fal_input(prompt: str, aspect_ratio: AspectRatio, seed: int | None) -> dict[str, Any]:
    """The input of the FLUX models: about one megapixel in the given shape, sides a multiple of 16."""
    across, down = (int(part) for part in aspect_ratio.split(":"))
    unit = (1024 * 1024 / (across * down)) ** 0.5
    size = {"width": round(across * unit / 16) * 16, "height": round(down * unit / 16) * 16}
    return {"prompt": prompt, "image_size": size, "num_images": 1} | ({} if seed is None else {"seed": seed})
