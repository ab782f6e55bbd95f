"""A real Prefect server, a real process worker, and a browser."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import boto3
import httpx
import pytest

from prefect_kosmokrator.integrations.emulator import Emulator

PREFECT_YAML = Path(__file__).parents[2] / "deployments" / "prefect.yaml"


def running_with(folder):
    """Command lines of the processes whose environment names `folder` (nothing on systems without /proc)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(f"={folder}\0") in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.fixture(scope="session")
def processes():
    """Tells which processes of a folder's commands are running."""
    return running_with


class Machine:
    """A machine of an operator: a folder, settings, commands that end and commands that go on."""

    def __init__(self, folder, settings):
        self.folder = folder
        self.settings = {**os.environ, **settings, "PREFECT_HOME": str(folder / "home")}
        self.started = []

    def run(self, *command, timeout=120, **settings):
        """The output of a command that must succeed."""
        shown = subprocess.run(
            [sys.executable, "-m", *command], cwd=self.folder, env={**self.settings, **settings}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=timeout, check=False,
        )  # fmt: skip
        assert shown.returncode == 0, shown.stdout
        return shown.stdout

    def start(self, name, *command):
        """Starts a command that goes on; its output goes to a file."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=self.folder, env=self.settings, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self.started.append(process)
        return process

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]

    def stop(self):
        """Ends what was started, the last one first; nothing of it may be left."""
        for process in reversed(self.started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        deadline = time.monotonic() + 15
        while (left := running_with(self.folder / "home")) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert left == []


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def wait_until(what, check, seconds):
    """The first true answer of `check`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if answer := check():
                return answer
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    pytest.fail(what())


@pytest.fixture(scope="session")
def machine():
    """Makes machines of an operator."""
    return Machine


@pytest.fixture(scope="session", name="free_port")
def free_port_():
    return free_port


@pytest.fixture(scope="session", name="wait_until")
def wait_until_():
    return wait_until


@pytest.fixture(scope="module")
def served(tmp_path_factory, s3_server):
    """A Prefect server with a pool for process workers, the emulator, and a machine set up to use them and S3."""
    folder = tmp_path_factory.mktemp("machine")
    url = f"http://127.0.0.1:{free_port()}"
    keys = {"aws_access_key_id": "operator", "aws_secret_access_key": "operator-secret"}
    s3 = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1", **keys)
    s3.create_bucket(Bucket="renders")
    with ExitStack() as stack:
        emulator = stack.enter_context(Emulator())
        machine = Machine(
            folder,
            {
                "PREFECT_API_URL": f"{url}/api",
                "PREFECT_UI_API_URL": f"{url}/api",
                "PREFECT_WORKER_QUERY_SECONDS": "1",
                "KOSMO_OUTPUT": "s3://renders/nightly",
                "KOSMO_OUTPUT_ENDPOINT_URL": s3_server,
                **emulator.environment(),
                **{name.upper(): value for name, value in keys.items()},
                "AWS_DEFAULT_REGION": "us-east-1",
            },
        )
        stack.callback(machine.stop)
        machine.start("server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", url.rpartition(":")[2])
        wait_until(lambda: machine.log("server"), lambda: httpx.get(f"{url}/api/health", timeout=5).is_success, 180)
        machine.run("prefect", "work-pool", "create", "kosmokrator", "--type", "process")
        api = stack.enter_context(httpx.Client(base_url=f"{url}/api", timeout=30))

        def final(run_id, seconds=150):
            """The record of a flow run when it has ended."""
            return wait_until(lambda: machine.log("worker"), lambda: _final(api, run_id), seconds)

        yield SimpleNamespace(api=api, ui=url, emulator=emulator, s3=s3, machine=machine, final=final)


@pytest.fixture(scope="module")
def deployed(served):
    """Everything that `prefect.yaml` describes, deployed and run once each by a worker, against emulator and S3."""
    api, machine = served.api, served.machine
    said = machine.run("prefect", "deploy", "--prefect-file", str(PREFECT_YAML), "--all")
    runs = {}
    for deployment in api.post("/deployments/filter", json={}).json():
        made = api.post(f"/deployments/{deployment['id']}/create_flow_run", json={}).json()
        runs[deployment["name"]] = SimpleNamespace(deployment=deployment, id=made["id"])
    machine.start("worker", "prefect", "worker", "start", "--pool", "kosmokrator", "--type", "process")
    for run in runs.values():
        run.record = served.final(run.id)

    def start(name, parameters):
        """Runs a deployment with parameters and returns its record when it has ended."""
        made = api.post(
            f"/deployments/{runs[name].deployment['id']}/create_flow_run", json={"parameters": parameters}
        ).json()
        return served.final(made["id"])

    return SimpleNamespace(**vars(served), said=said, runs=runs, start=start)


def _final(api, run_id):
    record = api.get(f"/flow_runs/{run_id}").json()
    return record if record["state_type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} else None


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("Chromium is not installed, so nobody looks at the UI.")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()


@pytest.fixture
def look(browser):
    """Opens a page, waits until `text` is on it, and keeps a screenshot if KOSMO_TEST_SCREENSHOTS names a folder."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})

    def open_page(url, text, name):
        page = context.new_page()
        page.goto(url)
        page.get_by_text(text).first.wait_for(timeout=30_000)
        page.wait_for_load_state("networkidle")
        page.wait_for_function("[...document.images].every(image => image.complete)")
        folder = os.environ.get("KOSMO_TEST_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=str(Path(folder, f"{name}.png")), full_page=True)
        return page

    yield open_page
    context.close()
