"""How a function becomes a task: when it is retried, what is persisted, and what it tells Prefect while it runs.

The rules that protect money and secrets:

- An error decides whether its task is retried (`error.retryable`), never its class name or status.
- A call is recognised by flow run, task, account, arguments and the how-manieth such call it is. A flow that is retried
  gets back what already succeeded; four copies of one prompt stay four pictures; two accounts never share a result.
- A result is recorded as soon as it exists, also inside a parent task, and only when it holds no file content.
"""

from __future__ import annotations

import functools
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, ParamSpec, TypedDict, TypeVar, cast, get_args
from uuid import UUID

from prefect import Task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.tasks import TaskRunNameCallbackWithParameters
from prefect.transactions import CommitMode, get_transaction
from prefect.utilities.hashing import hash_objects

from prefect_kosmokrator.blocks.saved import find_saved_accounts, find_saved_stores
from prefect_kosmokrator.integrations.catalog import Function
from prefect_kosmokrator.integrations.encoding import content_free
from prefect_kosmokrator.integrations.errors import ConfigurationError, ContentFiltered, JobPending, KosmoError
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.providers import PROVIDERS
from prefect_kosmokrator.integrations.run import OnAmbiguous, Run, running
from prefect_kosmokrator.tasks.cancellation import stop_if_cancelled
from prefect_kosmokrator.tasks.progress import ProgressArtifact
from prefect_kosmokrator.tasks.spending import announce_refusals
from prefect_kosmokrator.tasks.turns import govern

P = ParamSpec("P")
R = TypeVar("R")


def is_retryable(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 - Prefect's signature
    """Whether Prefect should run a failed task again. A plain function: Prefect ignores any other callable."""
    error = state.data
    # Waiting is a loop inside a task: a retry would hold the slot and count as an attempt.
    return isinstance(error, KosmoError) and error.retryable and not isinstance(error, JobPending)


class RetryPolicy(TypedDict):
    """The retry options of a task."""

    retries: int
    retry_delay_seconds: list[float]
    retry_jitter_factor: float
    retry_condition_fn: Callable[[Task[..., Any], TaskRun, State[Any]], bool]


RETRY = RetryPolicy(
    retries=3, retry_delay_seconds=[5.0, 30.0, 120.0], retry_jitter_factor=0.5, retry_condition_fn=is_retryable
)
"""For outages longer than what the HTTP client bridges by itself (seconds, and a rate limit's lock-out)."""


class SameCall(CachePolicy):
    """Recognises a call that an earlier attempt of the same flow run already finished."""

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],  # noqa: ARG002 - Prefect's signature
        **kwargs: Any,  # noqa: ARG002
    ) -> str | None:
        """The identity of the call; None outside a flow, where nothing could be resumed."""
        flow_run = FlowRunContext.get()
        if flow_run is None or flow_run.flow_run is None:
            return None
        # An operator may decide otherwise when the run is run again; that does not make it another call.
        same = {name: value for name, value in inputs.items() if name != "on_ambiguous"}
        identity = hash_objects(str(flow_run.flow_run.id), task_ctx.task.name, same, raise_on_failure=True)
        if flow_run.detached:
            # In another process than the flow, nobody counts equal calls: keep them apart.
            return f"{identity}-{task_ctx.task_run.id}"
        attempt = flow_run.flow_run.id, flow_run.flow_run.run_count
        return f"{identity}-{_count(attempt, str(identity), _lineage(task_ctx))}"


@dataclass
class _Attempt:
    """The calls within one attempt of a flow run.

    Attributes:
        owners: Who made the calls of each identity, in order.
        children: The task runs that each attempt of a task run called, by what they are, in order.
    """

    owners: defaultdict[str, list[object]] = field(default_factory=lambda: defaultdict(list[object]))
    children: defaultdict[tuple[UUID, int, str], list[UUID]] = field(default_factory=lambda: defaultdict(list[UUID]))


_attempts: dict[tuple[UUID, int], _Attempt] = {}
_attempts_lock = Lock()


def _count(attempt: tuple[UUID, int], identity: str, lineage: list[TaskRun]) -> int:
    """The how-manieth call with this identity a task run is, within one attempt of a flow run.

    A retry of a task run is the same call, and so is what a task that is retried calls again, at any depth.

    Args:
        attempt: Of the flow run.
        identity: Of the call.
        lineage: The task run, the one that called it, and so on outwards.
    """
    with _attempts_lock:
        if attempt not in _attempts:
            for old in [key for key in _attempts if key[0] == attempt[0]]:
                del _attempts[old]
            _attempts[attempt] = _Attempt()
        known = _attempts[attempt]
        owner: tuple[object, ...] = (lineage[-1].id,)
        for child, parent in zip(lineage[-2::-1], lineage[:0:-1], strict=True):
            what = identity if child is lineage[0] else child.task_key
            siblings = known.children[parent.id, parent.run_count, what]
            if child.id not in siblings:
                siblings.append(child.id)
            owner = (*owner, what, siblings.index(child.id))
        owners = known.owners[identity]
        if owner not in owners:
            owners.append(owner)
        return owners.index(owner)


def _lineage(task_ctx: TaskRunContext) -> list[TaskRun]:
    """The task run of a context, the one that called it, and so on outwards."""
    found: list[TaskRun] = []
    context: object = task_ctx
    # Prefect enters a task's own context twice.
    while isinstance(context, TaskRunContext):
        if not found or context.task_run.id != found[-1].id:
            found.append(context.task_run)
        token = context._token  # noqa: SLF001 - the only way outwards  # pyright: ignore[reportPrivateUsage]
        context = token.old_value if token is not None else None
    return found


def function_task(call: Callable[P, R]) -> Task[P, R]:
    """The task for an integration function: same name, parameters and types."""
    function = _function_of(call)
    name = f"{function.provider.name}.{function.name}"

    @functools.wraps(call)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with in_run(name):
            result = _without_bytes_in_errors(lambda: call(*args, **kwargs))
        _record(result)
        return result

    run.__qualname__ = function.slug  # makes Prefect's task key unique; `get_result` exists in two providers
    # Results of paid calls and stored files are worth keeping; a status is not.
    keeps = function.operation == "write" or any(parameter.name == "output" for parameter in function.parameters)
    return Task(
        run,
        name=name,
        description=function.description,
        tags=[function.provider.name],
        task_run_name=cast("TaskRunNameCallbackWithParameters", _run_name(function)),
        cache_policy=SameCall() if keeps else NO_CACHE,
        **RETRY,
    )


def _without_bytes_in_errors(call: Callable[[], R]) -> R:
    """Prefect persists the error of a failed run; the picture that a filtered result carries is not part of it."""
    try:
        return call()
    except ContentFiltered as error:
        error.media = _without_content(error.media)
        raise


def _function_of(call: Callable[..., Any]) -> Function:
    for provider in PROVIDERS.values():
        for function in provider.functions.values():
            if function.call is call:
                return function
    raise ValueError(f"{call!r} is not a function of the catalogue")


def _run_name(function: Function) -> Callable[[dict[str, Any]], str]:
    """Names a task run by what it makes: the prompt, model, job or file it is about."""

    def task_run_name(parameters: dict[str, Any]) -> str:
        about = ""
        for name in ("prompt", "model_id", "id", "image", "file_path", "q", "account"):
            value = parameters.get(name)
            if isinstance(value, Media):
                value = value.uri and value.uri.rpartition("/")[2]
            if isinstance(value, dict):  # a job
                value = value.get("model_id")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            if value and not isinstance(value, bytes):
                about = str(value).partition("?")[0]  # pyright: ignore[reportUnknownArgumentType]
                break
        about = about if len(about) <= 48 else f"{about[:47]}…"
        return f"{function.name}: {about}" if about else function.name

    return task_run_name


@contextmanager
def in_run(task_name: str, on_ambiguous: OnAmbiguous = "fail") -> Generator[None]:
    """Tells the integrations which run they are part of, and shows the progress of waits.

    Args:
        task_name: For provenance and progress.
        on_ambiguous: What to do with a paid call that was in flight; `KOSMO_ON_AMBIGUOUS` may permit more.
    """
    flow_run = FlowRunContext.get()
    known = flow_run.flow_run if flow_run is not None else None
    task_run = TaskRunContext.get()
    run = Run(metadata={"task": task_name}, identity=_identity(), on_ambiguous=_permitted(on_ambiguous))
    if flow_run is not None and known is not None:
        labels = {"flow": flow_run.flow.name if flow_run.flow else "", "flow_run_id": str(known.id)}
        run = replace(run, name=known.name, id=str(known.id), metadata={**run.metadata, **labels})
        # A parameter of this name is the run's budget, in everybody's flows.
        run = replace(run, max_cost=str(known.parameters.get("max_cost") or ""))
    if task_run is not None:
        run = replace(run, metadata={**run.metadata, "task_run_id": str(task_run.task_run.id)})
    with ProgressArtifact(task_name) as progress:

        def on_progress(fraction: float, message: str) -> None:
            if known is not None:
                stop_if_cancelled(known)
            progress.update(fraction, message)

        with running(replace(run, on_progress=on_progress)):
            yield


def _permitted(chosen: OnAmbiguous) -> OnAmbiguous:
    """What the call or the operator permits; the setting can be changed before a run is run again."""
    value = os.environ.get("KOSMO_ON_AMBIGUOUS", "").strip().lower() or "fail"
    if value not in get_args(OnAmbiguous):
        raise ConfigurationError(f"KOSMO_ON_AMBIGUOUS is {value!r}; it must be fail or resubmit.")
    return "resubmit" if "resubmit" in {chosen, value} else "fail"


def _identity() -> str:
    """What the current task is recognised by in a later attempt: the key under which Prefect would keep its result."""
    transaction, context = get_transaction(), TaskRunContext.get()
    if transaction is not None and transaction.key:
        return transaction.key
    return str(context.task_run.id) if context is not None else ""  # the same in every retry of the task


def _record(result: object) -> None:
    """Makes a result durable at once, or keeps it out of the result storage if it holds file content."""
    transaction = get_transaction()
    if transaction is None:
        return
    if not content_free(result):
        transaction.write_on_commit = False
    else:
        # By default the record of a task inside another task is only written when the outer one has succeeded.
        transaction.commit_mode = CommitMode.EAGER


def _without_content(media: Any) -> Any:
    if isinstance(media, list):
        return [_without_content(item) for item in media]  # pyright: ignore[reportUnknownVariableType]
    return media.without_content() if isinstance(media, Media) else media


class _ToRunLog(logging.Filter):
    """Moves what the integrations log (waits, retries, warnings) to the log of the run they are part of."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            get_run_logger().log(record.levelno, record.getMessage())
        except MissingContextError:
            return True  # outside a run: as any library logs
        return False


find_saved_accounts()
find_saved_stores()
announce_refusals()
govern()

_logger = logging.getLogger("prefect_kosmokrator")
if not any(isinstance(known, _ToRunLog) for known in _logger.filters):
    _logger.addFilter(_ToRunLog())
    _logger.setLevel(logging.INFO)
