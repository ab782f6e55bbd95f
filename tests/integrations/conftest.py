"""What the tests of the integrations share: a clean environment, a fake service, the emulator and an S3 server."""

from __future__ import annotations

import gc
import json
import os
import re
import time
from collections import deque
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import Any
from uuid import uuid4

import boto3
import httpx
import pytest
import stamina
from moto.server import ThreadedMotoServer
from PIL import Image

from prefect_kosmokrator.integrations import (
    accounts,
    budget,
    cli,
    fal_api,
    fal_storage,
    governor,
    journal,
    output,
    stability_api,
)
from prefect_kosmokrator.integrations.emulator import Emulator, EmulatorSettings
from prefect_kosmokrator.integrations.emulator.clock import Clock
from prefect_kosmokrator.integrations.http import Client

STABILITY_KEY = "sk-a1b2c3d4e5f6g7h8i9j0k1l2m3n4"
FAL_KEY = "0f8fad5b-d9cb-469f-a165-70867728950e:9c5d4f3e2b1a0c5d4f3e2b1a0c5d4f3e"
FOREIGN = re.compile(r"KOSMO_|AWS_|STABILITY_|FAL_|.*_PROXY$", re.IGNORECASE)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    """No setting of the machine reaches a test, and nothing a test remembers reaches the next one."""
    for name in [name for name in os.environ if FOREIGN.match(name)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KOSMO_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setenv("KOSMO_LEDGER", (tmp_path / "ledger").as_uri())
    monkeypatch.setattr(journal, "LISTING_SECONDS", 0.0)
    monkeypatch.setattr(budget, "_balances", {})
    monkeypatch.setattr(accounts, "finders", [])
    monkeypatch.setattr(output, "finders", [])
    monkeypatch.setattr(governor, "hooks", [])
    governor.forget()
    for remembered in (fal_api._unit_price, fal_storage._tokens, stability_api._price_overrides):
        remembered.cache_clear()


@pytest.fixture(autouse=True)
def no_waiting():
    """Retries happen as often as in production, without the pauses between them."""
    with stamina.set_testing(True, attempts=4):
        yield


@pytest.fixture
def waits(monkeypatch):
    """The pauses between attempts, noted; sleeping only moves the clock."""
    noted: list[float] = []
    stamina.set_testing(False)
    stamina.instrumentation.set_on_retry_hooks([lambda details: noted.append(details.wait_for)])
    slept: list[float] = []
    clock = time.monotonic
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(time, "monotonic", lambda: clock() + sum(slept))
    yield noted
    stamina.instrumentation.set_on_retry_hooks(None)


@cache
def draw(width: int, height: int, kind: str, mode: str) -> bytes:
    """A picture, encoded."""
    buffer = BytesIO()
    Image.new(mode, (width, height), "grey" if mode != "1" else 1).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """Makes the bytes of a picture of a size."""
    return lambda width=128, height=128, kind="PNG", mode="RGB": draw(width, height, kind, mode)


@pytest.fixture
def noise() -> Callable[[int, int], bytes]:
    """Makes a PNG that does not compress."""

    def make(width: int, height: int) -> bytes:
        buffer = BytesIO()
        Image.frombytes("RGB", (width, height), os.urandom(width * height * 3)).save(buffer, "PNG", compress_level=0)
        return buffer.getvalue()

    return make


class Sent:
    """A request as it went over the wire."""

    def __init__(self, request: httpx.Request) -> None:
        self.request = request
        self.method = request.method
        self.url = str(request.url.copy_with(query=None))
        self.query = request.url.params.multi_items()
        self.headers = request.headers
        self.body = request.read()

    @property
    def json(self) -> Any:
        """The body as JSON."""
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)

    @property
    def form(self) -> dict[str, Any]:
        """The parts of a multipart form: texts, or file name, content type and bytes."""
        kind, _, boundary = self.headers["content-type"].partition("; boundary=")
        assert kind == "multipart/form-data"
        parts: dict[str, Any] = {}
        for piece in self.body.split(b"--" + boundary.encode())[1:-1]:
            head, _, content = piece[2:-2].partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            values = dict(re.findall(r'(\w+)="([^"]*)"', headers["Content-Disposition"]))
            assert values["name"] not in parts
            file = (values["filename"], headers["Content-Type"], content) if "filename" in values else None
            parts[values["name"]] = file or content.decode()
        return parts


class Fake:
    """Answers every request of the process with what a test has prepared; any other request fails the test."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.prepared: deque[Any] = deque()
        self.always: Callable[[httpx.Request], Any] | None = None
        self.price: Any = {"prices": []}  # prices are looked up beside the requests that tests are about
        self.priced: list[Sent] = []

    def answer(self, *answers: Any) -> None:
        """Prepares answers: responses, errors to raise, functions of the request, or JSON values."""
        self.prepared.extend(answers)

    def media(
        self, content: bytes | None = None, content_type: str = "image/png", status: int = 200, **headers: str
    ) -> httpx.Response:
        """A picture as Stability sends it."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = draw(64, 64, "PNG", "RGB") if content is None else content
        return httpx.Response(status, content=body, headers={"content-type": content_type, **named})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/models/pricing"):
            self.priced.append(Sent(request))
            return self.price if isinstance(self.price, httpx.Response) else httpx.Response(200, json=self.price)
        self.sent.append(Sent(request))
        if self.prepared:
            answer = self.prepared.popleft()
        elif self.always is not None:
            answer = self.always
        else:
            pytest.fail(f"an unexpected request was sent: {request.method} {request.url}")
        if callable(answer) and not isinstance(answer, type):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)


@pytest.fixture
def fake(monkeypatch) -> Fake:
    """Stands for the whole network, with an account of each provider at the public addresses."""
    service = Fake()
    transport = httpx.MockTransport(service)
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda _self, request: transport.handle_request(request))
    monkeypatch.setenv("KOSMO_STABILITY__DEFAULT__API_KEY", STABILITY_KEY)
    monkeypatch.setenv("KOSMO_FAL__DEFAULT__API_KEY", FAL_KEY)
    return service


@pytest.fixture(scope="session")
def emulator_server():
    """One emulator for the whole session."""
    with Emulator() as server:
        yield server
        for client in [found for found in gc.get_objects() if type(found) is Client]:
            client._http.close()


@pytest.fixture
def kosmo(capsys):
    """Runs a command in this process: exit code, stdout and stderr."""

    def run(*words):
        code = cli.main([str(word) for word in words])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def kosmo_json(kosmo):
    """Runs a command with --json and returns its document."""
    return lambda *words: json.loads(kosmo(*words, "--json")[1])


@pytest.fixture
def emulator(emulator_server, monkeypatch):
    """The emulator, fresh and without delays, with the accounts `default` and `work` set up."""
    emulator_server.state.settings = EmulatorSettings(
        queue_seconds=0, run_seconds=0, stability_async_seconds=0, plain_pictures=True, webhook_backoff=0.01
    )
    emulator_server.state.clock = Clock()
    emulator_server.state.reset()
    for account in ("default", "work"):
        for name, value in emulator_server.environment(account).items():
            monkeypatch.setenv(name, value)
    yield emulator_server
    assert emulator_server.state.ledger.violations() == []
    assert emulator_server.state.ledger.paid_twice() == []


@pytest.fixture(scope="session")
def s3_server():
    """Address of an S3 server on this machine."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """An empty bucket of that server, which the settings name."""
    monkeypatch.setenv("KOSMO_OUTPUT_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "operator")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "operator-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=s3_server)
    made = boto3.resource("s3", endpoint_url=s3_server).Bucket(f"media-{uuid4().hex[:12]}")
    client.create_bucket(Bucket=made.name)
    return made
