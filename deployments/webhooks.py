"""The receiver of fal's webhooks: resumes the flow runs that wait for fal; and looks at fal itself when none comes.

It keeps nothing of its own. Which run waits for which request is in the labels of the run, and whether it was resumed
already is in the pauses that Prefect has noted for it. So a delivery that is repeated does nothing, also after a
restart, and a signed delivery that names another run finds no request of that name there.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from prefect_kosmokrator.blocks.saved import find_saved_accounts
from prefect_kosmokrator.integrations import fal
from prefect_kosmokrator.integrations.errors import ConfigurationError, KosmoError
from prefect_kosmokrator.integrations.records import Job
from prefect_kosmokrator.integrations.serving import Server, wait_for_signal
from prefect_kosmokrator.integrations.webhooks import Delivery, Outcome, Verifier, create_app
from prefect_kosmokrator.tasks.cancellation import cancel_jobs_of
from prefect_kosmokrator.tasks.suspension import deadline_of, job_of, pause_key

logger = logging.getLogger("prefect_kosmokrator")

PATIENCE_SECONDS = 8.0
"""How long a delivery waits for its run to be suspended: fal waits 15 s for the answer."""

CANCELLED_SINCE = timedelta(hours=1)
"""How far back cancelled runs are looked at: longer than any restart of this process takes."""

SUSPENDED = FlowRunFilterState(
    type=FlowRunFilterStateType(any_=[StateType.PAUSED]), name=FlowRunFilterStateName(any_=["Suspended"])
)
CANCELLED = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CANCELLED]))

PAGE = 200
LOOKS_AT_ONCE = 8

_resuming = threading.Lock()
"""Held between looking at a run and resuming it: a delivery and the fall-back must not both do it."""


def act(run_id: UUID, delivery: Delivery) -> Outcome:
    """Resumes the run that waits for the delivered request."""
    until = time.monotonic() + PATIENCE_SECONDS
    while (outcome := _try(run_id, delivery)) is Outcome.NOT_YET and time.monotonic() < until:
        time.sleep(0.5)
    return outcome


def _try(run_id: UUID, delivery: Delivery) -> Outcome:
    with get_client(sync_client=True) as client, _resuming:
        try:
            run = client.read_flow_run(run_id)
        except ObjectNotFound:
            return Outcome.UNKNOWN
        job = job_of(run.labels)
        if job is not None and job.id not in delivery.request_ids:
            return Outcome.UNKNOWN
        if job is not None and is_waiting(run, job):
            return Outcome.RESUMED if _resume(client, run) else Outcome.NOTHING_TO_DO
        if run.state is None or run.state.is_final() or run.state.is_cancelling():
            return Outcome.NOTHING_TO_DO
        if job is not None and pause_key(job, run) in (run.empirical_policy.pause_keys or ()):
            return Outcome.NOTHING_TO_DO  # resumed before
        # Suspended for something else; else the flow has submitted its request and is about to be suspended.
        return Outcome.UNKNOWN if run.state.is_paused() else Outcome.NOT_YET


def is_waiting(run: FlowRun, job: Job) -> bool:
    """Whether a run is suspended for this job, and not for another reason such as somebody's approval."""
    return run.state is not None and run.state.is_paused() and run.state.state_details.pause_key == pause_key(job, run)


def _resume(client: SyncPrefectClient, run: FlowRun) -> bool:
    return client.resume_flow_run(run.id).status is SetStateStatus.ACCEPT


class FallBack:
    """Does without webhooks what they would have done, and what they cannot do."""

    def __init__(self) -> None:
        self._cancelled: set[UUID] = set()

    def look(self) -> None:
        """Looks once at all runs."""
        with get_client(sync_client=True) as client, ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:
            waiting = [
                (run, job) for run, job in _with_job(client, FlowRunFilter(state=SUSPENDED)) if is_waiting(run, job)
            ]
            for (run, job), reason in zip(waiting, pool.map(_reason, waiting), strict=True):
                with _noted(run):
                    self._resume(client, run, job, reason)
            since = FlowRunFilterEndTime.model_validate({"after_": datetime.now(UTC) - CANCELLED_SINCE})
            for run in _runs(client, FlowRunFilter(state=CANCELLED, end_time=since)):
                with _noted(run):
                    self._cancel(run)

    def _resume(self, client: SyncPrefectClient, run: FlowRun, job: Job, reason: str) -> None:
        with _resuming:
            if reason and is_waiting(client.read_flow_run(run.id), job) and _resume(client, run):
                logger.info("Request %s %s; run %s: resumed without a webhook.", job.id, reason, run.id)

    def _cancel(self, run: FlowRun) -> None:
        """A suspended run has no process, so that Prefect calls no `on_cancellation` when it is cancelled."""
        if run.id not in self._cancelled and cancel_jobs_of(run.id, logger):
            self._cancelled.add(run.id)

    def keep_looking(self, stop: threading.Event, seconds: float) -> None:
        """Looks at once and then every so many seconds, until it is told to stop."""
        while not stop.is_set():
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - the next round may find the server again
                logger.warning("Could not look for suspended runs: %r", error)
            stop.wait(seconds)


@contextmanager
def _noted(run: FlowRun) -> Generator[None]:
    """Goes on after an error with one run: the others wait as well."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the next round tries again
        logger.warning("Run %s was left as it is: %r", run.id, error)


def _runs(client: SyncPrefectClient, wanted: FlowRunFilter) -> list[FlowRun]:
    runs: list[FlowRun] = []
    while page := client.read_flow_runs(flow_run_filter=wanted, limit=PAGE, offset=len(runs)):
        runs += page
    return runs


def _with_job(client: SyncPrefectClient, wanted: FlowRunFilter) -> Iterator[tuple[FlowRun, Job]]:
    return ((run, job) for run in _runs(client, wanted) if (job := job_of(run.labels)) is not None)


def _reason(waiting: tuple[FlowRun, Job]) -> str:
    """Why a run is to be resumed; empty if it is not."""
    run, job = waiting
    if time.time() >= deadline_of(run.labels):
        return "is not completed, but the time is up"
    try:
        status = fal.get_request_status(job, logs=False)
    except Exception as error:  # noqa: BLE001 - as in `_noted`
        if isinstance(error, KosmoError) and error.status == 404:
            return "is not known to fal any more"
        logger.warning("Could not look at request %s for run %s: %s", job.id, run.id, error)
        return ""
    return "has ended" if status["status"] == "COMPLETED" else ""


def serve(host: str, port: int, poll: float) -> None:
    """Serves until this process is asked to end.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        poll: Seconds between two looks at the requests of all suspended runs.

    Raises:
        ConfigurationError: If Prefect's server or the fal accounts are not set up.
    """
    if not PREFECT_API_URL.value():
        raise ConfigurationError("PREFECT_API_URL is not set: the runs to resume are on a Prefect server.")
    find_saved_accounts()
    verifier, stop = Verifier(), threading.Event()
    with Server(create_app(verifier.check, act), host=host, port=port, limit_concurrency=500) as server:
        _introduce(verifier)
        watcher = threading.Thread(target=FallBack().keep_looking, args=(stop, poll), daemon=True)
        watcher.start()
        logger.info("Listening at %s. Give flows the public address of this as webhook_url. Ctrl-C ends.", server.url)
        wait_for_signal()
        stop.set()
    watcher.join(5)


def _introduce(verifier: Verifier) -> None:
    """Says for whom deliveries are taken; neither fal nor Prefect needs to be up already."""
    try:
        users = verifier.users()
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 - it is tried again for each delivery
        logger.warning("The accounts cannot be checked yet: %s", error)
        return
    if not users:
        raise ConfigurationError("There is no fal account. Set FAL_KEY or KOSMO_FAL__<ACCOUNT>__API_KEY.")
    logger.info("Deliveries are taken for %s.", ", ".join(f"{name} ({user or '?'})" for name, user in users.items()))


def main() -> int:
    """Runs the receiver and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8789)
    parser.add_argument("--poll", type=float, default=60.0)
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s")
    logger.setLevel(logging.INFO)
    try:
        serve(options.host, options.port, options.poll)
    except KosmoError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"Cannot listen on {options.host}:{options.port}: {error.strerror}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
