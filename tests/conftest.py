"""What the tests of the Prefect half share: a Prefect server, the emulator, an S3 server and what the UI would show."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
import time
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import boto3
import pytest
import stamina
from moto.server import ThreadedMotoServer
from PIL import Image

# Prefect reads its settings when it is imported: a developer's own profile, server and storage must not matter.
PREFECT_HOME = Path(tempfile.mkdtemp(prefix="kosmo-test-prefect-"))
for _name in [name for name in os.environ if re.match(r"PREFECT_|KOSMO_(?!TEST_)|STABILITY_|FAL_|AWS_", name)]:
    del os.environ[_name]
os.environ |= {
    "PREFECT_HOME": str(PREFECT_HOME),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # A task called without a flow has no run log; Prefect would warn each time.
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # Reading from the API what was just sent to it must not wait for the next batch.
    "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
atexit.register(shutil.rmtree, PREFECT_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def prefect_server():
    """A Prefect server with an empty database, for the whole session."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    # A flow joins its heartbeat thread when it ends, which takes a second.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), prefect_test_harness(180):
        yield


@pytest.fixture
def emulator(monkeypatch, tmp_path):
    """Both services, fresh and without delays, with the accounts `default` and `work`; retries do not pause."""
    from prefect_kosmokrator.blocks import saved
    from prefect_kosmokrator.integrations import governor
    from prefect_kosmokrator.integrations.emulator import Emulator

    saved.forget()
    governor.forget()
    quick = {"queue_seconds": 0, "run_seconds": 0, "stability_async_seconds": 0, "plain_pictures": True}
    with Emulator(**quick) as running, stamina.set_testing(True, attempts=4):
        for account in ("default", "work"):
            for name, value in running.environment(account).items():
                monkeypatch.setenv(name, value)
        monkeypatch.setenv("KOSMO_OUTPUT", (tmp_path / "outputs").as_uri())
        monkeypatch.setenv("KOSMO_SPOOL", str(tmp_path / "spool"))
        monkeypatch.setenv("KOSMO_LEDGER", (tmp_path / "ledger").as_uri())
        monkeypatch.setattr("prefect_kosmokrator.integrations.journal.LISTING_SECONDS", 0.0)
        monkeypatch.setattr("prefect_kosmokrator.integrations.budget._balances", {})
        yield running
        assert running.state.ledger.violations() == []


@pytest.fixture
def without_accounts(monkeypatch):
    """No account in the environment: only saved blocks are found."""
    for name in [name for name in os.environ if re.match(r"KOSMO_(STABILITY|FAL)__|STABILITY_|FAL_", name)]:
        monkeypatch.delenv(name)


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
    made = boto3.resource("s3", endpoint_url=s3_server).Bucket(f"media-{uuid4().hex[:12]}")
    made.create()
    return made


@pytest.fixture
def picture_file(tmp_path):
    """Makes a picture on disk and returns its path as text."""

    def make(name="lamp.png", size=(256, 256), mode="RGB"):
        content = BytesIO()
        Image.linear_gradient("L").resize(size).convert(mode).save(content, "PNG")
        path = tmp_path / name
        path.write_bytes(content.getvalue())
        return str(path)

    return make


class Api:
    """What the Prefect server has recorded: the same answers its UI shows."""

    def __init__(self, client):
        self.client = client

    def artifacts(self, flow_run_id, count=1):
        """The artifacts of a run by key, once there are `count`."""
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

        of_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
        found = self._until(lambda: self.client.read_artifacts(flow_run_filter=of_run), count)
        return {artifact.key: artifact for artifact in found}

    def logs(self, flow_run_id, wanted):
        """The log of a run as one text, once it contains `wanted`."""
        from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

        of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]))
        text = ""
        deadline = time.monotonic() + 20
        while wanted not in text and time.monotonic() < deadline:
            time.sleep(0.1)
            text = "\n".join(f"{log.message}" for log in self.client.read_logs(log_filter=of_run, limit=200))
        return text

    def task_runs(self, flow_run_id, count):
        """The task runs of a flow run, once `count` are recorded in a final state."""
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

        of_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))

        def final():
            return [
                run for run in self.client.read_task_runs(flow_run_filter=of_run) if run.state and run.state.is_final()
            ]

        return self._until(final, count)

    @staticmethod
    def _until(read, count):
        deadline = time.monotonic() + 20
        while len(found := read()) < count and time.monotonic() < deadline:
            time.sleep(0.1)
        return found


@pytest.fixture
def api(prefect_server):
    """The Prefect server's API."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield Api(client)


@pytest.fixture
def run_flow(prefect_server):
    """Runs a function as a flow, or a flow, and returns its final state with the run's id."""
    from prefect import Flow, flow

    def run(function, *args, **kwargs):
        made = function if isinstance(function, Flow) else flow(function)
        return made(*args, **kwargs, return_state=True)

    return run


@pytest.fixture
def stored():
    """Reads everything Prefect has persisted as results so far, as one byte string."""
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH

    def read():
        folder = Path(PREFECT_LOCAL_STORAGE_PATH.value())
        return b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())

    return read


def pytest_configure(config):
    """Warnings of Prefect that no caller can avoid."""
    # In async flows Prefect looks up its default result storage with a client that it leaves to the garbage collector.
    config.addinivalue_line(
        "filterwarnings", "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
    )


def pytest_collection_modifyitems(items):
    """The first test that needs the Prefect server waits for its start, which takes a minute on a small machine."""
    for item in items:
        if "prefect_server" in item.fixturenames and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(240))
