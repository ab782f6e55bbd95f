"""What a client of Stability's image endpoints sees."""

import base64
import io

import httpx
import pytest
from PIL import Image, ImageChops

IMAGE = "/v2beta/stable-image"


def form(**fields):
    parts = {name: value if isinstance(value, bytes | tuple) else (None, value) for name, value in fields.items()}
    return parts or {"none": ""}


def post(stability, path, accept="image/*", **fields):
    return stability.post(f"{IMAGE}/{path}", files=form(**fields), headers={"Accept": accept})


def opened(content):
    return Image.open(io.BytesIO(content))


def test_a_picture_comes_as_bytes_with_its_seed_in_headers(stability):
    answer = post(stability, "generate/core", prompt="a lamp", seed="7", aspect_ratio="16:9")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert (answer.headers["finish-reason"], answer.headers["seed"]) == ("SUCCESS", "7")
    assert len(answer.headers["x-request-id"]) == 32
    width, height = opened(answer.content).size
    assert width / height == pytest.approx(16 / 9, rel=0.05)
    assert width * height == pytest.approx(1.5e6, rel=0.1)


def test_json_carries_the_picture_and_no_result_headers(stability):
    answer = post(stability, "generate/core", accept="application/json", prompt="a lamp", output_format="webp")
    assert answer.headers["content-type"] == "application/json; type=image/webp"
    assert set(answer.json()) == {"image", "seed", "finish_reason"}
    assert opened(base64.b64decode(answer.json()["image"])).format == "WEBP"
    assert "seed" not in answer.headers
    assert "finish-reason" not in answer.headers


def test_equal_seeds_give_equal_pictures_and_others_differ(stability):
    first, again, other = (post(stability, "generate/core", prompt="a lamp", seed=s).content for s in ("5", "5", "6"))
    assert first == again
    assert first != other


def test_a_form_that_is_not_multipart_is_refused(stability):
    for body in ({"data": {"prompt": "a lamp"}}, {"json": {"prompt": "a lamp"}}):
        answer = stability.post(f"{IMAGE}/generate/core", **body)
        assert answer.status_code == 400
        assert answer.json()["errors"] == ["content-type: must be multipart/form-data"]
        assert answer.json()["id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("body", [b"", b"--x\r\nfoo", b"--x\r\nContent-Disposition: form-data\r\n\r\nz\r\n--x--\r\n"])
def test_a_broken_multipart_body_is_refused_in_the_services_envelope(stability, body):
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = stability.post(f"{IMAGE}/generate/core", content=body, headers=headers)
    assert (answer.status_code, answer.json()["name"]) == (400, "bad_request")


def test_an_empty_part_named_none_forces_multipart_as_the_vendors_samples_do(stability):
    answer = stability.post(f"{IMAGE}/generate/core", files={"none": ""}, data={"prompt": "a lamp"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("path", "fields", "complaint"),
    [
        ("generate/core", {}, "prompt: is required"),
        ("generate/core", {"prompt": "x", "samples": "2"}, "samples: is not allowed"),
        ("generate/core", {"prompt": "x", "aspect_ratio": "4:3"}, "aspect_ratio: must be one of 21:9"),
        ("generate/core", {"prompt": "x", "seed": "4294967295"}, "seed: must be between 0 and 4294967294"),
        ("generate/core", {"prompt": "x", "seed": "1.5"}, "seed: must be an integer"),
        ("generate/core", {"prompt": "x", "seed": "nan"}, "seed: must be an integer"),
        ("generate/core", {"prompt": "x" * 10_001}, "prompt: must be at most 10,000 characters"),
        ("generate/core", {"prompt": "x", "image": b"123"}, "image: is not allowed"),
        ("generate/ultra", {"prompt": "x", "strength": "0.5"}, "strength: is only allowed when image is provided"),
        ("generate/sd3", {"prompt": "x", "model": "sd4"}, "model: must be one of"),
        ("generate/sd3", {"prompt": "x", "mode": "image-to-image"}, "image: is required when mode is image-to-image"),
        ("edit/inpaint", {"prompt": "x"}, "image: is required"),
        ("edit/erase", {"image": "picture.png"}, "image: must be a file"),
        ("edit/erase", {"image": b"not a picture"}, "image: must be a valid image"),
    ],
)
def test_wrong_fields_are_named(stability, path, fields, complaint):
    answer = post(stability, path, **fields)
    assert answer.status_code == 400
    assert answer.json()["name"] == "bad_request"
    assert any(complaint in text for text in answer.json()["errors"])


def test_rules_between_fields_of_image_to_image(stability, picture):
    fields = {"prompt": "x", "image": picture(), "aspect_ratio": "1:1"}
    assert "strength" in post(stability, "generate/ultra", prompt="x", image=picture()).text
    assert "mode" in post(stability, "generate/sd3", prompt="x", image=picture(), strength="0.5").text
    refused = post(stability, "generate/sd3", mode="image-to-image", strength="0.5", **fields)
    assert refused.json()["errors"] == ["aspect_ratio: is only allowed when mode is text-to-image"]
    del fields["aspect_ratio"]
    answer = post(stability, "generate/sd3", mode="image-to-image", strength="0.5", **fields)
    assert opened(answer.content).size == (128, 96)


@pytest.mark.parametrize(
    ("path", "size", "part"),
    [
        ("upscale/fast", (31, 64), "at least 32"),
        ("upscale/fast", (1600, 64), "at most 1536"),
        ("upscale/fast", (1536, 1024), "between 1024 and 1048576"),
        ("edit/erase", (63, 128), "at least 64"),
        ("edit/remove-background", (2049, 2048), "between 4096 and 4194304"),
        ("control/structure", (640, 128), "aspect ratio"),
    ],
)
def test_pictures_outside_the_limits_are_refused(stability, picture, path, size, part):
    fields = {"prompt": "x"} if path.startswith("control") else {}
    answer = post(stability, path, image=picture(*size), **fields)
    assert answer.status_code == 400
    assert part in answer.text


def test_other_picture_formats_are_refused(stability, picture):
    assert post(stability, "upscale/fast", image=picture(kind="GIF")).status_code == 400


def test_a_body_above_ten_mebibytes_is_refused(stability):
    answer = post(stability, "edit/erase", image=bytes(10 * 1024 * 1024))
    assert answer.status_code == 413
    assert answer.json()["name"] == "payload_too_large"


def test_only_the_documented_accept_values_work(stability):
    assert post(stability, "generate/core", accept="image/png", prompt="x").status_code == 400
    assert post(stability, "generate/core", accept="*/*", prompt="x").status_code == 400


def test_fast_upscale_is_four_times_as_large(stability, picture):
    assert opened(post(stability, "upscale/fast", image=picture(64, 48)).content).size == (256, 192)


def test_inpaint_changes_only_what_the_mask_shows(stability, picture):
    mask = Image.new("L", (64, 48))
    mask.paste(255, (0, 0, 32, 48))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    source = picture()
    answer = post(stability, "edit/inpaint", image=source, mask=buffer.getvalue(), prompt="sea", grow_mask="0")
    changed = ImageChops.difference(opened(answer.content).convert("RGB"), opened(source).convert("RGB")).getbbox()
    assert changed is not None
    assert changed[2] <= 70


def test_without_mask_the_transparent_part_is_filled(stability):
    image = Image.new("RGBA", (128, 96), (10, 200, 30, 255))
    image.paste((0, 0, 0, 0), (0, 0, 20, 20))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    result = opened(post(stability, "edit/erase", image=buffer.getvalue(), grow_mask="0").content).convert("RGB")
    assert result.getpixel((10, 10))[1] > 150
    assert result.getpixel((100, 80)) == (10, 200, 30)


def test_background_removal_answers_transparency_and_no_jpeg(stability, picture):
    assert "A" in opened(post(stability, "edit/remove-background", image=picture()).content).getbands()
    assert post(stability, "edit/remove-background", image=picture(), output_format="jpeg").status_code == 400


def test_structure_control_keeps_the_size(stability, picture):
    answer = post(stability, "control/structure", image=picture(), prompt="sea", control_strength="0.9")
    assert opened(answer.content).size == (128, 96)


@pytest.mark.parametrize(
    ("prompt", "status", "name"),
    [
        ("moderate-me", 403, "content_moderation"),
        ("a public-figure", 422, "invalid_language|public_figure"),
        ("красная лампа", 422, "invalid_language"),
    ],
)
def test_refused_prompts_cost_nothing(stability, state, prompt, status, name):
    answer = post(stability, "generate/core", prompt=prompt)
    assert answer.status_code == status
    assert answer.json()["name"] in name
    assert state.account().credits == 1000


def test_filtered_content_is_a_success_with_a_blur(stability, state):
    answer = post(stability, "generate/core", prompt="filter-me please", seed="3")
    assert answer.status_code == 200
    assert answer.headers["finish-reason"] == "CONTENT_FILTERED"
    body = post(stability, "generate/core", accept="application/json", prompt="filter-me please").json()
    assert body["finish_reason"] == "CONTENT_FILTERED"
    assert state.ledger.billed("credits") == 6


@pytest.mark.parametrize(
    ("path", "fields", "price"),
    [
        ("generate/core", {"prompt": "x"}, 3),
        ("generate/ultra", {"prompt": "x"}, 8),
        ("generate/sd3", {"prompt": "x"}, 6.5),
        ("generate/sd3", {"prompt": "x", "model": "sd3.5-flash"}, 2.5),
    ],
)
def test_a_success_costs_what_the_price_table_says(stability, state, path, fields, price):
    post(stability, path, **fields)
    assert stability.get("/v1/user/balance").json() == {"credits": 1000 - price}
    assert state.ledger.billed("credits") == price


def test_without_credits_the_answer_is_402(stability, state):
    state.account().credits = 2.5
    answer = post(stability, "generate/core", prompt="x")
    assert answer.status_code == 402
    assert answer.json()["name"] == "payment_required"
    assert state.account().credits == 2.5


def test_an_unknown_path_is_not_found(stability):
    assert httpx.post(f"{stability.base_url}v2beta/stable-image/generate/pose").status_code == 404
