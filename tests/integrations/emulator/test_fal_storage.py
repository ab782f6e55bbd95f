"""Uploads to fal and public files."""

import hashlib
import os

import httpx
import pytest


@pytest.fixture
def cdn(fal, emulator):
    token = fal.post("/rest/storage/auth/token?storage_type=fal-cdn-v3", json={}).json()
    assert token["base_url"] == f"{emulator.url}/fal/cdn"
    headers = {"Authorization": f"{token['token_type']} {token['token']}"}
    with httpx.Client(base_url=token["base_url"], headers=headers, timeout=5) as client:
        yield client


def test_a_small_file_comes_back_as_it_was(cdn, state):
    headers = {"Content-Type": "image/png", "X-Fal-File-Name": "a lamp.png"}
    url = cdn.post("/files/upload", content=b"some bytes", headers=headers).json()["access_url"]
    answer = httpx.get(url)
    assert (answer.content, answer.headers["content-type"]) == (b"some bytes", "image/png")
    assert httpx.get(url, headers={"Range": "bytes=5-"}).content == b"bytes"
    assert httpx.head(url).headers["content-length"] == "10"
    assert state.ledger.violations() == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "a?b#c.png", "..", "%2e%2e%2fx.png", "x" * 300])
def test_any_file_name_leads_back_to_the_file(cdn, name):
    url = cdn.post("/files/upload", content=b"x", headers={"X-Fal-File-Name": name}).json()["access_url"]
    assert httpx.get(url).content == b"x"


def test_tokens_end_and_the_key_is_none(cdn, state, fal, emulator):
    state.clock.advance(3601)
    assert cdn.post("/files/upload", content=b"x").status_code == 401
    assert fal.post("/cdn/files/upload", content=b"x").status_code == 401
    assert "key leak" in state.ledger.violations()[0]


def test_a_locked_account_gets_no_token(fal, state):
    state.account().locked = "Exhausted balance."
    assert fal.post("/rest/storage/auth/token?storage_type=fal-cdn-v3", json={}).status_code == 403


def test_a_large_file_is_put_together_in_order(cdn):
    content = os.urandom(300_000)
    started = cdn.post("/files/upload/multipart", headers={"X-Fal-File-Name": "big.bin"}).json()
    base = f"{started['access_url']}/multipart/{started['uploadId']}"
    parts = [content[start : start + 100_000] for start in range(0, len(content), 100_000)]
    tags = {}
    for number in (3, 1, 2):
        answer = cdn.put(f"{base}/{number}", content=parts[number - 1])
        tags[number] = answer.headers["etag"]
    listed = [{"partNumber": number, "etag": tag} for number, tag in tags.items()]
    assert cdn.post(f"{base}/complete", json={"parts": listed[:2]}).status_code == 400
    assert cdn.post(f"{base}/complete", json={"parts": [{**listed[0], "etag": "no"}, *listed[1:]]}).status_code == 400
    assert cdn.post(f"{base}/complete", json={"parts": listed}).status_code == 200
    received = httpx.get(started["access_url"]).content
    assert hashlib.sha256(received).digest() == hashlib.sha256(content).digest()
    assert cdn.put(f"{base}/1", content=b"x").status_code == 404


def test_the_fall_back_store_takes_bytes_without_a_key(fal, state):
    body = {"file_name": "a.txt", "content_type": "text/plain"}
    started = fal.post("/rest/storage/upload/initiate?storage_type=gcs", json=body).json()
    assert httpx.get(started["file_url"]).status_code == 404
    assert httpx.put(started["upload_url"], content=b"hello").status_code == 200
    assert httpx.get(started["file_url"]).content == b"hello"
    assert state.ledger.violations() == []
    assert httpx.put(started["upload_url"], content=b"hello").status_code == 403


def test_a_key_sent_to_a_public_address_is_noted(fal, state, cdn):
    url = cdn.post("/files/upload", content=b"x", headers={"X-Fal-File-Name": "x.txt"}).json()["access_url"]
    assert fal.get(url).status_code == 200
    assert state.ledger.violations() == [
        f"GET {httpx.URL(url).path}: key leak: a public file address received an Authorization header"
    ]


def test_a_huge_result_is_streamed(fal):
    wishes = {"prompt": "x", "_emulator": {"size_bytes": 3_000_000}}
    video = fal.post("/run/fal-ai/ltx-video", json=wishes).json()["video"]
    assert video["file_size"] == 3_000_000
    with httpx.stream("GET", video["url"]) as answer:
        assert answer.headers["content-length"] == "3000000"
        assert sum(len(piece) for piece in answer.iter_bytes()) == 3_000_000
    ranged = httpx.get(video["url"], headers={"Range": "bytes=1000-1003"})
    assert (ranged.status_code, ranged.content) == (206, bytes([232, 233, 234, 235]))
