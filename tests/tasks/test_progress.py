"""A wait tells how it is going: in the run log, and as a progress artifact when it takes longer."""

from __future__ import annotations

import httpx
import pytest

from prefect_kosmokrator.integrations.errors import DeadlineExceeded
from prefect_kosmokrator.tasks import fal, stability

LAMP = {"prompt": "a lamp"}


def test_a_wait_writes_progress_lines_to_the_run_log(emulator, api, run_flow):
    emulator.state.settings.queue_seconds, emulator.state.settings.run_seconds = 0.6, 1.2

    def wait():
        job = fal.submit_request("fal-ai/flux/schnell", LAMP)
        return fal.wait_for_request(job, timeout=60).request_id

    state = run_flow(wait)
    log = api.logs(state.state_details.flow_run_id, "Finished in state Completed")
    assert f"Request {state.result()}: IN_QUEUE, place 0 in the queue; waited 0 of 60 s." in log
    assert f"Request {state.result()}: IN_PROGRESS; waited" in log
    assert "fal-ai/flux/schnell: Running inference" in log


def test_a_short_wait_makes_no_artifact(emulator, api, run_flow):
    def wait():
        return fal.wait_for_request(fal.submit_request("fal-ai/flux/schnell", LAMP)).request_id

    state = run_flow(wait)
    api.logs(state.state_details.flow_run_id, "Finished in state Completed")
    assert api.artifacts(state.state_details.flow_run_id, 0) == {}


def test_a_long_wait_shows_a_progress_artifact_that_ends_at_100(emulator, api, run_flow):
    emulator.state.settings.run_seconds = 5

    def wait():
        fal.wait_for_request(fal.submit_request("fal-ai/flux/schnell", LAMP), timeout=30)

    state = run_flow(wait)
    artifact = api.artifacts(state.state_details.flow_run_id)["fal-wait-for-request"]
    assert (artifact.type, artifact.data, artifact.description) == ("progress", 100.0, "Done.")


def test_a_wait_that_fails_does_not_claim_to_be_done(emulator, api, run_flow):
    emulator.state.settings.run_seconds = 3600

    def wait():
        fal.wait_for_request(fal.submit_request("fal-ai/flux/schnell", LAMP), timeout=6)

    state = run_flow(wait)
    error = state.result(raise_on_failure=False)
    assert isinstance(error, DeadlineExceeded)
    assert error.job.id in str(error)
    artifact = api.artifacts(state.state_details.flow_run_id)["fal-wait-for-request"]
    assert artifact.data < 100
    assert "IN_PROGRESS" in artifact.description


def test_a_repetition_is_told_in_the_run_log(emulator, api, run_flow):
    emulator.state.inject("POST /stability/v2beta/stable-image/generate/core", "429", retry_after=7)

    def make():
        stability.generate_core("a lamp")

    log = api.logs(run_flow(make).state_details.flow_run_id, "Finished in state Completed")
    assert "Trying again in 7 s, as the service asks." in log


def test_an_unknown_model_is_warned_about_in_the_run_log(emulator, api, run_flow):
    def make():
        stability.generate_sd3("a lamp", model="sd9-huge")

    log = api.logs(run_flow(make).state_details.flow_run_id, "Finished in state Failed")
    assert "Model 'sd9-huge' is not known to this version; the service decides." in log


@pytest.mark.parametrize("task", [stability.generate_core, fal.get_balance])
def test_no_line_of_a_run_log_holds_a_key(emulator, api, run_flow, task):
    def look():
        task(**({"prompt": "a lamp"} if task is stability.generate_core else {}))

    log = api.logs(run_flow(look).state_details.flow_run_id, "Finished in state Completed")
    account = emulator.state.account()
    assert not [key for key in (account.stability_key, account.fal_key) if key in log]


def test_a_prefect_server_that_is_down_does_not_end_a_wait(emulator, run_flow, monkeypatch):
    emulator.state.settings.run_seconds = 5

    def refused(*_, **__):
        raise httpx.ConnectError("[Errno 111] Connection refused")

    monkeypatch.setattr("prefect_kosmokrator.tasks.progress.create_progress_artifact", refused)

    def wait():
        return fal.wait_for_request(fal.submit_request("fal-ai/flux/schnell", LAMP), timeout=30).request_id

    assert run_flow(wait).result() in emulator.state.jobs
