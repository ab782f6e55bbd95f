"""Stability AI's v2beta endpoints: their form fields, picture limits and prices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from prefect_kosmokrator.integrations.emulator.pictures import RATIOS
from prefect_kosmokrator.integrations.emulator.state import MAX_SEED

STYLES = (
    "enhance", "anime", "photographic", "digital-art", "comic-book", "fantasy-art", "line-art", "analog-film",
    "neon-punk", "isometric", "low-poly", "origami", "modeling-compound", "cinematic", "3d-model", "pixel-art",
    "tile-texture",
)  # fmt: skip
SD3_CREDITS = {
    "sd3.5-large": 6.5,
    "sd3.5-large-turbo": 4.0,
    "sd3.5-medium": 3.5,
    "sd3.5-flash": 2.5,
    # Re-routed to the 3.5 models since April 2025, at the same price.
    "sd3-large": 6.5,
    "sd3-large-turbo": 4.0,
    "sd3-medium": 3.5,
}
MEGA = 9_437_184
IMAGE_FORMATS = ("jpeg", "png", "webp")


@dataclass(frozen=True)
class Field:
    """One form field.

    Attributes:
        kind: How its text is read.
        required: Whether it must be there.
        low: Smallest number or shortest text.
        high: Largest number or longest text.
        choices: Allowed values.
    """

    kind: Literal["text", "integer", "number", "choice", "image"]
    required: bool = False
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageLimits:
    """What a picture must be like.

    Attributes:
        min_side: Shortest side in pixels, at least.
        max_side: Longest side, at most.
        min_pixels: Width times height, at least.
        max_pixels: Width times height, at most.
        max_aspect: Longer side divided by shorter side, at most.
        sizes: Exact sizes allowed, when not empty.
        formats: Encodings allowed.
    """

    min_side: int = 64
    max_side: int = 16_384
    min_pixels: int = 4_096
    max_pixels: int = MEGA
    max_aspect: float | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    formats: tuple[str, ...] = IMAGE_FORMATS


@dataclass(frozen=True)
class Endpoint:
    """One operation.

    Attributes:
        name: Path below ``/v2beta/stable-image``, or below ``/v2beta`` for video.
        fields: Its form fields.
        credits: Price of a success; sd3 depends on the model.
        limits: Limits of its pictures, by field.
        asynchronous: Answers an id instead of a picture.
    """

    name: str
    fields: dict[str, Field]
    credits: float
    limits: dict[str, ImageLimits] = field(default_factory=dict[str, ImageLimits])
    asynchronous: bool = False

    def price(self, form: dict[str, str]) -> float:
        """Credits for a request with these fields."""
        if self.name == "generate/sd3":
            return SD3_CREDITS[form.get("model", "sd3.5-large")]
        return self.credits


def _choice(*choices: str) -> Field:
    return Field("choice", choices=choices)


PROMPT = Field("text", required=True, low=1, high=10_000)
NEGATIVE = Field("text", high=10_000)
SEED = Field("integer", high=MAX_SEED)
FORMAT = _choice(*IMAGE_FORMATS)
IMAGE = Field("image", required=True)
STRENGTH = Field("number", high=1)
_COMMON = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "seed": SEED, "output_format": FORMAT}
_STYLED = {**_COMMON, "style_preset": _choice(*STYLES)}
_EDIT = ImageLimits()
_WIDE = ImageLimits(max_aspect=2.5)
_FREE = ImageLimits(max_pixels=16_384 * 16_384)

ENDPOINTS = {
    endpoint.name: endpoint
    for endpoint in (
        Endpoint("generate/core", {**_STYLED, "aspect_ratio": _choice(*RATIOS)}, 3),
        Endpoint(
            "generate/ultra",
            {**_STYLED, "aspect_ratio": _choice(*RATIOS), "image": Field("image"), "strength": STRENGTH},
            8,
            {"image": _FREE},
        ),
        Endpoint(
            "generate/sd3",
            {
                **_STYLED,
                "aspect_ratio": _choice(*RATIOS),
                "image": Field("image"),
                "strength": STRENGTH,
                "mode": _choice("text-to-image", "image-to-image"),
                "model": _choice(*SD3_CREDITS),
                "cfg_scale": Field("number", low=1, high=10),
            },
            6.5,
            {"image": _FREE},
        ),
        Endpoint(
            "edit/inpaint",
            {**_STYLED, "image": IMAGE, "mask": Field("image"), "grow_mask": Field("integer", high=100)},
            5,
            {"image": _EDIT},
        ),
        Endpoint(
            "edit/erase",
            {
                "image": IMAGE,
                "mask": Field("image"),
                "grow_mask": Field("integer", high=20),
                "seed": SEED,
                "output_format": FORMAT,
            },
            5,
            {"image": _EDIT},
        ),
        Endpoint(
            "edit/remove-background",
            {"image": IMAGE, "output_format": _choice("png", "webp")},
            5,
            {"image": ImageLimits(max_pixels=4_194_304)},
        ),
        Endpoint(
            "control/structure",
            {**_STYLED, "image": IMAGE, "control_strength": STRENGTH},
            5,
            {"image": _WIDE},
        ),
        Endpoint(
            "upscale/fast",
            {"image": IMAGE, "output_format": FORMAT},
            2,
            {"image": ImageLimits(min_side=32, max_side=1_536, min_pixels=1_024, max_pixels=1_048_576)},
        ),
        Endpoint(
            "upscale/creative",
            {**_STYLED, "image": IMAGE, "creativity": Field("number", low=0.1, high=0.5)},
            60,
            {"image": ImageLimits(max_pixels=1_048_576)},
            asynchronous=True,
        ),
    )
}
VIDEO = Endpoint(
    "image-to-video",
    {
        "image": IMAGE,
        "seed": SEED,
        "cfg_scale": Field("number", high=10),
        "motion_bucket_id": Field("integer", low=1, high=255),
    },
    20,
    {"image": ImageLimits(sizes=((1024, 576), (576, 1024), (768, 768)), formats=("jpeg", "png"), max_pixels=768 * 768)},
    asynchronous=True,
)
