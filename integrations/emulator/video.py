"""A real video without an encoder: H.264 in which every block is stored uncompressed (I_PCM), in an MP4 container.

The standard lets any macroblock carry its samples as they are. That needs a dozen header bits and no transform or
entropy coding, and every player and browser must be able to show it.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from PIL import Image

from prefect_kosmokrator.integrations.emulator.canvas import curved, resized

if TYPE_CHECKING:
    from collections.abc import Sequence

_BLOCK = 16
_TIMESCALE = 600
# Macroblock type 25 (I_PCM) as an Exp-Golomb code, followed by zeros up to the byte boundary.
_PCM_PREFIX = "000011010"
_PCM_ALIGNED = b"\x0d\x00"
_ESCAPE = re.compile(rb"\x00\x00(?=[\x00-\x03])")
_IDENTITY = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def camera_move(picture: Image.Image, frames: int, *, longest: int = 384, motion: float = 0.5) -> list[Image.Image]:
    """Frames of a slow zoom into a picture.

    Args:
        picture: What is filmed.
        frames: How many.
        longest: Longer side of the video in pixels.
        motion: How far the zoom goes, from 0 to 1.
    """
    scale = longest / max(picture.size)
    width, height = (max(_BLOCK, int(side * scale) // 2 * 2) for side in picture.size)
    source = resized(picture.convert("RGB"), (width * 2, height * 2))
    result: list[Image.Image] = []
    for index in range(frames):
        inset = 0.25 * motion * index / max(1, frames - 1)
        box = (
            source.width * inset,
            source.height * inset * 0.6,
            source.width * (1 - inset),
            source.height * (1 - inset),
        )
        result.append(resized(source, (width, height), Image.Resampling.BILINEAR, box))
    return result


def mp4(frames: Sequence[Image.Image], fps: int = 8) -> bytes:
    """A playable MP4 file of frames of equal, even size."""
    width, height = frames[0].size
    samples = [_sample(frame, index) for index, frame in enumerate(frames)]
    header = _box(b"ftyp", b"isom", struct.pack(">I", 512), b"isomiso2avc1mp41")
    # The sample table holds file offsets, so the size of what precedes the samples must be known first.
    offset = len(header) + len(_movie(samples, width, height, fps, 0)) + 8
    return header + _movie(samples, width, height, fps, offset) + _box(b"mdat", *samples)


def _box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", len(body) + 8) + kind + body


def _full(kind: bytes, flags: int, *content: bytes) -> bytes:
    return _box(kind, struct.pack(">I", flags), *content)


def _bits(text: str) -> bytes:
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def _golomb(number: int) -> str:
    code = f"{number + 1:b}"
    return "0" * (len(code) - 1) + code


def _blocks(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // _BLOCK), -(-size[1] // _BLOCK)


def _parameter_sets(size: tuple[int, int]) -> tuple[bytes, bytes]:
    across, down = _blocks(size)
    crop = ((across * _BLOCK - size[0]) // 2, (down * _BLOCK - size[1]) // 2)
    # Baseline, level 3.1; order of pictures follows order of decoding (type 2); one reference frame at most.
    fields = _golomb(0) + _golomb(0) + _golomb(2) + _golomb(1) + "0" + _golomb(across - 1) + _golomb(down - 1)
    fields += "1" + "1" + "1" + _golomb(0) + _golomb(crop[0]) + _golomb(0) + _golomb(crop[1])
    # Usability information that says only: full-range samples, as JPEG and Pillow have them.
    fields += "1" + "0" + "0" + "1" + "101" + "1" + "0" + "0" + "0" + "0" + "0" + "0" + "0"
    sequence = b"\x67\x42\xc0\x1f" + _bits(fields + "1")
    picture = b"\x68" + _bits("1" + "1" + "0" + "0" + "1" + "1" + "1" + "0" + "00" + "1" * 3 + "1" + "0" + "0" + "1")
    return sequence, picture


def _sample(frame: Image.Image, index: int) -> bytes:
    """One picture as a length-prefixed IDR slice."""
    across, down = _blocks(frame.size)
    padded = Image.new("RGB", (across * _BLOCK, down * _BLOCK))
    padded.paste(frame)
    # Sample values 0 are avoided: they could imitate the start codes of the byte stream.
    luma, blue, red = curved(padded.convert("YCbCr"), lambda value: max(1, value)).split()
    half = (padded.width // 2, padded.height // 2)
    blue, red = (resized(band, half, Image.Resampling.BOX) for band in (blue, red))
    header = _golomb(0) + _golomb(7) + _golomb(0) + "0000" + _golomb(index % 2) + "00" + _golomb(0) + _golomb(1)
    pieces = [b"\x65", _bits(header + _PCM_PREFIX)]
    for row in range(down):
        for column in range(across):
            x, y = column * _BLOCK, row * _BLOCK
            pieces.append(luma.crop((x, y, x + 16, y + 16)).tobytes())
            corner = (x // 2, y // 2, x // 2 + 8, y // 2 + 8)
            pieces += [blue.crop(corner).tobytes(), red.crop(corner).tobytes(), _PCM_ALIGNED]
    pieces[-1] = b"\x80"
    unit = _ESCAPE.sub(b"\x00\x00\x03", b"".join(pieces))
    return struct.pack(">I", len(unit)) + unit


def _movie(samples: Sequence[bytes], width: int, height: int, fps: int, offset: int) -> bytes:
    step = _TIMESCALE // fps
    length = step * len(samples)
    sequence, picture = _parameter_sets((width, height))
    config = b"\x01" + sequence[1:4] + b"\xff\xe1" + struct.pack(">H", len(sequence)) + sequence
    config += b"\x01" + struct.pack(">H", len(picture)) + picture
    visual = bytes(6) + struct.pack(">H", 1) + bytes(16) + struct.pack(">HH", width, height)
    visual += struct.pack(">IIIH", 0x480000, 0x480000, 0, 1) + bytes(32) + struct.pack(">Hh", 24, -1)
    sizes = b"".join(struct.pack(">I", len(sample)) for sample in samples)
    table = _box(
        b"stbl",
        _full(b"stsd", 0, struct.pack(">I", 1), _box(b"avc1", visual, _box(b"avcC", config))),
        _full(b"stts", 0, struct.pack(">III", 1, len(samples), step)),
        _full(b"stsc", 0, struct.pack(">IIII", 1, 1, len(samples), 1)),
        _full(b"stsz", 0, struct.pack(">II", 0, len(samples)), sizes),
        _full(b"stco", 0, struct.pack(">II", 1, offset)),
    )
    media = _box(
        b"mdia",
        _full(b"mdhd", 0, struct.pack(">IIIIHH", 0, 0, _TIMESCALE, length, 0x55C4, 0)),
        _full(b"hdlr", 0, bytes(4), b"vide", bytes(12), b"video\x00"),
        _box(
            b"minf",
            _full(b"vmhd", 1, bytes(8)),
            _box(b"dinf", _full(b"dref", 0, struct.pack(">I", 1), _full(b"url ", 1))),
            table,
        ),
    )
    track = struct.pack(">IIIII", 0, 0, 1, 0, length) + bytes(16) + _IDENTITY
    track += struct.pack(">II", width << 16, height << 16)
    movie = struct.pack(">IIIIIH", 0, 0, _TIMESCALE, length, 0x10000, 0x100) + bytes(10) + _IDENTITY + bytes(24)
    return _box(
        b"moov",
        _full(b"mvhd", 0, movie, struct.pack(">I", 2)),
        _box(b"trak", _full(b"tkhd", 3, track), media),
    )
