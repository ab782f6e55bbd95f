"""Pictures: format and size by content, and the limits an endpoint sets for them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

logger = logging.getLogger("prefect_kosmokrator")

CONTENT_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


@dataclass(frozen=True)
class ImageLimits:
    """What an endpoint accepts as a picture. `str()` of it is the sentence shown in the documentation.

    Attributes:
        sides: Smallest and largest side in pixels.
        pixels: Smallest and largest width times height.
        aspect: Largest ratio of the longer to the shorter side.
        sizes: The only accepted sizes, where there are just a few.
        formats: Accepted formats by Pillow's names.
    """

    sides: tuple[int, int | None] = (64, None)
    pixels: tuple[int, int | None] = (4_096, None)
    aspect: float | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP")

    def __str__(self) -> str:
        if self.sizes:
            rules = ["exactly " + " or ".join(f"{width}x{height}" for width, height in self.sizes) + " pixels"]
        else:
            rules = [f"sides {_range(self.sides)} pixels", f"{_range(self.pixels)} pixels in all"]
        if self.aspect:
            rules.append(f"aspect ratio between 1:{self.aspect:g} and {self.aspect:g}:1")
        return f"{', '.join(name.lower() for name in self.formats)}; {'; '.join(rules)}"

    def fitted(self, content: bytes) -> bytes:
        """The picture, shrunk in its own format if it has more pixels or longer sides than accepted."""
        try:
            with Image.open(BytesIO(content)) as image:
                width, height, kind = *image.size, str(image.format)
                scale = min(
                    1.0,
                    (self.pixels[1] / (width * height)) ** 0.5 if self.pixels[1] else 1.0,
                    self.sides[1] / max(width, height) if self.sides[1] else 1.0,
                )
                if scale == 1.0:
                    return content
                size = int(width * scale), int(height * scale)
                logger.info("Shrinking a picture of %dx%d to %dx%d pixels, the most accepted.", width, height, *size)
                return _encoded(image.resize(size, Image.Resampling.LANCZOS), kind)  # pyright: ignore[reportUnknownMemberType]
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError):
            return content  # `problem` names what is wrong with it

    def problem(self, content: bytes) -> str | None:
        """What is wrong with the picture `content`, as half a sentence; None when it is accepted."""
        try:
            with Image.open(BytesIO(content)) as image:
                kind, (width, height) = str(image.format), image.size
        except UnidentifiedImageError:
            return "is not a picture (judged by its content, not its name)"
        except Image.DecompressionBombError:
            return "has too many pixels"
        except Exception:  # noqa: BLE001 - Pillow's decoders raise anything from SyntaxError to struct.error
            return "is a damaged picture"
        if kind not in self.formats:
            return f"is a {kind} picture"
        if self.sizes:
            return None if (width, height) in self.sizes else f"is {width}x{height} pixels"
        if not _within(min(width, height), self.sides) or not _within(max(width, height), self.sides):
            return f"has a side out of range ({width}x{height} pixels)"
        if not _within(width * height, self.pixels):
            return f"has {width * height:,} pixels ({width}x{height})"
        if self.aspect and max(width, height) > self.aspect * min(width, height):
            return f"is too long and narrow ({width}x{height} pixels)"
        return None


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **({"quality": 95} if kind != "PNG" else {}))
    return buffer.getvalue()


def thumbnail(picture: bytes | Path) -> bytes | None:
    """A WebP of at most 360 pixels a side (two fit beside each other in the UI); None for what cannot be decoded."""
    try:
        with Image.open(BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
            small: Image.Image = image
            if image.mode.startswith("I"):  # 16 bits a pixel; only the upper eight matter for a preview
                small = image.convert("I").point(lambda value: value / 256).convert("L")
            small = small.convert("RGBA" if small.mode in {"RGBA", "LA", "P"} else "RGB")
            small.thumbnail((360, 360))
            buffer = BytesIO()
            small.save(buffer, "WEBP", quality=80)
            return buffer.getvalue()
    except Exception as error:  # noqa: BLE001 - a missing preview must not cost the paid picture
        logger.info("No preview could be made: %s", error)
        return None


def measure(picture: bytes | Path) -> tuple[int | None, int | None]:
    """Width and height of a picture in pixels; (None, None) for anything else."""
    try:
        with Image.open(BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
            return image.size
    except Exception:  # noqa: BLE001 - videos, archives, damaged files: simply nothing to measure
        return None, None


def content_type_of(picture: bytes | Path) -> str | None:
    """The content type of a picture by its content; None for anything else than png, jpeg and webp."""
    try:
        with Image.open(BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
            return CONTENT_TYPES.get(str(image.format))
    except Exception:  # noqa: BLE001 - see measure
        return None


def _within(value: int, bounds: tuple[int, int | None]) -> bool:
    low, high = bounds
    return value >= low and (high is None or value <= high)


def _range(bounds: tuple[int, int | None]) -> str:
    low, high = bounds
    return f"at least {low:,}" if high is None else f"{low:,} to {high:,}"
