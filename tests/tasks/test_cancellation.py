"""Cancelling a flow run reaches the service."""

from __future__ import annotations

import threading

import pytest
from prefect import flow
from prefect.exceptions import CancelledRun
from prefect.flow_engine import run_flow as engine
from prefect.states import Cancelling

from prefect_kosmokrator.flows.lua_workflow import lua_workflow
from prefect_kosmokrator.integrations.errors import JobFailed
from prefect_kosmokrator.integrations.ledger import Ledger, current_ledger
from prefect_kosmokrator.integrations.lua import LuaError
from prefect_kosmokrator.tasks import cancellation, fal, stability
from prefect_kosmokrator.tasks.cancellation import cancel_open_jobs
from prefect_kosmokrator.tasks.lua import run_lua


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


@pytest.fixture
def run_and_cancel(emulator, api, monkeypatch):
    """Runs a flow, and cancels it in the API while it waits; nobody ends its process. Returns the id of its run."""
    monkeypatch.setattr(cancellation, "LOOK_SECONDS", 0.5)
    emulator.state.settings.queue_seconds = 3600

    def run(made, error):
        run = api.client.create_flow_run(made)
        cancel = threading.Timer(3, api.client.set_flow_run_state, [run.id, Cancelling()])
        cancel.start()
        with pytest.raises(error):
            engine(made, flow_run=run)
        cancel.join()
        return run.id

    return run


WAITING = """
local made = app.integrations.fal.submit_request{model_id="fal-ai/flux/schnell", input={prompt="a lamp"}}
return app.integrations.fal.wait_for_request{model_id="fal-ai/flux/schnell", request_id=made.request_id}
"""


@pytest.mark.parametrize("how", ["direct", "submitted", "script"])
def test_the_jobs_of_a_run_are_cancelled_while_it_waits_for_them(emulator, run_and_cancel, how):
    @flow
    def waiting():
        if how == "script":
            return run_lua(WAITING)
        job = fal.submit_request("fal-ai/flux/schnell", {"prompt": "a lamp"})
        wait = fal.wait_for_request
        return wait(job, timeout=3600) if how == "direct" else wait.submit(job, timeout=3600).result()

    run_and_cancel(waiting, (JobFailed, CancelledRun, LuaError))
    assert cancelled(emulator) == [True]
    assert current_ledger().open_entries() == []


def test_a_wait_for_a_job_that_could_not_be_cancelled_ends_as_well(emulator, run_and_cancel):
    emulator.state.inject("PUT /fal/queue/", "403", times=0)

    @flow
    def waiting():
        fal.wait_for_request(fal.submit_request("fal-ai/flux/schnell", {"prompt": "a lamp"}), timeout=3600)

    run = run_and_cancel(waiting, CancelledRun)
    (entry,) = current_ledger().open_entries(str(run))
    assert entry.note.startswith("not cancelled: ")


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
