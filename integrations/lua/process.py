"""The child process as seen from its parent: start, frames out and in, end."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import select
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from prefect_kosmokrator.integrations.lua.errors import LuaError
from prefect_kosmokrator.integrations.lua.values import CorruptFrameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prefect_kosmokrator.integrations.lua.results import Limits

FOLDER = str(Path(__file__).parent)
HEADER = 5
# No pause is longer, so that an exception sent to this thread (a task's cancellation or time limit) arrives.
TICK_SECONDS, TICK_MILLISECONDS = 0.25, 250
PIPE_BYTES, READ_BYTES = 2**20, 2**16
# Names the interpreter itself may need to start; no value of any other reaches the child.
PASSED_ON = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TZ")
NEVER = 1e18


class ChildEndedError(Exception):
    """The child closed its pipe."""


class Child:
    """One sandbox process. `close` must be called, whatever happens."""

    def __init__(self, limits: Limits, *, use_regex: bool) -> None:
        if not sys.executable:
            raise LuaError("there is no Python interpreter to run the sandbox with", kind="crash")
        command = [sys.executable, "-I", "-S", "-B", f"{FOLDER}/child.py", FOLDER, _package("lupa")]
        command += [str(Path(_package("regex")).parent) if use_regex else "", str(limits.memory_bytes)]
        command += [str(limits.cpu_seconds), str(limits.wall_seconds or NEVER), str(os.getpid())]
        self._process = subprocess.Popen(  # noqa: S603 - our own file
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
            start_new_session=True,  # Ctrl-C is for the parent, which then ends the child
        )
        assert self._process.stdin is not None  # noqa: S101 - for the type checkers
        assert self._process.stdout is not None  # noqa: S101
        self._stdin, self._stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(self._stdout, select.POLLIN)
        self._writable.register(self._stdin, select.POLLOUT)
        self._max_frame = limits.memory_bytes + 2**20
        self._buffer = bytearray()
        self._pipe_widened = False

    def receive(self, on_tick: Callable[[], None]) -> tuple[bytes, bytes]:
        """Wait for the next frame: its letter and payload. `on_tick` runs at least every TICK_SECONDS meanwhile."""
        buffer = self._buffer
        needed = HEADER
        while True:
            if len(buffer) >= needed:
                length = int.from_bytes(buffer[1:HEADER], "little")
                if length > self._max_frame:
                    raise CorruptFrameError("frame too long")
                needed = HEADER + length
                if len(buffer) >= needed:
                    letter, payload = bytes(buffer[:1]), bytes(buffer[HEADER:needed])
                    del buffer[:needed]
                    return letter, payload
            if self._readable.poll(TICK_MILLISECONDS):
                data = os.read(self._stdout, READ_BYTES if needed <= READ_BYTES else PIPE_BYTES)
                if not data:
                    raise ChildEndedError
                # The common case, worth a shortcut: exactly one short frame.
                if not buffer and len(data) == HEADER + int.from_bytes(data[1:HEADER], "little"):
                    return data[:1], data[HEADER:]
                buffer += data
            on_tick()

    def send(self, frame: bytes | bytearray, rest: Iterable[bytes], on_tick: Callable[[], None]) -> None:
        """Send a frame and the long strings after it; a child that does not read cannot hold the parent up."""
        self._write(len(frame).to_bytes(4, "little") + frame, on_tick)
        for data in rest:
            self._write(data, on_tick)

    def _write(self, data: bytes, on_tick: Callable[[], None]) -> None:
        view = memoryview(data)
        if len(view) > READ_BYTES and not self._pipe_widened:
            self._pipe_widened = True
            self._widen_pipe()
        while view:
            try:
                view = view[os.write(self._stdin, view) :]
            except BlockingIOError:
                self._writable.poll(TICK_MILLISECONDS)
                on_tick()
            except BrokenPipeError:
                raise ChildEndedError from None

    def _widen_pipe(self) -> None:
        """Fewer turns between the two processes for a large string, where the system allows it."""
        if sys.platform == "linux":
            try:
                fcntl.fcntl(self._stdin, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            except OSError:
                return

    def cpu_seconds(self) -> float | None:
        """CPU time of the child so far, where the system tells."""
        if sys.platform != "linux":
            return None
        try:
            return time.clock_gettime(
                (~self._process.pid << 3) | 2
            )  # the clock id of another process, see clock_getcpuclockid
        except OSError:
            return None

    def ended(self) -> int:
        """Wait for a child that closed its pipe: its exit status, or a signal's number negated."""
        try:
            return self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def close(self) -> None:
        """End the child and leave nothing behind: no process, no zombie, no open pipe."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def signal_name(status: int) -> str:
    """How the child ended, for people."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


@cache
def _package(name: str) -> str:
    """The folder of an installed package, found without importing it: the parent never loads Lua."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise LuaError(f"the package {name} is not installed", kind="crash")
    return str(next(iter(spec.submodule_search_locations)))
