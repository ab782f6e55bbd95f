"""Stability AI: generate, edit, control and upscale pictures."""

from __future__ import annotations

import logging

from prefect_kosmokrator.integrations import stability_api as api
from prefect_kosmokrator.integrations import stability_types as types
from prefect_kosmokrator.integrations.catalog import Provider
from prefect_kosmokrator.integrations.errors import InvalidInput, JobPending, Rejected
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.messages import Request
from prefect_kosmokrator.integrations.parameters import AccountName, OnFiltered, Output, load_picture
from prefect_kosmokrator.integrations.records import Job, Record

logger = logging.getLogger("prefect_kosmokrator")

provider = Provider(
    "stability",
    "Stability AI",
    "Generates, edits, controls and upscales pictures.",
    account=api.StabilityAccount,
    vendor_variable=api.VENDOR_VARIABLE,
    price=lambda function, arguments: api.price(function, arguments.get("model")),
    balance=api.balance_in_usd,
    rate_limit=api.RATE_LIMIT,
)


@provider.function("Get Account", operation="read")
def get_account(*, account: AccountName = "default") -> Record:
    """Get the account associated with the Stability AI API key.

    Returns:
        `email`, `id`, `organizations` (each with `id`, `name`, `role`, `is_default`) and `profile_picture`.
    """
    return Record(api.client_for(account).json_object(Request("GET", api.url(account, "/v1/user/account"))))


@provider.function("Get Balance", operation="read")
def get_balance(*, organization: types.Organization | None = None, account: AccountName = "default") -> Record:
    """Get the credit balance of the Stability AI API key.

    Returns:
        `credits`; one credit is 0.01 US$.
    """
    return Record(api.balance(account, organization))


@provider.function("Generate Core Image", operation="write", cost="3 credits")
def generate_core(
    prompt: types.Prompt,
    *,
    aspect_ratio: types.AspectRatio | None = None,
    negative_prompt: types.NegativePrompt | None = None,
    seed: types.Seed | None = None,
    style_preset: types.StylePreset | None = None,
    output_format: types.OutputFormat = "png",
    account: AccountName = "default",
    output: Output = None,
    on_filtered: OnFiltered = "raise",
) -> Media:
    """Generate an image with Stable Image Core.

    Returns:
        A picture of about 1.5 megapixels.
    """
    fields = {
        "prompt": prompt,
        "aspect_ratio": aspect_ratio,
        "negative_prompt": negative_prompt,
        "seed": seed,
        "style_preset": style_preset,
        "output_format": output_format,
    }
    return api.generate("generate/core", fields, account, output, on_filtered)


@provider.function("Generate Ultra Image", operation="write", cost="8 credits")
def generate_ultra(
    prompt: types.Prompt,
    *,
    aspect_ratio: types.AspectRatio | None = None,
    negative_prompt: types.NegativePrompt | None = None,
    seed: types.Seed | None = None,
    style_preset: types.StylePreset | None = None,
    output_format: types.OutputFormat = "png",
    image: types.UltraImage | None = None,
    strength: types.Strength | None = None,
    account: AccountName = "default",
    output: Output = None,
    on_filtered: OnFiltered = "raise",
) -> Media:
    """Generate a high-quality image with Stable Image Ultra, optionally starting from a picture.

    Returns:
        A picture of about 1 megapixel.
    """
    _together(image=image, strength=strength)
    fields = {
        "prompt": prompt,
        "aspect_ratio": aspect_ratio,
        "negative_prompt": negative_prompt,
        "seed": seed,
        "style_preset": style_preset,
        "output_format": output_format,
        "image": None if image is None else load_picture("image", image, api.ULTRA_LIMITS),
        "strength": strength,
    }
    return api.generate("generate/ultra", fields, account, output, on_filtered)


@provider.function("Generate SD3 Image", operation="write", cost="2.5 to 6.5 credits by model")
def generate_sd3(
    prompt: types.Prompt,
    *,
    model: types.Sd3Model = "sd3.5-large",
    aspect_ratio: types.AspectRatio | None = None,
    negative_prompt: types.NegativePrompt | None = None,
    seed: types.Seed | None = None,
    style_preset: types.StylePreset | None = None,
    output_format: types.OutputFormat = "png",
    cfg_scale: types.CfgScale | None = None,
    mode: types.Mode | None = None,
    image: types.Sd3Image | None = None,
    strength: types.Strength | None = None,
    account: AccountName = "default",
    output: Output = None,
    on_filtered: OnFiltered = "raise",
) -> Media:
    """Generate an image with Stable Diffusion 3 or 3.5 models, from text or from a picture.

    Returns:
        A picture of about 1 megapixel.
    """
    _together(image=image, strength=strength)
    if mode is not None and (mode == "image-to-image") != (image is not None):
        problem = "needs an image and a strength" if image is None else "does not go with an image"
        raise InvalidInput(f"mode: {mode!r} {problem}.", parameter="mode")
    if image is not None and aspect_ratio is not None:
        raise InvalidInput(
            "aspect_ratio: only for text-to-image; with an image, the result has its shape.", parameter="aspect_ratio"
        )
    if model not in api.SD3_MODELS:
        logger.warning("Model %r is not known to this version; the service decides. Its cost is not known.", model)
    fields = {
        "prompt": prompt,
        "mode": "image-to-image" if image is not None else mode,
        "model": model,
        "aspect_ratio": aspect_ratio,
        "negative_prompt": negative_prompt,
        "seed": seed,
        "style_preset": style_preset,
        "output_format": output_format,
        "cfg_scale": cfg_scale,
        "image": None if image is None else load_picture("image", image, api.SD3_LIMITS),
        "strength": strength,
    }
    return api.generate("generate/sd3", fields, account, output, on_filtered)


@provider.function("Inpaint Image", operation="write", cost="5 credits")
def inpaint(
    image: types.EditImage,
    prompt: types.Prompt,
    *,
    mask: types.Mask | None = None,
    negative_prompt: types.NegativePrompt | None = None,
    grow_mask: types.GrowInpaintMask | None = None,
    seed: types.Seed | None = None,
    style_preset: types.StylePreset | None = None,
    output_format: types.OutputFormat = "png",
    account: AccountName = "default",
    output: Output = None,
    on_filtered: OnFiltered = "raise",
) -> Media:
    """Fill or replace masked areas of an image.

    Returns:
        A picture of the input's size.
    """
    fields = {
        "image": load_picture("image", image, api.EDIT_LIMITS),
        "prompt": prompt,
        "mask": None if mask is None else load_picture("mask", mask, api.MASK_LIMITS),
        "negative_prompt": negative_prompt,
        "grow_mask": grow_mask,
        "seed": seed,
        "style_preset": style_preset,
        "output_format": output_format,
    }
    return api.generate("edit/inpaint", fields, account, output, on_filtered)


@provider.function("Erase Image Area", operation="write", cost="5 credits")
def erase(
    image: types.EditImage,
    *,
    mask: types.Mask | None = None,
    grow_mask: types.GrowEraseMask | None = None,
    seed: types.Seed | None = None,
    output_format: types.OutputFormat = "png",
    account: AccountName = "default",
    output: Output = None,
    on_filtered: OnFiltered = "raise",
) -> Media:
    """Remove masked areas from an image.

    Returns:
        A picture of the input's size.
    """
    fields = {
        "image": load_picture("image", image, api.EDIT_LIMITS),
        "mask": None if mask is None else load_picture("mask", mask, api.MASK_LIMITS),
        "grow_mask": grow_mask,
        "seed": seed,
        "output_format": output_format,
    }
    return api.generate("edit/erase", fields, account, output, on_filtered)


@provider.function("Remove Background", operation="write", cost="5 credits")
def remove_background(
    image: types.BackgroundImage,
    *,
    output_format: types.TransparentFormat = "png",
    account: AccountName = "default",
    output: Output = None,
    on_filtered: OnFiltered = "raise",
) -> Media:
    """Remove an image background.

    Returns:
        A picture of the input's size with a transparent background.
    """
    fields = {"image": load_picture("image", image, api.BACKGROUND_LIMITS), "output_format": output_format}
    return api.generate("edit/remove-background", fields, account, output, on_filtered)


@provider.function("Control Structure", operation="write", cost="5 credits")
def control_structure(
    image: types.StructureImage,
    prompt: types.Prompt,
    *,
    control_strength: types.ControlStrength | None = None,
    negative_prompt: types.NegativePrompt | None = None,
    seed: types.Seed | None = None,
    style_preset: types.StylePreset | None = None,
    output_format: types.OutputFormat = "png",
    account: AccountName = "default",
    output: Output = None,
    on_filtered: OnFiltered = "raise",
) -> Media:
    """Generate an image guided by the structure of an input image.

    Returns:
        A picture of the input's size.
    """
    fields = {
        "image": load_picture("image", image, api.STRUCTURE_LIMITS),
        "prompt": prompt,
        "control_strength": control_strength,
        "negative_prompt": negative_prompt,
        "seed": seed,
        "style_preset": style_preset,
        "output_format": output_format,
    }
    return api.generate("control/structure", fields, account, output, on_filtered)


@provider.function("Fast Upscale", operation="write", cost="2 credits")
def upscale_fast(
    image: types.FastImage,
    *,
    output_format: types.OutputFormat = "png",
    account: AccountName = "default",
    output: Output = None,
    on_filtered: OnFiltered = "raise",
) -> Media:
    """Quickly upscale an image to four times its width and height.

    Returns:
        A picture of up to 16 megapixels.
    """
    fields = {"image": load_picture("image", image, api.FAST_LIMITS, fit=True), "output_format": output_format}
    return api.generate("upscale/fast", fields, account, output, on_filtered)


@provider.function("Creative Upscale", operation="write", cost="60 credits", result="get_result")
def upscale_creative(
    image: types.CreativeImage,
    prompt: types.Prompt,
    *,
    negative_prompt: types.NegativePrompt | None = None,
    creativity: types.Creativity | None = None,
    seed: types.Seed | None = None,
    style_preset: types.StylePreset | None = None,
    output_format: types.OutputFormat = "png",
    account: AccountName = "default",
) -> Job:
    """Upscale an image with creative enhancement. Takes about a minute: fetch it with `get_result`.

    Returns:
        The job; its `id` goes to `get_result`.
    """
    fields = {
        "image": load_picture("image", image, api.CREATIVE_LIMITS, fit=True),
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "creativity": creativity,
        "seed": seed,
        "style_preset": style_preset,
        "output_format": output_format,
    }
    return api.start("/v2beta/stable-image/upscale/creative", fields, account)


@provider.function("Get Result", operation="read", ends="fetch")
def get_result(
    id: types.IdOrJob,  # noqa: A002 - the service's own name
    *,
    timeout: types.WaitSeconds = 0,
    account: AccountName = "default",
    output: Output = None,
    on_filtered: OnFiltered = "raise",
) -> Media:
    """Fetch the result of an asynchronous Stability AI job such as `upscale_creative`.

    Results are kept for 24 hours. A job that is not ready raises `JobPending`, or `DeadlineExceeded` after `timeout`.

    Returns:
        The picture.
    """
    job = id if isinstance(id, Job) else api.make_job(id, account, "upscale_creative")
    return api.fetch(
        f"/v2beta/results/{job.id}", job, accept="*/*", output=output, on_filtered=on_filtered, timeout=timeout
    )


_VIDEO_COST = "20 credits (discontinued by the vendor)"


@provider.function("Image To Video", operation="write", cost=_VIDEO_COST, result="get_video_result")
def image_to_video(
    image: types.VideoImage,
    *,
    seed: types.Seed | None = None,
    cfg_scale: types.VideoCfgScale | None = None,
    motion_bucket_id: types.MotionBucket | None = None,
    account: AccountName = "default",
) -> Job:
    """Start an image-to-video generation job. The vendor removed this endpoint in July 2025.

    Returns:
        The job; its `id` goes to `get_video_result`.
    """
    fields = {
        "image": load_picture("image", image, api.VIDEO_LIMITS),
        "seed": seed,
        "cfg_scale": cfg_scale,
        "motion_bucket_id": motion_bucket_id,
    }
    try:
        return api.start("/v2beta/image-to-video", fields, account)
    except Rejected as error:
        raise api.as_discontinued(error) from error


@provider.function("Get Video Result", operation="read", ends="fetch")
def get_video_result(
    id: types.IdOrJob,  # noqa: A002 - the service's own name
    *,
    timeout: types.WaitSeconds = 0,
    account: AccountName = "default",
    output: Output = None,
    on_filtered: OnFiltered = "raise",
) -> Media | Job:
    """Fetch the result of an image-to-video generation job. The vendor removed this endpoint in July 2025.

    Returns:
        The video; or, while it is not ready and `timeout` is 0, the job with `status` `in-progress`.
    """
    job = id if isinstance(id, Job) else api.make_job(id, account, "image_to_video")
    path = f"/v2beta/image-to-video/result/{job.id}"
    try:
        return api.fetch(path, job, accept="video/*", output=output, on_filtered=on_filtered, timeout=timeout)
    except JobPending:
        return job
    except Rejected as error:
        raise api.as_discontinued(error) from error


def _together(*, image: object, strength: object) -> None:
    if (image is None) != (strength is None):
        missing, given = ("strength", "image") if strength is None else ("image", "strength")
        raise InvalidInput(f"{missing}: required together with {given}.", parameter=missing)
