"""What a stage has instead of the real services: the emulator, and an S3 server behind a proxy that can refuse."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import httpx
from moto.server import ThreadedMotoServer

BUCKET = "stage"
S3_KEYS = {"aws_access_key_id": "operator", "aws_secret_access_key": "Wq7vLr2kXo94TzHsYb61uNcE"}
logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the S3 server names every request otherwise


def end(process: subprocess.Popen[Any], how: signal.Signals = signal.SIGTERM) -> None:
    """Ends a process that this script started; kills it if it does not listen."""
    process.send_signal(how)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Emulator:
    """`kosmo emulator` in a process of its own, with any number of accounts.

    Args:
        log: Where its error output goes.
        accounts: Names of the accounts to create.
        settings: Knobs that differ from the defaults.
    """

    def __init__(self, log: Path, accounts: Sequence[str], **settings: Any) -> None:
        command = [str(Path(sys.executable).with_name("kosmo")), "emulator", "--port", "0"]
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        exports: dict[str, str] = {}
        for line in iter(self.process.stdout.readline, "") if self.process.stdout else ():
            if line.startswith("#"):
                break
            name, _, value = line.strip().removeprefix("export ").partition("=")
            exports[name] = value
        base = exports["KOSMO_STABILITY__DEFAULT__BASE_URL"].removesuffix("/stability")
        self._http = httpx.Client(base_url=f"{base}/emulator", timeout=30)
        self.environment: dict[str, str] = {}
        self.secrets: dict[str, str] = {}
        self.post("settings", plain_pictures=True, **settings)
        for account in accounts:
            known = self.post("accounts", name=account)["accounts"]
            keys = next(one for one in known if one["name"] == account)
            for name, value in exports.items():
                own = name.replace("__DEFAULT__", f"__{account.upper().replace('-', '_')}__")
                key = keys["stability_key" if "STABILITY" in name else "fal_key"]
                self.environment[own] = key if name.endswith("__API_KEY") else value
            # A key at the emulator may end with the account's name, which is no secret.
            kinds = ("stability_key", "fal_key")
            self.secrets |= {f"{kind} of {account}": keys[kind].removesuffix(account) for kind in kinds}

    def get(self, what: str) -> Any:
        """What a control endpoint answers."""
        return self._http.get(what).raise_for_status().json()

    def post(self, what: str, **body: Any) -> Any:
        """Steers the emulator: `settings`, `faults`, `accounts`."""
        return self._http.post(what, json=body).raise_for_status().json()

    def entries(self, account: str = "") -> list[dict[str, Any]]:
        """The ledger, of one account or whole."""
        found: list[dict[str, Any]] = self.get("ledger")["entries"]
        return [entry for entry in found if account in {"", entry["account"]}]

    def jobs(self, account: str = "") -> list[dict[str, Any]]:
        """The jobs, of one account or all."""
        found: list[dict[str, Any]] = self.get("jobs")["jobs"]
        return [job for job in found if account in {"", job["account"]}]

    def stop(self) -> None:
        """Ends the process."""
        end(self.process)


class _Forward(BaseHTTPRequestHandler):
    """Passes a request on to the S3 server, or answers in its place."""

    protocol_version = "HTTP/1.1"
    store: Store

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        refusal = self.store.refusal(self.command, self.path, self.headers.get("X-Amz-Date", ""))
        if refusal is not None:
            status, code, message = refusal
            text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
            self._send(status, [("Content-Type", "application/xml")], text.encode())
            return
        connection = HTTPConnection(*self.store.address, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        skipped = {"content-length", "transfer-encoding", "connection", "date", "server"}
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in skipped]
        self._send(answer.status, headers, answer.read(), answer.getheader("Content-Length"))
        connection.close()

    def _send(self, status: int, headers: list[tuple[str, str]], body: bytes, length: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", (length or "0") if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - names that the base class looks for

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class Store:
    """An S3 server with one bucket, behind a proxy.

    Attributes:
        url: The proxy's address: the endpoint to configure.
        refused: Prefixes of the bucket that answer every write with 503.
        strict: Prefixes of the bucket that refuse a clock which is more than 15 minutes off, as AWS does.
    """

    def __init__(self) -> None:
        self._moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._moto.start()
        self.address = self._moto.get_host_and_port()
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), type("Forward", (_Forward,), {"store": self}))
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._proxy.server_port}"
        self.refused: set[str] = set()
        self.strict: set[str] = set()
        direct = f"http://{self.address[0]}:{self.address[1]}"
        self._s3 = boto3.client("s3", endpoint_url=direct, region_name="us-east-1", **S3_KEYS)
        self._s3.create_bucket(Bucket=BUCKET)

    def refusal(self, method: str, path: str, signed: str) -> tuple[int, str, str] | None:
        """Why a request is refused, if it is."""
        prefix = path.removeprefix(f"/{BUCKET}/").partition("/")[0]
        if method in {"PUT", "POST", "DELETE"} and prefix in self.refused:
            return 503, "SlowDown", "Please reduce your request rate."
        if prefix in self.strict and signed:
            moment = time.mktime(time.strptime(f"{signed}UTC", "%Y%m%dT%H%M%SZ%Z")) - time.timezone
            if abs(moment - time.time()) > 900:
                return 403, "RequestTimeTooSkewed", "The difference between the request time and the time is too large."
        return None

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Everything below a prefix, by key."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {key: self._s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}

    def stop(self) -> None:
        """Ends both servers."""
        self._proxy.shutdown()
        self._proxy.server_close()
        self._moto.stop()
