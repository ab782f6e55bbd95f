"""What a flow run spent, as an artifact and as an event; and its budget.

A flow parameter named `max_cost` is the run's budget: every task and Lua call of the run is checked against it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Annotated, Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.events import emit_event
from prefect.logging.loggers import flow_run_logger
from pydantic import BeforeValidator, Field

from prefect_kosmokrator.blocks.saved import find_saved_stores
from prefect_kosmokrator.integrations import budget
from prefect_kosmokrator.integrations.accounts import MAX_COST
from prefect_kosmokrator.integrations.errors import BudgetExceeded, KosmoError
from prefect_kosmokrator.integrations.ledger import current_ledger
from prefect_kosmokrator.integrations.media import Cost

MaxCost = Annotated[str, BeforeValidator(str), Field(pattern=rf"^$|{MAX_COST}")]
"""A flow parameter: `"5 USD"` or `"300 credits"`; empty for no budget. A number means US dollars."""


def report_spend(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """For the hooks of a flow: the artifact `spend`, and the event `kosmokrator.flow-run.spent`.

    The event's payload has `usd`, `calls`, `max_cost` and the rows of the artifact; an automation can act on it. A run
    that paid for nothing has neither.
    """
    find_saved_stores()
    try:
        spent = budget.spent_by(current_ledger(), str(flow_run.id))
    except KosmoError as error:
        flow_run_logger(flow_run, flow).warning("What this run spent is not known. %s", error)
        return
    if not spent:
        return
    rows, usd = _rows(spent), round(budget.in_usd(one.cost for one in spent), 6)
    certain = all(one.cost.certain for one in spent)
    words = f"{len(spent)} paid call{'' if len(spent) == 1 else 's'}, {'' if certain else 'about '}${usd:.4f}"
    allowed = str(flow_run.parameters.get("max_cost") or "")
    with get_client(sync_client=True) as client:
        client.create_artifact(
            ArtifactCreate(
                key="spend",
                type="table",
                description=words + (f" of {allowed}." if allowed else "."),
                data=json.dumps(rows),
                flow_run_id=flow_run.id,
            )
        )
    emit_event(
        "kosmokrator.flow-run.spent",
        resource={"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.name": flow_run.name},
        related=[
            {
                "prefect.resource.id": f"prefect.flow.{flow_run.flow_id}",
                "prefect.resource.role": "flow",
                "prefect.resource.name": flow.name,
            }
        ],
        payload={"usd": usd, "certain": certain, "calls": len(spent), "max_cost": allowed, "state": state.name}
        | {"costs": rows},
    )


def _rows(spent: list[budget.Spending]) -> list[dict[str, Any]]:
    sums: defaultdict[tuple[str, str, str], list[Cost]] = defaultdict(list[Cost])
    for one in spent:
        sums[f"{one.provider}.{one.function}", one.account, one.cost.unit].append(one.cost)
    return [
        {
            "function": function,
            "account": account,
            "calls": len(costs),
            "amount": round(sum(cost.amount or 0.0 for cost in costs), 6),
            "unit": unit,
            "usd": round(budget.in_usd(costs), 6),
            "certain": all(cost.certain and cost.amount is not None for cost in costs),
        }
        for (function, account, unit), costs in sorted(sums.items())
    ]


def _tell(error: BudgetExceeded) -> None:
    """The event `kosmokrator.budget.exceeded`; Prefect adds the run it happened in."""
    emit_event(
        "kosmokrator.budget.exceeded",
        resource={
            "prefect.resource.id": f"kosmokrator.account.{error.provider}.{error.account}",
            "prefect.resource.name": f"{error.provider} account {error.account}",
        },
        payload={"spent_usd": error.spent, "limit_usd": error.limit, "message": error.message},
    )


def announce_refusals() -> None:
    """Makes every call that a budget refuses an event."""
    if _tell not in budget.listeners:
        budget.listeners.append(_tell)
