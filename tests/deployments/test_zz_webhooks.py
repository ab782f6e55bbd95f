"""Webhooks for real: a server, a worker with a single slot, the receiver, and fal (the emulator) that calls back."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from prefect_kosmokrator.integrations.emulator import Emulator

PREFECT_YAML = Path(__file__).parents[2] / "deployments" / "prefect.yaml"
pytestmark = [pytest.mark.server, pytest.mark.timeout(480)]


@pytest.fixture
def site(tmp_path, machine, wait_until, free_port):
    """A server with the deployment `on-demand`, a worker with one slot, and a receiver."""
    url, hooks = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        emulator = stack.enter_context(Emulator(queue_seconds=0, run_seconds=3600, webhook_copies=3))
        here = machine(
            tmp_path,
            {
                "PREFECT_API_URL": f"{url}/api",
                "PREFECT_WORKER_QUERY_SECONDS": "1",
                "KOSMO_OUTPUT": (tmp_path / "outputs").as_uri(),
                **emulator.environment(),
            },
        )
        stack.callback(here.stop)
        here.start("server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", url.rpartition(":")[2])
        wait_until(lambda: here.log("server"), lambda: httpx.get(f"{url}/api/health", timeout=5).is_success, 180)
        here.run("prefect", "work-pool", "create", "kosmokrator", "--type", "process")
        here.run("prefect", "deploy", "--prefect-file", str(PREFECT_YAML), "--name", "on-demand")
        here.start("worker", "prefect", "worker", "start", "--pool", "kosmokrator", "--limit", "1")
        api = stack.enter_context(httpx.Client(base_url=f"{url}/api", timeout=30))
        (deployment,) = api.post("/deployments/filter", json={}).json()

        def receive(name, poll):
            port = hooks.rpartition(":")[2]
            command = ["prefect_kosmokrator.deployments.webhooks", "--port", port, "--poll", str(poll)]
            process = here.start(name, *command)
            wait_until(lambda: here.log(name), lambda: httpx.get(f"{hooks}/health", timeout=5).is_success, 60)
            return process

        def create(prompt, webhook_url):
            data = {"model_id": "fal-ai/flux/schnell", "input": {"prompt": prompt}, "webhook_url": webhook_url}
            made = api.post(f"/deployments/{deployment['id']}/create_flow_run", json={"parameters": data})
            return made.json()["id"]

        def until(run, state):
            def check():
                record = api.get(f"/flow_runs/{run}").json()
                return record if record["state_name"] == state else None

            return wait_until(lambda: f"{api.get(f'/flow_runs/{run}').json()}\n{here.log('worker')}", check, 120)

        yield SimpleNamespace(
            api=api, emulator=emulator, hooks=hooks, here=here, receive=receive, create=create, until=until
        )


def test_a_suspended_run_is_resumed_with_and_without_its_webhook(site):
    state = site.emulator.state
    receiver = site.receive("receiver", poll=3600)
    called, lost = site.create("a lamp", site.hooks), site.create("a lighthouse", "http://127.0.0.1:9")

    # Two runs wait at the same time, although the worker has one slot: they hold none.
    for run in (called, lost):
        site.until(run, "Suspended")
    site.until(called, "Suspended")

    # fal delivers three times; one run is resumed, once.
    for job in state.jobs.values():
        job.run_seconds = 0
    site.until(called, "Completed")
    deadline = time.monotonic() + 30
    while len(taken := [one for one in state.deliveries if one["status"] == 200]) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(taken) == 3
    assert {one["url"] for one in taken} == {f"{site.hooks}/fal/{called}"}
    site.until(lost, "Suspended")

    # The other webhook is lost: a receiver that starts now finds what it missed.
    receiver.terminate()
    assert receiver.wait(20) == 0
    site.receive("another-receiver", poll=1)
    site.until(lost, "Completed")
    assert "resumed without a webhook" in site.here.log("another-receiver")

    for run in (called, lost):
        states = site.api.get("/flow_run_states/", params={"flow_run_id": run}).json()
        assert [one["name"] for one in states].count("Resuming") == 1
    assert len(state.ledger.select("POST", "submit")) == 2
    assert state.ledger.paid_twice() == state.ledger.violations() == []
    assert len(list((site.here.folder / "outputs").rglob("*.jpg"))) == 2
    logs = site.here.log("receiver") + site.here.log("another-receiver")
    assert "Traceback" not in logs
    assert state.account().fal_key.partition(":")[2] not in logs
