"""The one retry policy below the orchestrator, through stamina: named errors only, with jitter, always bounded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import stamina

from prefect_kosmokrator.integrations.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger("prefect_kosmokrator")

MAX_ATTEMPTS = 4
MAX_SECONDS = 150.0
"""Room for two of Stability's 60 s lock-outs; longer outages are the orchestrator's business."""


def attempts(
    timeout: float = MAX_SECONDS,
    repeat: Callable[[Unavailable], bool] | None = None,
    pause: float | None = None,
) -> Iterator[stamina.Attempt]:
    """Attempts of a request, repeated on `Unavailable` that is retryable and, if given, that `repeat` agrees to.

    A wait the service asked for, or a `pause` it prescribes, replaces the growing one. An error whose wait does not
    fit into `timeout` is raised.
    """

    def backoff(error: Exception) -> bool | float:
        if not isinstance(error, Unavailable) or not error.retryable:
            return False
        if repeat is not None and not repeat(error):
            return False
        wait = max(error.retry_after or 0.0, pause or 0.0)
        if wait == 0.0:
            logger.info("%s Trying again.", error)
            return True
        if wait > timeout:
            return False
        logger.warning("%s Trying again in %.0f s, as the service asks.", error, wait)
        return wait

    return iter(
        stamina.retry_context(
            on=backoff, attempts=MAX_ATTEMPTS, timeout=timeout, wait_initial=0.3, wait_max=10.0, wait_jitter=0.5
        )
    )


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """The wait in a `Retry-After` header, given as seconds or as a date; None without one."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
