"""What the proofs share: the services in processes of their own, the search for secrets, and the verdict.

    python benchmarks/proof.py emulator '{"run_seconds": 0}'    serves the emulator with these settings
    python benchmarks/proof.py s3                                serves an S3 API

Both print their address as their first line and run until they are terminated.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import stamina
from loopback import free_port, until
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

BUCKET = "proof"
SHOWN = 40
PART = 12
"""As many characters of a key in a row count as a leak."""
ANCHOR = 6
PUBLIC = "sk-emulator-"
"""With these the emulator begins every Stability key; they say nothing."""


@dataclass(frozen=True)
class LabAccount:
    """An account at the emulator, with its keys."""

    name: str
    stability_key: str
    fal_key: str

    def settings(self, services: str) -> dict[str, str]:
        """The environment that names the account, with the emulator at the address `services`."""
        stability, fal = f"KOSMO_STABILITY__{self.name.upper()}__", f"KOSMO_FAL__{self.name.upper()}__"
        return {
            f"{stability}API_KEY": self.stability_key,
            f"{fal}API_KEY": self.fal_key,
            **{f"{stability}{field.upper()}": url for field, url in stability_addresses(services).items()},
            **{f"{fal}{field.upper()}": url for field, url in fal_addresses(services).items()},
        }


def stability_addresses(services: str) -> dict[str, str]:
    """Where a Stability account finds an emulator."""
    return {"base_url": f"{services}/stability"}


def fal_addresses(services: str) -> dict[str, str]:
    """Where a fal account finds an emulator."""
    paths = {"queue_url": "queue", "run_url": "run", "rest_url": "rest", "cdn_url": "cdn", "api_url": "api/v1"}
    return {field: f"{services}/fal/{path}" for field, path in paths.items()}


class Lab:
    """A folder with a Prefect server, the emulator and an S3 server, each in a process of its own.

    Attributes:
        folder: Everything these processes write is below it: databases, results, logs, spool.
        emulator: Address of the emulator.
        s3: Address of the S3 server, which has one empty bucket.
        prefect: Address of the Prefect API.
        environment: For processes that run flows; names no account.
        http: For requests to them.
        secrets: What must not be found anywhere.
        kept: Whether the folder stays when the laboratory is closed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.emulator = self.s3 = self.prefect = ""
        self._processes: list[subprocess.Popen[bytes]] = []
        self.http = httpx.Client(timeout=60)
        self.secrets = Secrets()
        self.kept = True
        s3_secret = self.secrets.add(secrets.token_hex(20))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
        self.environment = kept | {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            # On a busy machine the server's SQLite file is locked for longer than the client waits by default.
            "PREFECT_CLIENT_MAX_RETRIES": "30",
            "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
            "AWS_ACCESS_KEY_ID": "operator",
            "AWS_SECRET_ACCESS_KEY": s3_secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "KOSMO_OUTPUT": f"s3://{BUCKET}/files",
            "KOSMO_SPOOL": str(folder / "spool"),
        }
        (folder / "logs").mkdir(parents=True)

    def start(self, name: str, *command: str, **settings: str) -> subprocess.Popen[bytes]:
        """Start a process; what it says goes to the file of that name among the logs."""
        with self.log(name).open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**self.environment, **settings},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._processes.append(process)
        return process

    def log(self, name: str) -> Path:
        """The file that holds what a process says."""
        return self.folder / "logs" / f"{name}.log"

    def start_services(self, **emulator_settings: Any) -> None:
        """Start all three and return when they answer."""
        self.start("emulator", sys.executable, __file__, "emulator", json.dumps(emulator_settings))
        self.start("s3", sys.executable, __file__, "s3")
        port = free_port()
        server = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        process = self.start("server", *server)
        self.prefect = f"http://127.0.0.1:{port}/api"
        self.environment |= {"PREFECT_API_URL": self.prefect}
        self.emulator, self.s3 = (
            self._until(name, lambda name=name: self._address(name)) for name in ("emulator", "s3")
        )
        self.bucket().create()
        self._until("server", lambda: process.poll() is None and self.http.get(f"{self.prefect}/health").is_success)

    def _address(self, name: str) -> str:
        said = self.log(name).read_text()
        return said.split()[0] if said.endswith("\n") else ""

    def _until(self, name: str, check: Callable[[], Any], seconds: float = 180) -> Any:
        try:
            return until(name, check, seconds)
        except TimeoutError:
            sys.exit(f"{name} did not start:\n{self.log(name).read_text(errors='replace')[-2000:]}")

    def bucket(self) -> Any:
        """The bucket that files are stored in."""
        import boto3  # noqa: PLC0415 - the processes of the services need no client

        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
        key_id, secret, region = (self.environment[name] for name in names)
        s3: Any = boto3.resource(
            "s3", endpoint_url=self.s3, aws_access_key_id=key_id, aws_secret_access_key=secret, region_name=region
        )
        return s3.Bucket(BUCKET)

    def control(self, path: str, body: Mapping[str, Any] | None = None, *, method: str = "") -> Any:
        """Ask the emulator's own endpoints, or change something there."""
        method = method or ("GET" if body is None else "POST")
        return self.http.request(method, f"{self.emulator}/emulator/{path}", json=body).raise_for_status().json()

    def add_account(self, name: str) -> LabAccount:
        """Create an account at the emulator.

        Args:
            name: At most 11 letters and digits, so that no part of a key that counts is a name, which is no secret.
        """
        listed = self.control("accounts", {"name": name})["accounts"]
        found = next(entry for entry in listed if entry["name"] == name)
        return LabAccount(name, self.secrets.add(found["stability_key"]), self.secrets.add(found["fal_key"]))

    def ask_prefect(self, path: str, body: Mapping[str, Any]) -> Any:
        """Post to the Prefect API, again while its database is locked."""
        for attempt in stamina.retry_context(on=httpx.HTTPStatusError, attempts=10, wait_initial=0.2, timeout=60):
            with attempt:
                return self.http.post(f"{self.prefect}/{path}", json=body).raise_for_status().json()
        raise AssertionError

    def stored(self, prefix: str = "") -> dict[str, bytes]:
        """The objects in the bucket, by their keys."""
        return {item.key: item.get()["Body"].read() for item in self.bucket().objects.filter(Prefix=prefix)}

    def spooled(self) -> list[bytes]:
        """The files that could not be stored so far."""
        found: list[bytes] = []
        for path in (self.folder / "spool").rglob("*"):
            with suppress(FileNotFoundError, IsADirectoryError):  # a run that goes on may just have stored it
                found.append(path.read_bytes())
        return found

    def stop(self) -> None:
        """End what was started, the last one first."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()


stamina.instrumentation.set_on_retry_hooks(())
SETTINGS = ("PREFECT_", "KOSMO_", "STABILITY_", "FAL_", "AWS_")


@contextmanager
def lab(**emulator_settings: Any) -> Generator[Lab]:
    """A laboratory whose services answer, with every process watched for secrets.

    Its folder is removed at the end, unless a promise was broken: then it shows how.
    """
    folder = Path(tempfile.mkdtemp(prefix="kosmo-proof-"))
    made = Lab(folder)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # ends the services too
    try:
        made.start_services(**emulator_settings)
        with made.secrets.watched_processes():
            yield made
    finally:
        made.stop()
        if made.kept:
            print(f"What the runs left is kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


class Secrets:
    """Looks for keys, for parts of them of 12 or more characters, and for base64 of them."""

    def __init__(self) -> None:
        self._keys: list[str] = []
        self.found: set[str] = set()

    def add(self, key: str) -> str:
        """Look for `key` too, and return it."""
        self._keys.append(key)
        return key

    def look(self, where: str, content: bytes) -> None:
        """Note every part of a key in `content`."""
        decoded = (base64.b64decode(run[: len(run) // 4 * 4]) for run in _BASE64.findall(content))
        for data in (content, *decoded):
            for key in self._keys:
                longest = max(_parts(key.encode(), data), key=len, default=b"").decode()
                if longest and longest not in PUBLIC:
                    self.found.add(f"{where}: {len(longest)} characters of a key of {len(key)}")

    def look_through(self, folder: Path) -> int:
        """Look at every file below `folder` and return how many bytes that were."""
        size = 0
        for path in folder.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                size += len(content)
                self.look(str(path.relative_to(folder)), content)
        return size

    @contextmanager
    def watched_processes(self) -> Generator[None]:
        """Look at the command lines of all processes five times a second while the block runs."""
        done, seen = threading.Event(), set[bytes]()

        def watch() -> None:
            while not done.wait(0.2):
                for entry in Path("/proc").glob("[0-9]*"):
                    try:
                        line = (entry / "cmdline").read_bytes()
                    except OSError:
                        continue
                    if line not in seen:
                        seen.add(line)
                        self.look("the list of processes", line)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


_BASE64 = re.compile(rb"[A-Za-z0-9+/]{40,}")


def _parts(key: bytes, data: bytes) -> Iterable[bytes]:
    """The parts of `key` in `data` that are long enough. Every such part holds one of the anchors whole."""
    for start in range(0, len(key) - ANCHOR + 1, PART - ANCHOR + 1):
        anchor, place = key[start : start + ANCHOR], -1
        while (place := data.find(anchor, place + 1)) >= 0:
            left = right = 0
            while left < min(start, place) and key[start - left - 1] == data[place - left - 1]:
                left += 1
            end, last = start + ANCHOR, place + ANCHOR
            while end + right < len(key) and last + right < len(data) and key[end + right] == data[last + right]:
                right += 1
            if left + ANCHOR + right >= PART:
                yield key[start - left : end + right]


def secret_scan(made: Lab) -> tuple[list[str], int]:
    """Search everything that the runs left: Prefect's database and results, logs, bucket, spool and ledger.

    Returns what was found, and how many bytes were looked at.
    """
    stored = made.stored()
    made.stop()  # so that the database is complete
    for key, content in stored.items():
        made.secrets.look(f"s3://{BUCKET}/{key}", content)
    size = made.secrets.look_through(made.folder) + sum(map(len, stored.values()))
    return sorted(made.secrets.found), size


def table(rows: Iterable[Mapping[str, object]]) -> None:
    """Print rows under the names of their columns."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    listed = list(rows)
    for position, name in enumerate(listed[0]):
        shown.add_column(name, justify="left" if position == 0 else "right")
    for row in listed:
        shown.add_row(*(str(value) for value in row.values()))
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(shown)


def verdict(made: Lab, breaches: list[str], promise: str) -> int:
    """Print what was broken, or that the promise held; returns the exit code."""
    made.kept = bool(breaches)
    for breach in breaches[:SHOWN]:
        print(f"BROKEN  {breach}")
    print(f"{len(breaches)} breaches." if breaches else promise)
    return 1 if breaches else 0


def _serve(what: str, settings: dict[str, Any]) -> None:
    from prefect_kosmokrator.integrations.serving import wait_for_signal  # noqa: PLC0415

    if what == "emulator":
        from prefect_kosmokrator.integrations.emulator import Emulator  # noqa: PLC0415

        with Emulator(**settings) as emulator:
            print(emulator.url, flush=True)
            wait_for_signal()
    else:
        from moto.server import ThreadedMotoServer  # noqa: PLC0415

        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        print(f"http://{host}:{port}", flush=True)
        wait_for_signal()
        server.stop()


if __name__ == "__main__":
    _serve(sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})
