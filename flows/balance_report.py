"""Report the balance of every account and warn before it runs out."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.events import emit_event
from pydantic import Field

from prefect_kosmokrator.integrations.errors import KosmoError
from prefect_kosmokrator.tasks import fal, stability


@flow
def balance_report(
    stability_accounts: list[str] = ["default"],  # noqa: B006 - never changed; a form edits a list, not a choice of types
    fal_accounts: list[str] = ["default"],  # noqa: B006
    minimum_credits: Annotated[float, Field(ge=0)] = 100.0,
    minimum_usd: Annotated[float, Field(ge=0)] = 5.0,
) -> list[dict[str, Any]]:
    """Look up the balance of every account, warn about low ones and about accounts that cannot be read.

    A warning is a line in the run log and the event `kosmokrator.balance.low`, which a Prefect automation can act on.

    Args:
        stability_accounts: Names of Stability AI accounts.
        fal_accounts: Names of fal.ai accounts.
        minimum_credits: Warn when a Stability AI account has fewer credits (1 credit is 0.01 US$).
        minimum_usd: Warn when a fal.ai account has fewer US dollars.

    Returns:
        One row for each account: provider, account, balance, unit, low, problem.
    """
    rows = [_row("stability", name, minimum_credits) for name in stability_accounts]
    rows += [_row("fal", name, minimum_usd) for name in fal_accounts]
    logger = get_run_logger()
    for row in rows:
        if not row["low"] and not row["problem"]:
            continue
        what = row["problem"] or f"only {row['balance']:g} {row['unit']} left"
        logger.warning("%s account %r: %s", row["provider"], row["account"], what)
        emit_event(
            "kosmokrator.balance.low" if row["low"] else "kosmokrator.balance.unknown",
            resource={
                "prefect.resource.id": f"kosmokrator.account.{row['provider']}.{row['account']}",
                "prefect.resource.name": f"{row['provider']} account {row['account']}",
            },
            payload=row,
        )
    create_table_artifact(rows, key="balance-report", description=_description(rows), _sync=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    return rows


def _row(provider: str, account: str, minimum: float) -> dict[str, Any]:
    row: dict[str, Any] = {"provider": provider, "account": account}
    try:
        if provider == "stability":
            balance, unit = float(stability.get_balance(account=account)["credits"]), "credits"
        else:
            answer = fal.get_balance(account=account)
            balance, unit = float(answer["balance"]), str(answer["currency"])
    except KosmoError as error:  # one broken account must not hide the others
        return row | {"balance": None, "unit": "", "low": False, "problem": str(error)}
    return row | {"balance": balance, "unit": unit, "low": balance < minimum, "problem": ""}


def _description(rows: list[dict[str, Any]]) -> str:
    low = [f"{row['provider']} {row['account']}" for row in rows if row["low"]]
    broken = [f"{row['provider']} {row['account']}" for row in rows if row["problem"]]
    words = [f"{len(rows)} accounts."]
    words += [f"Low: {', '.join(low)}."] if low else ["None is low."]
    words += [f"Not readable: {', '.join(broken)}."] if broken else []
    return " ".join(words)
