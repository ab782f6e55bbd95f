"""What a function may know about the run it is part of: its name, its metadata, and who listens to progress.

Orchestrators fill it in; called from a plain script everything stays empty.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Run:
    """The surrounding run.

    Attributes:
        name: Names the folder its files are stored in; empty outside a run.
        metadata: Goes into the provenance of every file (flow, run id, ...); never secrets.
        on_progress: Told about a wait: a fraction from 0 to 1 and a sentence.
    """

    name: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    on_progress: Callable[[float, str], None] | None = None


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


@dataclass(frozen=True)
class Call:
    """The integration function being executed.

    Attributes:
        provider: Its provider.
        function: Its name.
        account: The account it uses.
        arguments: What it was called with, for the provenance of its files.
        digests: SHA-256 of the files it read, by parameter.
    """

    provider: str
    function: str
    account: str = "default"
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])
    digests: dict[str, str] = field(default_factory=dict[str, str])


_call: ContextVar[Call | None] = ContextVar("kosmokrator_call", default=None)


def current_call() -> Call | None:
    """The function being executed, None outside of one."""
    return _call.get()


@contextmanager
def calling(call: Call) -> Generator[None]:
    """Marks the block as the execution of `call`."""
    token = _call.set(call)
    try:
        yield
    finally:
        _call.reset(token)
