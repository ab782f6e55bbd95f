"""Pictures: their limits as a value, and how a result that is too large is shrunk for the next function."""

from __future__ import annotations

from io import BytesIO

import pytest
from PIL import Image

from prefect_kosmokrator.integrations import stability, stability_api
from prefect_kosmokrator.integrations.errors import InvalidInput
from prefect_kosmokrator.integrations.images import ImageLimits, content_type_of, measure, thumbnail
from prefect_kosmokrator.integrations.media import Media


def size_of(content):
    with Image.open(BytesIO(content)) as image:
        return image.size, image.format


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (
            stability_api.EDIT_LIMITS,
            "jpeg, png, webp; sides at least 64 pixels; 4,096 to 9,437,184 pixels in all",
        ),
        (
            stability_api.STRUCTURE_LIMITS,
            "4,096 to 9,437,184 pixels in all; aspect ratio between 1:2.5 and 2.5:1",
        ),
        (stability_api.FAST_LIMITS, "sides 32 to 1,536 pixels; 1,024 to 1,048,576 pixels in all"),
        (stability_api.VIDEO_LIMITS, "jpeg, png; exactly 1024x576 or 576x1024 or 768x768 pixels"),
    ],
)
def test_limits_read_as_a_sentence(limits, words):
    assert words in str(limits)


@pytest.mark.parametrize(
    ("size", "limits", "problem"),
    [
        ((64, 64), ImageLimits(), None),
        ((64, 63), ImageLimits(), "has a side out of range (64x63 pixels)"),
        ((100, 101), ImageLimits(pixels=(1, 10_000)), "has 10,100 pixels (100x101)"),
        ((251, 100), ImageLimits(aspect=2.5), "is too long and narrow (251x100 pixels)"),
        ((250, 100), ImageLimits(aspect=2.5), None),
        ((100, 250), ImageLimits(aspect=2.5), None),
        ((64, 64), ImageLimits(sizes=((64, 65),)), "is 64x64 pixels"),
        ((64, 64), ImageLimits(formats=("JPEG",)), "is a PNG picture"),
    ],
)
def test_a_problem_is_named_with_the_size(picture, size, limits, problem):
    assert limits.problem(picture(*size)) == problem


def test_a_damaged_picture_is_told_apart_from_no_picture(picture):
    assert "not a picture" in ImageLimits().problem(b"text")
    assert ImageLimits().problem(picture()[:20]) is not None


def test_a_picture_that_would_fill_the_memory_is_refused(picture):
    # A header that promises 100,000 x 100,000 pixels.
    bomb = picture()[:16] + (100_000).to_bytes(4, "big") * 2 + picture()[24:]
    assert ImageLimits().problem(bomb) is not None
    with pytest.raises(InvalidInput):
        stability.remove_background(bomb)


@pytest.mark.parametrize(
    ("size", "fitted"),
    [((2048, 2048), (1024, 1024)), ((3072, 512), (1536, 256)), ((2000, 1500), (1182, 886)), ((1024, 1024), None)],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_shrunk_in_its_own_format_and_shape(picture, size, fitted, kind):
    content = picture(*size, kind)
    limits = stability_api.FAST_LIMITS
    assert size_of(limits.fitted(content)) == (fitted or size, kind)
    assert limits.problem(limits.fitted(content)) is None
    if fitted is None:
        assert limits.fitted(content) is content


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "1", "I;16"])
def test_pictures_of_every_depth_can_be_shrunk(picture, mode):
    buffer = BytesIO()
    Image.new(mode, (2048, 1024)).save(buffer, "PNG")
    assert stability_api.FAST_LIMITS.problem(stability_api.FAST_LIMITS.fitted(buffer.getvalue())) is None


def test_what_cannot_be_shrunk_is_left_for_the_check(picture):
    for content in (b"text", picture()[:40]):
        assert stability_api.FAST_LIMITS.fitted(content) == content


@pytest.mark.parametrize("function", ["upscale_fast", "upscale_creative"])
def test_a_result_that_is_too_large_is_shrunk_and_a_file_is_refused(fake, picture, tmp_path, function):
    large = picture(2048, 2048)
    (tmp_path / "large.png").write_bytes(large)
    call = stability.provider.functions[function].call
    rest = {} if function == "upscale_fast" else {"prompt": "a castle"}
    fake.answer({"id": "a"} if rest else fake.media())
    call(Media.from_bytes(large, "image/png"), **rest)
    assert size_of(fake.sent[0].form["image"][2]) == ((1024, 1024), "PNG")
    for file in (tmp_path / "large.png", large):
        with pytest.raises(InvalidInput, match="2048x2048"):
            call(file, **rest)
    assert len(fake.sent) == 1


def test_a_result_of_more_than_ten_mebibytes_is_shrunk_as_well(fake, noise):
    # What upscale_fast makes of a megapixel is often larger than what one request may hold.
    fake.answer(fake.media())
    stability.upscale_fast(Media.from_bytes(noise(2048, 2048), "image/png"))
    assert size_of(fake.sent[0].form["image"][2]) == ((1024, 1024), "PNG")


def test_a_result_is_not_shrunk_where_the_function_works_on_it(fake, picture):
    with pytest.raises(InvalidInput, match="has 16,777,216 pixels"):
        stability.inpaint(Media.from_bytes(picture(4096, 4096, mode="L"), "image/png"), "a cat")


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("GIF", None), ("BMP", None)],
)
def test_the_content_type_is_judged_by_content(picture, tmp_path, kind, content_type):
    (tmp_path / "picture.xyz").write_bytes(picture(kind=kind))
    assert content_type_of(picture(kind=kind)) == content_type_of(tmp_path / "picture.xyz") == content_type


def test_only_pictures_have_a_size(picture, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(30, 20))
    assert measure(picture(30, 20)) == measure(tmp_path / "a.png") == (30, 20)
    assert measure(b"\x00\x00\x00 ftypisom") == measure(tmp_path / "none") == (None, None)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK"])
def test_a_preview_is_a_small_webp(mode):
    buffer = BytesIO()
    Image.new(mode, (2048, 1024)).save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    assert size_of(thumbnail(buffer.getvalue())) == ((360, 180), "WEBP")


def test_a_picture_that_cannot_be_decoded_has_no_preview(picture):
    assert thumbnail(picture()[:60]) is None
    assert thumbnail(b"text") is None
