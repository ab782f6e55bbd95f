"""What the proofs about outages and cancelled runs stand on: real processes that they may stop, in one folder.

A Prefect server and a process worker, the emulator of both services, an S3 server behind a proxy that can refuse, and
what each of them has recorded. Everything is started on free ports and ended by its own process id.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from loopback import free_port, until
from stand_ins import BUCKET, S3_KEYS, Emulator, Store, end

HERE = Path(__file__).parent
POOL = "stage"
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
SERVER_SECONDS = 180.0


class Stage:
    """A Prefect server and a worker with a pool, an emulator and a store; everything they write lies in `folder`.

    Args:
        name: Of the folder.
        accounts: Accounts of both services that the worker knows.
        keep: Whether the folder stays.
        settings: Of the emulator.

    Attributes:
        folder: Everything that was written, logs included.
        environment: The worker's environment.
        commands: Command lines of all processes that were seen.
    """

    def __init__(self, name: str, accounts: Sequence[str], *, keep: bool = False, **settings: Any) -> None:
        # Also a script that fails or is ended leaves nothing running.
        self._ends = ExitStack()
        atexit.register(self._ends.close)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        self.folder = Path(tempfile.mkdtemp(prefix=f"kosmo-{name}-"))
        self._ends.callback(self._leave, keep=keep)
        for part in ("logs", "tmp", "home"):
            (self.folder / part).mkdir()
        self.store = Store()
        self._ends.callback(self.store.stop)
        self.emulator = Emulator(self.folder / "logs" / "emulator.log", accounts, **settings)
        self._ends.callback(self.emulator.stop)
        self.secrets = {**self.emulator.secrets, "S3 secret": S3_KEYS["aws_secret_access_key"]}
        self.commands: set[str] = set()
        self._port = free_port()
        self.ui = f"http://127.0.0.1:{self._port}"
        self.api = httpx.Client(base_url=f"{self.ui}/api", timeout=30)
        kept = {name: value for name, value in os.environ.items() if not re.match(r"PREFECT_|KOSMO_|FAL_|AWS_", name)}
        self.environment = {
            **kept,
            "PREFECT_HOME": str(self.folder / "home"),
            "PREFECT_API_URL": f"{self.ui}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONPATH": str(HERE),
            "KOSMO_OUTPUT": f"s3://{BUCKET}/default",
            "KOSMO_SPOOL": str(self.folder / "spool"),
            "KOSMO_OUTPUT_ENDPOINT_URL": self.store.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            **{name.upper(): value for name, value in S3_KEYS.items()},
            **self.emulator.environment,
        }
        self._server: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        """Starts the server and makes the pool."""
        self._ends.callback(self.stop_prefect)
        self.start_server()
        self.run("prefect", "work-pool", "create", POOL, "--type", "process")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends everything that was started and removes the folder."""
        self._ends.close()

    def _leave(self, *, keep: bool) -> None:
        if keep:
            print(f"Everything that was written is in {self.folder}.")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def stop_prefect(self) -> None:
        """Ends worker and server, so that nothing writes any more; the files stay."""
        self.note_commands()
        for worker in self._workers:
            end(worker)
        self.stop_server()

    def run(self, *words: str, timeout: float = 120, check: bool = True) -> str:
        """The output of `python -m <words>`, which must succeed if `check` is true."""
        shown = subprocess.run(
            [sys.executable, "-m", *words], cwd=self.folder, env=self.environment, text=True, timeout=timeout,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        if check and shown.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: {shown.stdout[-2000:]}")
        return shown.stdout

    def _start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *words], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip

    def start_server(self) -> None:
        """Starts the Prefect server, on the same port and database each time."""
        words = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self._port))
        self._server = self._start("server", *words)
        until("the Prefect server", lambda: self.api.get("/health").is_success, SERVER_SECONDS)

    def stop_server(self, *, hard: bool = False) -> None:
        """Stops the Prefect server in order, or hard as a power cut would."""
        if self._server is not None:
            end(self._server, signal.SIGKILL if hard else signal.SIGTERM)
            self._server = None

    def start_worker(self) -> None:
        """Starts a process worker."""
        self._workers.append(self._start("worker", "prefect", "worker", "start", "--pool", POOL, "--type", "process"))

    def deploy(self, entrypoint: str) -> str:
        """Deploys a flow of an importable module and returns the deployment's id."""
        name = entrypoint.rpartition(".")[2]
        file = self.folder / f"{name}.json"  # every JSON file is a YAML file
        pool = {"name": POOL}
        file.write_text(
            json.dumps({"pull": [], "deployments": [{"name": name, "entrypoint": entrypoint, "work_pool": pool}]})
        )
        self.run("prefect", "--no-prompt", "deploy", "--prefect-file", str(file), "--all")
        found = self.api.post("/deployments/filter", json={}).json()
        return next(str(one["id"]) for one in found if one["name"] == name)

    def create(self, deployment: str, parameters: Mapping[str, Any], env: Mapping[str, str] | None = None) -> str:
        """Starts a flow run, as the UI does; `env` is added to the worker's environment. Returns its id."""
        body = {
            "parameters": dict(parameters),
            "state": {"type": "SCHEDULED"},
            "job_variables": {"env": dict(env)} if env else {},
        }
        return str(self._post(f"/deployments/{deployment}/create_flow_run", body)["id"])

    def set_state(self, run: str, kind: str, name: str, *, force: bool = True) -> None:
        """Proposes a state, as the buttons of the UI do."""
        self._post(f"/flow_runs/{run}/set_state", {"state": {"type": kind, "name": name}, "force": force})

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        def post() -> httpx.Response | None:
            answer = self.api.post(path, json=dict(body))
            return None if answer.status_code == 503 else answer  # a busy server on SQLite, which has done nothing

        answer = until(path, post, 90)
        return answer.raise_for_status().json() if answer else None

    def record(self, run: str) -> dict[str, Any]:
        """What the server knows of a flow run."""
        self.note_commands()
        found: dict[str, Any] = self.api.get(f"/flow_runs/{run}").raise_for_status().json()
        return found

    def ended(self, run: str, seconds: float, final: Sequence[str] = tuple(FINAL)) -> dict[str, Any]:
        """The record of a flow run once it is in a final state."""

        def check() -> dict[str, Any] | None:
            record = self.record(run)
            return record if record["state_type"] in final else None

        return until(f"the end of run {run}", check, seconds) or {}

    def log(self, run: str) -> str:
        """The log of a flow run."""
        lines: list[str] = []
        while True:
            wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
            page = self._post("/logs/filter", {**wanted, "offset": len(lines)})
            lines += [str(entry["message"]) for entry in page]
            if len(page) < 200:
                return "\n".join(lines)

    def processes(self, run: str = "") -> list[int]:
        """Processes of this stage, or those that execute a flow run."""
        mark = f"PREFECT__FLOW_RUN_ID={run}\0" if run else f"={self.folder / 'home'}\0"
        found: list[int] = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                environment = (entry / "environ").read_bytes()
                if mark.encode() in environment and f"={self.folder / 'home'}\0".encode() in environment:
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def note_commands(self) -> None:
        """Keeps the command lines of all processes of this stage, for the search for secrets."""
        for pid in self.processes():
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            self.commands.add(line.replace(b"\0", b" ").decode(errors="replace"))
