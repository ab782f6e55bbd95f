"""Faults that are injected into chosen requests."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

# Faults that a job carries with it, decided by the handler that accepts the job.
JOB_FAULTS = frozenset({"job-error", "job-hang", "job-unknown-status", "job-no-logs", "job-filtered"})
# Faults of the connection or of a gateway. All but the last row also exist with the suffix "-after": the request is
# processed, and billed, before it goes wrong.
GATEWAY_FAULTS = frozenset({"reset", "close", "timeout", "redirect", "respond", "malformed", "502-html"})
STREAM_FAULTS = frozenset({"slow", "drip", "truncate"})
_STATUS = re.compile(r"[345]\d\d")


def known_fault(name: str) -> bool:
    """Whether a rule may carry this name."""
    base = name.removesuffix("-after").removesuffix("-before")
    if name in JOB_FAULTS or name in STREAM_FAULTS:
        return True
    return base in GATEWAY_FAULTS or _STATUS.fullmatch(base) is not None


@dataclass
class FaultRule:
    """One fault and the requests it strikes.

    Attributes:
        match: ``METHOD /path``: a path prefix, or with ``*`` a pattern for the whole path; the method may be left out.
        fault: What happens, see ``EmulatorState.inject``.
        times: How many matching requests are struck; 0 for all of them.
        after: How many matching requests pass first.
        account: Only requests of this account's key; ``None`` for all.
        retry_after: Value of the ``Retry-After`` header.
        seconds: Delay of ``slow`` and ``drip``.
        bytes: Where ``truncate`` cuts; half of the body when ``None``.
        status: Status of ``respond`` and ``job-error``.
        body: Body of the answer instead of the service's own; text, or any JSON value.
        headers: Further headers of the answer.
        location: Target of ``redirect``.
        error_type: Error type of ``job-error``.
        struck: How many requests it has struck.
    """

    match: str
    fault: str
    times: int = 1
    after: int = 0
    account: str | None = None
    retry_after: float | str | None = None
    seconds: float = 1.0
    bytes: int | None = None
    status: int | None = None
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    location: str | None = None
    error_type: str | None = None
    struck: int = 0

    def __post_init__(self) -> None:
        """Refuse misspelt faults, which would otherwise never strike."""
        if not known_fault(self.fault):
            raise ValueError(f"unknown fault {self.fault!r}")
        if "/" not in str(self.match):
            raise ValueError(f"match must name a path, as in 'POST /fal/queue/', not {self.match!r}")

    @property
    def kind(self) -> str:
        """The fault without the suffix that says when it strikes."""
        return self.fault.removesuffix("-after").removesuffix("-before")

    @property
    def processed(self) -> bool:
        """Whether the request takes effect before the fault strikes."""
        return self.fault.endswith("-after")

    def applies(self, method: str, path: str, account: str | None) -> bool:
        """Whether the rule names this request."""
        wanted, _, pattern = self.match.rpartition(" ")
        if wanted not in ("", "*", method) or (self.account is not None and self.account != account):
            return False
        return fnmatchcase(path, pattern) if "*" in pattern else path.startswith(pattern)

    def as_json(self) -> dict[str, Any]:
        """All fields, for the control endpoint."""
        return asdict(self)


class Faults:
    """The rules in force, in the order they were added."""

    def __init__(self) -> None:
        self.rules: list[FaultRule] = []

    def take(self, method: str, path: str, account: str | None) -> FaultRule | None:
        """The fault that strikes this request, if any; spent rules are dropped."""
        for rule in self.rules:
            if not rule.applies(method, path, account):
                continue
            if rule.after > 0:
                rule.after -= 1
                continue
            rule.struck += 1
            if rule.times and rule.struck >= rule.times:
                self.rules.remove(rule)
            return rule
        return None
