"""Pictures drawn from a prompt and a seed: the same two always give the same picture."""

from __future__ import annotations

import colorsys
import io
import math
import random
from itertools import pairwise
from typing import TYPE_CHECKING, cast

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from prefect_kosmokrator.integrations.emulator.canvas import curved, resized

if TYPE_CHECKING:
    from collections.abc import Callable

Colour = tuple[int, int, int]

RATIOS = ("21:9", "16:9", "3:2", "5:4", "1:1", "4:5", "2:3", "9:16", "9:21")
_STEP = 64
_CAPTION_LENGTH = 200
_SMALLEST_SCENE = 32
# Hues of the upper and the lower sky that occur together: dusk, dawn, noon, haze, afterglow, northern light, storm.
_SKIES: tuple[tuple[float, float], ...] = (
    (0.66, 0.07),
    (0.6, 0.96),
    (0.57, 0.54),
    (0.5, 0.13),
    (0.78, 0.04),
    (0.7, 0.42),
    (0.62, 0.12),
    (0.97, 0.1),
    (0.83, 0.93),
)
_KEYWORDS = {
    "city": ("city", "skyline", "street", "town", "building", "tokyo", "new york"),
    "sea": ("sea", "ocean", "beach", "lake", "water", "coast", "island", "lighthouse"),
    "dunes": ("desert", "dune", "sand", "mars"),
    "studio": ("product", "lamp", "bottle", "studio", "mug", "chair", "packshot", "watch"),
    "planet": ("space", "planet", "galaxy", "moon", "astronaut"),
    "mountains": ("mountain", "forest", "valley", "landscape", "hill", "alps"),
}


def pixel_size(aspect_ratio: str, megapixels: float) -> tuple[int, int]:
    """Width and height near a pixel count, as multiples of 64."""
    across, down = (int(part) for part in aspect_ratio.split(":"))
    unit = math.sqrt(megapixels * 1_000_000 / (across * down))
    return max(_STEP, round(across * unit / _STEP) * _STEP), max(_STEP, round(down * unit / _STEP) * _STEP)


def encode(image: Image.Image, output_format: str) -> bytes:
    """The picture as ``png``, ``jpeg`` or ``webp``."""
    buffer = io.BytesIO()
    if output_format == "jpeg":
        image.convert("RGB").save(buffer, "JPEG", quality=88)
    elif output_format == "webp":
        image.save(buffer, "WEBP", quality=85, method=0)
    else:
        image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def randomness(source: str) -> random.Random:
    """Repeatable randomness."""
    return random.Random(source)  # noqa: S311  # for looks, not for secrets


def scene(prompt: str, seed: int, size: tuple[int, int]) -> Image.Image:
    """A picture whose composition follows the prompt's words, and whose colours and shapes follow both."""
    if min(size) < _SMALLEST_SCENE:
        return plain(prompt, seed, size)
    rng = randomness(f"{seed}:{prompt}")
    words = prompt.lower()
    named = [name for name, keys in _KEYWORDS.items() if any(key in words for key in keys)]
    name = named[0] if named else rng.choice(list(_COMPOSITIONS))
    canvas = _COMPOSITIONS[name](rng, size).filter(ImageFilter.SMOOTH)
    caption(canvas, prompt)
    return canvas


def plain(prompt: str, seed: int, size: tuple[int, int]) -> Image.Image:
    """Stripes of colours that follow from prompt and seed: as distinct as a scene, and much cheaper."""
    rng = randomness(f"{seed}:{prompt}")
    stripes = Image.new("RGB", (12, 1))
    for column in range(stripes.width):
        stripes.putpixel((column, 0), hsv(rng.random(), 0.5, 0.9))
    return resized(stripes, size, Image.Resampling.NEAREST)


def caption(canvas: Image.Image, text: str) -> None:
    """Write a line of text along the lower edge, on a darkened strip."""
    width, height = canvas.size
    letters = max(10, min(width, height) // 40)
    font = ImageFont.load_default(letters)
    line = " ".join(text.split())[:_CAPTION_LENGTH]
    draw = ImageDraw.Draw(canvas)
    if draw.textlength(line, font=font) > width - 2 * letters:
        while line and draw.textlength(line + "...", font=font) > width - 2 * letters:
            line = line[:-1]
        line = line.rstrip() + "..."
    strip = (0, height - int(letters * 2.2), width, height)
    canvas.paste(curved(canvas.crop(strip), lambda value: value * 0.45), strip)
    draw.text((letters, height - letters * 1.1), line, font=font, fill=(245, 245, 245), anchor="lm")


def black(size: tuple[int, int]) -> Image.Image:
    """What fal's safety checker leaves of a picture."""
    return Image.new("RGB", size)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Eight-bit colour of a hue (turns around the wheel)."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """A colour between two."""
    return cast("Colour", tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True)))


def _gradient(size: tuple[int, int], *stops: Colour) -> Image.Image:
    column = Image.new("RGB", (1, 256))
    for row in range(256):
        place = row / 255 * (len(stops) - 1)
        index = min(int(place), len(stops) - 2)
        column.putpixel((0, row), mix(stops[index], stops[index + 1], place - index))
    return resized(column, size)


def _glow(canvas: Image.Image, centre: tuple[float, float], radius: float, colour: Colour, strength: float) -> None:
    """Blend a round light onto the canvas; centre and radius are shares of the canvas."""
    width, height = canvas.size
    side = max(4, int(radius * max(width, height)) * 2)
    light = curved(ImageOps.invert(Image.radial_gradient("L")), lambda value: max(0.0, (value - 90) * 1.55) * strength)
    light = resized(light, (side, side))
    corner = (int(centre[0] * width) - side // 2, int(centre[1] * height) - side // 2)
    canvas.paste(colour, corner, light)


def _ridge(rng: random.Random, size: tuple[int, int], level: float, rough: float) -> list[tuple[float, float]]:
    """Outline of a mountain range, closed along the lower edge, by midpoint displacement."""
    width, height = size
    points = [rng.uniform(-rough, rough), rng.uniform(-rough, rough)]
    spread = rough
    for _ in range(7):
        spread *= 0.54
        middle = [(a + b) / 2 + rng.uniform(-spread, spread) for a, b in pairwise(points)]
        points = [value for pair in zip(points, [*middle, 0.0], strict=True) for value in pair][:-1]
    step = width / (len(points) - 1)
    line = [(index * step, (level + value) * height) for index, value in enumerate(points)]
    return [*line, (float(width), float(height)), (0.0, float(height))]


def _sky(rng: random.Random, size: tuple[int, int]) -> tuple[Image.Image, float, Colour]:
    """A sky with a glow, the hue of its upper part and the colour of its horizon."""
    high, low = rng.choice(_SKIES)
    hue, warm = high + rng.uniform(-0.03, 0.03), low + rng.uniform(-0.025, 0.025)
    horizon = hsv(warm, rng.uniform(0.35, 0.6), 0.98)
    top = hsv(hue, 0.72, rng.uniform(0.3, 0.65))
    canvas = _gradient(size, top, mix(top, horizon, 0.4), horizon)
    glow = mix(horizon, (255, 255, 255), 0.5)
    _glow(canvas, (rng.uniform(0.2, 0.8), rng.uniform(0.25, 0.5)), 0.35, glow, 0.7)
    return canvas, hue, horizon


def _sun(canvas: Image.Image, rng: random.Random, height: float) -> None:
    width, depth = canvas.size
    radius = min(width, depth) * rng.uniform(0.05, 0.11)
    x, y = width * rng.uniform(0.2, 0.8), depth * height
    ImageDraw.Draw(canvas).ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 247, 224))


def _mountains(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    canvas, hue, horizon = _sky(rng, size)
    _sun(canvas, rng, rng.uniform(0.22, 0.4))
    draw = ImageDraw.Draw(canvas)
    dark, layers = hsv(hue + 0.02, 0.75, 0.13), 5
    for layer in range(layers):
        share = (layer + 1) / layers
        level = 0.42 + 0.42 * (layer / (layers - 1))
        draw.polygon(_ridge(rng, size, level, 0.24 - 0.03 * layer), fill=mix(horizon, dark, share**0.8))
    return canvas


def _sea(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    canvas, hue, horizon = _sky(rng, size)
    width, height = size
    _sun(canvas, rng, rng.uniform(0.35, 0.5))
    draw = ImageDraw.Draw(canvas)
    shore = int(height * 0.58)
    for level, share in ((0.52, 0.35), (0.56, 0.6)):
        outline = [(x, min(y, shore)) for x, y in _ridge(rng, size, level, 0.09)]
        draw.polygon(outline, fill=mix(horizon, hsv(hue, 0.6, 0.25), share))
    mirrored = resized(ImageOps.flip(canvas.crop((0, 0, width, shore))), (width, height - shore))
    canvas.paste(Image.blend(mirrored, Image.new("RGB", mirrored.size, hsv(hue, 0.8, 0.25)), 0.4), (0, shore))
    for _ in range(130):
        depth = rng.random() ** 1.6
        y = shore + depth * (height - shore)
        x, length = rng.random() * width, width * (0.02 + 0.12 * depth)
        draw.line((x, y, x + length, y), fill=mix(horizon, (255, 255, 255), 0.3), width=1 + int(depth * height / 260))
    return canvas


def _dunes(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    hue = rng.choice((0.04, 0.07, 0.1, 0.93, 0.55))
    canvas = _gradient(size, hsv(hue + 0.5, 0.45, 0.55), hsv(hue + 0.03, 0.25, 0.97))
    _sun(canvas, rng, 0.25)
    width, height = size
    draw = ImageDraw.Draw(canvas)
    for layer in range(6):
        level = 0.45 + layer * 0.1
        phase, waves = rng.uniform(0, 6.3), rng.uniform(0.6, 1.6)
        line = [
            (x, height * (level + 0.06 * math.sin(phase + waves * 6.3 * x / width) + 0.02 * math.sin(x / width * 15)))
            for x in range(0, width + 8, 8)
        ]
        lit, shade = hsv(hue, 0.5 + 0.05 * layer, 0.95 - 0.1 * layer), hsv(hue - 0.02, 0.7, 0.62 - 0.08 * layer)
        draw.polygon([*line, (width, height), (0, height)], fill=lit)
        shadow = [(x, y + height * 0.02 * (1 + math.sin(phase + x / width * 7))) for x, y in line]
        draw.polygon([*shadow, (width, height), (0, height)], fill=shade)
    return canvas


def _city(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    canvas, hue, horizon = _sky(rng, size)
    width, height = size
    draw = ImageDraw.Draw(canvas)
    for layer, share in enumerate((0.4, 0.65, 0.92)):
        x = -rng.random() * width * 0.05
        wall = mix(horizon, hsv(hue, 0.6, 0.08), share)
        while x < width:
            broad = width * rng.uniform(0.04, 0.09)
            top = height * (rng.uniform(0.3, 0.62) + 0.08 * layer)
            draw.rectangle((x, top, x + broad, height), fill=wall)
            pane = max(3, int(width / 180))
            for row in range(int(top) + pane * 2, height, pane * 3):
                for column in range(int(x) + pane, int(x + broad) - pane, pane * 2):
                    if rng.random() < 0.16 * (layer + 1):
                        draw.rectangle((column, row, column + pane * 0.7, row + pane), fill=hsv(0.12, 0.45, 0.98))
            x += broad * rng.uniform(1.0, 1.25)
    return canvas


def _studio(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    hue = rng.random()
    canvas = _gradient(size, hsv(hue, 0.3, 0.55), hsv(hue, 0.14, 0.93), hsv(hue, 0.28, 0.7))
    width, height = size
    unit = min(width, height)
    x, base = width / 2, height * 0.74
    _glow(canvas, (0.5, 0.42), 0.42, (255, 255, 255), 0.55)
    draw = ImageDraw.Draw(canvas)
    body, light = hsv(hue + rng.choice((0.33, 0.5, 0.66)), 0.65, 0.42), hsv(0.12, 0.35, 1.0)
    shadow = Image.new("L", (width // 4, height // 4))
    ImageDraw.Draw(shadow).ellipse(
        (x / 4 - unit * 0.09, base / 4 - unit * 0.012, x / 4 + unit * 0.09, base / 4 + unit * 0.02), fill=170
    )
    blurred = resized(shadow.filter(ImageFilter.GaussianBlur(unit / 110)), size)
    canvas.paste(hsv(hue, 0.5, 0.2), (0, 0), blurred)
    foot, stem, shade = unit * rng.uniform(0.1, 0.17), unit * 0.014, unit * rng.uniform(0.15, 0.24)
    draw.ellipse((x - foot, base - foot * 0.2, x + foot, base + foot * 0.2), fill=body)
    neck = base - unit * rng.uniform(0.3, 0.4)
    draw.rectangle((x - stem, neck, x + stem, base), fill=mix(body, (0, 0, 0), 0.2))
    rim = shade * rng.uniform(0.3, 0.8)
    top = neck - shade * rng.uniform(0.7, 1.1)
    draw.polygon([(x - rim, top), (x + rim, top), (x + shade, neck), (x - shade, neck)], fill=body)
    draw.polygon(
        [(x - rim, top), (x - rim * 0.4, top), (x - shade * 0.4, neck), (x - shade, neck)],
        fill=mix(body, (255, 255, 255), 0.25),
    )
    draw.ellipse((x - shade, neck - shade * 0.12, x + shade, neck + shade * 0.12), fill=light)
    return canvas


def _planet(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    hue = rng.random()
    canvas = _gradient(size, (6, 7, 18), hsv(hue, 0.7, 0.2), (4, 5, 14))
    width, height = size
    draw = ImageDraw.Draw(canvas)
    for _ in range(420):
        x, y, spot = rng.random() * width, rng.random() * height, rng.random() ** 4 * min(size) / 260 + 0.6
        draw.ellipse((x - spot, y - spot, x + spot, y + spot), fill=mix((150, 160, 200), (255, 255, 255), rng.random()))
    for _ in range(3):
        _glow(canvas, (rng.random(), rng.random()), 0.4, hsv(hue + rng.uniform(-0.2, 0.2), 0.7, 0.6), 0.35)
    radius = int(min(size) * rng.uniform(0.22, 0.33))
    side = radius * 2
    bands = _gradient(
        (side, side), *[hsv(hue + 0.5 + rng.uniform(-0.06, 0.06), 0.6, v) for v in (0.9, 0.6, 1, 0.7, 0.9)]
    )
    shade = resized(ImageOps.invert(Image.radial_gradient("L")), (side, side), box=(0, 0, 128, 128))
    bands = Image.composite(
        bands, Image.new("RGB", bands.size, (5, 5, 14)), shade.transpose(Image.Transpose.ROTATE_180)
    )
    disc = Image.new("L", (side, side))
    ImageDraw.Draw(disc).ellipse((0, 0, side - 1, side - 1), fill=255)
    centre = (int(width * rng.uniform(0.35, 0.65)), int(height * rng.uniform(0.38, 0.55)))
    _glow(canvas, (centre[0] / width, centre[1] / height), 0.5, hsv(hue + 0.5, 0.5, 1.0), 0.5)
    canvas.paste(bands, (centre[0] - radius, centre[1] - radius), disc)
    return canvas


def _orbs(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    hue = rng.random()
    canvas = _gradient(size, hsv(hue, 0.6, 0.25), hsv(hue + 0.15, 0.7, 0.5), hsv(hue + 0.3, 0.6, 0.3))
    for _ in range(14):
        colour = hsv(hue + rng.uniform(-0.12, 0.5), rng.uniform(0.4, 0.8), 1.0)
        _glow(canvas, (rng.random(), rng.random()), rng.uniform(0.08, 0.34), colour, rng.uniform(0.35, 0.8))
    width, height = size
    draw = ImageDraw.Draw(canvas)
    for index in range(3):
        x, y, radius = rng.random() * width, rng.random() * height, min(size) * rng.uniform(0.12, 0.4)
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, outline=hsv(hue + 0.1 * index, 0.2, 1.0), width=max(1, min(size) // 250))
    return canvas


def _waves(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    hue = rng.random()
    canvas = _gradient(size, hsv(hue, 0.25, 0.98), hsv(hue + 0.1, 0.4, 0.92))
    width, height = size
    draw = ImageDraw.Draw(canvas)
    count, phase = 11, rng.uniform(0, 6.3)
    spread = rng.uniform(0.25, 0.6)
    for layer in range(count):
        share = layer / (count - 1)
        high = 0.09 * math.sin(share * 5 + phase) + 0.05
        line = [
            (x, height * (0.12 + 0.9 * share + high * math.sin(phase + share * 3 + x / width * rng_waves)))
            for rng_waves in (4.0 + 3 * share,)
            for x in range(0, width + 8, 8)
        ]
        colour = hsv(hue + spread * share, 0.45 + 0.4 * share, 0.98 - 0.5 * share)
        draw.polygon([*line, (width, height), (0, height)], fill=colour)
    return canvas


_COMPOSITIONS: dict[str, Callable[[random.Random, tuple[int, int]], Image.Image]] = {
    "mountains": _mountains,
    "sea": _sea,
    "dunes": _dunes,
    "city": _city,
    "studio": _studio,
    "planet": _planet,
    "orbs": _orbs,
    "waves": _waves,
}
