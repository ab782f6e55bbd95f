"""Uploads to fal: token, one request or parts, the fall-back, and no key where it does not belong."""

from __future__ import annotations

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from prefect_kosmokrator.integrations import fal, fal_storage
from prefect_kosmokrator.integrations.errors import InvalidInput, KosmoError, OutOfCredits, Rejected, Unavailable
from prefect_kosmokrator.integrations.media import Media

TOKEN = {
    "token": "t1",
    "token_type": "Bearer",
    "base_url": "https://v3.fal.media",
    "expires_at": "2999-01-01T00:00:00Z",
}
CDN = "https://v3.fal.media"
UPLOADED = {"access_url": f"{CDN}/files/x/lamp.png"}


@pytest.fixture
def small_parts(monkeypatch):
    """Files above 4 KiB go up in parts of 1 KiB."""
    monkeypatch.setattr(fal_storage, "MULTIPART_ABOVE", 4096)
    monkeypatch.setattr(fal_storage, "PART_BYTES", 1024)


@pytest.fixture
def lamp(tmp_path, picture) -> Path:
    """A picture in a file."""
    path = tmp_path / "lamp.png"
    path.write_bytes(picture())
    return path


def arrived(emulator, upload) -> str:
    """The digest of what the emulator holds at the address of an upload."""
    identifier = upload["url"].split("/")[-2]
    return hashlib.sha256(emulator.state.files.find(identifier).read()).hexdigest()


def test_a_file_goes_to_the_cdn_with_a_token_and_never_the_key(fake, lamp):
    fake.answer(TOKEN, UPLOADED)
    record = fal.upload_file(lamp)
    token, upload = fake.sent
    assert (token.method, token.url) == ("POST", "https://rest.fal.ai/storage/auth/token")
    assert (token.query, token.json) == ([("storage_type", "fal-cdn-v3")], {})
    assert (upload.method, upload.url, upload.body) == ("POST", f"{CDN}/files/upload", lamp.read_bytes())
    sent = {name: upload.headers[name] for name in ("authorization", "content-type", "x-fal-file-name")}
    assert sent == {"authorization": "Bearer t1", "content-type": "image/png", "x-fal-file-name": "lamp.png"}
    assert record == {
        "url": UPLOADED["access_url"],
        "file_name": "lamp.png",
        "content_type": "image/png",
        "size": lamp.stat().st_size,
        "sha256": hashlib.sha256(lamp.read_bytes()).hexdigest(),
    }


@pytest.mark.parametrize(
    ("name", "content", "content_type"),
    [
        ("clip.mp4", b"video", "video/mp4"),
        ("notes.txt", b"words", "text/plain"),
        ("weights.safetensors", b"\0" * 8, "application/octet-stream"),
    ],
)
def test_the_content_type_follows_content_then_name(fake, tmp_path, name, content, content_type):
    (tmp_path / name).write_bytes(content)
    fake.answer(TOKEN, UPLOADED)
    assert fal.upload_file(tmp_path / name)["content_type"] == content_type


@pytest.mark.parametrize("name", ["größe 1.png", "灯.png", "a\r\nX-Evil: 1.png", "a/b/../lamp.png"])
def test_a_name_for_the_upload_fits_into_a_header(fake, lamp, name):
    fake.answer(TOKEN, UPLOADED)
    fal.upload_file(lamp, name)
    header = fake.sent[1].headers["x-fal-file-name"]
    assert header.isascii()
    assert header.isprintable()
    assert "/" not in header


def test_a_token_is_used_until_it_expires(fake, lamp):
    fake.answer(TOKEN, UPLOADED, UPLOADED)
    fal.upload_file(lamp)
    fal.upload_file(lamp)
    assert [sent.url.rpartition("/")[2] for sent in fake.sent] == ["token", "upload", "upload"]


def test_threads_share_one_token(emulator, lamp):
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _n: fal.upload_file(lamp), range(8)))
    assert len({record["url"] for record in made}) == 8
    assert len(emulator.state.ledger.select("POST", "/storage/auth/token")) == 1


def test_a_token_that_was_revoked_is_renewed(emulator, lamp):
    fal.upload_file(lamp)
    emulator.state.tokens.clear()
    record = fal.upload_file(lamp)
    assert arrived(emulator, record) == record["sha256"]
    assert emulator.state.ledger.select("POST", "/storage/upload/initiate") == []


@pytest.mark.parametrize(
    ("match", "fault"),
    [
        ("POST /fal/rest/storage/auth/token", "503"),
        ("POST /fal/rest/storage/auth/token", "404"),
        ("POST /fal/cdn/files/upload", "500"),
        ("POST /fal/cdn/files/upload", "502-html"),
        ("POST /fal/cdn/files/upload", "413"),
    ],
)
def test_a_cdn_that_fails_is_replaced_by_the_fall_back(emulator, lamp, match, fault):
    emulator.state.inject(match, fault, times=0)
    record = fal.upload_file(lamp)
    assert arrived(emulator, record) == record["sha256"]
    (put,) = emulator.state.ledger.select("PUT", "/fal/gcs/")
    assert put.status == 200


@pytest.mark.parametrize("fault", ["503", "reset", "close", "429"])
def test_a_cdn_that_fails_once_is_tried_again(emulator, lamp, fault):
    emulator.state.inject("POST /fal/cdn/files/upload", fault)
    record = fal.upload_file(lamp)
    assert arrived(emulator, record) == record["sha256"]
    assert emulator.state.ledger.select("PUT", "/fal/gcs/") == []


def test_a_locked_account_is_not_sent_to_the_fall_back(emulator, lamp):
    emulator.state.account().locked = "TOP_UP."
    with pytest.raises(OutOfCredits, match="TOP_UP"):
        fal.upload_file(lamp)
    assert emulator.state.ledger.select("POST", "initiate") == []


def test_a_refused_key_is_not_sent_to_the_fall_back(emulator, lamp):
    emulator.state.account().revoked = True
    with pytest.raises(Rejected, match="was not accepted"):
        fal.upload_file(lamp)
    assert emulator.state.ledger.select("POST", "initiate") == []


def test_when_both_fail_the_service_is_unavailable(emulator, lamp):
    for match in ("POST /fal/cdn", "POST /fal/rest/storage/upload"):
        emulator.state.inject(match, "503", times=0)
    with pytest.raises(Unavailable) as caught:
        fal.upload_file(lamp)
    assert caught.value.retryable is True


@pytest.mark.parametrize("size", [4097, 5120, 5121, 9999])
def test_the_parts_of_a_large_file_make_up_the_file(emulator, tmp_path, small_parts, size):
    path = tmp_path / "clip.mp4"
    path.write_bytes(random.Random(size).randbytes(size))  # noqa: S311
    record = fal.upload_file(path)
    assert arrived(emulator, record) == record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(emulator.state.ledger.select("PUT", "/multipart/")) == -(-size // 1024)


def test_bytes_in_memory_go_up_in_parts_too(emulator, small_parts):
    content = random.Random(1).randbytes(10_000)  # noqa: S311
    for value in (content, Media.from_bytes(content, "video/mp4")):
        record = fal.upload_file(value)
        assert arrived(emulator, record) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("fault", ["503", "reset", "502-html", "429"])
def test_a_part_that_fails_is_sent_again(emulator, tmp_path, small_parts, fault):
    path = tmp_path / "clip.mp4"
    path.write_bytes(random.Random(2).randbytes(6000))  # noqa: S311
    emulator.state.inject("PUT /fal/cdn/*/3", fault, times=2)
    record = fal.upload_file(path)
    assert arrived(emulator, record) == record["sha256"]
    assert len(emulator.state.ledger.select("PUT", "/multipart/")) == 8


def test_a_file_above_a_hundred_megabytes_arrives_whole(emulator, tmp_path):
    path, block = tmp_path / "clip.mp4", random.Random(3).randbytes(1024 * 1024)  # noqa: S311
    with path.open("wb") as stream:
        for number in range(105):
            stream.write(number.to_bytes(4, "big") + block[4:])
    record = fal.upload_file(path)
    file = emulator.state.files.find(record["url"].split("/")[-2])
    assert (file.size, file.sha256) == (105 * 1024 * 1024, record["sha256"])
    assert len(emulator.state.ledger.select("PUT", "/multipart/")) == 11


def test_parts_of_a_file_are_not_sent_to_a_foreign_host(fake, tmp_path, small_parts):
    (tmp_path / "clip.mp4").write_bytes(b"x" * 5000)
    foreign = {"access_url": "https://evil.example/files/x", "uploadId": "1"}
    fallback = {"upload_url": "https://storage.example/put?sig=1", "file_url": f"{CDN}/files/y"}
    fake.answer(TOKEN, foreign, fallback, httpx.Response(200))
    assert fal.upload_file(tmp_path / "clip.mp4")["url"] == f"{CDN}/files/y"
    assert "evil.example" not in {sent.request.url.host for sent in fake.sent}
    assert "authorization" not in fake.sent[-1].headers


def test_a_token_for_a_foreign_cdn_is_used_at_the_configured_one(fake, tmp_path, small_parts):
    (tmp_path / "clip.mp4").write_bytes(b"x" * 5000)
    fake.answer({**TOKEN, "base_url": "https://evil.example"}, {"access_url": f"{CDN}/files/x", "uploadId": "1"})
    fake.always = lambda _request: httpx.Response(200, headers={"etag": '"e"'})
    fal.upload_file(tmp_path / "clip.mp4")
    assert {sent.request.url.host for sent in fake.sent} == {"rest.fal.ai", "v3.fal.media"}


@pytest.mark.parametrize("answer", [[], "t", {"token": None}, {}])
def test_a_token_answer_of_another_shape_goes_to_the_fall_back(fake, lamp, answer):
    fallback = {"upload_url": "https://storage.example/put?sig=1", "file_url": f"{CDN}/files/y"}
    fake.answer(httpx.Response(200, json=answer))
    fake.always = lambda request: fallback if "initiate" in request.url.path else httpx.Response(200)
    assert fal.upload_file(lamp)["url"] == f"{CDN}/files/y"


@pytest.mark.parametrize("start", [{"access_url": f"{CDN}/files/x"}, {"access_url": f"{CDN}/files/x", "uploadId": "1"}])
def test_parts_without_an_upload_id_or_tag_go_to_the_fall_back(fake, tmp_path, small_parts, start):
    (tmp_path / "clip.mp4").write_bytes(b"x" * 5000)
    fallback = {"upload_url": "https://storage.example/put?sig=1", "file_url": f"{CDN}/files/y"}
    fake.answer(TOKEN, start)
    fake.always = lambda request: fallback if "initiate" in request.url.path else httpx.Response(200)
    assert fal.upload_file(tmp_path / "clip.mp4")["url"] == f"{CDN}/files/y"


def test_an_upload_without_an_address_is_never_reported_as_one(fake, lamp):
    fake.answer(TOKEN)
    fake.always = lambda _request: {"access_url": None, "upload_url": "/relative", "file_url": ""}
    with pytest.raises(Unavailable, match="names no"):
        fal.upload_file(lamp)


def test_a_file_of_another_service_is_uploaded_by_its_address(emulator, picture, tmp_path):
    stored = Media.from_bytes(picture(), "image/png").save(tmp_path.as_uri())
    record = fal.upload_file(stored)
    assert arrived(emulator, record) == stored.sha256
    assert record["content_type"] == "image/png"


def test_a_picture_in_the_input_of_a_request_is_uploaded_for_it(emulator, lamp):
    data = {"prompt": "a lamp", "image_url": lamp, "strength": 0.5}
    assert fal.wait_for_request(fal.submit_request("fal-ai/flux/dev/image-to-image", data)).media


@pytest.mark.parametrize("value", ["", 7, None])
def test_a_file_must_be_given(fake, value):
    with pytest.raises(InvalidInput) as caught:
        fal.upload_file(value)
    assert caught.value.parameter == "file_path"


def test_nothing_but_our_errors_leaves_an_upload(emulator, lamp):
    for fault in ("malformed", "redirect", "close"):
        for match in ("POST /fal/rest", "POST /fal/cdn"):
            emulator.state.inject(match, fault, times=4)
        try:
            fal.upload_file(lamp)
        except KosmoError:
            emulator.state.clear_faults()
