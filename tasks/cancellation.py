"""Cancelling a flow run cancels the jobs it submitted, so that none goes on billing unseen."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging.loggers import flow_run_logger

from prefect_kosmokrator.blocks.saved import find_saved_accounts, find_saved_stores
from prefect_kosmokrator.integrations.errors import KosmoError
from prefect_kosmokrator.integrations.jobs import cancel, look_for
from prefect_kosmokrator.integrations.ledger import Entry, current_ledger

Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]


def cancel_open_jobs(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001 - by these names
    """For a flow's `on_cancellation`: cancels what the run submitted, and logs what could not be cancelled.

    Prefect calls it where the worker runs, after the flow's own process has ended. What could not be cancelled stays in
    the ledger: `kosmo jobs list`.
    """
    logger = flow_run_logger(flow_run, flow)
    try:
        cancel_jobs_of(flow_run.id, logger)
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
