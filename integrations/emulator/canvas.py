"""The two Pillow calls whose published types are incomplete, typed once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

    Box = tuple[float, float, float, float]


def resized(
    image: Image.Image,
    size: tuple[int, int],
    method: Image.Resampling = Image.Resampling.BICUBIC,
    box: Box | None = None,
) -> Image.Image:
    """A region of the picture, or all of it, at another size."""
    return image.resize(size, method, box)  # pyright: ignore[reportUnknownMemberType]


def curved(image: Image.Image, curve: Callable[[int], float]) -> Image.Image:
    """The picture with every sample of every band passed through a curve."""
    table = [max(0, min(255, round(curve(value)))) for value in range(256)]
    return image.point(table * len(image.getbands()))  # pyright: ignore[reportUnknownMemberType]
