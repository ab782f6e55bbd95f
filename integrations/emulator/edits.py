"""Changes to a caller's picture: visible, and confined to where the service would change it."""

from __future__ import annotations

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from prefect_kosmokrator.integrations.emulator import pictures
from prefect_kosmokrator.integrations.emulator.canvas import curved, resized


def change_mask(image: Image.Image, mask: Image.Image | None, grow: int) -> Image.Image:
    """Where an edit happens: white in the mask, else where the picture is transparent.

    Args:
        image: The picture.
        mask: Greyscale mask, of any size; it wins over the picture's own transparency.
        grow: Pixels the area is grown by.
    """
    if mask is not None:
        area = resized(mask.convert("L"), image.size)
    elif "A" in image.getbands():
        area = ImageOps.invert(image.getchannel("A"))
    else:
        area = Image.new("L", image.size)
    if grow:
        area = area.filter(ImageFilter.MaxFilter(min(2 * grow + 1, 41)))
    return area


def inpaint(image: Image.Image, area: Image.Image, prompt: str, seed: int) -> Image.Image:
    """Draw a scene into the area; every other pixel stays as it was."""
    return Image.composite(pictures.scene(prompt, seed, image.size), image.convert("RGB"), area)


def erase(image: Image.Image, area: Image.Image) -> Image.Image:
    """Fill the area with what surrounds it."""
    colour = image.convert("RGB")
    # Averaging only over what is kept: the removed object must not bleed into the fill. The wide average comes first,
    # for the middle of large areas, the narrow ones over it where they have enough to average.
    kept = Image.composite(Image.new("RGB", image.size), colour, area)
    filled: Image.Image | None = None
    for radius in (24, 8, 3):
        average, weight = _average(kept, ImageOps.invert(area), radius)
        filled = (
            average if filled is None else Image.composite(average, filled, curved(weight, lambda value: value * 3))
        )
    return Image.composite(resized(filled or colour, image.size), colour, area)


def _average(kept: Image.Image, weight: Image.Image, radius: float) -> tuple[Image.Image, Image.Image]:
    """Weighted average of the surroundings at a 96 by 96 grid, and how much there was to average."""
    grid, blurring = (96, 96), ImageFilter.GaussianBlur(radius)
    weights = resized(weight, grid, Image.Resampling.BOX).filter(blurring)
    sums = resized(kept, grid, Image.Resampling.BOX).filter(blurring)
    return Image.merge("RGB", [_divide(band, weights) for band in sums.split()]), weights


def _divide(value: Image.Image, weight: Image.Image) -> Image.Image:
    pairs = zip(value.tobytes(), weight.tobytes(), strict=True)
    return Image.frombytes("L", value.size, bytes(min(255, a * 255 // max(b, 1)) for a, b in pairs))


def remove_background(image: Image.Image) -> Image.Image:
    """Make everything transparent that resembles the picture's border."""
    colour = image.convert("RGB")
    width, height = colour.size
    small = resized(colour, (96, 96), Image.Resampling.BOX)
    # The background alone, guessed by stretching the border columns across.
    left, right = (resized(small, (96, 96), box=box) for box in ((0, 0, 6, 96), (90, 0, 96, 96)))
    background = Image.composite(right, left, resized(Image.linear_gradient("L").rotate(90), (96, 96)))
    difference = ImageChops.difference(small, background).convert("L").filter(ImageFilter.GaussianBlur(1.2))
    alpha = curved(difference, lambda value: (value - 14) * 10)
    if alpha.getbbox() is None:
        # Nothing stands out: keep an oval in the middle, so that the result is still a cut-out.
        ImageDraw.Draw(alpha).ellipse((16, 10, 80, 88), fill=255)
        alpha = alpha.filter(ImageFilter.GaussianBlur(2))
    colour.putalpha(resized(alpha, (width, height)))
    return colour


def follow_structure(image: Image.Image, prompt: str, seed: int, strength: float) -> Image.Image:
    """A new scene that shows the outlines of the picture, the clearer the greater the strength."""
    edges = image.convert("L").filter(ImageFilter.GaussianBlur(1)).filter(ImageFilter.FIND_EDGES)
    # The filter finds an edge all around the picture, too.
    edges = resized(edges, image.size, box=(2, 2, edges.width - 2, edges.height - 2))
    edges = curved(edges.filter(ImageFilter.MaxFilter(3)), lambda value: min(255, max(0, value - 7) * 4) * strength)
    tint = pictures.hsv(pictures.randomness(f"{seed}:{prompt}:edges").random(), 0.35, 1.0)
    ground = pictures.scene(prompt, seed, image.size)
    shape = ImageOps.autocontrast(image.convert("L")).convert("RGB")
    ground = Image.blend(ground, ImageChops.multiply(ground, shape), 0.6 * strength)
    return Image.composite(Image.new("RGB", image.size, tint), ground, edges)


def restyle(image: Image.Image, prompt: str, seed: int, strength: float) -> Image.Image:
    """A picture between the given one (strength 0) and a new scene (strength 1)."""
    ground = pictures.scene(prompt, seed, image.size)
    return Image.blend(image.convert("RGB"), ground, strength)


def enlarge(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at another size, slightly sharpened."""
    kind = "RGBA" if "A" in image.getbands() else "RGB"
    return resized(image.convert(kind), size).filter(ImageFilter.SHARPEN)


def blur(image: Image.Image) -> Image.Image:
    """What Stability's filter leaves of a picture."""
    small = resized(image.convert("RGB"), (max(1, image.width // 24), max(1, image.height // 24)))
    return resized(small.filter(ImageFilter.GaussianBlur(2)), image.size)
