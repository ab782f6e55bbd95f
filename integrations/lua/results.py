"""What goes into a run and what comes out of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

LAYERS = ("rlimits", "pdeathsig", "landlock", "seccomp")


@dataclass(frozen=True)
class Limits:
    """What one run may use.

    Attributes:
        cpu_seconds: CPU time of the script; waiting for the host or in `sleep` costs none.
        memory_bytes: The Lua heap.
        output_bytes: Everything printed, newlines included.
        host_calls: Calls of `app`, `docs` and `mcp` functions.
        wall_seconds: Time on the clock, waiting included; None for no limit.
    """

    cpu_seconds: float = 30
    memory_bytes: int = 32 * 2**20
    output_bytes: int = 2**20
    host_calls: int = 1000
    wall_seconds: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value: float | None = getattr(self, field.name)
            may_be_zero = field.name in ("output_bytes", "host_calls")
            if value is None and field.name == "wall_seconds":
                continue
            if value is None or not math.isfinite(value) or value < 0 or (value == 0 and not may_be_zero):
                raise ValueError(f"limit {field.name} must be a positive number, got {value!r}")


class CallRecord(NamedTuple):
    """One call of the host.

    Attributes:
        path: What was asked for, as the host was given it.
        duration: Seconds until the host had answered.
        status: Whether it answered or raised.
        error: The message it raised with.
        line: The line of the script that called.
    """

    path: tuple[str, ...]
    duration: float
    status: Literal["ok", "error"]
    error: str | None = None
    line: int | None = None


@dataclass(frozen=True)
class ScriptResult:
    """A script that ran to its end.

    Attributes:
        output: The printed lines, joined by newlines.
        result: The values of its `return`; a host value handed back untouched is its `Handle`.
        calls: The host calls, in order.
        cpu_seconds: CPU time the script used.
        memory_bytes: The Lua heap when it ended.
        layers: Which of `LAYERS` held it.
    """

    output: str
    result: list[Any]
    calls: list[CallRecord]
    cpu_seconds: float
    memory_bytes: int
    layers: tuple[str, ...]
