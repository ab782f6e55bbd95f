"""The time the emulator lives in."""

from __future__ import annotations

import time


class Clock:
    """Wall-clock time that can be moved forward, so that retention and lock-outs need no waiting in tests."""

    def __init__(self) -> None:
        self._offset = 0.0

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time() + self._offset

    def advance(self, seconds: float) -> None:
        """Move time forward.

        Args:
            seconds: How far; running jobs, results, tokens and files age by this much at once.
        """
        if seconds < 0:
            raise ValueError("the clock only moves forward")
        self._offset += seconds
