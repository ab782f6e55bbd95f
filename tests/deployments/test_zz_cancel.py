"""Cancelling the run of a deployment: its jobs at the service are cancelled, however they were submitted."""

from __future__ import annotations

import time

import pytest

pytestmark = [pytest.mark.server, pytest.mark.timeout(480)]

FLOW = """
from prefect import flow, unmapped
from prefect_kosmokrator.tasks import fal
from prefect_kosmokrator.tasks.cancellation import cancel_open_jobs

MODEL = "fal-ai/flux/schnell"

@flow(on_cancellation=[cancel_open_jobs])
def three_ways():
    direct = fal.submit_request(MODEL, {"prompt": "direct"})
    submitted = fal.submit_request.submit(MODEL, {"prompt": "submitted"})
    mapped = fal.submit_request.map(unmapped(MODEL), [{"prompt": "mapped"}, {"prompt": "mapped too"}])
    waits = [fal.wait_for_request.submit(job, timeout=3600) for job in (direct, submitted, *mapped)]
    return [wait.result() for wait in waits]
"""


def test_cancelling_a_run_cancels_its_jobs_at_the_service(served):
    api, machine, state = served.api, served.machine, served.emulator.state
    state.settings.queue_seconds = 3600
    (machine.folder / "three_ways.py").write_text(FLOW)
    machine.run(
        "prefect", "--no-prompt", "deploy", "./three_ways.py:three_ways", "--name", "cancelled", "--pool", "kosmokrator"
    )
    machine.start("worker", "prefect", "worker", "start", "--pool", "kosmokrator", "--type", "process")
    deployment = api.get("/deployments/name/three-ways/cancelled").json()["id"]
    run = api.post(f"/deployments/{deployment}/create_flow_run", json={"state": {"type": "SCHEDULED"}}).json()["id"]
    deadline = time.monotonic() + 150
    while len(state.jobs) < 4 and time.monotonic() < deadline:
        time.sleep(0.3)
    assert len(state.jobs) == 4, machine.log("worker")
    time.sleep(3)  # the waits begin

    cancelling = {"state": {"type": "CANCELLING"}, "force": False}
    assert api.post(f"/flow_runs/{run}/set_state", json=cancelling).json()["status"] == "ACCEPT"
    assert served.final(run)["state_type"] == "CANCELLED", machine.log("worker")
    cancelled = {job.arguments["prompt"]: job.cancelled is not None for job in state.jobs.values()}
    assert cancelled == {"direct": True, "submitted": True, "mapped": True, "mapped too": True}
    assert state.ledger.billed("USD") == 0
