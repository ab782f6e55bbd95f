"""Waiting for fal without a worker slot: the flow run is suspended, and resumed when fal calls back.

The job is kept in the labels of the flow run, which waits for one job in this way. So a resumed run finds it on
whatever machine it goes on, with or without shared result storage, and `prefect_kosmokrator.deployments.webhooks` finds
it for all suspended runs with one question.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.flow_runs import suspend_flow_run

from prefect_kosmokrator.integrations import fal
from prefect_kosmokrator.integrations.errors import ConfigurationError, DeadlineExceeded, Unavailable
from prefect_kosmokrator.integrations.records import Job

JOB, DEADLINE = "kosmokrator.fal.job", "kosmokrator.fal.deadline"
"""Labels of a flow run: the job as JSON without its input, and when waiting is given up, in seconds since 1970."""

SPARE_SECONDS = 3600.0
"""How long after its deadline Prefect fails a suspended run that nobody resumed."""


def callback_address(base: str) -> str:
    """The address at which fal reports what this flow run submits.

    Args:
        base: The public address of `kosmo webhooks`.

    Raises:
        ConfigurationError: If this run cannot be suspended, so that nothing should be submitted for it.
    """
    run = _this_run()
    instead = "Leave webhook_url out to wait in this process, which holds its worker slot."
    if run is None or run.deployment_id is None:
        raise ConfigurationError(
            "webhook_url: only a run of a deployment can be suspended and started again. Deploy the flow, for example "
            f"with `prefect deploy --prefect-file deployments/prefect.yaml`. {instead}"
        )
    if run.parent_task_run_id is not None:
        raise ConfigurationError(
            "webhook_url: Prefect does not suspend a run that belongs to the run of another flow. Start it with "
            f"run_deployment(..., as_subflow=False). {instead}"
        )
    return f"{base.rstrip('/')}/fal/{run.id}"


def submitted_job(**fields: Any) -> Job | None:
    """The job that this flow run was suspended for; None if it never was.

    Args:
        fields: What the job has beside that which is kept, such as its input.
    """
    run = _this_run()
    job = None if run is None else job_of(run.labels)
    return None if job is None else Job({**job, **fields})


def suspend_until_completed(job: Job, timeout: float) -> float:
    """Ends this process and suspends the flow run, unless the job is completed or the run was resumed for it.

    Args:
        job: What the flow has submitted.
        timeout: Seconds after which waiting is given up, from the first call on.

    Returns:
        The seconds for which to go on waiting: many for a run that was resumed by hand too early.

    Raises:
        DeadlineExceeded: If the run was resumed because its time was up. The job goes on.
    """
    run = _this_run()
    if run is None:
        raise ConfigurationError("Only a flow run can be suspended.")
    key = pause_key(job, run)
    was_suspended = key in (run.empirical_policy.pause_keys or ())
    deadline = deadline_of(run.labels) if was_suspended else time.time() + timeout
    if _is_completed(job):
        return timeout
    if not was_suspended:
        kept = json.dumps({name: value for name, value in job.items() if name != "input"})
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(run.id, {JOB: kept, DEADLINE: deadline})
        get_run_logger().info("Request %s goes on; waiting for fal to call back, until %s.", job.id, _clock(deadline))
        suspend_flow_run(key=key, timeout=math.ceil(timeout + SPARE_SECONDS), _sync=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    left = deadline - time.time()
    if left <= 0:
        raise DeadlineExceeded(
            f"Request {job.id} of {job.model_id} was not completed by {_clock(deadline)}. It goes on and may be "
            "billed; retry this run or wait for the request by its id, or cancel it.",
            job=job,
            account=job.account,
            request_id=job.id,
        )
    return left


def pause_key(job: Job, run: FlowRun) -> str:
    """What Prefect knows the suspension by: one for each attempt of the run, because a retry waits anew."""
    return f"fal-{job.id}-{run.run_count}"


def job_of(labels: Mapping[str, object]) -> Job | None:
    """The job in the labels of a flow run."""
    kept = labels.get(JOB)
    try:
        fields = json.loads(kept) if isinstance(kept, str) else None
    except ValueError:  # somebody else has written there
        return None
    return (
        Job(cast("dict[str, Any]", fields)) if isinstance(fields, dict) and {"id", "account"} <= fields.keys() else None
    )


def deadline_of(labels: Mapping[str, object]) -> float:
    """When waiting is given up, in seconds since 1970."""
    kept = labels.get(DEADLINE)
    return float(kept) if isinstance(kept, int | float) else math.inf


def _this_run() -> FlowRun | None:
    context = FlowRunContext.get()
    return None if context is None else context.flow_run


def _is_completed(job: Job) -> bool:
    try:
        return bool(fal.get_request_status(job, logs=False)["status"] == "COMPLETED")
    except Unavailable:  # fal will call back, or the fall-back will ask again
        return False


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
