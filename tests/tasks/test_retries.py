"""What Prefect repeats: outages, until the task's retries are used up; never a refusal and never a paid doubt."""

from __future__ import annotations

import inspect

import pytest

from prefect_kosmokrator.integrations.errors import (
    AmbiguousSubmission,
    ConfigurationError,
    ContentFiltered,
    EndpointDiscontinued,
    InvalidInput,
    JobFailed,
    JobPending,
    Moderated,
    OutOfCredits,
    Rejected,
    StorageError,
    Unavailable,
)
from prefect_kosmokrator.tasks import fal, stability
from prefect_kosmokrator.tasks.policy import RETRY

pytestmark = pytest.mark.usefixtures("prefect_server")

CORE = "POST /stability/v2beta/stable-image/generate/core"
SUBMIT = "POST /fal/queue/fal-ai/flux/schnell"


def at_once(task):
    """The task with its own policy, without the minutes between attempts."""
    return task.with_options(retry_delay_seconds=0)


def fails(run_flow, api, task, *args, **kwargs):
    """The error of a task that is called in a flow, and how often it was run."""

    def one():
        return at_once(task)(*args, **kwargs)

    state = run_flow(one)
    assert state.is_failed()
    (run,) = api.task_runs(state.state_details.flow_run_id, 1)
    return state.result(raise_on_failure=False), run.run_count


def test_every_task_has_the_one_policy():
    for task in (stability.generate_core, fal.submit_request, fal.get_balance):
        assert task.retries == RETRY["retries"] == 3
        assert task.retry_delay_seconds == [5.0, 30.0, 120.0]
        # Prefect silently never retries with any other callable than a plain function.
        assert inspect.isfunction(task.retry_condition_fn)


def test_an_outage_is_bridged_and_paid_once(emulator):
    emulator.state.inject(CORE, "503", times=2)
    assert at_once(stability.generate_core)("a lamp").size > 0
    assert emulator.state.ledger.billed("credits") == 3
    assert len(emulator.state.ledger.select("POST", "generate/core")) == 3


def test_a_rate_limit_is_bridged_and_paid_once(emulator):
    emulator.state.inject(CORE, "429", times=6, retry_after=1)
    assert at_once(stability.generate_core)("a lamp").size > 0
    assert emulator.state.ledger.billed("credits") == 3


def test_an_outage_that_lasts_is_unavailable_after_all_retries(emulator, run_flow, api):
    emulator.state.inject(CORE, "503", times=0)
    error, runs = fails(run_flow, api, stability.generate_core, "a lamp")
    assert isinstance(error, Unavailable)
    assert (error.status, error.retryable, runs) == (503, True, 4)


def test_a_fal_submission_is_repeated_after_a_refusal(emulator):
    emulator.state.inject(SUBMIT, "503", times=1)
    job = at_once(fal.submit_request)("fal-ai/flux/schnell", {"prompt": "a lamp"})
    fal.wait_for_request(job)
    assert len(emulator.state.jobs) == 1


@pytest.mark.parametrize("fault", ["reset-after", "502-html", "close-after"])
def test_a_call_that_may_have_been_accepted_is_not_repeated(emulator, run_flow, api, fault):
    emulator.state.inject(CORE, fault, times=0)
    error, runs = fails(run_flow, api, stability.generate_core, "a lamp")
    assert isinstance(error, AmbiguousSubmission)
    assert (error.retryable, runs) == (False, 1)
    assert len(emulator.state.ledger.select("POST", "generate/core")) == 1


def test_a_submission_that_may_have_been_accepted_is_looked_for_and_not_repeated(emulator, run_flow, api):
    emulator.state.inject(SUBMIT, "reset-after", times=0)
    emulator.state.inject("GET /fal/api/v1/models/requests", "403", times=0)
    error, _ = fails(run_flow, api, fal.submit_request, "fal-ai/flux/schnell", {"prompt": "a lamp"})
    assert isinstance(error, AmbiguousSubmission)
    assert len(emulator.state.jobs) == 1
    emulator.state.clear_faults()
    emulator.state.inject(SUBMIT, "reset-after", times=0)
    run_flow(lambda: fal.submit_request("fal-ai/flux/schnell", {"prompt": "another lamp"})).result()
    assert len(emulator.state.jobs) == 2


@pytest.mark.parametrize(
    ("arguments", "parameter"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a lamp", "aspect_ratio": "7:3"}, "aspect_ratio"),
        ({"prompt": "a lamp", "seed": -1}, "seed"),
        ({"prompt": "a lamp", "output": "nowhere"}, "output"),
    ],
)
def test_a_wrong_parameter_is_named_and_not_repeated(emulator, run_flow, api, arguments, parameter):
    error, runs = fails(run_flow, api, stability.generate_core, **arguments)
    assert isinstance(error, InvalidInput)
    assert (error.parameter, runs) == (parameter, 1)
    assert len(emulator.state.ledger) == 0


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda account: setattr(account, "revoked", True), Rejected),
        (lambda account: setattr(account, "credits", 1), OutOfCredits),
    ],
)
def test_an_account_that_may_not_is_not_asked_again(emulator, run_flow, api, change, kind):
    change(emulator.state.account())
    error, runs = fails(run_flow, api, stability.generate_core, "a lamp")
    assert type(error) is kind
    assert (error.account, error.function, runs) == ("default", "generate_core", 1)


def test_a_moderated_prompt_is_not_repeated(emulator, run_flow, api):
    error, runs = fails(run_flow, api, stability.generate_core, "moderate-me please")
    assert isinstance(error, Moderated)
    assert runs == 1


def test_a_locked_fal_account_is_out_of_credits(emulator, run_flow, api):
    emulator.state.account().balance = 0
    error, runs = fails(run_flow, api, fal.submit_request, "fal-ai/flux/schnell", {"prompt": "a lamp"})
    assert isinstance(error, OutOfCredits)
    assert runs == 1


def test_a_failed_job_is_not_repeated(emulator, run_flow, api):
    emulator.state.inject(SUBMIT, "job-error")
    job = fal.submit_request("fal-ai/flux/schnell", {"prompt": "a lamp"})
    error, runs = fails(run_flow, api, fal.wait_for_request, job)
    assert isinstance(error, JobFailed)
    assert runs == 1


def test_a_pending_result_is_reported_at_once(emulator, run_flow, api, picture_file):
    emulator.state.settings.stability_async_seconds = 3600
    job = stability.upscale_creative(picture_file(), "a lamp")
    error, runs = fails(run_flow, api, stability.get_result, job.id)
    assert isinstance(error, JobPending)
    assert (error.job.id, runs) == (job.id, 1)


def test_the_removed_video_endpoint_names_its_replacement(emulator, run_flow, api, picture_file):
    error, runs = fails(run_flow, api, stability.image_to_video, picture_file(size=(768, 768)))
    assert isinstance(error, EndpointDiscontinued)
    assert "fal-ai/stable-video" in str(error)
    assert runs == 1


def test_a_missing_bucket_keeps_the_paid_file(emulator, run_flow, api, bucket):
    error, runs = fails(run_flow, api, stability.generate_core, "a lamp", output="s3://no-such-bucket-here/x")
    assert isinstance(error, StorageError)
    assert error.spool.read_bytes()[:4] == b"\x89PNG"
    assert runs == 1
    assert emulator.state.ledger.billed("credits") == 3


def test_an_unknown_account_is_not_asked_again(emulator, run_flow, api):
    error, runs = fails(run_flow, api, stability.get_balance, account="nobody")
    assert isinstance(error, ConfigurationError)
    assert runs == 1


def test_a_filtered_picture_comes_without_its_content(emulator, run_flow, api, tmp_path):
    emulator.state.inject(CORE, "job-filtered", times=0)
    error, runs = fails(run_flow, api, stability.generate_core, "a lamp")
    assert isinstance(error, ContentFiltered)
    assert (error.media.content, error.media.finish_reason, runs) == (None, "CONTENT_FILTERED", 1)
    error, _ = fails(run_flow, api, stability.generate_core, "a lamp", output=tmp_path.as_uri())
    assert error.media.read()[:4] == b"\x89PNG"


def test_a_filtered_fal_picture_comes_without_its_content(emulator, run_flow, api, tmp_path):
    emulator.state.inject(SUBMIT, "job-filtered")
    job = fal.submit_request("fal-ai/flux/schnell", {"prompt": "a lamp"})
    error, runs = fails(run_flow, api, fal.wait_for_request, job, output=tmp_path.as_uri())
    assert isinstance(error, ContentFiltered)
    assert [media.content for media in error.media] == [None]
    assert runs == 1


def test_no_error_of_a_run_shows_a_key(emulator, api, run_flow):
    emulator.state.settings.echo_key = "whole"
    emulator.state.account().revoked = True

    def look():
        stability.get_account()

    state = run_flow(look)
    shown = f"{state} {state.message} {api.logs(state.state_details.flow_run_id, 'Finished in state Failed')}"
    assert "not accepted" in shown
    assert emulator.state.account().stability_key not in shown
