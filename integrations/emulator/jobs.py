"""Asynchronous work. A job has no thread: where it stands follows from the clock."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefect_kosmokrator.integrations.emulator.faults import FaultRule
    from prefect_kosmokrator.integrations.emulator.ledger import LedgerEntry


@dataclass
class Outcome:
    """What a finished job answers.

    Attributes:
        status: HTTP status of the result.
        body: JSON of the result, or raw bytes.
        headers: Further headers of the result.
    """

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict[str, str])


@dataclass
class Job:
    """One queued or running piece of work.

    Attributes:
        id: Request id at fal, generation id at Stability.
        provider: ``stability`` or ``fal``.
        account: Whose key started it.
        operation: Endpoint of Stability or model id of fal.
        arguments: Input as received, without file contents.
        submitted: When it was accepted, in seconds since the epoch.
        queue_seconds: How long it waits at least.
        run_seconds: How long it runs; infinite for a job that hangs.
        cost: What it will be billed, in ``unit``.
        unit: ``credits`` or ``USD``.
        produce: Makes the result, at its first fetch.
        entry: Ledger entry of the request that started it; the bill goes there.
        starts: When it begins to run; set by the scheduler.
        cancelled: When it was cancelled.
        failure: Result that replaces the one of ``produce``.
        error: Text of the status answer's ``error`` field.
        error_type: Its ``error_type``.
        start_deadline: When a job that has not begun to run by then fails, from the caller's own timeout header.
        retention: Seconds its result can be fetched after completion.
        media_lifetime: Seconds its files can be downloaded; ``None`` for never expiring.
        fault: Injected fault it carries.
        polls: Times of the status or result requests so far.
        settled: The bill has been written.
        outcome: The result, once made.
        billable_units: Value of fal's billing header.
    """

    id: str
    provider: str
    account: str
    operation: str
    arguments: dict[str, Any]
    submitted: float
    queue_seconds: float
    run_seconds: float
    cost: float
    unit: str
    produce: Callable[[Job], Outcome]
    entry: LedgerEntry
    retention: float
    starts: float = 0.0
    cancelled: float | None = None
    failure: Outcome | None = None
    error: str | None = None
    error_type: str | None = None
    start_deadline: float = math.inf
    media_lifetime: float | None = None
    fault: FaultRule | None = None
    polls: list[float] = field(default_factory=list[float])
    settled: bool = False
    outcome: Outcome | None = None
    billable_units: float = 0.0

    @property
    def ends(self) -> float:
        """When it completes."""
        if self.cancelled is not None:
            return self.cancelled
        return min(self.starts + self.run_seconds, self.start_deadline if self.misses_start else math.inf)

    @property
    def misses_start(self) -> bool:
        """Whether the caller's deadline for the start passes while it still waits."""
        return self.starts > self.start_deadline

    def phase(self, now: float) -> str:
        """``IN_QUEUE``, ``IN_PROGRESS`` or ``COMPLETED``."""
        if now >= self.ends:
            return "COMPLETED"
        return "IN_QUEUE" if now < self.starts else "IN_PROGRESS"

    def expired(self, now: float) -> bool:
        """Whether the result can no longer be fetched."""
        return now > self.ends + self.retention

    @property
    def succeeds(self) -> bool:
        """Whether it ends with a result that is billed."""
        return self.failure is None and self.cancelled is None and not self.misses_start


def schedule(jobs: list[Job], slots: int, now: float) -> None:
    """Decide when the waiting jobs of one account start, with so many running at the same time.

    Args:
        jobs: All jobs of the account, in order of submission.
        slots: How many may run at once.
        now: Present time; what has started is left alone.
    """
    # One end time per taken slot; the earliest is where the next waiting job goes.
    taken = [job.ends for job in jobs if 0 < job.starts <= now < job.ends]
    heapq.heapify(taken)
    for job in jobs:
        if job.cancelled is not None or 0 < job.starts <= now:
            continue
        job.starts = max(job.submitted + job.queue_seconds, now)
        if len(taken) >= slots:
            job.starts = max(job.starts, taken[0])
        if job.misses_start:
            continue
        if len(taken) >= slots:
            heapq.heappop(taken)
        heapq.heappush(taken, job.starts + job.run_seconds)
