"""Waiting for fal without a worker slot: the flow `fal_request` and the receiver, against a real Prefect API.

Each attempt of a run is made in this process, as a worker would make it in one of its own.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from prefect import flow, suspend_flow_run
from prefect.deployments import run_deployment
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.states import Cancelling, Scheduled

from prefect_kosmokrator.deployments import webhooks
from prefect_kosmokrator.deployments.webhooks import FallBack, act
from prefect_kosmokrator.flows.fal_request import fal_request
from prefect_kosmokrator.integrations.errors import ConfigurationError, DeadlineExceeded, Rejected
from prefect_kosmokrator.integrations.output import file_path
from prefect_kosmokrator.integrations.webhooks import Delivery, Outcome
from prefect_kosmokrator.tasks import fal, suspension

MODEL = "fal-ai/flux/schnell"
NOBODY = "http://127.0.0.1:9"


class Runs:
    """Runs of a deployment."""

    def __init__(self, client, emulator):
        self.client = client
        self.emulator = emulator
        self.flow = fal_request
        self.ended = None

    def create(self, made=None, **parameters):
        """A new run of the deployment of a flow; its id."""
        made = self.flow = made or fal_request
        flow_id = self.client.create_flow_from_name(made.name)
        deployment = self.client.create_deployment(flow_id, f"d-{uuid4().hex[:8]}")
        if made is fal_request:
            parameters = {"model_id": MODEL, "input": {"prompt": "a lamp"}, "webhook_url": NOBODY} | parameters
        return self.client.create_flow_run_from_deployment(deployment, parameters=parameters).id

    def attempt(self, run):
        """Runs it until it ends or is suspended; returns what the server then says."""
        with suppress(Pause):
            self.ended = run_flow(self.flow, flow_run=self.client.read_flow_run(run), return_type="state")
        return self.read(run)

    def suspended(self, **parameters):
        """A run that waits for its request; with the request's id."""
        self.emulator.state.settings.run_seconds = 600
        record = self.attempt(run := self.create(**parameters))
        assert record.state.name == "Suspended", record.state.message
        return run, suspension.job_of(record.labels).id

    def read(self, run):
        return self.client.read_flow_run(run)

    def name(self, run):
        """The name of its state."""
        return self.read(run).state.name

    def resumed(self, run):
        """How often it was resumed."""
        return [state.name for state in self.client.read_flow_run_states(run)].count("Resuming")

    def result(self):
        """What the last attempt that was not suspended returned or raised."""
        return self.ended.result(raise_on_failure=False)

    def finish(self):
        """Time passes until every request is completed at fal."""
        self.emulator.state.clock.advance(700)


@pytest.fixture
def runs(api, emulator, monkeypatch):
    emulator.state.settings.webhook_attempts = 0
    monkeypatch.setattr(webhooks, "PATIENCE_SECONDS", 0)
    yield Runs(api.client, emulator)
    assert emulator.state.ledger.paid_twice() == []


def delivery(*request_ids):
    return Delivery(frozenset(request_ids), "OK")


def submissions(emulator):
    return len(emulator.state.ledger.select("POST", "submit"))


def test_a_run_is_suspended_while_fal_works(runs, emulator):
    run, request = runs.suspended(timeout=100, webhook_url="https://hooks.example/kosmo/")
    assert list(emulator.state.jobs) == [request]
    (entry,) = emulator.state.ledger.select("POST", "submit")
    assert f"fal_webhook=https%3A%2F%2Fhooks.example%2Fkosmo%2Ffal%2F{run}" in entry.query
    record = runs.read(run)
    left = record.state.state_details.pause_timeout.timestamp() - time.time()
    assert left == pytest.approx(100 + suspension.SPARE_SECONDS, abs=60)
    shown = json.dumps(record.labels)
    assert "a lamp" not in shown
    assert emulator.state.account().fal_key.partition(":")[2] not in shown


def test_a_delivery_resumes_the_run_which_pays_nothing_again_wherever_it_goes_on(runs, emulator):
    run, request = runs.suspended()
    runs.finish()
    shutil.rmtree(PREFECT_LOCAL_STORAGE_PATH.value())  # as on another machine
    Path(PREFECT_LOCAL_STORAGE_PATH.value()).mkdir()
    assert act(run, delivery("a-repetition-by-fal", request)) is Outcome.RESUMED
    assert runs.name(run) == "Resuming"
    assert runs.attempt(run).state.name == "Completed"
    (item,) = runs.result()
    assert item.request_id == request
    assert submissions(emulator) == 1
    told = json.loads(file_path(item.uri).with_suffix(".json").read_text())
    assert told["result"]["input"] == {"prompt": "a lamp"}


def test_duplicates_do_nothing_at_any_time(runs, emulator):
    run, request = runs.suspended()
    runs.finish()
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: act(run, delivery(request)), range(8)))
    assert sorted(outcome.name for outcome in outcomes) == ["NOTHING_TO_DO"] * 7 + ["RESUMED"]
    FallBack().look()
    assert runs.attempt(run).state.name == "Completed"
    assert act(run, delivery(request)) is Outcome.NOTHING_TO_DO
    FallBack().look()
    assert (runs.name(run), runs.resumed(run), submissions(emulator)) == ("Completed", 1, 1)


def test_a_duplicate_while_the_resumed_run_goes_on_does_nothing(runs):
    seen = []

    @flow
    def slow(webhook_url: str):
        job = suspension.submitted_job() or fal.submit_request(MODEL, {}, suspension.callback_address(webhook_url))
        suspension.suspend_until_completed(job, 60)
        seen.append(act(run, delivery(job.id)))

    runs.emulator.state.settings.run_seconds = 600
    run = runs.create(slow, webhook_url=NOBODY)
    job = suspension.job_of(runs.attempt(run).labels)
    runs.finish()
    act(run, delivery(job.id))
    runs.attempt(run)
    assert seen == [Outcome.NOTHING_TO_DO]


def test_a_delivery_for_another_run_or_request_does_nothing(runs):
    run, request = runs.suspended()
    assert act(uuid4(), delivery(request)) is Outcome.UNKNOWN
    assert act(run, delivery("another-request")) is Outcome.UNKNOWN
    assert runs.name(run) == "Suspended"


def test_a_run_that_waits_for_somebody_else_is_left_alone(runs):
    @flow
    def approved():
        suspend_flow_run(timeout=600)

    run = runs.create(approved)
    assert runs.attempt(run).state.name == "Suspended"
    assert act(run, delivery("x")) is Outcome.UNKNOWN
    FallBack().look()
    assert runs.name(run) == "Suspended"


def test_a_run_that_waited_for_fal_and_now_for_approval_is_left_alone(runs):
    @flow
    def approved(webhook_url: str):
        job = suspension.submitted_job() or fal.submit_request(MODEL, {}, suspension.callback_address(webhook_url))
        suspension.suspend_until_completed(job, 60)
        suspend_flow_run(timeout=600, key="approval")

    runs.emulator.state.settings.run_seconds = 600
    run = runs.create(approved, webhook_url=NOBODY)
    job = suspension.job_of(runs.attempt(run).labels)
    runs.finish()
    assert act(run, delivery(job.id)) is Outcome.RESUMED
    assert runs.attempt(run).state.name == "Suspended"
    assert act(run, delivery(job.id)) is Outcome.NOTHING_TO_DO
    FallBack().look()
    assert (runs.name(run), runs.resumed(run)) == ("Suspended", 1)


def test_a_delivery_that_comes_before_the_run_is_suspended_waits_for_it(runs, monkeypatch):
    outcomes = []

    @flow
    def hurried(webhook_url: str):
        job = suspension.submitted_job() or fal.submit_request(MODEL, {}, suspension.callback_address(webhook_url))
        outcomes.append(act(run, delivery(job.id)))
        monkeypatch.setattr(webhooks, "PATIENCE_SECONDS", 20)
        early.append(threading.Thread(target=lambda: outcomes.append(act(run, delivery(job.id)))))
        early[0].start()
        time.sleep(1)
        suspension.suspend_until_completed(job, 60)

    early = []
    runs.emulator.state.settings.run_seconds = 600
    run = runs.create(hurried, webhook_url=NOBODY)
    runs.attempt(run)
    early[0].join()
    assert outcomes == [Outcome.NOT_YET, Outcome.RESUMED]
    assert runs.name(run) == "Resuming"


def test_a_request_that_is_completed_already_is_not_waited_for(runs, emulator):
    record = runs.attempt(runs.create())
    assert record.state.name == "Completed"
    assert suspension.JOB not in record.labels
    assert submissions(emulator) == 1


def test_a_run_that_is_resumed_by_hand_too_early_waits_itself(runs, emulator):
    run, request = runs.suspended()
    runs.client.resume_flow_run(run)
    timer = threading.Timer(1, runs.finish)
    timer.start()
    assert runs.attempt(run).state.name == "Completed"
    timer.join()
    assert act(run, delivery(request)) is Outcome.NOTHING_TO_DO
    assert submissions(emulator) == 1


def test_the_failure_of_a_model_is_the_failure_of_the_run(runs, emulator):
    emulator.state.inject("POST /fal/queue/", "job-error")
    run, request = runs.suspended()
    runs.finish()
    assert act(run, Delivery(frozenset({request}), "ERROR")) is Outcome.RESUMED
    record = runs.attempt(run)
    assert record.state.name == "Failed"
    assert "The model failed: The runner failed" in record.state.message


def test_the_fall_back_resumes_a_run_when_its_request_is_completed_whatever_happened_before(runs, emulator):
    run, request = runs.suspended()
    FallBack().look()
    assert runs.name(run) == "Suspended"
    runs.finish()
    for fault in ("503", "reset", "401", "403"):
        emulator.state.inject("GET /fal/queue/", fault, times=0)
        FallBack().look()
        assert runs.name(run) == "Suspended"
        emulator.state.clear_faults()
    FallBack().look()
    assert runs.name(run) == "Resuming"
    assert runs.attempt(run).state.name == "Completed"
    assert runs.result()[0].request_id == request


def test_a_run_whose_time_is_up_fails_and_a_retry_waits_anew_and_pays_nothing(runs, emulator):
    run, request = runs.suspended(timeout=1)
    time.sleep(1)
    FallBack().look()
    assert runs.attempt(run).state.name == "Failed"
    error = runs.result()
    assert isinstance(error, DeadlineExceeded)
    assert error.job.id == request
    assert "not completed by" in str(error)
    runs.client.set_flow_run_state(run, Scheduled(), force=True)  # what `prefect flow-run retry` does
    assert runs.attempt(run).state.name == "Suspended"
    runs.finish()
    assert act(run, delivery(request)) is Outcome.RESUMED
    assert runs.attempt(run).state.name == "Completed"
    assert submissions(emulator) == 1


def test_a_request_that_fal_has_forgotten_ends_the_run(runs, emulator):
    run, request = runs.suspended()
    del emulator.state.jobs[request]
    FallBack().look()
    assert runs.attempt(run).state.name == "Failed"
    assert isinstance(runs.result(), Rejected)


def test_an_account_that_is_not_set_up_here_does_not_keep_others_waiting(runs, emulator, monkeypatch):
    foreign, _ = runs.suspended(account="work")
    run, _ = runs.suspended()
    runs.finish()
    for name in ("API_KEY", "QUEUE_URL", "RUN_URL", "REST_URL", "CDN_URL", "API_URL"):
        monkeypatch.delenv(f"KOSMO_FAL__WORK__{name}")
    FallBack().look()
    assert (runs.name(foreign), runs.name(run)) == ("Suspended", "Resuming")


def test_labels_that_make_no_sense_do_not_keep_others_waiting(runs, caplog):
    broken, _ = runs.suspended(input={"prompt": "another lamp"})
    run, _ = runs.suspended()
    for label in ("{", "[]", "{}", json.dumps({"id": "x", "account": "nobody"})):
        runs.client.update_flow_run_labels(broken, {suspension.JOB: label})
        FallBack().look()
    runs.finish()
    FallBack().look()
    assert (runs.name(broken), runs.name(run)) == ("Suspended", "Resuming")


def test_cancelling_a_suspended_run_cancels_its_request(runs, emulator):
    emulator.state.settings.queue_seconds = 600
    run, request = runs.suspended()
    runs.client.set_flow_run_state(run, Cancelling())  # what `prefect flow-run cancel` does
    assert runs.name(run) == "Cancelled"
    fall_back = FallBack()
    fall_back.look()
    assert emulator.state.jobs[request].cancelled is not None
    assert act(run, delivery(request)) is Outcome.NOTHING_TO_DO
    fall_back.look()
    assert len(emulator.state.ledger.select("PUT")) == 1
    assert emulator.state.ledger.billed("USD") == 0


def test_an_outage_of_the_server_is_an_error_of_a_delivery_and_a_pause_of_the_fall_back(prefect_server, caplog):
    stop = threading.Event()
    timer = threading.Timer(0.5, stop.set)
    with temporary_settings({PREFECT_API_URL: f"{NOBODY}/api"}):
        with pytest.raises(httpx.ConnectError):
            act(uuid4(), delivery("x"))
        timer.start()
        FallBack().keep_looking(stop, 0.05)
    timer.join()
    assert "Could not look for suspended runs" in caplog.text


def test_without_a_deployment_nothing_is_submitted(emulator, run_flow):
    state = run_flow(fal_request, MODEL, {"prompt": "a lamp"}, webhook_url=NOBODY)
    error = state.result(raise_on_failure=False)
    assert isinstance(error, ConfigurationError)
    assert "only a run of a deployment can be suspended" in str(error)
    assert submissions(emulator) == 0


def test_a_run_of_another_flow_cannot_be_suspended_and_submits_nothing(runs, emulator):
    run_id = runs.create()
    name = runs.client.read_deployment(runs.read(run_id).deployment_id).name

    @flow
    def outer():
        parameters = {"model_id": MODEL, "webhook_url": NOBODY}
        return run_deployment(f"fal-request/{name}", parameters=parameters, timeout=0).id

    assert runs.attempt(outer()).state.name == "Failed"
    assert isinstance(runs.result(), ConfigurationError)
    assert "as_subflow=False" in str(runs.result())
    assert submissions(emulator) == 0


def test_an_earlier_request_is_waited_for_without_webhooks(emulator, run_flow):
    job = fal.submit_request(MODEL, {"prompt": "a lamp"})
    (item,) = run_flow(fal_request, MODEL, request_id=job.id, webhook_url=NOBODY).result()
    assert item.request_id == job.id


@pytest.mark.parametrize("address", ["hooks.example", "ftp://hooks.example", "https://hooks.example/?a=b", "https://"])
def test_a_wrong_address_is_refused_by_the_form(emulator, address):
    with pytest.raises(Exception, match="webhook_url"):
        fal_request(MODEL, {"prompt": "a lamp"}, webhook_url=address)
    assert submissions(emulator) == 0
