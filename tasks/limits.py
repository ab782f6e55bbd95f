"""Rate limits of accounts for all processes, as Prefect's global concurrency limits.

    python -m prefect_kosmokrator.tasks.limits [--reset] [--json]

makes one for each account that is set up: `kosmokrator-<provider>-<account>`. Run it again after adding an account.
What an operator changed with `prefect gcl update` stays until `--reset`. How requests use the limits: `tasks.turns`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import PREFECT_API_URL

from prefect_kosmokrator.blocks.saved import find_saved_accounts
from prefect_kosmokrator.integrations import accounts
from prefect_kosmokrator.integrations.cli_output import FAILURE, SUCCESS, complain, failure, note, write, write_json
from prefect_kosmokrator.integrations.errors import ConfigurationError, KosmoError, Unavailable
from prefect_kosmokrator.integrations.governor import RateLimit
from prefect_kosmokrator.integrations.providers import PROVIDERS

SLOTS = 10
"""Slots that one request takes. Prefect drops a fraction of a slot each time it books some: with one slot for each
request, four busy processes got 60 % of the rate; with ten, 91 %."""

SET_UP = "kosmo limits"


@dataclass(frozen=True)
class AccountLimit:
    """The limit of one account as it now is.

    Attributes:
        name: Of the global concurrency limit.
        provider: Whose limit it is.
        account: The account.
        limit: Slots; a request takes `SLOTS`.
        slot_decay_per_second: Slots freed each second.
        active: Whether it is switched on.
        state: `created`, `unchanged`, `kept` (somebody changed it) or `reset`.
    """

    name: str
    provider: str
    account: str
    limit: int
    slot_decay_per_second: float
    active: bool
    state: str


def name_of(provider: str, account: str) -> str:
    """The name of the limit of an account."""
    return f"kosmokrator-{provider}-{accounts.normalise(account)}"


def set_up(*, reset: bool = False) -> list[AccountLimit]:
    """Makes the limits of all accounts, in the environment and in saved blocks.

    Args:
        reset: Also undo what was changed on limits that exist.

    Raises:
        ConfigurationError: If there is no account.
        Unavailable: If the Prefect API cannot be asked.
    """
    made: list[AccountLimit] = []
    try:
        with get_client(sync_client=True) as client:
            for provider in PROVIDERS.values():
                if provider.rate_limit is not None:
                    for account in accounts.names(provider.name, provider.vendor_variable):
                        made.append(_set_up(client, provider.name, account, provider.rate_limit, reset=reset))  # noqa: PERF401
    except (httpx.HTTPError, RuntimeError, ValueError) as error:  # the latter two: no temporary server could be started
        where = PREFECT_API_URL.value() or "this machine"
        raise Unavailable(f"The Prefect API of {where} cannot be asked: {str(error).rstrip('.')}.") from error
    if not made:
        raise ConfigurationError("There is no account to limit: set up accounts first, then run this again.")
    return made


def _set_up(client: SyncPrefectClient, provider: str, account: str, usual: RateLimit, *, reset: bool) -> AccountLimit:
    name = name_of(provider, account)
    slots, per_second = usual.burst * SLOTS, usual.per_second * SLOTS
    state, found = "created", _find(client, name)
    if found is None:
        try:
            client.create_global_concurrency_limit(
                GlobalConcurrencyLimitCreate(name=name, limit=slots, slot_decay_per_second=per_second)
            )
        except ObjectAlreadyExists:  # somebody else has just set it up
            state = "unchanged"
    elif (found.limit, found.slot_decay_per_second, found.active) == (slots, per_second, True):
        state = "unchanged"
    elif not reset:
        state = "kept"
    else:
        state = "reset"
        client.update_global_concurrency_limit(
            name, GlobalConcurrencyLimitUpdate(limit=slots, slot_decay_per_second=per_second, active=True)
        )
    now = client.read_global_concurrency_limit_by_name(name)
    return AccountLimit(name, provider, account, now.limit, now.slot_decay_per_second, now.active, state)


def _find(client: SyncPrefectClient, name: str) -> GlobalConcurrencyLimitResponse | None:
    try:
        return client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        return None


def main(words: list[str] | None = None) -> int:
    """Sets up the limits, shows them, and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=SET_UP, description="Limit how often each account is asked, for all Prefect runs together."
    )
    parser.add_argument("--reset", action="store_true", help="undo what was changed on limits that exist")
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON document on stdout")
    options = parser.parse_args(words)
    if not PREFECT_API_URL.value():
        note("PREFECT_API_URL is not set: the limits go into the database of this machine.")
    try:
        made = set_up(reset=options.reset)
    except KosmoError as error:
        if options.as_json:
            write_json({"success": False, "error": str(error), **failure(error)})
        else:
            complain(str(error))
        return FAILURE
    if options.as_json:
        write_json({"success": True, "slots_per_request": SLOTS, "limits": [asdict(limit) for limit in made]})
    else:
        _show(made)
    return SUCCESS


def _show(made: list[AccountLimit]) -> None:
    width = max(len(limit.name) for limit in made)
    write(f"{'LIMIT':<{width}}  {'SLOTS':>6}  {'PER SECOND':>10}  STATE")
    for limit in made:
        state = limit.state if limit.active else f"{limit.state}, switched off"
        write(f"{limit.name:<{width}}  {limit.limit:>6}  {limit.slot_decay_per_second:>10g}  {state}")
    write(f"A request takes {SLOTS} slots. KOSMO_LIMITS=strict makes runs refuse to start requests without a limit.")
    if any(limit.state == "kept" for limit in made):
        write(f"Kept as somebody changed them; `{SET_UP} --reset` undoes that.")


find_saved_accounts()

if __name__ == "__main__":
    sys.exit(main())
