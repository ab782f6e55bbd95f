"""The record of everything that was asked of the emulator, and what it cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class LedgerEntry:
    """One request.

    Attributes:
        number: Position in the ledger, from 1.
        time: When it arrived, in seconds since the epoch.
        provider: ``stability`` or ``fal``.
        method: HTTP method.
        path: Path on the emulator's port, with the provider's prefix.
        query: Query string.
        account: Whose key it carried; ``None`` for requests without a known key.
        operation: What was asked for, such as ``generate/core`` or ``submit fal-ai/flux/dev``.
        status: HTTP status sent, or ``None`` when the connection ended without an answer.
        outcome: ``ok``, the name of the error, or the fault that was injected.
        request_id: The service's identifier of the request or job.
        billed: What the request cost, in ``unit``; for queued work, filled in when the job completes.
        unit: ``credits`` or ``USD``.
        fingerprint: Hash of the input; equal inputs have equal fingerprints.
        fault: Injected fault, if any.
        violations: Rules of the service the client broke, key leaks among them.
    """

    number: int
    time: float
    provider: str
    method: str
    path: str
    query: str
    account: str | None = None
    operation: str = ""
    status: int | None = None
    outcome: str = "open"
    request_id: str | None = None
    billed: float = 0.0
    unit: str = ""
    fingerprint: str | None = None
    fault: str | None = None
    violations: list[str] = field(default_factory=list[str])

    def as_json(self) -> dict[str, Any]:
        """All fields, for the control endpoint."""
        return asdict(self)


class Ledger:
    """All requests in order of arrival."""

    def __init__(self) -> None:
        self.entries: list[LedgerEntry] = []

    def __iter__(self) -> Iterator[LedgerEntry]:
        """The entries so far; later ones do not disturb the iteration."""
        return iter(list(self.entries))

    def __len__(self) -> int:
        """Number of requests."""
        return len(self.entries)

    def open(self, *, time: float, provider: str, method: str, path: str, query: str) -> LedgerEntry:
        """Record a request that has just arrived."""
        entry = LedgerEntry(
            number=len(self.entries) + 1, time=time, provider=provider, method=method, path=path, query=query
        )
        self.entries.append(entry)
        return entry

    def select(self, method: str | None = None, path: str = "", account: str | None = None) -> list[LedgerEntry]:
        """Entries of a method, whose path contains a text, of an account.

        Args:
            method: HTTP method; ``None`` for all.
            path: Text the path or the operation must contain.
            account: Account name; ``None`` for all.
        """
        return [
            entry
            for entry in self
            if (method is None or entry.method == method)
            and (path in entry.path or path in entry.operation)
            and (account is None or entry.account == account)
        ]

    def billed(self, unit: str, account: str | None = None) -> float:
        """Total cost in one unit.

        Args:
            unit: ``credits`` or ``USD``.
            account: Account name; ``None`` for all.
        """
        amounts = (e.billed for e in self if e.unit == unit and (account is None or e.account == account))
        return round(sum(amounts), 6)

    def violations(self) -> list[str]:
        """Every rule a client broke, each with the request that broke it."""
        return [f"{e.method} {e.path}: {text}" for e in self for text in e.violations]

    def paid_twice(self) -> list[LedgerEntry]:
        """Billed requests whose input the same account had already paid for."""
        seen: set[tuple[str | None, str, str | None]] = set()
        repeated: list[LedgerEntry] = []
        for entry in self:
            key = (entry.account, entry.operation, entry.fingerprint)
            if entry.billed and entry.fingerprint:
                if key in seen:
                    repeated.append(entry)
                seen.add(key)
        return repeated
