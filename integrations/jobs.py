"""What can be done about a call in the ledger: find what became of it, wait for it, fetch its files, cancel it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prefect_kosmokrator.integrations import budget
from prefect_kosmokrator.integrations.catalog import Function
from prefect_kosmokrator.integrations.encoding import decode, decode_error, encode
from prefect_kosmokrator.integrations.errors import AmbiguousSubmission, InvalidInput, KosmoError
from prefect_kosmokrator.integrations.execution import step_for
from prefect_kosmokrator.integrations.journal import adopt
from prefect_kosmokrator.integrations.ledger import Entry, current_ledger, matching
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.output import default_output
from prefect_kosmokrator.integrations.providers import PROVIDERS
from prefect_kosmokrator.integrations.records import Result
from prefect_kosmokrator.integrations.safekeeping import held, store_kept


def find(name: str) -> Entry:
    """The call that a person means: by the id of its job, its own, or the beginning of either.

    Raises:
        InvalidInput: If there is none, or more than one.
    """
    ledger = current_ledger()
    for provider in PROVIDERS:
        entry = ledger.of_job(provider, name)
        if entry is not None:
            return entry
    found = matching(ledger.open_entries(), name) or matching(ledger.all_entries(), name)
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} calls begin with" if found else "the ledger knows no call or job"
    raise InvalidInput(f"id: {what} {name!r}. `kosmo jobs list --all` shows them.", parameter="id")


def look_for(entry: Entry) -> Entry | None:
    """What became of a call whose answer was lost: the entry with its job, None if the service cannot say.

    Raises:
        KosmoError: If the service cannot be asked.
    """
    function = function_of(entry)
    if function.recover is None:
        return None
    job = adopt(step_for(function, entry.account, entry.arguments), current_ledger(), entry)
    return None if job is None else current_ledger().find(entry.run, entry.call)


def fetch(entry: Entry, *, timeout: float, output: str | None) -> Any:
    """The result of a call: a `Media`, a `Result`, or what else its function returns.

    Args:
        entry: The call.
        timeout: Seconds to wait for a job, above 0.
        output: Where files are stored; where the call wanted them, or the default output, if not given.

    Raises:
        DeadlineExceeded: If it is not finished after `timeout`; it goes on.
        AmbiguousSubmission: If nobody can tell whether the service accepted the call.
        KosmoError: With which the call failed.
    """
    kept = held(entry)
    if kept is not None:
        entry = replace(entry, state="spooled", result=encode(kept))
    if entry.state in {"started", "ambiguous"}:
        found = look_for(entry)
        if found is None:
            raise AmbiguousSubmission(
                f"The answer to this call of {entry.provider}.{entry.function} was lost, and the service cannot say "
                "whether it accepted it. Look at the account's usage before you make it again.",
                account=entry.account,
            )
        entry = found
    if entry.state == "spooled":
        return store_kept(current_ledger(), entry)
    if entry.state == "failed" and entry.error is not None:
        raise decode_error(entry.error)
    job, made = entry.job, decode(entry.outcome)
    if job is None:
        return decode(entry.result)
    files = made.media if isinstance(made, Result) else [made] if isinstance(made, Media) else []
    if output is None and files and all(media.store for media in files):
        return made
    started_by = function_of(entry)
    function = started_by.provider.functions[started_by.result]
    store = output or str(entry.arguments.get("output") or default_output())
    return function.call(job, timeout=timeout, output=store)


def cancel(entry: Entry) -> str:
    """Cancels a job and returns what the service said.

    Raises:
        InvalidInput: If the call started no job, or its service cannot cancel.
        KosmoError: If the service refused.
    """
    job = entry.job
    function = next((f for f in PROVIDERS[entry.provider].functions.values() if f.ends == "cancel"), None)
    if job is None:
        raise InvalidInput(f"{entry.provider}.{entry.function} started no job that could be cancelled.")
    if function is None:
        raise InvalidInput(f"{PROVIDERS[entry.provider].title} cannot cancel jobs; this one goes on and is billed.")
    try:
        was = str(status(entry).get("status"))
    except KosmoError:
        was = "unknown"
    answer, ledger = str(function.call(job)["status"]), current_ledger()
    if answer == "ALREADY_COMPLETED" and entry.state == "submitted":
        ledger.save(replace(entry, note="completed before it could be cancelled; fetch it"))
    elif was == "IN_QUEUE":  # dropped before it ran, so it is not billed
        budget.release(ledger, entry)
        ledger.save(replace(entry, state="cancelled", note="cancelled in the queue, not billed", cost=None, spend=[]))
    return answer


def status(entry: Entry) -> dict[str, Any]:
    """What the service says about the job of a call; empty where there is no job, or its service tells only results.

    Raises:
        KosmoError: If the service cannot be asked.
    """
    job, ask = entry.job, PROVIDERS[entry.provider].find("get_request_status")
    return dict(ask.call(job)) if job is not None and ask is not None else {}


def function_of(entry: Entry) -> Function:
    """The function that was called.

    Raises:
        InvalidInput: If this version does not have it.
    """
    provider = PROVIDERS.get(entry.provider)
    function = provider.find(entry.function) if provider else None
    if function is None:
        raise InvalidInput(f"There is no function {entry.provider}.{entry.function}.")
    return function
