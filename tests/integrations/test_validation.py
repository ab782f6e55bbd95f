"""What is refused before anything is sent or paid."""

from __future__ import annotations

import httpx
import pytest

from prefect_kosmokrator.integrations import fal, stability
from prefect_kosmokrator.integrations.errors import InvalidInput
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.providers import find_function

MODEL = "fal-ai/flux/dev"
LONG = "x" * 10_001


def call(name, arguments, picture):
    given = {key: picture(*value) if isinstance(value, tuple) else value for key, value in arguments.items()}
    return find_function(name).call(**given)


# A tuple stands for a picture of that size.
WRONG = [
    ("stability.generate_core", {"prompt": ""}, "prompt"),
    ("stability.generate_core", {"prompt": LONG}, "prompt"),
    ("stability.generate_core", {"prompt": "a", "negative_prompt": LONG}, "negative_prompt"),
    ("stability.generate_core", {"prompt": "a", "aspect_ratio": "4:3"}, "aspect_ratio"),
    ("stability.generate_core", {"prompt": "a", "seed": -1}, "seed"),
    ("stability.generate_core", {"prompt": "a", "seed": 4_294_967_295}, "seed"),
    ("stability.generate_core", {"prompt": "a", "seed": 1.5}, "seed"),
    ("stability.generate_core", {"prompt": "a", "seed": True}, "seed"),
    ("stability.generate_core", {"prompt": "a", "style_preset": "oil"}, "style_preset"),
    ("stability.generate_core", {"prompt": "a", "output_format": "gif"}, "output_format"),
    ("stability.generate_core", {"prompt": "a", "on_filtered": "ignore"}, "on_filtered"),
    ("stability.generate_core", {"prompt": "a", "account": ""}, "account"),
    ("stability.generate_core", {"prompt": "a", "image": (64, 64)}, "image"),
    ("stability.generate_core", {"promt": "a"}, "promt"),
    ("stability.generate_ultra", {"prompt": "a", "strength": 0.5}, "image"),
    ("stability.generate_ultra", {"prompt": "a", "image": (64, 64)}, "strength"),
    ("stability.generate_ultra", {"prompt": "a", "image": (64, 64), "strength": 1.01}, "strength"),
    ("stability.generate_ultra", {"prompt": "a", "image": (64, 64), "strength": -0.01}, "strength"),
    ("stability.generate_ultra", {"prompt": "a", "image": (64, 64), "strength": float("nan")}, "strength"),
    ("stability.generate_ultra", {"prompt": "a", "image": (64, 64), "strength": "0.5"}, "strength"),
    ("stability.generate_sd3", {"prompt": "a", "cfg_scale": 0.9}, "cfg_scale"),
    ("stability.generate_sd3", {"prompt": "a", "cfg_scale": 10.1}, "cfg_scale"),
    ("stability.generate_sd3", {"prompt": "a", "cfg_scale": True}, "cfg_scale"),
    ("stability.generate_sd3", {"prompt": "a", "model": ""}, "model"),
    ("stability.generate_sd3", {"prompt": "a", "mode": "image-to-image"}, "mode"),
    ("stability.generate_sd3", {"prompt": "a", "mode": "text"}, "mode"),
    ("stability.generate_sd3", {"prompt": "a", "mode": "text-to-image", "image": (64, 64), "strength": 1}, "mode"),
    (
        "stability.generate_sd3",
        {"prompt": "a", "aspect_ratio": "1:1", "image": (64, 64), "strength": 1},
        "aspect_ratio",
    ),
    ("stability.generate_sd3", {"prompt": "a", "strength": 1, "mode": "image-to-image"}, "image"),
    ("stability.inpaint", {"image": (64, 64)}, "prompt"),
    ("stability.inpaint", {"image": (64, 64), "prompt": "a", "grow_mask": 101}, "grow_mask"),
    ("stability.inpaint", {"image": (64, 64), "prompt": "a", "grow_mask": -1}, "grow_mask"),
    ("stability.inpaint", {"image": (64, 64), "prompt": "a", "mask": b"mask"}, "mask"),
    ("stability.erase", {"image": (64, 64), "grow_mask": 21}, "grow_mask"),
    ("stability.remove_background", {"image": (64, 64), "output_format": "jpeg"}, "output_format"),
    ("stability.control_structure", {"image": (64, 64), "prompt": "a", "control_strength": 1.1}, "control_strength"),
    ("stability.upscale_creative", {"image": (64, 64), "prompt": "a", "creativity": 0.09}, "creativity"),
    ("stability.upscale_creative", {"image": (64, 64), "prompt": "a", "creativity": 0.51}, "creativity"),
    ("stability.upscale_creative", {"image": (64, 64)}, "prompt"),
    ("stability.get_result", {"id": "../../v1/user/balance"}, "id"),
    ("stability.get_result", {"id": "a" * 129}, "id"),
    ("stability.get_result", {"id": ""}, "id"),
    ("stability.get_result", {"id": "a", "timeout": -1}, "timeout"),
    ("stability.get_result", {"id": "a", "timeout": float("inf")}, "timeout"),
    ("stability.image_to_video", {"image": (768, 768), "motion_bucket_id": 0}, "motion_bucket_id"),
    ("stability.image_to_video", {"image": (768, 768), "motion_bucket_id": 256}, "motion_bucket_id"),
    ("stability.image_to_video", {"image": (768, 768), "cfg_scale": 10.5}, "cfg_scale"),
    ("fal.submit_request", {"model_id": MODEL}, "input"),
    ("fal.submit_request", {"model_id": MODEL, "input": {}, "webhook_url": "hooks.example"}, "webhook_url"),
    ("fal.submit_request", {"model_id": MODEL, "input": {}, "webhook_url": "ftp://hooks.example"}, "webhook_url"),
    ("fal.submit_request", {"model_id": MODEL, "input": {}, "priority": "high"}, "priority"),
    ("fal.submit_request", {"model_id": MODEL, "input": {}, "start_timeout": 1}, "start_timeout"),
    ("fal.submit_request", {"model_id": MODEL, "input": {}, "max_queue_length": 0}, "max_queue_length"),
    ("fal.submit_request", {"model_id": MODEL, "input": {}, "tags": {str(n): "x" for n in range(11)}}, "tags"),
    ("fal.submit_request", {"model_id": MODEL, "input": {}, "tags": {"a": 1}}, "tags"),
    ("fal.submit_request", {"model_id": MODEL, "input": {}, "webhook": "x"}, "webhook"),
    ("fal.wait_for_request", {"model_id": MODEL, "request_id": "a", "timeout": 0}, "timeout"),
    ("fal.wait_for_request", {"model_id": MODEL, "request_id": "a", "poll_interval": 0}, "poll_interval"),
    ("fal.wait_for_request", {"model_id": MODEL, "request_id": "a", "poll_interval": 61}, "poll_interval"),
    ("fal.list_models", {"limit": 0}, "limit"),
    ("fal.list_models", {"status": "gone"}, "status"),
    ("fal.list_models", {"endpoint_id": ["a/b"] * 51}, "endpoint_id"),
    ("fal.list_files", {"source": "cdn"}, "source"),
    ("fal.list_files", {"directory": "../../keys"}, "directory"),
    ("fal.upload_file", {}, "file_path"),
    ("fal.upload_file", {"file_path": b"x", "file_name": ""}, "file_name"),
]


@pytest.mark.parametrize(("name", "arguments", "parameter"), WRONG, ids=[f"{w[0]}-{n}" for n, w in enumerate(WRONG)])
def test_a_wrong_argument_is_refused_by_name_and_nothing_is_sent(fake, picture, name, arguments, parameter):
    with pytest.raises(InvalidInput) as caught:
        call(name, arguments, picture)
    error = caught.value
    assert error.parameter == parameter
    assert f"{error.provider}.{error.function}" == name
    assert error.retryable is False


# Function, other arguments, accepted sizes, refused sizes.
LIMITS = [
    ("generate_ultra", {"prompt": "a", "strength": 0.5}, [(64, 64), (16_384, 64)], [(63, 70), (16_385, 64)]),
    ("generate_sd3", {"prompt": "a", "strength": 0.5}, [(64, 64), (17_000, 64)], [(63, 70)]),
    ("inpaint", {"prompt": "a"}, [(64, 64), (3072, 3072), (147_456, 64)], [(63, 100), (3073, 3072)]),
    ("erase", {}, [(64, 64), (3072, 3072)], [(63, 100), (3073, 3072)]),
    ("remove_background", {}, [(64, 64), (2048, 2048)], [(63, 100), (2049, 2048)]),
    (
        "control_structure",
        {"prompt": "a"},
        [(64, 64), (3072, 3072), (1000, 400), (400, 1000), (100, 41)],
        [(63, 65), (3073, 3072), (1001, 400), (400, 1001)],
    ),
    ("upscale_fast", {}, [(32, 32), (1024, 1024), (1536, 682), (682, 1536)], [(31, 34), (1025, 1024), (1537, 600)]),
    ("upscale_creative", {"prompt": "a"}, [(64, 64), (1024, 1024), (8192, 128)], [(63, 65), (1025, 1024)]),
    ("image_to_video", {}, [(1024, 576), (576, 1024), (768, 768)], [(768, 767), (1025, 576), (512, 512)]),
]
EDGES = [
    (name, rest, size, accepted)
    for name, rest, good, bad in LIMITS
    for sizes, accepted in ((good, True), (bad, False))
    for size in sizes
]


@pytest.mark.parametrize(
    ("name", "rest", "size", "accepted"), EDGES, ids=[f"{e[0]}-{e[2][0]}x{e[2][1]}-{e[3]}" for e in EDGES]
)
def test_the_size_of_a_picture_is_checked_at_both_edges(fake, picture, name, rest, size, accepted):
    function = stability.provider.functions[name].call
    if accepted:
        fake.answer({"id": "a"} if name in {"upscale_creative", "image_to_video"} else fake.media())
        function(image=picture(*size, mode="L"), **rest)
        return
    with pytest.raises(InvalidInput, match="Accepted: jpeg, png") as caught:
        function(image=picture(*size, mode="L"), **rest)
    assert caught.value.parameter == "image"
    assert f"{size[0]}x{size[1]}" in str(caught.value)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_a_picture_in_another_format_is_refused(fake, picture, kind):
    with pytest.raises(InvalidInput, match=f"is a {kind} picture"):
        stability.remove_background(picture(kind=kind))


def test_a_video_does_not_start_from_webp(fake, picture):
    with pytest.raises(InvalidInput, match="is a WEBP picture"):
        stability.image_to_video(picture(768, 768, "WEBP"))


@pytest.mark.parametrize(
    "content", [b"plain text", b"\x89PNG\r\n\x1a\n", b"RIFF\x00\x00\x00\x00WEBP", bytes(range(64))]
)
def test_something_that_is_no_picture_is_refused(fake, content):
    with pytest.raises(InvalidInput, match="picture"):
        stability.upscale_fast(content)


def test_a_path_that_does_not_exist_is_an_error_and_never_uploaded_as_text(fake, tmp_path):
    for call_ in (stability.remove_background, fal.upload_file):
        with pytest.raises(InvalidInput, match=r"nothing\.png' does not exist"):
            call_(str(tmp_path / "nothing.png"))


def test_a_folder_is_not_a_file(fake, tmp_path):
    for call_ in (stability.remove_background, fal.upload_file):
        with pytest.raises(InvalidInput, match="is not a regular file"):
            call_(tmp_path)


def test_a_device_is_not_a_file(fake):
    with pytest.raises(InvalidInput, match="is not a regular file"):
        fal.upload_file("/dev/zero")


def test_an_empty_file_is_refused(fake, tmp_path):
    (tmp_path / "empty.png").touch()
    for call_ in (stability.remove_background, fal.upload_file):
        with pytest.raises(InvalidInput, match="the file is empty"):
            call_(str(tmp_path / "empty.png"))
    for value in (b"", ""):
        with pytest.raises(InvalidInput):
            stability.remove_background(value)


def test_content_passed_as_text_is_told_apart_from_a_path(fake):
    with pytest.raises(InvalidInput, match="pass file content as bytes"):
        stability.remove_background("iVBORw0KGgo" * 1000)
    with pytest.raises(InvalidInput, match="image: the"):
        stability.remove_background("a\0b.png")


@pytest.mark.parametrize(
    "value",
    [
        7,
        ["a.png"],
        {},
        {"content_type": "image/png"},
        {"body_base64": "%%%"},
        {"uri": ""},
        "ftp://host/a.png",
        "data:,x",
    ],
)
def test_another_kind_of_value_is_no_file(fake, value):
    with pytest.raises(InvalidInput) as caught:
        stability.remove_background(value)
    assert caught.value.parameter == "image"


def test_a_file_above_ten_mebibytes_is_refused_unread(fake, tmp_path):
    path = tmp_path / "huge.png"
    with path.open("wb") as stream:
        stream.truncate(10 * 1024 * 1024 + 1)
    with pytest.raises(InvalidInput, match="10,485,761 bytes; the service accepts at most 10,485,760"):
        stability.remove_background(path)


def test_two_files_above_ten_mebibytes_together_are_refused(fake, noise):
    half = noise(1400, 1300)  # 5.5 MB
    with pytest.raises(InvalidInput, match="10 MiB in one request"):
        stability.inpaint(half, "a cat", mask=half)


def test_a_web_address_with_too_much_behind_it_is_refused_while_it_is_read(fake, monkeypatch):
    fake.answer(httpx.Response(200, content=b"\0" * (10 * 1024 * 1024 + 1)))
    with pytest.raises(Exception, match="larger than 10,485,760 bytes"):
        stability.remove_background("https://pictures.example/huge.png")
    assert len(fake.sent) == 1


@pytest.mark.parametrize(
    "output",
    [
        "lamps",
        "",
        "https://bucket.example/x",
        "s3://",
        "s3:///folder",
        "C:/pictures",
        "file://outputs/lamps",
        "gs://bucket/x",
        "S3://bucket/x",
        "file:outputs",
    ],
)
def test_a_wrong_output_is_found_before_anything_is_paid(fake, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    fake.always = lambda _request: fake.media()
    with pytest.raises(InvalidInput) as caught:
        stability.generate_core("a lamp", output=output)
    assert caught.value.parameter == "output"
    assert fake.sent == []


@pytest.mark.parametrize("value", ["org\nX-Evil: 1", "Müller"])
def test_an_organization_that_no_header_can_carry_is_refused(fake, value):
    with pytest.raises(InvalidInput) as caught:
        stability.get_balance(organization=value)
    assert caught.value.parameter == "organization"


def test_a_media_without_bytes_or_address_is_refused(fake):
    with pytest.raises(Exception, match="neither bytes nor an address"):
        stability.remove_background(Media("image/png"))
