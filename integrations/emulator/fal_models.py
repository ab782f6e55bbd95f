"""fal's models: what each takes, what it costs, and the ids of the whole catalogue."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from prefect_kosmokrator.integrations.emulator.pictures import randomness

SIZES = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
SizeName = Literal["square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"]
MEGAPIXEL = 1_000_000


class ModelInput(BaseModel):
    """Fields beyond a model's own are ignored, as the service does."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class ImageSize(ModelInput):
    """A free size in pixels."""

    width: Annotated[int, Field(gt=0, le=14_142)] = 512
    height: Annotated[int, Field(gt=0, le=14_142)] = 512


class TextToImage(ModelInput):
    """Input of the FLUX family and of other text-to-image models."""

    prompt: Annotated[str, Field(min_length=1)]
    image_size: SizeName | ImageSize = "landscape_4_3"
    num_inference_steps: Annotated[int, Field(ge=1, le=50)] = 28
    guidance_scale: Annotated[float, Field(ge=1, le=20)] = 3.5
    seed: int | None = None
    num_images: Annotated[int, Field(ge=1, le=4)] = 1
    sync_mode: bool = False
    enable_safety_checker: bool = True
    output_format: Literal["jpeg", "png"] = "jpeg"


class Schnell(TextToImage):
    """FLUX schnell takes few steps."""

    num_inference_steps: Annotated[int, Field(ge=1, le=12)] = 4


class ImageToImage(TextToImage):
    """A text prompt applied to a picture."""

    image_url: str
    strength: Annotated[float, Field(ge=0.01, le=1)] = 0.95


class StableVideo(ModelInput):
    """Input of Stable Video Diffusion 1.1."""

    image_url: str
    motion_bucket_id: Annotated[int, Field(ge=1, le=255)] = 127
    cond_aug: Annotated[float, Field(ge=0, le=10)] = 0.02
    fps: Annotated[int, Field(ge=1, le=25)] = 25
    seed: int | None = None


class Upscale(ModelInput):
    """Input of the upscalers."""

    image_url: str
    prompt: str = "masterpiece, best quality, highres"
    upscale_factor: Annotated[float, Field(ge=1, le=4)] = 2
    creativity: Annotated[float, Field(ge=0, le=1)] = 0.35
    resemblance: Annotated[float, Field(ge=0, le=1)] = 0.6
    seed: int | None = None
    enable_safety_checker: bool = True


class Esrgan(ModelInput):
    """Input of ESRGAN."""

    image_url: str
    scale: Annotated[float, Field(ge=1, le=8)] = 2
    output_format: Literal["png", "jpeg"] = "png"
    seed: int | None = None


class TextToVideo(ModelInput):
    """Input of text-to-video models."""

    prompt: Annotated[str, Field(min_length=1)]
    negative_prompt: str = ""
    aspect_ratio: Literal["16:9", "9:16", "1:1"] = "16:9"
    num_frames: Annotated[int, Field(ge=8, le=161)] = 81
    seed: int | None = None
    enable_safety_checker: bool = True


class ImageToVideo(TextToVideo):
    """Input of image-to-video models other than Stable Video."""

    image_url: str


Kind = Literal["image", "image-edit", "upscale", "video"]


@dataclass(frozen=True)
class Model:
    """One endpoint of the catalogue.

    Attributes:
        id: Endpoint id.
        name: Display name.
        category: Category of the catalogue.
        input: What it takes.
        kind: What it makes.
        unit: What its price is for.
        unit_price: US dollars per unit.
        status: ``active`` or ``deprecated``.
    """

    id: str
    name: str
    category: str
    input: type[ModelInput]
    kind: Kind
    unit: str
    unit_price: float
    status: str = "active"

    def units(self, size: tuple[int, int], count: int = 1) -> float:
        """Billable units of a result."""
        if self.unit == "megapixels":
            return float(math.ceil(size[0] * size[1] / MEGAPIXEL - 1e-9) * count)
        if self.unit == "compute seconds":
            return round(1 + size[0] * size[1] / MEGAPIXEL * 0.5, 2)
        return float(count)


def output_size(values: ModelInput) -> tuple[int, int]:
    """Size of what a text-to-image model makes."""
    size = getattr(values, "image_size", "square_hd")
    return SIZES[size] if isinstance(size, str) else (size.width, size.height)


_NAMED = (
    Model("fal-ai/flux/schnell", "FLUX.1 [schnell]", "text-to-image", Schnell, "image", "megapixels", 0.003),
    Model("fal-ai/flux/dev", "FLUX.1 [dev]", "text-to-image", TextToImage, "image", "megapixels", 0.025),
    Model(
        "fal-ai/flux/dev/image-to-image",
        "FLUX.1 [dev] Image to Image",
        "image-to-image",
        ImageToImage,
        "image-edit",
        "megapixels",
        0.03,
    ),
    Model("fal-ai/flux-pro/v1.1", "FLUX1.1 [pro]", "text-to-image", TextToImage, "image", "megapixels", 0.04),
    Model(
        "fal-ai/stable-diffusion-v35-large",
        "Stable Diffusion 3.5 Large",
        "text-to-image",
        TextToImage,
        "image",
        "megapixels",
        0.065,
    ),
    Model("fal-ai/fast-sdxl", "Fast SDXL", "text-to-image", TextToImage, "image", "megapixels", 0.0025),
    Model("fal-ai/stable-video", "Stable Video Diffusion", "image-to-video", StableVideo, "video", "videos", 0.075),
    Model("fal-ai/clarity-upscaler", "Clarity Upscaler", "image-to-image", Upscale, "upscale", "megapixels", 0.03),
    Model("fal-ai/esrgan", "ESRGAN", "image-to-image", Esrgan, "upscale", "compute seconds", 0.00111),
    Model("fal-ai/ltx-video", "LTX Video", "text-to-video", TextToVideo, "video", "videos", 0.02),
    Model("fal-ai/wan-t2v", "Wan 2.1 Text to Video", "text-to-video", TextToVideo, "video", "videos", 0.4),
    Model("fal-ai/wan-i2v", "Wan 2.1 Image to Video", "image-to-video", ImageToVideo, "video", "videos", 0.4),
    Model("workflows/emulator/poster", "Poster workflow", "text-to-image", TextToImage, "image", "megapixels", 0.03),
    Model("comfy/emulator/portrait", "Portrait graph", "text-to-image", TextToImage, "image", "megapixels", 0.03),
)
_SHAPES: tuple[tuple[str, type[ModelInput], Kind, str, float], ...] = (
    ("text-to-image", TextToImage, "image", "megapixels", 0.02),
    ("image-to-image", ImageToImage, "image-edit", "megapixels", 0.03),
    ("text-to-video", TextToVideo, "video", "videos", 0.3),
    ("image-to-video", ImageToVideo, "video", "videos", 0.35),
)
_FAMILIES = (
    "aurora", "bria", "cobalt", "drift", "ember", "fable", "glint", "halo", "iris", "juniper", "kestrel", "lumen",
    "mosaic", "nimbus", "opal", "prism", "quartz", "ripple", "saffron", "tundra",
)  # fmt: skip
_VARIANTS = ("", "/lite", "/pro", "/turbo", "/lora", "/edit", "/hd")
_ONE_IN_DEPRECATED = 16


@cache
def catalogue(size: int) -> dict[str, Model]:
    """The named models, and invented ones up to the size of the real catalogue."""
    models = {model.id: model for model in _NAMED}
    rng = randomness("catalogue")
    version = 1
    while len(models) < size:
        for family in _FAMILIES:
            for variant in _VARIANTS:
                category, model_input, kind, unit, price = rng.choice(_SHAPES)
                identifier = f"fal-ai/{family}-v{version}{variant}"
                name = f"{family.title()} {version}{variant.replace('/', ' ').title()}"
                status = "active" if rng.randrange(_ONE_IN_DEPRECATED) else "deprecated"
                cost = round(price * rng.uniform(0.3, 3), 4)
                models[identifier] = Model(identifier, name, category, model_input, kind, unit, cost, status)
        version += 1
    return dict(list(models.items())[: max(size, len(_NAMED))])


def application(model_id: str) -> str:
    """The part of a model id that status, result and cancel addresses use."""
    parts = model_id.split("/")
    return "/".join(parts[: 3 if parts[0] in ("workflows", "comfy") else 2])
