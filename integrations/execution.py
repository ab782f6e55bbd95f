"""How a call is made: through the journal if it changes something; and how the end of a job is noted down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from prefect_kosmokrator.integrations import accounts
from prefect_kosmokrator.integrations.errors import (
    ConfigurationError,
    ContentFiltered,
    JobFailed,
    KosmoError,
    Moderated,
    Rejected,
    StorageError,
)
from prefect_kosmokrator.integrations.journal import Step, perform, settle
from prefect_kosmokrator.integrations.records import Job, Record

if TYPE_CHECKING:
    from prefect_kosmokrator.integrations.catalog import Function

R = TypeVar("R")


def execute(function: Function, account: str, arguments: dict[str, Any], call: Callable[[], R]) -> R:
    """Makes a call, with all that the ledger should know about it."""
    if function.ends:
        return _ending(function, arguments, call)
    if function.operation == "read":
        return call()
    return perform(step_for(function, account, arguments), call)


def step_for(function: Function, account: str, arguments: dict[str, Any]) -> Step:
    """What the journal should know about a call."""
    provider = function.provider
    step = Step(provider.name, function.name, accounts.normalise(account), arguments, paid=function.is_paid)
    if not function.is_paid:
        return step
    try:
        max_cost = accounts.find(provider.name, provider.account, account, provider.vendor_variable).max_cost
    except ConfigurationError:
        max_cost = ""  # the call itself says so, if its arguments are right
    return replace(
        step,
        price=lambda: provider.price(function.name, arguments),
        balance=lambda: provider.balance(account),
        max_cost=max_cost,
        recover=function.recover,
        clock=lambda: provider.clock(account),
    )


def _ending(function: Function, arguments: dict[str, Any], call: Callable[[], R]) -> R:
    """Makes a call that fetches or cancels a job, and notes down what became of that."""
    job_id = str(
        next((a.id for a in arguments.values() if isinstance(a, Job)), None)
        or arguments.get("request_id")
        or arguments.get("id")
    )
    provider = function.provider.name
    try:
        result = call()
    except StorageError as error:
        error.retryable = error.transient  # fetching it again is free
        raise
    except KosmoError as error:
        gone = isinstance(error, Rejected) and error.status in {404, 410}
        if function.ends == "fetch" and (gone or isinstance(error, JobFailed | Moderated | ContentFiltered)):
            settle(provider, job_id, error=error)
        raise
    if function.ends == "fetch" and not isinstance(result, Job):  # a job: it is not ready
        settle(provider, job_id, result=result)
    elif function.ends == "cancel" and cast("Record", result).get("status") == "CANCELLATION_REQUESTED":
        settle(provider, job_id, note="cancelled")
    return result
