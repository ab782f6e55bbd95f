"""A request's turn among all processes: slots of the global concurrency limit of its account.

Registered by `tasks.policy`, so every request of a Prefect run that counts asks here first, from whatever process or
thread. A 429 fills the limit so far that its decay frees the next slot when the pause is over.
"""

from __future__ import annotations

import atexit
import logging
import math
import random
import time
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from threading import Lock
from typing import TypeVar

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.context import FlowRunContext, SettingsContext, TaskRunContext, get_settings_context
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES

from prefect_kosmokrator.integrations import governor
from prefect_kosmokrator.integrations.errors import ConfigurationError, Unavailable
from prefect_kosmokrator.integrations.governor import Hook, Turn, limits_setting
from prefect_kosmokrator.tasks.limits import SET_UP, SLOTS, name_of

logger = logging.getLogger("prefect_kosmokrator")

T = TypeVar("T")

MISSING_SECONDS = 60.0
"""How long a limit that does not exist is not looked for again."""

DOWN_SECONDS = 30.0
"""How long an API that failed for too long is not asked again."""

OUTAGE_SECONDS = 10.0
"""How long an API that fails is tried again. A server on SQLite answers 503 whenever its database is locked."""

STRICT_OUTAGE_SECONDS = 60.0
"""The same where limits are required; a restarted server is back by then."""

API_SECONDS = 5.0
"""Deadline of one request to the Prefect API."""

LOOK_SECONDS = 10.0
"""A pause is looked at this often, in case somebody ends it; a longer wait is logged this often."""

BACK_OFF_SECONDS = 2.0
"""The longest wait between two looks at a busy limit, so that many processes do not keep the API busy."""

MOST_SLOTS = 2**31 - 1
"""What the column of the server's database holds."""


def govern() -> None:
    """Makes every request of this process that counts ask for its turn."""
    if not any(hook.admit is _admit for hook in governor.hooks):
        governor.hooks.append(Hook(_admit, _pause))


def forget() -> None:
    """Looks for every limit again when it is next needed."""
    _gate_of.cache_clear()


def _admit(turn: Turn) -> bool:
    if _is_api_near():
        return _gate(turn).admit(turn)
    if limits_setting() == "strict":
        raise ConfigurationError(
            "KOSMO_LIMITS=strict, and there is no Prefect API to ask: set PREFECT_API_URL, or KOSMO_LIMITS=auto.",
            provider=turn.provider,
            account=turn.account,
        )
    return False


def _pause(turn: Turn, seconds: float) -> None:
    if _is_api_near():
        _gate(turn).pause(seconds)


def _is_api_near() -> bool:
    """Whether there is an API to ask. Outside of runs none is started just for this."""
    return bool(PREFECT_API_URL.value()) or FlowRunContext.get() is not None or TaskRunContext.get() is not None


class _Api:
    """The Prefect API with short deadlines.

    Prefect's own client repeats a failed request for a minute, which is longer than a look at a job may take.
    """

    def __init__(self) -> None:
        # A client with settings of its own is not the one of the current run, which is closed with the run.
        self._client: SyncPrefectClient = get_client({"timeout": API_SECONDS}, sync_client=True)
        self._client.__enter__()
        atexit.register(self._client.__exit__)
        context = get_settings_context()
        self._profile = context.profile
        self._settings = context.settings.copy_with_update(updates={PREFECT_CLIENT_MAX_RETRIES: 0})

    def ask(self, question: Callable[[SyncPrefectClient], T], seconds: float) -> T:
        """The answer to `question`, for which an API that fails is asked again for up to `seconds`.

        Raises:
            ObjectNotFound: There is no such limit.
            httpx.HTTPError: It failed, or refused for another reason than its own state.
            ValueError: It answered with something else than JSON.
        """
        started = time.monotonic()
        while True:
            try:
                with SettingsContext(profile=self._profile, settings=self._settings):
                    return question(self._client)
            except (httpx.HTTPError, ValueError) as error:
                pause = random.uniform(0.2, 0.6)  # noqa: S311
                if _is_refusal(error) or time.monotonic() + pause > started + seconds:
                    raise
                time.sleep(pause)


def _is_refusal(error: Exception) -> bool:
    """Whether asking again is in vain. 408 and 429 are about the moment, as the 5xx are."""
    if not isinstance(error, httpx.HTTPStatusError):
        return False
    status = error.response.status_code
    return status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in {408, 429}


@lru_cache(maxsize=8)
def _api_at(_url: str | None) -> _Api:
    return _Api()


class _Missing(Exception):
    """The limit does not exist: Prefect admits everything then, and says so only by naming no limit."""


class _Gate:
    """The limit of one account, seen from this process: its threads ask for slots one after the other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = Lock()
        self._open_until = 0.0
        self._told = ""

    def admit(self, turn: Turn) -> bool:
        strict = limits_setting() == "strict"
        self._queue(turn)
        try:
            if not strict and time.monotonic() < self._open_until:
                return False
            return self._wait_for_slots(turn, strict=strict)
        finally:
            self._lock.release()

    def _queue(self, turn: Turn) -> None:
        """Takes the lock; other requests of this process may be before this one."""
        logged = time.monotonic()
        # In short pieces, so that a thread can be cancelled.
        while not self._lock.acquire(timeout=min(1.0, turn.left)):
            if turn.left <= 0:
                raise turn.too_late(f"other requests of this process wait for {self.name}")
            if time.monotonic() - logged > LOOK_SECONDS:
                logged = time.monotonic()
                logger.info("%s, account %r: waiting behind other requests.", turn.provider, turn.account)

    def _wait_for_slots(self, turn: Turn, *, strict: bool) -> bool:
        patience = STRICT_OUTAGE_SECONDS if strict else OUTAGE_SECONDS
        looks = 0
        try:
            while not self._take(turn, patience):
                wait = self._until_slots(turn, patience)
                # Others may be faster again and again; asking ever more slowly leaves the API to do something else.
                wait = max(wait, min(wait * 1.5**looks, BACK_OFF_SECONDS)) * random.uniform(1.0, 1.3)  # noqa: S311
                turn.sleep(min(wait, LOOK_SECONDS, turn.left))
                looks += 1
        except (_Missing, ObjectNotFound):
            return self._pass_without_limit(turn, strict=strict)
        except (httpx.HTTPError, ValueError) as error:
            return self._pass_without_api(turn, error, strict=strict)
        self._told = ""
        return True

    def _take(self, turn: Turn, patience: float) -> bool:
        """Takes the slots of one request, if they are free.

        Raises:
            _Missing: There is no such limit.
        """
        seconds = min(patience, turn.left)
        try:
            taken = _api().ask(
                lambda client: client.increment_concurrency_slots([self.name], SLOTS, "rate_limit"), seconds
            )
        except httpx.HTTPStatusError as error:
            if error.response.status_code == HTTPStatus.LOCKED:
                return False
            if error.response.status_code == HTTPStatus.UNPROCESSABLE_ENTITY:
                raise ConfigurationError(
                    f"The limit {self.name!r} admits nothing: a request takes {SLOTS} slots, and it has fewer or frees "
                    f"none. Run `{SET_UP} --reset`.",
                    provider=turn.provider,
                    account=turn.account,
                ) from error
            raise
        if not taken.json():
            raise _Missing
        return True

    def _until_slots(self, turn: Turn, patience: float) -> float:
        """Seconds until the slots of one request are free, if nobody else takes them."""
        limit = self._read(min(patience, turn.left))
        short = limit.active_slots + SLOTS - limit.limit
        wait = (short if short > 0 else SLOTS) / (limit.slot_decay_per_second or 1.0)
        if wait > turn.left:
            raise turn.too_late(_reason(limit), wait)
        if wait > 1.0:
            logger.warning(
                "%s, account %r: waiting %.0f s, because %s.", turn.provider, turn.account, wait, _reason(limit)
            )
        return wait

    def _read(self, seconds: float) -> GlobalConcurrencyLimitResponse:
        return _api().ask(lambda client: client.read_global_concurrency_limit_by_name(self.name), seconds)

    def _pass_without_limit(self, turn: Turn, *, strict: bool) -> bool:
        if strict:
            raise ConfigurationError(
                f"There is no global concurrency limit {self.name!r}, and KOSMO_LIMITS=strict. Make it with "
                f"`{SET_UP}`, or set KOSMO_LIMITS=auto.",
                provider=turn.provider,
                account=turn.account,
            )
        self._open_until = time.monotonic() + MISSING_SECONDS
        self._tell(logging.INFO, f"There is no limit {self.name!r} for all processes; `{SET_UP}` makes it.")
        return False

    def _pass_without_api(self, turn: Turn, error: Exception, *, strict: bool) -> bool:
        if strict:
            raise Unavailable(
                f"Not sent: the Prefect API cannot be asked for the limit of the account ({_words(error)}), and "
                "KOSMO_LIMITS=strict.",
                provider=turn.provider,
                account=turn.account,
            ) from error
        self._open_until = time.monotonic() + DOWN_SECONDS
        self._tell(logging.WARNING, f"The limit {self.name!r} cannot be asked ({_words(error)}); going on without it.")
        return False

    def _tell(self, level: int, message: str) -> None:
        """Logs a state once, not with every request."""
        if message != self._told:
            self._told = message
            logger.log(level, "%s", message)

    def pause(self, seconds: float) -> None:
        try:
            limit = self._read(OUTAGE_SECONDS)
            # Slots are freed at a constant rate: overfull by so much is closed for so long.
            full = min(limit.limit + math.ceil(seconds * limit.slot_decay_per_second), MOST_SLOTS)
            if limit.active and full > limit.active_slots:
                update = GlobalConcurrencyLimitUpdate(active_slots=full)
                _api().ask(lambda client: client.update_global_concurrency_limit(self.name, update), OUTAGE_SECONDS)
        except ObjectNotFound:
            pass
        except (httpx.HTTPError, ValueError) as error:
            logger.warning("Other processes do not know of the pause: %s.", _words(error))


@lru_cache(maxsize=1024)
def _gate_of(_url: str | None, name: str) -> _Gate:
    return _Gate(name)


def _gate(turn: Turn) -> _Gate:
    return _gate_of(PREFECT_API_URL.value(), name_of(turn.provider, turn.account))


def _api() -> _Api:
    return _api_at(PREFECT_API_URL.value())


def _reason(limit: GlobalConcurrencyLimitResponse) -> str:
    if limit.active_slots > limit.limit:
        return "the service refused the account, which pauses it for all processes"
    return f"the account is at its limit {limit.name!r}"


def _words(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"it answered {error.response.status_code}"
    return str(error).rstrip(".") or type(error).__name__
