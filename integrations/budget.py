"""What calls cost and may cost: reserved before money moves, corrected when the service tells the true price.

Each paid call has an empty file whose name says all that adding up needs, so that a sum is one listing::

    spend/<day>/<provider>/<account>/<function>/<run>_<call>~<amount>~<unit>~<certain>
    budget/<run>/...            the same, for runs that have a budget

A reservation is written first and summed up afterwards, its own amount included: several processes at a time may refuse
each other the last call of a budget, but never exceed it.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any

from prefect_kosmokrator.integrations.accounts import MAX_COST
from prefect_kosmokrator.integrations.errors import (
    BudgetExceeded,
    ConfigurationError,
    KosmoError,
    OutOfCredits,
    StorageError,
)
from prefect_kosmokrator.integrations.media import USD_PER_CREDIT, Cost
from prefect_kosmokrator.integrations.run import current_run

if TYPE_CHECKING:
    from prefect_kosmokrator.integrations.ledger import Entry, Ledger

logger = logging.getLogger("prefect_kosmokrator")

BALANCE_SECONDS = 60.0
"""How long a balance that was read is used, less what was spent since."""

listeners: list[Callable[[BudgetExceeded], None]] = []
"""Told about every call that was refused because of a budget."""

_reserving = Lock()
_balances: dict[tuple[str, str], tuple[float, float]] = {}


@dataclass(frozen=True)
class Spending:
    """One paid call, as `kosmo costs` adds them up.

    Attributes:
        day: In UTC.
        provider: Who was paid, for which `function`, by which `account`.
        account: See `provider`.
        function: See `provider`.
        cost: The amount; `None` inside if nobody knows.
    """

    day: date
    provider: str
    account: str
    function: str
    cost: Cost


def limit(text: str) -> float | None:
    """A budget in US dollars; None for an empty one.

    Raises:
        ConfigurationError: If it is not written as in `MAX_COST`.
    """
    if not text.strip():
        return None
    found = re.match(MAX_COST, text)
    if found is None:
        raise ConfigurationError(f"max_cost is {text!r}; it must read like '5 USD' or '300 credits'.")
    return float(found[1]) * (USD_PER_CREDIT if (found[2] or "").startswith("credit") else 1.0)


def reserve(
    ledger: Ledger, entry: Entry, *, account_limit: str = "", balance: Callable[[], float | None] | None = None
) -> Entry:
    """Counts a call that is about to be made, and returns its entry.

    Args:
        ledger: Where.
        entry: The call with its expected cost.
        account_limit: What its account may spend in one day (UTC).
        balance: Tells what is left on the account, in US dollars; None if the service does not say. Asked only where
            there is a budget.

    Raises:
        BudgetExceeded: If a budget does not allow it; nothing was sent.
        OutOfCredits: If the account's balance does not; nothing was sent.
        StorageError: If it cannot be written down; nothing was sent.
    """
    cost = entry.price or Cost(None, "", certain=False)
    of_account = f"spend/{entry.when.date()}/{entry.provider}/{_plain(entry.account)}"
    of_day, of_run = f"{of_account}/{entry.function}", f"budget/{entry.run}"
    checks = [
        (of_account, limit(account_limit), f"account {entry.account!r} may spend {account_limit} a day (UTC)"),
        (of_run, limit(current_run().max_cost), f"this run may spend {current_run().max_cost}"),
    ]
    limits = [check for check in checks if check[1] is not None]
    folders = [of_day, *[folder for folder, *_ in limits if folder == of_run]]
    entry = replace(entry, spend=[f"{folder}/{_file(entry, cost)}" for folder in folders])
    # Without a budget there is nothing to compare with, so calls need not wait for each other.
    with _reserving if limits else nullcontext():
        try:
            for key in entry.spend:
                ledger.store.put(b"", key, "text/plain")
            for folder, most, words in limits:
                _require(ledger, folder, most or 0.0, words, cost, entry)
            if limits and balance is not None:
                _require_balance(entry, cost, balance)
        except KosmoError as error:
            release(ledger, entry)
            if isinstance(error, BudgetExceeded):
                for listener in listeners:
                    listener(error)
            raise
    return entry


def release(ledger: Ledger, entry: Entry) -> None:
    """Takes back what was counted for a call that was not paid; never raises."""
    for key in entry.spend:
        try:
            ledger.store.remove(key)
        except StorageError as error:
            logger.warning("A call that was not paid is still counted. %s", error)


def correct(ledger: Ledger, entry: Entry, cost: Cost | None) -> Entry:
    """The entry with what the call really cost, counted so; never raises."""
    if cost is None or cost.amount is None or asdict(cost) == entry.cost:
        return entry
    keys: list[str] = []
    for old in entry.spend:
        key = f"{old.rpartition('/')[0]}/{_file(entry, cost)}"
        try:
            if key != old:
                ledger.store.put(b"", key, "text/plain")
                ledger.store.remove(old)
        except StorageError as error:
            logger.warning("What a call really cost is not counted. %s", error)
            key = old
        keys.append(key)
    return replace(entry, cost=asdict(cost), spend=keys)


def spent_by(ledger: Ledger, run: str) -> list[Spending]:
    """The paid calls of one run, from its entries."""
    return [
        Spending(entry.when.date(), entry.provider, entry.account, entry.function, entry.price)
        for entry in ledger.all_entries(run)
        if entry.price is not None and entry.spend
    ]


def spent_since(ledger: Ledger, day: date) -> Iterator[Spending]:
    """The paid calls of all runs from `day` (UTC) to today."""
    # A day of room, for a service whose clock is ahead of ours.
    while day <= datetime.now(UTC).date() + timedelta(days=1):
        for key in ledger.store.keys(f"spend/{day}"):
            _, _, provider, account, function, name = key.split("/")
            yield Spending(day, provider, account, function, _cost(name))
        day += timedelta(days=1)


def in_usd(costs: Iterable[Cost]) -> float:
    """The sum in US dollars of what is known."""
    return sum(cost.usd or 0.0 for cost in costs)


def _require(ledger: Ledger, folder: str, most: float, words: str, cost: Cost, entry: Entry) -> None:
    where: dict[str, Any] = {"provider": entry.provider, "function": entry.function, "account": entry.account}
    if cost.usd is None:
        raise BudgetExceeded(
            f"What this call costs is not known beforehand, and {words} (max_cost). Nothing was sent; remove the "
            "budget to make the call.",
            **where,
        )
    spent = in_usd(_cost(key.rpartition("/")[2]) for key in ledger.store.keys(folder)) - cost.usd
    if spent + cost.usd > most + 1e-9:
        raise BudgetExceeded(
            f"This call costs {cost} (${cost.usd:g}), ${max(spent, 0.0):g} is spent, and {words} (max_cost). "
            "Nothing was sent, nothing was paid.",
            spent=spent,
            limit=most,
            **where,
        )


def _require_balance(entry: Entry, cost: Cost, balance: Callable[[], float | None]) -> None:
    """Refuses a call that the account cannot pay. A balance that cannot be read refuses nothing."""
    key, now = (entry.provider, entry.account), time.monotonic()
    read, left = _balances.get(key, (float("-inf"), 0.0))
    if now - read > BALANCE_SECONDS:
        try:
            told = balance()
        except KosmoError as error:
            logger.info("The balance of %s account %r is not known: %s", entry.provider, entry.account, error)
            return
        if told is None:
            return
        read, left = now, told
    left -= cost.usd or 0.0
    if left < -1e-9:
        _balances.pop(key, None)  # read it again the next time: somebody may have paid in
        raise OutOfCredits(
            f"This call costs {cost}, and ${left + (cost.usd or 0.0):.2f} is left on the account. Nothing was sent; "
            "top it up and run again.",
            provider=entry.provider,
            function=entry.function,
            account=entry.account,
        )
    _balances[key] = read, left


def _file(entry: Entry, cost: Cost) -> str:
    amount = "unknown" if cost.amount is None else f"{cost.amount:.6f}"
    return f"{entry.run}_{entry.call}~{amount}~{cost.unit or 'none'}~{'certain' if cost.certain else 'estimated'}"


def _cost(name: str) -> Cost:
    _, amount, unit, certain = name.split("~")
    return Cost(None if amount == "unknown" else float(amount), unit, certain=certain == "certain")


def _plain(text: str) -> str:
    return re.sub(r"[^\w.\-]", "-", text)
