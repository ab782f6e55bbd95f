"""Downloads of media: resumed, bounded, and never with a key."""

from __future__ import annotations

import gzip
import hashlib
import time
from dataclasses import replace

import httpx
import pytest

from prefect_kosmokrator.integrations import download, fal, stability
from prefect_kosmokrator.integrations.errors import (
    DeadlineExceeded,
    InvalidInput,
    KosmoError,
    Rejected,
    StorageError,
    Unavailable,
)
from prefect_kosmokrator.integrations.media import Media

URL = "https://v3.fal.media/files/a/lamp.mp4"
CONTENT = bytes(range(256)) * 40


class Cut(httpx.SyncByteStream):
    """A body whose connection breaks after some bytes."""

    def __init__(self, content):
        self.content = content

    def __iter__(self):
        yield self.content
        raise httpx.ReadError("connection reset")


def ranged(content):
    """A host that serves ranges of `content`."""

    def serve(request):
        start = int(request.headers.get("range", "bytes=0-")[6:].rstrip("-"))
        body = httpx.ByteStream(content[start:])
        return httpx.Response(206 if start else 200, stream=body, headers={"content-type": "video/mp4; x=1"})

    return serve


def test_a_file_is_downloaded_with_its_type_and_without_a_key(fake, tmp_path):
    fake.answer(ranged(CONTENT))
    assert download.to_file(URL, tmp_path / "a") == "video/mp4"
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert "authorization" not in fake.sent[0].headers


def test_a_broken_transfer_goes_on_where_it_stopped(fake, tmp_path):
    fake.answer(httpx.Response(200, stream=Cut(CONTENT[:100])), httpx.Response(206, stream=Cut(CONTENT[100:150])))
    fake.answer(ranged(CONTENT))
    download.to_file(URL, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert [sent.headers.get("range") for sent in fake.sent] == [None, "bytes=100-", "bytes=150-"]


def test_a_host_without_ranges_is_read_from_the_start_again(fake, tmp_path):
    fake.answer(httpx.Response(200, stream=Cut(CONTENT[:100])), httpx.Response(200, content=CONTENT))
    download.to_file(URL, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_host_that_compresses_cannot_corrupt_a_resumed_file(fake, tmp_path):
    def compressing(request):
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return ranged(CONTENT)(request)
        packed = gzip.compress(CONTENT, mtime=0)
        if "range" in request.headers:
            return ranged(packed)(request)
        return httpx.Response(200, stream=Cut(packed[: len(packed) // 2]), headers={"content-encoding": "gzip"})

    fake.always = compressing
    try:
        download.to_file(URL, tmp_path / "a")
    except KosmoError:
        return  # refusing is right as well; a wrong file is not
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_an_older_file_at_the_target_is_replaced(fake, tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 50_000)
    fake.answer(ranged(CONTENT))
    download.to_file(URL, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404, 410])
def test_an_expired_address_says_what_to_do(fake, tmp_path, status):
    fake.answer(httpx.Response(status))
    with pytest.raises(Rejected, match=r"expired or is not public\. Fetch the result again") as caught:
        download.to_file(f"{URL}?token=secret", tmp_path / "a")
    assert caught.value.status == status
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("trouble", [429, 500, 503])
def test_a_host_that_is_down_is_asked_four_times(fake, tmp_path, trouble):
    fake.always = lambda _request: httpx.Response(trouble)
    with pytest.raises(Unavailable) as caught:
        download.to_file(URL, tmp_path / "a")
    assert (caught.value.retryable, len(fake.sent)) == (True, 4)


@pytest.mark.parametrize("url", ["https://", "http://a b/c", "https://x.example:port/"])
def test_an_address_that_is_none_is_a_typed_error(fake, tmp_path, url):
    fake.always = lambda _request: httpx.ConnectError("no such host")
    with pytest.raises(KosmoError):
        download.to_file(url, tmp_path / "a")


@pytest.mark.parametrize(
    "address",
    ["https://x.example/" + "a" * 300, "https://x.example/%2e%2e", "https://x.example/%00", "https://[::1", "https://"],
)
def test_an_odd_address_is_read_or_a_typed_error(fake, picture, address):
    fake.answer(fake.media(picture()), fake.media())
    try:
        stability.remove_background(address)
    except KosmoError:
        return
    assert fake.sent[1].form["image"][2] == picture()


def test_a_file_that_is_too_large_is_given_up_early(fake, tmp_path):
    sent = []

    def endless():
        while True:
            sent.append(1)
            yield b"x" * 1000

    class Endless(httpx.SyncByteStream):
        def __iter__(self):
            return endless()

    fake.answer(httpx.Response(200, stream=Endless()))
    with pytest.raises(InvalidInput, match="larger than 5,000 bytes"):
        download.to_file(URL, tmp_path / "a", max_bytes=5000)
    assert len(sent) == 6


def test_a_download_that_drips_for_ever_ends(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "DEADLINE_SECONDS", 0.05)

    class Dripping(httpx.SyncByteStream):
        def __iter__(self):
            for _ in range(100):
                time.sleep(0.02)
                yield b"x"

    fake.answer(httpx.Response(200, stream=Dripping()))
    with pytest.raises(DeadlineExceeded):
        download.to_file(URL, tmp_path / "a")


def test_a_target_that_cannot_be_written_is_a_storage_error(fake, tmp_path):
    fake.always = ranged(CONTENT)
    with pytest.raises(StorageError, match="Could not write"):
        download.to_file(URL, tmp_path / "none" / "a")


@pytest.fixture
def job(emulator):
    """A completed job with one picture."""
    return fal.submit_request("fal-ai/flux/schnell", {"prompt": "a lamp", "image_size": "square"})


@pytest.mark.parametrize("fault", ["500", "reset", "close", "truncate", "drip"])
def test_a_bad_transfer_of_a_result_recovers(emulator, job, tmp_path, fault):
    emulator.state.inject("GET /fal/media/files", fault, seconds=0.1)
    (media,) = fal.get_result(job, output=tmp_path.as_uri()).media
    assert hashlib.sha256(media.read()).hexdigest() == media.sha256
    assert media.sha256 == next(iter(emulator.state.files.files.values())).sha256


def test_a_truncated_transfer_is_resumed_with_a_range(emulator, job, tmp_path):
    emulator.state.inject("GET /fal/media/files", "truncate", bytes=1000)
    fal.get_result(job, output=tmp_path.as_uri())
    assert [entry.status for entry in emulator.state.ledger.select("GET", "/fal/media/files")] == [200, 206]


@pytest.mark.parametrize("status", [404, 410])
def test_a_result_whose_files_have_expired_is_rejected(emulator, job, tmp_path, status):
    emulator.state.settings.expired_media_status = status
    found = fal.get_result(job)
    emulator.state.clock.advance(8 * 24 * 3600)
    with pytest.raises(Rejected, match="expired"):
        found.media[0].save(tmp_path.as_uri())
    assert list(tmp_path.glob("*.json")) == []


def test_a_redirect_of_a_file_takes_no_key_to_the_other_host(emulator, job, tmp_path):
    # "localhost" is another origin than 127.0.0.1; the emulator notes a key that arrives there.
    target = next(iter(fal.get_result(job).media)).uri.replace("127.0.0.1", "localhost")
    emulator.state.inject("GET /fal/media/files", "redirect", location=target)
    (media,) = fal.get_result(job, output=tmp_path.as_uri()).media
    assert media.size > 0
    assert len(emulator.state.ledger.select("GET", "/fal/media/files")) == 2


def test_a_file_that_changed_on_the_web_is_not_taken_for_the_stored_one(fake):
    fake.answer(ranged(CONTENT))
    media = replace(Media("video/mp4", uri=URL), sha256="0" * 64)
    with pytest.raises(StorageError, match="SHA-256 differs"):
        media.read()
