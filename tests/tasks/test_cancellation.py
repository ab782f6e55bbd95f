"""Cancelling a flow run reaches the service."""

from __future__ import annotations

from prefect import flow

from prefect_kosmokrator.tasks import fal
from prefect_kosmokrator.tasks.cancellation import cancel_open_jobs


def test_jobs_that_a_cancelled_run_submitted_are_cancelled(emulator, run_flow, api):
    emulator.state.settings.queue_seconds = 3600

    @flow
    def two():
        fal.submit_request("fal-ai/flux/schnell", {"prompt": "direct"})
        fal.submit_request.submit("fal-ai/flux/schnell", {"prompt": "in a thread"}).wait()
        fal.list_models(limit=1)

    state = run_flow(two)
    api.task_runs(state.state_details.flow_run_id, 3)
    cancel_open_jobs(two, api.client.read_flow_run(state.state_details.flow_run_id), state)
    assert [job.cancelled is not None for job in emulator.state.jobs.values()] == [True, True]
    assert emulator.state.ledger.billed("USD") == 0
