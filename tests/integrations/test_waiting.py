"""Waiting for jobs: progress, deadlines, failures, and going on after any of them."""

from __future__ import annotations

import pickle
import time

import httpx
import pytest

from prefect_kosmokrator.integrations import fal, stability, stability_api
from prefect_kosmokrator.integrations.errors import (
    ContentFiltered,
    DeadlineExceeded,
    JobFailed,
    JobPending,
    KosmoError,
    Moderated,
    Rejected,
    Unavailable,
)
from prefect_kosmokrator.integrations.run import listening

MODEL = "fal-ai/flux/schnell"
SUBMIT = "POST /fal/queue/fal-ai"
STATUS = "GET /fal/queue/fal-ai/flux/requests/*/status"
ID = "764cabcf-b745-4b3e-ae38-1200304cf45b"


def submit(prompt="a lamp", **options):
    return fal.submit_request(MODEL, {"prompt": prompt}, **options)


def wait(job, **options):
    return fal.wait_for_request(job, **{"timeout": 5, "poll_interval": 0.02, **options})


@pytest.fixture
def fast_polls(monkeypatch):
    """Stability's ten seconds between two looks take a moment."""
    monkeypatch.setattr(stability_api, "POLL_SECONDS", 0.05)


def test_a_job_goes_from_queue_to_result(emulator):
    emulator.state.settings.queue_seconds = emulator.state.settings.run_seconds = 0.1
    progress = []
    with listening(lambda fraction, words: progress.append((fraction, words))):
        found = wait(submit())
    assert found.media[0].content_type == "image/jpeg"
    assert progress[0][1] == "IN_QUEUE, place 0 in the queue"
    assert progress[-1][1] == "IN_PROGRESS"
    assert all(0 <= fraction < 1 for fraction, _ in progress)


@pytest.mark.parametrize("form", ["job", "json", "ids"])
def test_a_job_can_be_waited_for_in_every_form_it_takes(emulator, form):
    job = submit(account="work")
    if form == "ids":
        assert fal.wait_for_request(job.model_id, job.request_id, account="work", timeout=5).media
    else:
        assert wait(job if form == "job" else {**job}).media[0].account == "work"


@pytest.mark.parametrize("model", ["workflows/emulator/poster", "comfy/emulator/portrait", "fal-ai/flux-pro/v1.1"])
def test_models_with_long_names_are_found_again_without_returned_addresses(emulator, model):
    job = fal.submit_request(model, {"prompt": "a lamp"})
    bare = {"request_id": job.id, "model_id": model}
    assert wait(bare).media


@pytest.mark.parametrize("fault", ["job-unknown-status", "job-no-logs"])
def test_a_status_in_an_unknown_form_does_not_end_the_wait(emulator, fault):
    emulator.state.settings.run_seconds = 0.1
    emulator.state.settings.omit_logs = True
    emulator.state.inject(SUBMIT, fault)
    assert wait(submit()).media


@pytest.mark.parametrize(
    "answer",
    [
        {"status": "IN_PROGRESS", "logs": None},
        {"status": "IN_PROGRESS"},
        {"status": "SOMETHING_NEW", "logs": [{"message": "x"}, "plain", None]},
        {},
        [],
        {"status": None},
    ],
)
def test_an_odd_status_is_looked_at_again(fake, answer):
    fake.answer(httpx.Response(202, json=answer), {"status": "COMPLETED", "logs": None}, {"images": []})
    assert fal.wait_for_request(MODEL, ID, poll_interval=0.01) == {"images": []}


def test_log_lines_of_the_model_are_passed_on_once(fake, caplog):
    caplog.set_level("INFO")
    lines = [{"message": "Loading weights"}, {"message": "Running"}]
    fake.answer({"status": "IN_PROGRESS", "logs": lines[:1]}, {"status": "IN_PROGRESS", "logs": lines})
    fake.answer({"status": "COMPLETED", "logs": lines}, {"images": []})
    fal.wait_for_request(MODEL, ID, poll_interval=0.01)
    assert (caplog.text.count("Loading weights"), caplog.text.count("Running")) == (1, 1)


def test_a_result_that_lags_behind_its_status_is_waited_for(fake):
    pending = httpx.Response(400, json={"detail": "Request is still in progress"})
    fake.answer({"status": "COMPLETED"}, pending, {"status": "COMPLETED"}, {"images": []})
    assert fal.wait_for_request(MODEL, ID, poll_interval=0.01) == {"images": []}


@pytest.mark.parametrize("fault", ["502-html", "503", "reset", "close", "malformed", "truncate", "429"])
def test_a_bad_look_does_not_end_the_wait(emulator, fault):
    emulator.state.inject(STATUS, fault)
    assert wait(submit()).media


def test_an_outage_longer_than_the_retries_does_not_end_the_wait(emulator):
    job = submit()
    emulator.state.inject(STATUS, "503", times=10)
    assert wait(job).media


def test_the_deadline_carries_the_job_and_waiting_can_go_on(emulator):
    emulator.state.settings.run_seconds = 0.5
    with pytest.raises(DeadlineExceeded) as caught:
        wait(submit(), timeout=0.1)
    error = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert error.request_id == error.job.id
    assert error.retryable is False
    assert wait(error.job).media
    assert len(emulator.state.ledger.select("POST", "submit")) == 1


def test_a_job_that_never_ends_ends_the_wait_and_can_be_cancelled(emulator):
    emulator.state.settings.cancel_stops_running = True
    emulator.state.inject(SUBMIT, "job-hang")
    job = submit()
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="IN_PROGRESS"):
        wait(job, timeout=0.3)
    assert time.monotonic() - started < 1
    assert fal.cancel_request(job)["status"] == "CANCELLATION_REQUESTED"
    assert fal.get_request_status(job)["error_type"] == "client_cancelled"
    assert emulator.state.ledger.billed("USD") == 0


def test_a_service_that_does_not_answer_cannot_stretch_the_deadline(fake):
    limits = []

    def silence(request):
        limits.append(request.extensions["timeout"]["read"])
        time.sleep(0.05)
        return httpx.ReadTimeout("no answer")

    fake.always = silence
    with pytest.raises(DeadlineExceeded):
        fal.wait_for_request(MODEL, ID, timeout=0.2, poll_interval=0.01)
    assert max(limits) <= 5, "one look may wait longer than the whole wait"


def test_a_lock_out_cannot_stretch_the_deadline(fake, waits):
    fake.always = lambda _request: httpx.Response(429, headers={"retry-after": "60"})
    with pytest.raises(DeadlineExceeded):
        fal.wait_for_request(MODEL, ID, timeout=0.2, poll_interval=0.01)
    assert sum(waits) <= 5


def test_a_cancelled_job_in_the_queue_costs_nothing(emulator):
    emulator.state.settings.queue_seconds = 60
    job = submit()
    assert fal.cancel_request(job) == {"status": "CANCELLATION_REQUESTED", "request_id": job.id}
    assert fal.cancel_request(job)["status"] == "ALREADY_COMPLETED"
    with pytest.raises(JobFailed, match="cancelled"):
        wait(job)
    assert emulator.state.ledger.billed("USD") == 0


def test_a_job_that_fails_says_why_and_carries_itself(emulator):
    emulator.state.inject(SUBMIT, "job-error", error_type="runner_server_error")
    job = submit()
    with pytest.raises(JobFailed, match="The runner failed") as caught:
        wait(job)
    assert (caught.value.request_id, caught.value.code) == (job.id, "runner_server_error")
    assert caught.value.job == job
    assert emulator.state.ledger.billed("USD") == 0


def test_a_wrong_input_fails_the_job_with_the_models_words(emulator):
    job = fal.submit_request(MODEL, {"prompt": "a lamp", "num_inference_steps": 99})
    with pytest.raises(
        JobFailed, match=r"body\.num_inference_steps: Input should be less than or equal to 12"
    ) as caught:
        wait(job)
    assert (caught.value.status, caught.value.job.id, caught.value.retryable) == (422, job.id, False)


def test_a_moderated_prompt_is_told_apart_from_a_failure(emulator):
    with pytest.raises(Moderated, match="content checker"):
        wait(submit("moderate-me"))


def test_a_blacked_out_picture_raises_after_the_wait(emulator, tmp_path):
    with pytest.raises(ContentFiltered) as caught:
        wait(submit("filter-me"), output=tmp_path.as_uri())
    assert caught.value.media[0].uri.startswith("file://")
    found = wait(submit("filter-me please"), on_filtered="return")
    assert found.media[0].finish_reason == "CONTENT_FILTERED"


@pytest.mark.parametrize("function", ["get_request_status", "get_result", "wait_for_request", "cancel_request"])
def test_an_unknown_request_is_rejected(emulator, function):
    with pytest.raises(Rejected, match="NOT_FOUND"):
        fal.provider.functions[function].call(MODEL, "00000000-0000-4000-8000-000000000000")


def test_a_job_is_not_found_with_another_account(emulator):
    job = submit(account="work")
    with pytest.raises(Rejected):
        fal.get_result(job.model_id, job.id)


@pytest.mark.parametrize("prompt", ["filter-me", "moderate-me", "fail"])
def test_errors_about_a_job_name_the_account_that_owns_it(emulator, prompt):
    if prompt == "fail":
        emulator.state.inject(SUBMIT, "job-error")
    job = submit(prompt, account="work")
    with pytest.raises(KosmoError) as caught:
        wait(job)
    assert caught.value.account == "work"


def test_the_deadline_names_the_account_that_owns_the_job(emulator):
    emulator.state.settings.run_seconds = 60
    with pytest.raises(DeadlineExceeded) as caught:
        wait(submit(account="work"), timeout=0.05)
    assert caught.value.account == "work"


def test_a_result_that_has_expired_is_rejected(emulator):
    job = submit()
    emulator.state.clock.advance(31 * 24 * 3600)
    with pytest.raises(Rejected):
        wait(job)


def test_a_picture_of_stability_is_waited_for(emulator, picture, fast_polls):
    emulator.state.settings.stability_async_seconds = 0.12
    emulator.state.settings.poll_interval = 0.04
    progress = []
    job = stability.upscale_creative(picture(), "a castle")
    with listening(lambda fraction, words: progress.append((fraction, words))):
        media = stability.get_result(job.id, timeout=5)
    assert (media.content_type, media.cost.amount) == ("image/png", 60)
    assert {words for _, words in progress} == {"upscale_creative in progress"}
    assert len(emulator.state.ledger.select("GET", "results")) == len(progress) + 1


def test_one_look_at_a_picture_that_is_not_ready_is_pending(emulator, picture):
    emulator.state.settings.stability_async_seconds = 60
    job = stability.upscale_creative(picture(), "a castle")
    with pytest.raises(JobPending) as caught:
        stability.get_result(job.id)
    assert (caught.value.job.id, caught.value.retry_after) == (job.id, 10)


def test_the_deadline_of_a_picture_carries_the_job(emulator, picture, fast_polls):
    emulator.state.settings.stability_async_seconds = 60
    emulator.state.settings.poll_interval = 0.04
    job = stability.upscale_creative(picture(), "a castle", account="work")
    with pytest.raises(DeadlineExceeded, match="fetch it again within 24 hours") as caught:
        stability.get_result(job.id, timeout=0.2, account="work")
    emulator.state.clock.advance(60)
    waiting = caught.value.job
    assert stability.get_result(waiting.id, account=waiting.account).width
    assert emulator.state.ledger.billed("credits") == 60


def test_a_look_within_ten_seconds_is_never_taken(emulator, picture):
    # The service answers 429 to it; one call that waits less than that looks once.
    emulator.state.settings.stability_async_seconds = 60
    job = stability.upscale_creative(picture(), "a castle")
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        stability.get_result(job.id, timeout=9)
    assert time.monotonic() - started < 1
    assert len(emulator.state.ledger.select("GET", "results")) == 1


@pytest.mark.parametrize("fault", ["500", "502-html", "reset", "truncate"])
def test_a_look_that_fails_is_repeated(emulator, picture, fault):
    emulator.state.settings.poll_interval = 0
    job = stability.upscale_creative(picture(), "a castle")
    emulator.state.inject("GET /stability/v2beta/results", fault)
    assert stability.get_result(job.id).width


def test_a_picture_that_failed_says_so(emulator, picture):
    emulator.state.settings.poll_interval = 0
    emulator.state.inject("POST /stability/v2beta/stable-image/upscale/creative", "job-error", status=403)
    job = stability.upscale_creative(picture(), "a castle")
    with pytest.raises(Moderated, match="not charged"):
        stability.get_result(job.id)


def test_a_picture_older_than_a_day_is_gone(emulator, picture):
    job = stability.upscale_creative(picture(), "a castle")
    emulator.state.clock.advance(25 * 3600)
    with pytest.raises(Rejected, match="24 hours"):
        stability.get_result(job.id)


def test_a_service_that_stays_down_while_waiting_for_a_picture_is_unavailable(emulator, picture, fast_polls):
    emulator.state.settings.poll_interval = 0
    job = stability.upscale_creative(picture(), "a castle")
    emulator.state.inject("GET /stability/v2beta/results", "503", times=4)
    with pytest.raises(Unavailable) as caught:
        stability.get_result(job.id)
    assert caught.value.retryable is True
