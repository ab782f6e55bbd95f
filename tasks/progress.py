"""The progress of a wait as a Prefect artifact."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType
from typing import Self
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext

logger = logging.getLogger("prefect_kosmokrator")

QUIET_SECONDS = 2.0
"""No artifact for a wait shorter than this, and no more than one update in this time: each is an API call."""

LAST_SECONDS = 2.0
"""How long the end of a wait waits for its last update."""


class ProgressArtifact:
    """Shows the progress of the waits inside a `with` block; makes no artifact if there is nothing to wait for.

    The API is asked beside the wait, and in vain if it has to be: a Prefect server that is down must neither hold up
    nor end the wait for a job that was paid for.

    Args:
        name: What is waited for; names the artifact.
    """

    def __init__(self, name: str) -> None:
        self._key = re.sub(r"[^a-z0-9]+", "-", name.lower())
        self._id: UUID | None = None
        self._last = time.monotonic()
        self._asking: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def update(self, fraction: float, message: str) -> None:
        """Shows that `fraction` (0 to 1) of the allowed time has passed."""
        if FlowRunContext.get() is None or time.monotonic() - self._last < QUIET_SECONDS:
            return
        self._last = time.monotonic()
        self._beside(lambda: self._show(fraction, message))

    def _beside(self, ask: Callable[[], None]) -> None:
        """Asks the API in another thread, unless it is still being asked."""
        if self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(target=copy_context().run, args=(self._try, ask), daemon=True)
            self._asking.start()

    @staticmethod
    def _try(ask: Callable[[], None]) -> None:
        try:
            ask()
        except Exception as error:  # noqa: BLE001 - whatever it is, the wait goes on
            logger.warning("The progress cannot be shown: Prefect's API does not answer (%s).", error)

    def _show(self, fraction: float, message: str) -> None:
        if self._id is None:
            created = create_progress_artifact(100 * fraction, key=self._key, description=message, _sync=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
            self._id = created if isinstance(created, UUID) else None
        else:
            update_progress_artifact(self._id, 100 * fraction, description=message, _sync=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._asking is None:
            return
        self._asking.join(LAST_SECONDS)
        if self._id is not None and error is None:
            self._beside(lambda: self._show(1.0, "Done."))
            self._asking.join(LAST_SECONDS)
