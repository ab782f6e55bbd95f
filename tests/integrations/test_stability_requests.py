"""What goes over the wire for every Stability AI function."""

from __future__ import annotations

import pytest

from prefect_kosmokrator.integrations import stability
from prefect_kosmokrator.integrations.media import Media

BASE = "https://api.stability.ai"
IMAGES = f"{BASE}/v2beta/stable-image"

# Function, arguments (P stands for a picture, M for a mask), path, the other form fields.
CALLS = [
    (
        "generate_core",
        {
            "prompt": "a lamp",
            "aspect_ratio": "16:9",
            "negative_prompt": "fog",
            "seed": 7,
            "style_preset": "cinematic",
            "output_format": "webp",
        },
        "generate/core",
        {
            "prompt": "a lamp",
            "aspect_ratio": "16:9",
            "negative_prompt": "fog",
            "seed": "7",
            "style_preset": "cinematic",
            "output_format": "webp",
        },
    ),
    ("generate_core", {"prompt": "a lamp"}, "generate/core", {"prompt": "a lamp", "output_format": "png"}),
    (
        "generate_ultra",
        {"prompt": "a lamp", "image": "P", "strength": 0.35},
        "generate/ultra",
        {"prompt": "a lamp", "output_format": "png", "image": "P", "strength": "0.35"},
    ),
    (
        "generate_sd3",
        {"prompt": "a lamp", "model": "sd3.5-medium", "cfg_scale": 4.5, "mode": "text-to-image", "aspect_ratio": "1:1"},
        "generate/sd3",
        {
            "prompt": "a lamp",
            "mode": "text-to-image",
            "model": "sd3.5-medium",
            "aspect_ratio": "1:1",
            "output_format": "png",
            "cfg_scale": "4.5",
        },
    ),
    (
        "generate_sd3",
        {"prompt": "a lamp", "image": "P", "strength": 1},
        "generate/sd3",
        {
            "prompt": "a lamp",
            "mode": "image-to-image",
            "model": "sd3.5-large",
            "output_format": "png",
            "image": "P",
            "strength": "1",
        },
    ),
    (
        "inpaint",
        {"image": "P", "prompt": "a cat", "mask": "M", "grow_mask": 100, "negative_prompt": ""},
        "edit/inpaint",
        {"image": "P", "prompt": "a cat", "mask": "M", "grow_mask": "100", "output_format": "png"},
    ),
    (
        "erase",
        {"image": "P", "mask": "M", "grow_mask": 0, "seed": 0, "output_format": "jpeg"},
        "edit/erase",
        {"image": "P", "mask": "M", "grow_mask": "0", "seed": "0", "output_format": "jpeg"},
    ),
    (
        "remove_background",
        {"image": "P", "output_format": "webp"},
        "edit/remove-background",
        {"image": "P", "output_format": "webp"},
    ),
    (
        "control_structure",
        {"image": "P", "prompt": "a castle", "control_strength": 0.7},
        "control/structure",
        {"image": "P", "prompt": "a castle", "control_strength": "0.7", "output_format": "png"},
    ),
    ("upscale_fast", {"image": "P"}, "upscale/fast", {"image": "P", "output_format": "png"}),
    (
        "upscale_creative",
        {"image": "P", "prompt": "a castle", "creativity": 0.1},
        "upscale/creative",
        {"image": "P", "prompt": "a castle", "creativity": "0.1", "output_format": "png"},
    ),
]


@pytest.mark.parametrize(("name", "arguments", "path", "fields"), CALLS, ids=[f"{c[0]}-{len(c[1])}" for c in CALLS])
def test_a_form_has_exactly_the_fields_that_were_given(fake, picture, name, arguments, path, fields):
    files = {"P": picture(), "M": picture(mode="L")}
    sent_as = {"P": ("image.png", "image/png", files["P"]), "M": ("mask.png", "image/png", files["M"])}
    started = name == "upscale_creative"
    fake.answer({"id": "a" * 64} if started else fake.media())
    stability.provider.functions[name].call(**{key: files.get(value, value) for key, value in arguments.items()})
    (sent,) = fake.sent
    assert (sent.method, sent.url, sent.query) == ("POST", f"{IMAGES}/{path}", [])
    assert sent.form == {key: sent_as.get(value, value) for key, value in fields.items()}
    assert sent.headers["accept"] == ("application/json" if started else "image/*")
    assert sent.headers["authorization"] == "Bearer sk-a1b2c3d4e5f6g7h8i9j0k1l2m3n4"


def test_a_text_is_sent_as_a_form_field_in_utf_8(fake):
    fake.answer(fake.media())
    stability.generate_core('Müller\'s "lamp"\r\nand 灯')
    assert fake.sent[0].form["prompt"] == 'Müller\'s "lamp"\r\nand 灯'


@pytest.mark.parametrize(("number", "text"), [(0.1 + 0.2, "0.3"), (1e-05, "1e-05"), (1.0, "1"), (0, "0")])
def test_numbers_are_sent_short(fake, picture, number, text):
    fake.answer(fake.media())
    stability.generate_ultra("a lamp", image=picture(), strength=number)
    assert fake.sent[0].form["strength"] == text


@pytest.mark.parametrize(
    ("kind", "content_type", "name"),
    [("PNG", "image/png", "image.png"), ("JPEG", "image/jpeg", "image.jpeg"), ("WEBP", "image/webp", "image.webp")],
)
def test_the_content_type_of_a_file_follows_its_content(fake, picture, kind, content_type, name):
    fake.answer(fake.media())
    stability.remove_background(picture(kind=kind))
    assert fake.sent[0].form["image"] == (name, content_type, picture(kind=kind))


def test_a_file_keeps_its_name_with_the_extension_of_its_content(fake, picture, tmp_path):
    path = tmp_path / "my lamp.photo.txt"
    path.write_bytes(picture(kind="JPEG"))
    fake.answer(fake.media())
    stability.remove_background(str(path))
    assert fake.sent[0].form["image"] == ("my lamp.photo.jpeg", "image/jpeg", path.read_bytes())


def test_every_kind_of_file_input_is_uploaded_as_the_same_bytes(fake, picture, tmp_path):
    path = tmp_path / "lamp.png"
    path.write_bytes(picture())
    json_form = {"content_type": "image/png", "body_base64": Media.from_bytes(picture(), "image/png").body_base64}
    stored = {"content_type": "image/png", "uri": path.as_uri()}
    inputs = [str(path), path, picture(), Media.from_bytes(picture(), "image/png"), path.as_uri(), json_form, stored]
    for value in inputs:
        fake.answer(fake.media())
        stability.remove_background(value)
    assert {sent.form["image"][1:] for sent in fake.sent} == {("image/png", picture())}


def test_a_web_address_is_fetched_without_the_key_and_uploaded(fake, picture):
    fake.answer(fake.media(picture()), fake.media())
    stability.remove_background("https://pictures.example/a/lamp.png?signature=abc")
    download, upload = fake.sent
    assert download.url == "https://pictures.example/a/lamp.png"
    assert "authorization" not in download.headers
    assert upload.form["image"] == ("lamp.png", "image/png", picture())


def test_account_and_balance_are_read_from_the_v1_api(fake):
    fake.answer({"email": "a@b.example", "id": "user-1", "organizations": []}, {"credits": 12.5})
    assert stability.get_account()["email"] == "a@b.example"
    assert stability.get_balance(organization="org-1") == {"credits": 12.5}
    assert [(s.method, s.url) for s in fake.sent] == [
        ("GET", f"{BASE}/v1/user/account"),
        ("GET", f"{BASE}/v1/user/balance"),
    ]
    assert [s.headers.get("organization") for s in fake.sent] == [None, "org-1"]


def test_a_result_is_asked_for_in_any_form(fake):
    fake.answer(fake.media())
    stability.get_result("a1B2_c-3")
    assert fake.sent[0].url == f"{BASE}/v2beta/results/a1B2_c-3"
    assert fake.sent[0].headers["accept"] == "*/*"


def test_a_video_is_started_and_fetched_at_the_old_addresses(fake, picture):
    video = fake.media(b"\x00\x00\x00 ftypisom", "video/mp4", finish_reason="SUCCESS", seed="9")
    fake.answer({"id": "vid1"}, video)
    job = stability.image_to_video(picture(768, 768), seed=1, cfg_scale=1.8, motion_bucket_id=127)
    media = stability.get_video_result(job.id)
    start, result = fake.sent
    assert (start.method, start.url) == ("POST", f"{BASE}/v2beta/image-to-video")
    assert {key: value for key, value in start.form.items() if key != "image"} == {
        "seed": "1",
        "cfg_scale": "1.8",
        "motion_bucket_id": "127",
    }
    assert (result.url, result.headers["accept"]) == (f"{BASE}/v2beta/image-to-video/result/vid1", "video/*")
    assert (media.content_type, media.seed, media.extension) == ("video/mp4", 9, "mp4")


def test_the_account_decides_key_and_address(fake, monkeypatch):
    monkeypatch.setenv("KOSMO_STABILITY__WORK__API_KEY", "sk-work-0123456789")
    monkeypatch.setenv("KOSMO_STABILITY__WORK__BASE_URL", "https://proxy.example/stability/")
    fake.answer({"credits": 1})
    stability.get_balance(account="Work")
    assert fake.sent[0].url == "https://proxy.example/stability/v1/user/balance"
    assert fake.sent[0].headers["authorization"] == "Bearer sk-work-0123456789"


def test_the_client_names_itself(fake):
    fake.answer({"credits": 1})
    stability.get_balance()
    assert fake.sent[0].headers["user-agent"].startswith("prefect-kosmokrator/")
