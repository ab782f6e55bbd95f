"""How often an account is asked: its rate limit, and the pause of the whole account after a 429.

Inside one process a 429 stops every request of the account until the pause is over; what then waits leaves at the
account's rate, not all at once. What other processes do is known to `hooks` only
(`prefect_kosmokrator.tasks.limits` adds Prefect's global concurrency limits).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, cast, get_args

import stamina

from prefect_kosmokrator.integrations.errors import ConfigurationError, Unavailable

logger = logging.getLogger("prefect_kosmokrator")

PATIENCE_SECONDS = 600.0
"""How long a request waits for its turn where its caller sets no time of its own."""

MAX_PAUSE_SECONDS = 3600.0
"""Whatever a service asks for: after an hour one request tries."""

Setting = Literal["auto", "strict", "off"]


def limits_setting() -> Setting:
    """`KOSMO_LIMITS`: `auto` keeps to the shared limits that exist, `strict` refuses without one, `off` ignores them.

    Raises:
        ConfigurationError: If it is something else.
    """
    value = os.environ.get("KOSMO_LIMITS", "").strip().lower() or "auto"
    if value not in get_args(Setting):
        raise ConfigurationError(f"KOSMO_LIMITS is {value!r}; it must be auto, strict or off.")
    return cast("Setting", value)


def _every(_request: Any) -> bool:
    return True


@dataclass(frozen=True)
class RateLimit:
    """How often a service may be asked for one account: at most `burst + seconds * per_second` times in any period.

    Attributes:
        burst: Requests that may leave at once after a quiet time.
        per_second: How many more may leave each second.
        lock_out: Seconds to pause after a 429 that does not say how long; 0 for a service that has no lock-out.
        counts: Whether a `Request` counts. The others neither wait nor cause a pause.
    """

    burst: int
    per_second: float
    lock_out: float = 5.0
    counts: Callable[[Any], bool] = _every


UNDECLARED = RateLimit(burst=10, per_second=10.0)
"""For a provider that declares no limit: it is never asked for permission, but a 429 pauses its account."""


@dataclass(frozen=True)
class Turn:
    """A request that wants to leave.

    Attributes:
        provider: Whose limit it is about.
        account: The normalised name of the account.
        limit: The declared limit.
        until: When it gives up, by `time.monotonic()`.
    """

    provider: str
    account: str
    limit: RateLimit
    until: float

    @property
    def left(self) -> float:
        """Seconds until it gives up."""
        return max(0.0, self.until - time.monotonic())

    def sleep(self, seconds: float) -> None:
        """Sleeps in short pieces: an exception that cancels a thread is raised only between them."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))

    def too_late(self, why: str, seconds: float | None = None) -> Unavailable:
        """The error for a request that may not wait any longer; `seconds` is when its turn would come, if known."""
        when = "" if seconds is None else f" The next turn is in {max(seconds, 1):.0f} s."
        return Unavailable(
            f"Not sent in the time that it may wait: {why}.{when}",
            provider=self.provider,
            account=self.account,
            retry_after=seconds,
        )


class Hook:
    """Somebody who knows what other processes ask of an account.

    Args:
        admit: Asked before each request leaves. Waits until it may and returns True, or returns False if it knows no
            limit for the account. Raises `Unavailable` if it may not before `turn.until`.
        pause: Told that the service refuses the account for some seconds.
    """

    def __init__(self, admit: Callable[[Turn], bool], pause: Callable[[Turn, float], None]) -> None:
        self.admit = admit
        self.pause = pause


hooks: list[Hook] = []
"""Who is asked for permission, in order."""


@dataclass
class _Local:
    """What this process knows of an account, in `time.monotonic()`.

    `full` is when as many requests as a burst has may leave at once again. It lies in the past for an account that
    was never refused: then nothing is counted here.
    """

    resumes: float = 0.0
    full: float = 0.0


_accounts: dict[tuple[str, str], _Local] = {}
_lock = Lock()


def forget() -> None:
    """Ends every pause of this process."""
    with _lock:
        _accounts.clear()


def wait_for_turn(turn: Turn | None) -> None:
    """Returns when the request may leave; at once for None, a request that does not count.

    Raises:
        Unavailable: If that would be after `turn.until`; says when.
        ConfigurationError: If shared limits are required and there is none for this account.
    """
    if turn is None:
        return
    waits = not stamina.is_testing()  # whoever switches the pauses between attempts off means these, too
    if waits:
        _wait_out_pause(turn)
    if turn.limit is not UNDECLARED and (setting := limits_setting()) != "off":
        if setting == "strict" and not hooks:
            raise ConfigurationError(
                "KOSMO_LIMITS=strict, and only Prefect runs know the shared limits. Run this in a flow, or set "
                "KOSMO_LIMITS=auto.",
                provider=turn.provider,
                account=turn.account,
            )
        if any(hook.admit(turn) for hook in hooks):
            return
    if waits:
        _keep_the_pace(turn)


def pause(turn: Turn, seconds: float | None) -> None:
    """Stops all requests of the account of `turn`, which was just refused.

    Args:
        turn: The refused request.
        seconds: What the service asked for; None for the limit's own `lock_out`.
    """
    seconds = min(turn.limit.lock_out if seconds is None else seconds, MAX_PAUSE_SECONDS)
    if seconds <= 0:
        return
    with _lock:
        local = _accounts.setdefault((turn.provider, turn.account), _Local())
        resumes = time.monotonic() + seconds
        # Many requests may be refused at the same moment; the first one speaks for all.
        news = resumes > local.resumes + 1.0
        if resumes > local.resumes:
            local.resumes = resumes
            local.full = resumes + turn.limit.burst / turn.limit.per_second
    if not news:
        return
    logger.warning(
        "%s refuses account %r for %.0f s; every request of it waits until then.", turn.provider, turn.account, seconds
    )
    if turn.limit is not UNDECLARED and limits_setting() != "off":
        for hook in hooks:
            hook.pause(turn, seconds)


def _local(turn: Turn) -> _Local:
    with _lock:
        return _accounts.get((turn.provider, turn.account)) or _Local()


def _wait_out_pause(turn: Turn) -> None:
    while (left := _local(turn).resumes - time.monotonic()) > 0:
        if left > turn.left:
            raise turn.too_late("the service refuses the account after too many requests", left)
        logger.info("%s, account %r: waiting %.0f s for the end of its pause.", turn.provider, turn.account, left)
        turn.sleep(left)


def _keep_the_pace(turn: Turn) -> None:
    """After a pause, lets requests leave at the account's rate: all at once they would be refused again."""
    with _lock:
        local = _accounts.get((turn.provider, turn.account))
        now = time.monotonic()
        if local is None or local.full <= now:
            return
        left = max(0.0, local.full - turn.limit.burst / turn.limit.per_second - now)
        if left > turn.left:
            raise turn.too_late("others are before it after a pause of the account", left)
        local.full += 1 / turn.limit.per_second
    turn.sleep(left)
