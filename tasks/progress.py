"""The progress of a wait as a Prefect artifact."""

from __future__ import annotations

import re
import time
from types import TracebackType
from typing import Self
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext

QUIET_SECONDS = 2.0
"""No artifact for a wait shorter than this, and no more than one update in this time: each is an API call."""


class ProgressArtifact:
    """Shows the progress of the waits inside a `with` block; makes no artifact if there is nothing to wait for.

    Args:
        name: What is waited for; names the artifact.
    """

    def __init__(self, name: str) -> None:
        self._key = re.sub(r"[^a-z0-9]+", "-", name.lower())
        self._id: UUID | None = None
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def update(self, fraction: float, message: str) -> None:
        """Shows that `fraction` (0 to 1) of the allowed time has passed."""
        if FlowRunContext.get() is None or time.monotonic() - self._last < QUIET_SECONDS:
            return
        self._last = time.monotonic()
        if self._id is None:
            created = create_progress_artifact(100 * fraction, key=self._key, description=message, _sync=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
            self._id = created if isinstance(created, UUID) else None
        else:
            update_progress_artifact(self._id, 100 * fraction, description=message, _sync=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._id is not None and error is None:
            update_progress_artifact(self._id, 100.0, description="Done.", _sync=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
