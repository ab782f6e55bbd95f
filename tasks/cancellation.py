"""Cancelling a flow run cancels the jobs it submitted, so that none goes on billing unseen."""

from __future__ import annotations

import logging
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import repeat
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import CancelledRun
from prefect.logging.loggers import flow_run_logger

from prefect_kosmokrator.blocks.saved import find_saved_accounts, find_saved_stores
from prefect_kosmokrator.integrations.errors import KosmoError
from prefect_kosmokrator.integrations.jobs import cancel, look_for
from prefect_kosmokrator.integrations.ledger import Entry, current_ledger

Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]

LOOK_SECONDS = 5.0
"""How often the state of a run is looked at while jobs are waited for, however many they are."""

_logger = logging.getLogger("prefect_kosmokrator")


def cancel_open_jobs(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001 - by these names
    """For a flow's `on_cancellation`: cancels what the run submitted, and logs what could not be cancelled.

    Prefect calls it where the worker runs, after the flow's own process has ended. What could not be cancelled stays in
    the ledger: `kosmo jobs list`.
    """
    _try_to_cancel(flow_run.id, flow_run_logger(flow_run, flow))


@dataclass
class _Watch:
    """What is known of an attempt of a flow run, whose state is looked at beside its waits."""

    next_look: float = field(default_factory=lambda: time.monotonic() + LOOK_SECONDS)
    lock: threading.Lock = field(default_factory=threading.Lock)
    cancelled: bool = False

    def is_due(self) -> bool:
        """Whether it is time for a look; True for one caller only, who must then look."""
        with self.lock:
            due = time.monotonic() >= self.next_look
            if due:
                self.next_look = math.inf  # cancelling may take longer than the pause between two looks
            return due

    def look(self, flow_run_id: UUID) -> None:
        """Asks Prefect; a server that is down is no reason to end a wait."""
        try:
            with get_client(sync_client=True) as client:
                state = client.read_flow_run(flow_run_id).state
        except Exception:  # noqa: BLE001 - whatever it is, the next look may tell
            state = None
        if state is not None and (state.is_cancelling() or state.is_cancelled()):
            _try_to_cancel(flow_run_id, _logger)
            self.cancelled = True
        self.next_look = time.monotonic() + LOOK_SECONDS


@lru_cache(maxsize=256)
def _watch(_flow_run_id: UUID, _run_count: int) -> _Watch:
    return _Watch()


def stop_if_cancelled(flow_run: FlowRun) -> None:
    """For every wait of a run, at each look at its job: cancels the jobs and ends the waits of a cancelled run.

    The hook alone would come late: Prefect gives threads that wait half a minute before it ends their process. And it
    would not come at all for a run that no worker runs, whose process nobody ends.

    Raises:
        CancelledRun: If the run was cancelled.
    """
    watch = _watch(flow_run.id, flow_run.run_count)
    if watch.cancelled:
        raise CancelledRun(f"Flow run {flow_run.name!r} was cancelled; its jobs are no longer waited for.")
    if watch.is_due():
        threading.Thread(target=copy_context().run, args=(watch.look, flow_run.id), daemon=True).start()


def _try_to_cancel(flow_run_id: UUID, logger: Logger) -> None:
    try:
        cancel_jobs_of(flow_run_id, logger)
    except KosmoError as error:
        logger.error("The ledger cannot be read, so no job of this run was cancelled: see kosmo jobs list. %s", error)  # noqa: TRY400


def cancel_jobs_of(flow_run_id: UUID, logger: Logger) -> bool:
    """Cancels what a flow run submitted, and logs what could not be cancelled.

    Returns:
        Whether trying again makes no sense.

    Raises:
        KosmoError: If the ledger cannot be read.
    """
    find_saved_accounts()
    find_saved_stores()
    entries = current_ledger().open_entries(str(flow_run_id))
    with ThreadPoolExecutor(8) as pool:  # each refusal is tried again for a while
        return all(list(pool.map(_cancel, entries, repeat(logger))))


def _cancel(entry: Entry, logger: Logger) -> bool:
    what = f"{entry.provider}.{entry.function} (account {entry.account!r})"
    try:
        if entry.state in {"started", "ambiguous"}:
            found = look_for(entry)
            if found is None:
                logger.warning("%s was in flight; nobody can tell whether it was accepted. See kosmo jobs list.", what)
                return True
            entry = found
        if entry.job is not None:
            logger.info("Job %s of %s: %s.", entry.job.id, what, cancel(entry))
    except KosmoError as error:
        logger.warning(
            "A job of %s was not cancelled; it may go on and be billed. See kosmo jobs list. %s", what, error
        )
        current_ledger().save(replace(entry, note=f"not cancelled: {error}"))
        return not error.retryable
    return True
