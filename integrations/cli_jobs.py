"""`kosmo jobs` and `kosmo costs`: what was paid for, what is still open, and what can be done about it."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter

from prefect_kosmokrator.integrations.cli_output import (
    FAILURE,
    STATUS,
    SUCCESS,
    complain,
    failure,
    note,
    printable,
    write,
    write_json,
)
from prefect_kosmokrator.integrations.errors import KosmoError

if TYPE_CHECKING:
    from prefect_kosmokrator.integrations.ledger import Entry

PAID = Group("Follow paid calls", sort_key=2.5)

Json = Annotated[bool, Parameter(name="--json", help="Print one JSON document.")]
Id = Annotated[str, Parameter(help="The service's id of the job, or the beginning of it or of the call's.")]
Timeout = Annotated[float, Parameter(help="Seconds to wait.")]
Store = Annotated[str | None, Parameter(name="--output", help="Folder or URL prefix; by default where it was meant.")]

jobs = App(
    name="jobs",
    group=PAID,
    help="Paid calls in the ledger: list them, wait for them, fetch their files, cancel them.",
    default_parameter=Parameter(negative=(), show_default=False),
)


@jobs.command(name="list")
def list_jobs(
    *,
    everything: Annotated[bool, Parameter(name="--all", help="Also those that ended.")] = False,
    account: Annotated[str | None, Parameter(help="Only of this account.")] = None,
    run: Annotated[str | None, Parameter(help="Only of this flow run, by its id or name.")] = None,
    as_json: Json = False,
) -> int:
    """List the paid calls that are not settled.

    submitted: a job that nobody has fetched. started, ambiguous: the answer is not known. spooled: paid, and kept only
    on the machine that the note names.
    """
    from prefect_kosmokrator.integrations.accounts import normalise  # noqa: PLC0415 - half a second
    from prefect_kosmokrator.integrations.ledger import current_ledger  # noqa: PLC0415

    ledger = current_ledger()
    entries = [
        entry
        for entry in (ledger.all_entries() if everything else ledger.open_entries())
        if (account is None or entry.account == normalise(account))
        and (run is None or run in {entry.run, entry.labels.get("run")})
    ]
    if as_json:
        write_json({"success": True, "ledger": ledger.store.url, "jobs": [_row(entry) for entry in entries]})
    elif not entries:
        note(f"Nothing is open. The ledger is {ledger.store.url}; --all also shows what ended.")
    else:
        head = ["ID", "STATE", "FUNCTION", "ACCOUNT", "SENT (UTC)", "COST", "RUN", "NOTE"]
        write(_table([head, *[_cells(entry) for entry in entries]]))
    return SUCCESS


@jobs.command
def show(name: Id, /, *, as_json: Json = False) -> int:
    """Show one call, and what the service says about its job."""
    from prefect_kosmokrator.integrations.jobs import find, status  # noqa: PLC0415 - half a second

    entry = find(name)
    known = {**_row(entry), "arguments": entry.arguments, "labels": entry.labels, "result": entry.result}
    try:
        with STATUS.during("asking the service"):
            known["service"] = status(entry)
    except KosmoError as error:
        known["service"] = {"error": str(error)}
    if as_json:
        write_json({"success": True, "job": known})
    else:
        from prefect_kosmokrator.integrations.cli_output import to_json  # noqa: PLC0415

        write(printable(to_json(known)))
    return SUCCESS


@jobs.command
def wait(name: Id, /, *, timeout: Timeout = 600.0, output: Store = None, as_json: Json = False) -> int:
    """Wait for a job and store its files."""
    return _fetched(name, timeout, output, as_json=as_json)


@jobs.command
def fetch(name: Id, /, *, output: Store = None, as_json: Json = False) -> int:
    """Store the files of a job that is finished, or of a call whose files could not be stored before."""
    return _fetched(name, 1.0, output, as_json=as_json)


@jobs.command
def cancel(names: Annotated[list[str], Parameter(help="Ids, as for show.")], /, *, as_json: Json = False) -> int:
    """Cancel jobs. A queued one is dropped unbilled; one that runs may be billed."""
    from prefect_kosmokrator.integrations import jobs as actions  # noqa: PLC0415 - half a second

    rows: list[dict[str, Any]] = []
    for name in names:
        try:
            rows.append({"id": name, "success": True, "status": actions.cancel(actions.find(name))})
        except KosmoError as error:
            rows.append({"id": name, "success": False, "error": str(error), **failure(error)})
    if as_json:
        write_json({"success": all(row["success"] for row in rows), "jobs": rows})
    else:
        for row in rows:
            write(f"{row['id']}: {row['status']}") if row["success"] else complain(f"{row['id']}: {row['error']}")
    return SUCCESS if all(row["success"] for row in rows) else FAILURE


def costs(
    *,
    days: Annotated[int, Parameter(help="How many days back, today included (UTC).")] = 30,
    by: Annotated[
        list[Literal["day", "provider", "account", "function"]] | None,
        Parameter(help="What to add up by; day, account and function if not given."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Add up what calls cost, by account, function and day."""
    from prefect_kosmokrator.integrations.budget import spent_since  # noqa: PLC0415 - half a second
    from prefect_kosmokrator.integrations.ledger import current_ledger  # noqa: PLC0415

    groups = by or ["day", "account", "function"]
    ledger, first = current_ledger(), datetime.now(UTC).date() - timedelta(days=max(days, 1) - 1)
    sums: defaultdict[tuple[str, ...], list[Any]] = defaultdict(list)
    for one in spent_since(ledger, first):
        function = f"{one.provider}.{one.function}"
        fields = {"day": str(one.day), "provider": one.provider, "account": one.account, "function": function}
        unit = one.cost.unit if one.cost.amount is not None else "unknown"
        sums[(*[fields[group] for group in groups], unit)].append(one.cost)
    rows: list[dict[str, Any]] = [
        {
            **dict(zip(groups, key[:-1], strict=True)),
            "calls": len(found),
            "amount": round(sum(cost.amount or 0.0 for cost in found), 6),
            "unit": key[-1],
            "usd": round(sum(cost.usd or 0.0 for cost in found), 6),
            "certain": all(cost.certain for cost in found),
        }
        for key, found in sorted(sums.items())
    ]
    total = round(sum(row["usd"] for row in rows), 6)
    if as_json:
        write_json({"success": True, "ledger": ledger.store.url, "since": str(first), "usd": total, "costs": rows})
        return SUCCESS
    if not rows:
        note(f"Nothing was paid since {first}. The ledger is {ledger.store.url}.")
        return SUCCESS
    head = [*[group.upper() for group in groups], "CALLS", "AMOUNT", "UNIT", "US$"]
    cells = [
        [*[str(row[group]) for group in groups], str(row["calls"]), f"{row['amount']:g}", str(row["unit"]),
         f"{'' if row['certain'] else '~'}{row['usd']:.4f}"]
        for row in rows
    ]  # fmt: skip
    write(_table([head, *cells]))
    write(f"Since {first}: ${total:.4f}" + ("" if all(row["certain"] for row in rows) else " (~ is an estimate)"))
    return SUCCESS


def _fetched(name: str, timeout: float, output: str | None, *, as_json: bool) -> int:
    from prefect_kosmokrator.integrations import jobs as actions  # noqa: PLC0415 - half a second
    from prefect_kosmokrator.integrations.cli_media import Files, described, output_url  # noqa: PLC0415
    from prefect_kosmokrator.integrations.media import Media  # noqa: PLC0415
    from prefect_kosmokrator.integrations.records import Result  # noqa: PLC0415

    entry = actions.find(name)
    with STATUS.during(f"waiting for {name}"):
        result = actions.fetch(entry, timeout=timeout, output=output_url(output) if output else None)
    files, media = Files(as_json=as_json), list(result.media) if isinstance(result, Result) else [result]
    if as_json:
        write_json({"success": True, "id": name, "result": files.shown(result)})
        return SUCCESS
    for item in media:
        write(described(files.shown(item)) if isinstance(item, Media) else str(item))
    files.keep(media)
    return SUCCESS


def _row(entry: Entry) -> dict[str, Any]:
    job = entry.job
    return {
        "id": job.id if job else entry.call,
        "call": entry.id,
        "state": entry.state,
        "provider": entry.provider,
        "function": entry.function,
        "model_id": job.model_id if job else entry.arguments.get("model_id", ""),
        "account": entry.account,
        "sent": entry.when.isoformat(timespec="seconds"),
        "cost": entry.price.to_json() if entry.price else None,
        "run": entry.run,
        "run_name": entry.labels.get("run", ""),
        "note": entry.note,
    }


def _cells(entry: Entry) -> list[str]:
    row = _row(entry)
    what = f"{entry.provider}: {row['model_id']}" if row["model_id"] else f"{entry.provider}.{entry.function}"
    sent = entry.when.strftime("%m-%d %H:%M:%S")
    run = row["run_name"] or entry.run
    return [row["id"], entry.state, what, entry.account, sent, str(entry.price or ""), run, entry.note[:60]]


def _table(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(printable(line) for line in lines)
