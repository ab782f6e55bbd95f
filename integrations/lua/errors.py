"""How a script can fail."""

from __future__ import annotations

from typing import Literal, get_args

from prefect_kosmokrator.integrations.errors import KosmoError
from prefect_kosmokrator.integrations.lua.results import CallRecord

Kind = Literal["syntax", "runtime", "value", "cpu", "wall", "memory", "output", "calls", "cancelled", "crash"]
KINDS: tuple[str, ...] = get_args(Kind)


class LuaError(KosmoError):
    """A script did not end as it should.

    Attributes:
        kind: `syntax` (never ran), `runtime` (an error nobody caught, its own or a host call's), `value` (something
            that cannot leave the script or enter it), a limit (`cpu`, `wall`, `memory`, `output`, `calls`),
            `cancelled`, or `crash` (the sandbox itself: no interpreter, killed from outside).
        message: What happened, beginning with `name:line:` where the line is known.
        line: The line of the script, counted from 1, or None.
        output: What the script printed until then.
        calls: The host calls it made until then.

    When a host call's exception ended the script, it is the `__cause__`, and `retryable`, `status`, `request_id` and
    `retry_after` are its own.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: Kind = "runtime",
        line: int | None = None,
        output: str = "",
        calls: tuple[CallRecord, ...] = (),
        cause: BaseException | None = None,
    ) -> None:
        super().__init__(message)
        if cause is not None:
            self.status, self.request_id = getattr(cause, "status", None), getattr(cause, "request_id", None)
            self.retryable = bool(getattr(cause, "retryable", False))
            self.retry_after = getattr(cause, "retry_after", None)
        self._kind: Kind = kind
        self.line = line
        self.output = output
        self.calls = calls

    @property
    def kind(self) -> Kind:
        """Which of the ways to fail it was."""
        return self._kind

    def __str__(self) -> str:
        """Return the message alone: output and calls may be long."""
        return self.message
