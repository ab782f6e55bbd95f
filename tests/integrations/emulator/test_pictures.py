"""The pictures and videos themselves."""

import io
import struct

import pytest
from PIL import Image, ImageChops, ImageStat

from prefect_kosmokrator.integrations.emulator import pictures, video


@pytest.mark.parametrize("ratio", pictures.RATIOS)
def test_sizes_follow_ratio_and_pixel_count(ratio):
    width, height = pictures.pixel_size(ratio, 1.5)
    across, down = map(int, ratio.split(":"))
    assert width / height == pytest.approx(across / down, rel=0.07)
    assert width * height == pytest.approx(1.5e6, rel=0.08)


def test_a_scene_is_repeatable_and_its_own():
    size = (320, 240)
    first, again = (pictures.scene("a lamp", 1, size) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    for other in (pictures.scene("a lamp", 2, size), pictures.scene("the sea", 1, size)):
        difference = ImageStat.Stat(ImageChops.difference(first, other)).mean
        assert max(difference) > 10


@pytest.mark.parametrize(
    "prompt", ["city", "sea", "desert", "product", "space", "forest", "x", "yy", "zzz", "", "日本"]
)
def test_every_composition_can_be_drawn(prompt):
    image = pictures.scene(prompt, 3, (160, 96))
    assert image.size == (160, 96)
    assert len(image.getcolors(160 * 96) or []) > 20


def boxes(content):
    found, place = {}, 0
    while place < len(content):
        size, kind = struct.unpack(">I4s", content[place : place + 8])
        found[kind.decode()] = content[place + 8 : place + size]
        place += size
    return found


def test_a_video_is_well_formed():
    frames = video.camera_move(pictures.scene("the sea", 1, (640, 360)), 4, longest=128)
    content = video.mp4(frames, fps=4)
    top = boxes(content)
    assert list(top) == ["ftyp", "moov", "mdat"]
    table = boxes(boxes(boxes(boxes(boxes(top["moov"])["trak"])["mdia"])["minf"])["stbl"])
    count = struct.unpack(">I", table["stsz"][8:12])[0]
    sizes = struct.unpack(f">{count}I", table["stsz"][12:])
    (offset,) = struct.unpack(">I", table["stco"][8:])
    assert (count, sum(sizes)) == (4, len(top["mdat"]))
    assert content[offset - 4 : offset] == b"mdat"
    for size in sizes:
        (length,) = struct.unpack(">I", content[offset : offset + 4])
        # Network abstraction unit 5: a picture that needs no other.
        assert (length, content[offset + 4] & 31) == (size - 4, 5)
        offset += size
    assert frames[0].size == (128, 72)


def test_no_start_code_hides_in_a_video():
    dark = video.mp4([Image.new("RGB", (64, 64))] * 2)
    assert b"\x00\x00\x01" not in boxes(dark)["mdat"].split(b"\x65")[1]


def test_thumbnail_of_a_transparent_picture():
    from prefect_kosmokrator.integrations.emulator.fal_outputs import thumbnail

    buffer = io.BytesIO()
    Image.new("RGBA", (900, 600), (255, 0, 0, 0)).save(buffer, "PNG")
    assert Image.open(io.BytesIO(thumbnail(buffer.getvalue()))).size == (480, 320)
