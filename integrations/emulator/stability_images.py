"""What each Stability endpoint draws."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from prefect_kosmokrator.integrations.emulator import edits, pictures, video
from prefect_kosmokrator.integrations.emulator.canvas import resized

if TYPE_CHECKING:
    from PIL import Image

    from prefect_kosmokrator.integrations.emulator.stability_forms import Form

_MEGAPIXELS = {"generate/core": 1.5, "generate/ultra": 1.05, "generate/sd3": 1.05}
_CREATIVE_PIXELS = 4_000_000
_VIDEO_FRAMES = 16


async def pause(seconds: float) -> None:
    """Let a configured generation time pass."""
    if seconds > 0:
        await asyncio.sleep(seconds)


def render(operation: str, form: Form, seed: int, *, filtered: bool = False, plain: bool = False) -> bytes:
    """The encoded picture or video of a request.

    Args:
        operation: Endpoint name.
        form: Its checked form.
        seed: The seed that was used.
        filtered: Return only a blur, as the service does with content it filters.
        plain: Draw stripes instead of a scene.
    """
    if operation == "image-to-video":
        motion = form.number("motion_bucket_id", 127) / 255
        return video.mp4(video.camera_move(form.images["image"], _VIDEO_FRAMES, motion=motion))
    if plain and operation in _MEGAPIXELS and "image" not in form.images:
        image = pictures.plain(form.prompt, seed, _size(operation, form))
    else:
        image = _draw(operation, form, seed)
    if filtered:
        image = edits.blur(image)
    return pictures.encode(image, form.texts.get("output_format", "png"))


def _draw(operation: str, form: Form, seed: int) -> Image.Image:
    source = form.images.get("image")
    if operation in _MEGAPIXELS:
        if source is not None:
            return _image_to_image(operation, form, source, seed)
        return pictures.scene(form.prompt, seed, _size(operation, form))
    if source is None:
        raise ValueError(f"{operation} needs a picture")
    return _edit(operation, form, source, seed)


def _size(operation: str, form: Form) -> tuple[int, int]:
    return pictures.pixel_size(form.texts.get("aspect_ratio", "1:1"), _MEGAPIXELS[operation])


def _image_to_image(operation: str, form: Form, source: Image.Image, seed: int) -> Image.Image:
    if operation == "generate/ultra":
        source = resized(source.convert("RGB"), _size(operation, form))
    return edits.restyle(source, form.prompt, seed, form.number("strength", 0.5))


def _edit(operation: str, form: Form, source: Image.Image, seed: int) -> Image.Image:
    if operation == "edit/remove-background":
        return edits.remove_background(source)
    if operation == "upscale/fast":
        return edits.enlarge(source, (source.width * 4, source.height * 4))
    if operation == "upscale/creative":
        factor = math.sqrt(_CREATIVE_PIXELS / (source.width * source.height))
        size = (round(source.width * factor), round(source.height * factor))
        return edits.restyle(edits.enlarge(source, size), form.prompt, seed, form.number("creativity", 0.3) * 0.25)
    if operation == "control/structure":
        return edits.follow_structure(source, form.prompt, seed, form.number("control_strength", 0.7))
    area = edits.change_mask(source, form.images.get("mask"), int(form.number("grow_mask", 5)))
    if operation == "edit/erase":
        return edits.erase(source, area)
    return edits.inpaint(source, area, form.prompt, seed)
