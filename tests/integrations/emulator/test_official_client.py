"""The vendor's own Python client works against the emulator; only the hosts it talks to are replaced."""

import asyncio
import hashlib
import os

import fal_client
import httpx
import pytest
from fal_client import client as vendor


@pytest.fixture
def hosts(emulator, monkeypatch):
    monkeypatch.setattr(vendor, "QUEUE_URL_FORMAT", f"{emulator.url}/fal/queue/")
    monkeypatch.setattr(vendor, "RUN_URL_FORMAT", f"{emulator.url}/fal/run/")
    monkeypatch.setattr(vendor, "REST_URL", f"{emulator.url}/fal/rest")
    monkeypatch.setattr(vendor, "CDN_URL", f"{emulator.url}/fal/cdn")
    return emulator


@pytest.fixture
def client(hosts, monkeypatch):
    client = fal_client.SyncClient(key=hosts.state.account().fal_key)
    opened = [client._client]
    make = fal_client.SyncClient._get_cdn_client

    def remembered(self):
        opened.append(make(self))
        return opened[-1]

    # The vendor's client leaves its connections open; here that would be a warning, hence an error.
    monkeypatch.setattr(fal_client.SyncClient, "_get_cdn_client", remembered)
    yield client
    for each in opened:
        each.close()


def test_submit_poll_and_result(client, hosts):
    hosts.state.settings.queue_seconds, hosts.state.settings.run_seconds = 0.1, 0.3
    handle = client.submit("fal-ai/flux/dev", {"prompt": "a lamp"}, priority="low", start_timeout=30)
    kinds, logs = [], []
    for event in handle.iter_events(with_logs=True, interval=0.02):
        kinds.append(type(event).__name__)
        logs += getattr(event, "logs", None) or []
    assert set(kinds) == {"Queued", "InProgress", "Completed"}
    assert "Running inference" in {line["message"] for line in logs}
    result = handle.get()
    assert httpx.get(result["images"][0]["url"]).headers["content-type"] == "image/jpeg"
    assert isinstance(client.status("fal-ai/flux/dev", handle.request_id), fal_client.Completed)
    assert client.result("fal-ai/flux/dev", handle.request_id) == result


def test_subscribe_and_run(client):
    seen = []
    result = client.subscribe("workflows/emulator/poster", {"prompt": "x"}, on_enqueue=seen.append, interval=0.01)
    assert result["images"]
    assert len(seen) == 1
    assert client.run("fal-ai/flux/schnell", {"prompt": "x"})["images"]


def test_failures(client, hosts):
    handle = client.submit("fal-ai/flux/dev", {"input": {"prompt": "x"}})
    with pytest.raises(fal_client.FalClientHTTPError) as refused:
        handle.get(interval=0.01)
    assert refused.value.status_code == 422
    hosts.state.inject("POST /fal/queue/", "429")
    assert client.submit("fal-ai/flux/dev", {"prompt": "x"}).request_id
    hosts.state.account().balance = 0
    with pytest.raises(fal_client.FalClientHTTPError, match="User is locked"):
        client.submit("fal-ai/flux/dev", {"prompt": "x"})


def test_cancel(client, hosts):
    hosts.state.settings.queue_seconds = 60
    handle = client.submit("fal-ai/flux/dev", {"prompt": "x"})
    handle.cancel()
    assert handle.status(with_logs=True).error_type == "client_cancelled"
    with pytest.raises(fal_client.FalClientTimeoutError):
        client.subscribe("fal-ai/flux/dev", {"prompt": "x"}, client_timeout=1.5, interval=0.05)
    # The client sends its own patience along, so that the second job may have missed its start instead.
    assert not any(job.succeeds for job in hosts.state.jobs.values())


def test_uploads(client, hosts, monkeypatch, tmp_path):
    small = client.upload(b"small", "text/plain", "a.txt")
    assert httpx.get(small).content == b"small"
    monkeypatch.setattr(vendor, "MULTIPART_THRESHOLD", 1000)
    monkeypatch.setattr(vendor, "MULTIPART_CHUNK_SIZE", 30_000)
    content = os.urandom(100_000)
    path = tmp_path / "big.bin"
    path.write_bytes(content)
    for url in (client.upload(content, "application/octet-stream"), client.upload_file(path)):
        assert hashlib.sha256(httpx.get(url).content).digest() == hashlib.sha256(content).digest()
    assert hosts.state.ledger.violations() == []


def test_the_fall_back_store_sees_the_key_of_this_client(client, hosts):
    hosts.state.inject("POST /fal/cdn/files/upload", "503", times=0)
    url = client.upload(b"small", "text/plain", "a.txt")
    assert httpx.get(url).content == b"small"
    # The vendor's client sends its Authorization header along to the signed address.
    assert any("/fal/gcs/" in text for text in hosts.state.ledger.violations())


def test_asynchronous_client(hosts, monkeypatch):
    monkeypatch.setattr(vendor, "MULTIPART_THRESHOLD", 1000)
    monkeypatch.setattr(vendor, "MULTIPART_CHUNK_SIZE", 30_000)
    content = os.urandom(100_000)

    async def work():
        client = fal_client.AsyncClient(key=hosts.state.account().fal_key)
        handle = await client.submit("fal-ai/flux/dev", {"prompt": "x"})
        async for _ in handle.iter_events(with_logs=True, interval=0.01):
            pass
        result = await handle.get()
        url = await client.upload(content, "application/octet-stream")
        await (await client._client).aclose()
        return result, url

    result, url = asyncio.run(work())
    assert result["images"]
    assert httpx.get(url).content == content
