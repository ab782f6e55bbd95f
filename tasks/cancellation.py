"""Cancelling a flow run cancels the jobs it submitted, so that none goes on billing unseen."""

from __future__ import annotations

from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.logging.loggers import flow_run_logger

from prefect_kosmokrator.integrations.errors import KosmoError
from prefect_kosmokrator.integrations.providers import PROVIDERS
from prefect_kosmokrator.integrations.records import Job


def cancel_open_jobs(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001 - by these names
    """For a flow's `on_cancellation`: cancels what its tasks submitted, and logs what could not be cancelled.

    Prefect calls it where the worker runs, after the flow's own process has ended, so it asks the API what was
    submitted and reads the jobs from the result storage.
    """
    logger = flow_run_logger(flow_run, flow)
    for job in _submitted(flow_run):
        function = PROVIDERS[job.provider].find("cancel_request") if job.provider in PROVIDERS else None
        if function is None:
            logger.warning("Job %s at %s cannot be cancelled; it may go on and be billed.", job.id, job.provider)
            continue
        try:
            answer = function.call(job)
        except KosmoError as error:
            logger.warning("Job %s was not cancelled; it may go on and be billed. %s", job.id, error)
        else:
            logger.info("Job %s: %s.", job.id, answer["status"])


def _submitted(flow_run: FlowRun) -> list[Job]:
    with get_client(sync_client=True) as client:
        of_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
        task_runs: list[TaskRun] = []
        while page := client.read_task_runs(flow_run_filter=of_run, limit=200, offset=len(task_runs)):
            task_runs += page
    return [job for job in map(_job_of, task_runs) if job is not None]


def _job_of(task_run: TaskRun) -> Job | None:
    if task_run.state is None or not task_run.state.is_completed() or not task_run.state.data:
        return None
    try:
        result: Any = task_run.state.result(raise_on_failure=False, _sync=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    except Exception:  # noqa: BLE001 - a result that was not persisted, or is gone: it was no job
        return None
    return result if isinstance(result, Job) else None
