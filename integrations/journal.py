"""Calls that are made once: recognised in a later attempt, replayed if paid, looked for if the answer was lost.

`perform` surrounds every call that changes something at a service. The rules:

- Before the request leaves, its intent is in the ledger; when the service has answered, so is the answer.
- A call is recognised by the run's identity, function, account, arguments and the how-manieth such call it is; never by
  attempt or position. A script that takes another path on retry pays for what is new and gets back what it asked for.
- A call that was in flight is looked for at the service. Where the service cannot say, the operator decides.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast
from uuid import uuid4

from prefect_kosmokrator.integrations import budget
from prefect_kosmokrator.integrations.encoding import content_free, decode, decode_error, encode, encode_error
from prefect_kosmokrator.integrations.errors import (
    AmbiguousSubmission,
    KosmoError,
    StorageError,
    is_provably_free,
)
from prefect_kosmokrator.integrations.ledger import Entry, Ledger, State, current_ledger
from prefect_kosmokrator.integrations.media import Cost, Media, describe
from prefect_kosmokrator.integrations.records import Job
from prefect_kosmokrator.integrations.run import Call, current_call, current_run
from prefect_kosmokrator.integrations.safekeeping import held, let_go, places, store_kept

R = TypeVar("R")

logger = logging.getLogger("prefect_kosmokrator")

LISTING_SECONDS = 10.0
"""How long after a lost submission the service is asked for it: its list may lag behind."""

_counting = Lock()


@dataclass(frozen=True)
class Step:
    """A call about to be made.

    Attributes:
        provider: Whose function it is.
        function: Its name.
        account: Who pays; normalised.
        arguments: The checked arguments.
        paid: Whether it costs money.
        price: Tells what it will cost; None for what no budget knows.
        balance: Tells what is left on the account, in US dollars.
        max_cost: What the account may spend in a day.
        recover: Finds the jobs that a lost submission may have made, the most likely first; None where the service
            cannot say. Takes the arguments, the digest of the input as it was sent, and the time.
        clock: The service's time, in seconds since 1970.
    """

    provider: str
    function: str
    account: str
    arguments: Mapping[str, Any]
    paid: bool = True
    price: Callable[[], Cost | None] | None = None
    balance: Callable[[], float | None] | None = None
    max_cost: str = ""
    recover: Callable[[Mapping[str, Any], str, float], Iterable[Job]] | None = None
    clock: Callable[[], float] = time.time

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.provider}.{self.function}"


def perform(step: Step, call: Callable[[], R]) -> R:
    """The result of `call`, or what an earlier attempt of this run got for it.

    Raises:
        KosmoError: What `call` raises, now or in an earlier attempt in which it was paid.
        AmbiguousSubmission: If an earlier attempt was cut off and nobody can tell whether the service accepted.
        BudgetExceeded: If it would cost more than is allowed.
        StorageError: If the ledger cannot be written; then nothing was sent.
    """
    run = current_run()
    if not step.paid and not run.identity:
        return call()
    ledger = current_ledger()
    fingerprint = _digest(step.name, step.account, _stable(dict(step.arguments)))
    entry = _intent(step, *_identify(run.identity, fingerprint))
    try:
        known = _asked(lambda: ledger.find(entry.run, entry.call)) if run.identity else None
        if known is not None:
            found, result = _known(step, ledger, known)
            if found:
                run.replayed.append(step.name)
                return cast("R", result)
        return _make(step, ledger, entry, known, call)
    except AmbiguousSubmission:
        _uncount(run.identity, fingerprint)  # a script that catches this and calls again means the same call
        raise


def sending(payload: Any) -> None:
    """Tells what the input of the call being made looks like as the service gets it, for `Step.recover`."""
    call = current_call()
    if call is not None and call.entry is not None:
        call.entry = replace(call.entry, sent=digest_of(payload))


def settle(provider: str, job_id: str, *, result: Any = None, error: KosmoError | None = None, note: str = "") -> None:
    """Notes down how a job ended. Never raises: the ledger must not stand between a caller and a result.

    Args:
        provider: Who had the job.
        job_id: The service's id of it.
        result: What it made.
        error: Why it made nothing.
        note: Set for a job that was cancelled.
    """
    try:
        ledger = current_ledger()
        entry = ledger.of_job(provider, job_id)
        if entry is None or entry.state != "submitted":
            return
        cost = getattr(result, "cost", None)
        entry = budget.correct(ledger, entry, cost)
        state: State = "cancelled" if note else "failed" if error is not None else "finished"
        words = note or (str(error) if error is not None else places(result))
        outcome = encode(result) if result is not None and content_free(result) else None
        ledger.save(replace(entry, state=state, note=words, outcome=outcome))
    except KosmoError as problem:
        logger.warning("Job %s ended, which could not be noted down. %s", job_id, problem)


def adopt(step: Step, ledger: Ledger, entry: Entry) -> Job | None:
    """The job that a submission made whose answer was lost, None if there is none or the service cannot say.

    Raises:
        KosmoError: If the service or the ledger cannot be asked.
    """
    if step.recover is None:
        return None
    while True:
        for job in step.recover(step.arguments, entry.sent, entry.time):
            if _asked(lambda job=job: ledger.claim(job, entry)):  # type: ignore[misc]
                logger.info("%s: the answer was lost after job %s was accepted; going on with it.", step.name, job.id)
                ledger.save(replace(entry, state="submitted", result=encode(job), error=None, note=""))
                return job
        age = step.clock() - entry.time
        if not 0 <= age < LISTING_SECONDS:
            return None
        time.sleep(min(2.0, LISTING_SECONDS - age))


def digest_of(payload: Any) -> str:
    """Equal for equal JSON, whether a number is written as 1 or as 1.0."""
    return _digest(_stable(payload))


def _identify(identity: str, fingerprint: str) -> tuple[str, str]:
    """The run and the call, as the ledger names them."""
    run = current_run()
    if not identity:
        return run.id or f"{datetime.now(UTC):%Y%m%d}-{uuid4().hex[:8]}", uuid4().hex
    with _counting:
        run.counts[fingerprint] += 1
        count = run.counts[fingerprint]
    digest = _digest(identity, fingerprint, count)
    return run.id or digest[:16], digest


def _uncount(identity: str, fingerprint: str) -> None:
    if identity:
        with _counting:
            current_run().counts[fingerprint] -= 1


def _intent(step: Step, run: str, call: str) -> Entry:
    arguments = {name: describe(value) for name, value in step.arguments.items() if value is not None}
    labels = {"run": current_run().name, **current_run().metadata}
    return Entry(
        run, call, "started", step.provider, step.function, step.account, time.time(), arguments, labels=labels
    )


def _known(step: Step, ledger: Ledger, entry: Entry) -> tuple[bool, Any]:
    """Whether an earlier attempt was answered, and with what; otherwise the call may be made."""
    if entry.state == "failed" and entry.error is not None:
        logger.info("%s: an earlier attempt was paid and failed; not called again.", step.name)
        raise decode_error(entry.error)
    media = held(entry)
    if media is not None:
        entry = replace(entry, state="spooled", result=encode(media))
    if entry.state == "spooled":
        logger.info("%s: paid by an earlier attempt and kept on this machine; only stored now.", step.name)
        return True, store_kept(ledger, entry)
    if entry.state in {"started", "ambiguous"}:
        return _in_flight(step, ledger, entry) if step.paid else (False, None)
    if entry.result is None and step.paid:
        return False, None  # its bytes were only in memory: the caller named no output
    logger.info("%s: replayed from an earlier attempt; not called and not paid again.", step.name)
    return True, decode(entry.result)


def _in_flight(step: Step, ledger: Ledger, entry: Entry) -> tuple[bool, Job | None]:
    """Whether the service accepted the call that an earlier attempt was making, and its job."""
    problem = None
    try:
        job = adopt(step, ledger, entry)
        if job is not None:
            return True, job
    except KosmoError as error:
        problem = error
    says = step.recover is not None and problem is None
    may_say_later = problem is not None and problem.retryable
    if not says and (may_say_later or current_run().on_ambiguous == "fail"):
        unknown = _unknown(step)
        unknown.retryable = may_say_later
        raise unknown from problem
    return False, None


def _make(step: Step, ledger: Ledger, entry: Entry, known: Entry | None, call: Callable[[], R]) -> R:
    """Makes the call, with its intent written down before it leaves and its answer after."""
    made = current_call() or Call(step.provider, step.function, step.account)
    made.entry, made.before_leaving = entry, lambda: _leave(step, ledger, known, made)
    try:
        result = call()
    except KosmoError as error:
        entry = made.entry
        if not made.sent:
            raise
        if isinstance(error, AmbiguousSubmission):
            return cast("R", _looked_for(step, ledger, entry, error))
        if is_provably_free(error):
            _forget(step, ledger, entry, known)
        elif isinstance(error, StorageError) and isinstance(error.media, Media) and error.spool is not None:
            _keep_at(ledger, entry, error.media, error.spool)
            error.retryable = error.transient and bool(current_run().identity)  # a later attempt only stores it
        else:
            ledger.save(replace(entry, state="failed", error=encode_error(error), note=str(error)))
        let_go(entry)
        raise
    return _answered(ledger, made.entry, result)


def _leave(step: Step, ledger: Ledger, known: Entry | None, made: Call) -> None:
    """Checks the budget and writes the intent down, when the request is about to leave."""
    if made.entry is None:
        return
    cost = step.price() if step.price is not None else None
    # Asking for the price told the service's time, too.
    entry = replace(made.entry, cost=asdict(cost) if cost else None, time=step.clock())
    if known is not None and step.recover is not None:
        budget.release(ledger, known)  # the service knows nothing of it
    if step.price is not None:
        entry = _asked(lambda: budget.reserve(ledger, entry, account_limit=step.max_cost, balance=step.balance))
    try:
        if known is not None:
            _asked(lambda: ledger.amend(entry))
        elif not _asked(lambda: ledger.begin(entry)):
            raise AmbiguousSubmission(f"Another attempt of this run is making this call of {step.name} at this moment.")
    except KosmoError:
        budget.release(ledger, entry)
        raise
    made.entry = entry


def _forget(step: Step, ledger: Ledger, entry: Entry, known: Entry | None) -> None:
    """Takes back the intent of a call that was refused; that an earlier attempt may have been paid stays known."""
    budget.release(ledger, entry)
    if known is None or step.recover is not None:  # the service was asked and knows of no earlier attempt
        ledger.remove(entry)
    else:
        ledger.save(known)


def _looked_for(step: Step, ledger: Ledger, entry: Entry, error: AmbiguousSubmission) -> Job:
    """The job that a submission made whose answer was lost.

    Raises:
        AmbiguousSubmission: `error`, if there is none, or nobody can tell.
    """
    entry = replace(entry, state="ambiguous", error=encode_error(error), note=error.message)
    ledger.save(entry)
    if step.recover is None or not current_run().identity:
        raise error
    error.retryable = True  # a later attempt looks for it again before anything is sent
    try:
        job = adopt(step, ledger, entry)
    except KosmoError as problem:
        logger.warning("%s: the lost submission could not be looked for. %s", step.name, problem)
        raise error from problem
    if job is None:
        raise error
    return job


def _keep_at(ledger: Ledger, entry: Entry, media: Media, spool: Path) -> None:
    media = replace(media.without_content(), uri=spool.as_uri(), store=None)
    ledger.save(replace(entry, state="spooled", result=encode(media), note=f"kept at {spool}"))


def _answered(ledger: Ledger, entry: Entry, result: R) -> R:
    if isinstance(result, Job):
        _claim(ledger, result, entry)
        entry = budget.correct(ledger, entry, result.cost)
        ledger.save(replace(entry, state="submitted", result=encode(result)))
        return result
    entry = budget.correct(ledger, entry, getattr(result, "cost", None))
    kept = encode(result) if content_free(result) else None
    ledger.save(replace(entry, state="finished", result=kept, note=places(result)))
    let_go(entry)
    return result


def _claim(ledger: Ledger, job: Job, entry: Entry) -> None:
    try:
        ledger.claim(job, entry)
    except StorageError as error:
        # The job itself is in the entry; only its id does not lead there.
        logger.warning("Job %s cannot be found by its id. %s", job.id, error)


def _unknown(step: Step) -> AmbiguousSubmission:
    return AmbiguousSubmission(
        f"An earlier attempt ended while {step.name} was in flight: it may have been accepted and billed. "
        "Look at the account's usage; to make the call again, run it with on_ambiguous='resubmit' or "
        "KOSMO_ON_AMBIGUOUS=resubmit."
    )


def _asked(ask: Callable[[], R]) -> R:
    """What the ledger answers before anything is sent; if it cannot, the same call may be made again later."""
    try:
        return ask()
    except StorageError as error:
        error.message = f"The ledger of paid calls does not answer, so nothing was sent. {error.message}"
        error.args = (error.message,)
        error.retryable = error.transient
        raise


def _stable(value: Any) -> Any:
    """Arguments as they are compared: files by their bytes or address."""
    if isinstance(value, Media):
        return {"media": value.sha256 or value.uri}
    if isinstance(value, bytes):
        return {"sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, dict):
        return {str(key): _stable(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_stable(item) for item in cast("list[Any]", value)]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]
