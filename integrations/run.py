"""What a function may know about the run it is part of: its name, its metadata, and who listens to progress.

Orchestrators fill it in; called from a plain script everything stays empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from prefect_kosmokrator.integrations.ledger import Entry

OnAmbiguous = Literal["fail", "resubmit"]
"""What to do with a paid call that was in flight when an earlier attempt ended, where the service cannot say."""


@dataclass(frozen=True)
class Run:
    """The surrounding run.

    Attributes:
        name: Names the folder its files are stored in; empty outside a run.
        metadata: Goes into the provenance of every file (flow, run id, ...); never secrets.
        on_progress: Told about a wait: a fraction from 0 to 1 and a sentence.
        id: Groups its calls in the ledger, for example the id of a flow run; empty outside a run.
        identity: What its calls are recognised by in a later attempt; empty if there is none to go on from.
        on_ambiguous: See `OnAmbiguous`.
        max_cost: Its budget, see `budget.limit`; empty for none.
        counts: How often each call was made so far in this attempt, which keeps equal calls apart.
        replayed: The calls that an earlier attempt had made, in order.
    """

    name: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    on_progress: Callable[[float, str], None] | None = None
    id: str = ""
    identity: str = ""
    on_ambiguous: OnAmbiguous = "fail"
    max_cost: str = ""
    counts: Counter[str] = field(default_factory=Counter[str])
    replayed: list[str] = field(default_factory=list[str])


_NO_RUN = Run()
_current: ContextVar[Run] = ContextVar("kosmokrator_run", default=_NO_RUN)


def current_run() -> Run:
    """The run this code is part of."""
    return _current.get()


@contextmanager
def running(run: Run) -> Generator[Run]:
    """Makes `run` the current one inside the block."""
    token = _current.set(run)
    try:
        yield run
    finally:
        _current.reset(token)


@contextmanager
def listening(on_progress: Callable[[float, str], None]) -> Generator[None]:
    """Sends the progress of waits inside the block to `on_progress`."""
    with running(replace(current_run(), on_progress=on_progress)):
        yield


def report_progress(fraction: float, message: str) -> None:
    """Tells whoever listens how far a wait has come."""
    listener = current_run().on_progress
    if listener is not None:
        listener(fraction, message)


@dataclass
class Call:
    """The integration function being executed.

    Attributes:
        provider: Its provider.
        function: Its name.
        account: The account it uses.
        arguments: What it was called with, for the provenance of its files.
        digests: SHA-256 of the files it read, by parameter.
        sent: Whether a request that costs money has left this machine.
        entry: What the ledger knows of it, for calls that cost money.
        before_leaving: Called once, before the first request that costs money leaves.
    """

    provider: str
    function: str
    account: str = "default"
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])
    digests: dict[str, str] = field(default_factory=dict[str, str])
    sent: bool = False
    entry: Entry | None = None
    before_leaving: Callable[[], None] | None = None

    def leave(self) -> None:
        """Notes that a request that costs money leaves now.

        Raises:
            KosmoError: If it must not: there is no budget for it, or it cannot be written down.
        """
        if not self.sent and self.before_leaving is not None:
            self.before_leaving()
        self.sent = True


_call: ContextVar[Call | None] = ContextVar("kosmokrator_call", default=None)


def current_call() -> Call | None:
    """The function being executed, None outside of one."""
    return _call.get()


@contextmanager
def calling(call: Call) -> Generator[Call]:
    """Marks the block as the execution of `call`."""
    token = _call.set(call)
    try:
        yield call
    finally:
        _call.reset(token)
