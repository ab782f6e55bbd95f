"""Cancelling a flow run reaches the service."""

from __future__ import annotations

import pytest
from prefect import flow
from prefect.flow_engine import run_flow as engine

from prefect_kosmokrator.flows.lua_workflow import lua_workflow
from prefect_kosmokrator.integrations.ledger import Ledger, current_ledger
from prefect_kosmokrator.tasks import fal, stability
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


def cancelled(emulator):
    return [job.cancelled is not None for job in emulator.state.jobs.values()]


def test_jobs_of_a_script_are_cancelled(emulator, run_flow, api):
    emulator.state.settings.queue_seconds = 3600
    source = """
    for number = 1, 3 do
      app.integrations.fal.submit_request{model_id="fal-ai/flux/schnell", input={prompt="lamp " .. number}}
    end
    """
    state = run_flow(lua_workflow, source=source)
    cancel_open_jobs(lua_workflow, api.client.read_flow_run(state.state_details.flow_run_id), state)
    assert cancelled(emulator) == [True] * 3
    assert current_ledger().open_entries() == []


class KilledError(BaseException):
    """Stands for a process that ends here."""


def test_a_job_whose_submission_was_in_flight_is_found_and_cancelled(emulator, run_flow, api, monkeypatch):
    emulator.state.settings.queue_seconds = 3600

    @flow
    def one():
        fal.submit_request("fal-ai/flux/schnell", {"prompt": "in flight"})

    run = api.client.create_flow_run(one)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "save", lambda *_: (_ for _ in ()).throw(KilledError()))
        with pytest.raises(KilledError):
            engine(one, flow_run=run)
    cancel_open_jobs(one, api.client.read_flow_run(run.id), run.state)
    assert cancelled(emulator) == [True]


def test_what_cannot_be_cancelled_is_logged_and_listed(emulator, run_flow, api, picture_file):
    @flow
    def two():
        stability.upscale_creative(picture_file(), "a lamp")
        fal.submit_request("fal-ai/flux/schnell", {"prompt": "done at once"})

    state = run_flow(two)
    run_id = state.state_details.flow_run_id
    cancel_open_jobs(two, api.client.read_flow_run(run_id), state)
    assert "Stability AI cannot cancel jobs; this one goes on and is billed" in api.logs(run_id, "cannot cancel jobs")
    notes = [entry.note for entry in current_ledger().open_entries(str(run_id))]
    assert len(notes) == 2
    assert any("cannot cancel jobs" in note for note in notes)
    assert any("completed before it could be cancelled" in note for note in notes)
