"""Starts one MCP server and stays with it: nothing of the server outlives us, and no line it writes is endless.

Run as a program, with the largest accepted line, the pid of the parent and then the server's command. The server gets
our standard input as it is. Its standard output is passed on line by line: what cannot be a message (no JSON) is
dropped, and a line above the limit ends the server. Of its standard error the end is kept and written, after a line
that says how it ended, to ours.

It ends with everything it started, also with what left the process group, when its input is closed (that is how a
client says goodbye, and what is left of one that was killed), when it is asked to end, or when its parent is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path
from types import FrameType

CHUNK = 64 * 1024
TAIL = 4096
EXIT_SECONDS = 1.0  # how long a server may take to end by itself
TERM_SECONDS = 0.4  # and then, after it was asked to
POLL_SECONDS = 0.05
NOT_STARTED = 127
PDEATHSIG, SUBREAPER = 1, 36  # prctl


class Guard:
    """The server's process and the pipes to it."""

    def __init__(self, limit: int, command: list[str]) -> None:
        self.limit = limit
        self.tail = bytearray()
        self.status: int | None = None
        self.reason = ""
        self.asked_to_end = False
        self._line_length, self._dropping = 0, False
        self._wakeup, wakeup_end = os.pipe()
        os.set_blocking(wakeup_end, False)
        signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _ignore)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_term)
        self.out, out_end = os.pipe()
        self.err, err_end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _become(command, out_end, err_end)
        os.close(out_end)
        os.close(err_end)

    def _on_term(self, *_: object) -> None:
        self.asked_to_end = True

    def run(self) -> None:
        """Passes on what the server writes until it, or the parent, is gone."""
        poll = select.poll()
        poll.register(0, 0)  # only whether the other end was closed; the input itself is the server's
        poll.register(self._wakeup, select.POLLIN)
        open_pipes = {self.out, self.err}
        for pipe in open_pipes:
            poll.register(pipe, select.POLLIN)
        end_at: float | None = None
        while not self.reason and self.status is None and not self.asked_to_end:
            for pipe, _ in poll.poll(1000 if end_at is None else POLL_SECONDS * 1000):
                if pipe == 0:
                    poll.unregister(0)
                    end_at = time.monotonic() + EXIT_SECONDS
                elif pipe == self._wakeup:
                    os.read(pipe, CHUNK)
                elif not self._take(pipe):
                    poll.unregister(pipe)
                    open_pipes.discard(pipe)
            self.reap()
            if end_at is not None and time.monotonic() > end_at:
                break
        if self.status is not None:
            self._take_the_rest(open_pipes)

    def _take(self, pipe: int) -> bool:
        """Reads once from a pipe of the server; False at its end."""
        data = os.read(pipe, CHUNK)
        if pipe == self.err:
            self.tail += data
            del self.tail[:-TAIL]
        else:
            self._pass_on(data)
        return bool(data)

    def _take_the_rest(self, pipes: set[int]) -> None:
        """Reads what the server wrote before it ended; its children may hold the pipes open."""
        deadline = time.monotonic() + TERM_SECONDS
        for pipe in pipes:
            while time.monotonic() < deadline and select.select([pipe], [], [], 0)[0]:
                if not self._take(pipe):
                    break

    def _pass_on(self, data: bytes) -> None:
        for line in _lines(data):
            rest = line
            if self._line_length == 0:
                rest = line.lstrip(b" \t\r\n")
                if not rest:
                    continue
                self._dropping = rest[:1] not in b"{["
            self._line_length += len(rest)
            if not self._dropping:
                if self._line_length > self.limit:
                    self.reason = f"sent an answer of more than {self.limit:,} bytes"
                    return
                _write(1, rest)
            if line.endswith(b"\n"):
                self._line_length = 0

    def reap(self) -> None:
        """Collects whatever has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                self.status = os.waitstatus_to_exitcode(status)

    def end(self) -> None:
        """Ends everything that is left: first politely, then not."""
        for number, seconds in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, TERM_SECONDS)):
            deadline = time.monotonic() + seconds
            while left := descendants():
                for pid in left:
                    _signal(pid, number)
                time.sleep(0.01)
                self.reap()
                if time.monotonic() > deadline:
                    break

    def report(self) -> None:
        """Says how it ended, then the end of what the server wrote to its standard error."""
        if not self.reason and self.status is not None:
            self.reason = f"ended with exit status {self.status}"
            if self.status < 0:
                self.reason = f"was ended by {signal.Signals(-self.status).name}"
            if self.status == NOT_STARTED:
                self.reason = "could not be started"
        _write(2, self.reason.encode() + b"\n" + bytes(self.tail))


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Does nothing: the wakeup descriptor tells us. SIG_IGN would throw away how the server ended."""


def descendants() -> list[int]:
    """Every process below this one, orphans included: they are handed to us (Linux), or share our group."""
    if not Path("/proc/self/stat").exists():
        return []  # the group is ended as a whole instead, at the very end
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - a Path for each process costs more than the rest
        if entry.isdigit():
            try:
                # "pid (name) state ppid ...": a name may contain anything, also brackets.
                state, parent = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()[:2]
            except (OSError, ValueError):
                continue
            if state != b"Z":
                children.setdefault(int(parent), []).append(int(entry))
    found: list[int] = []
    above = [os.getpid()]
    while above:
        below = children.get(above.pop(), [])
        found += below
        above += below
    return found


def _become(command: list[str], out: int, err: int) -> None:
    """Turns the child into the server. Should this guard be killed, the kernel ends the server."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(out, 1)
        os.dup2(err, 2)
        _prctl(PDEATHSIG, signal.SIGKILL)
        os.execvp(command[0], command)  # noqa: S606 - that is what we are for
    except OSError as error:
        _write(2, f"{command[0]}: {error.strerror}".encode())
    finally:
        os._exit(NOT_STARTED)


def _lines(data: bytes) -> list[bytes]:
    """Lines that end with a line feed only: JSON may hold a bare carriage return between its values."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main() -> None:
    """The program."""
    limit, parent, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    _prctl(PDEATHSIG, signal.SIGTERM)
    _prctl(SUBREAPER, 1)
    if os.getppid() != parent:
        return  # it was killed before we could ask to be told
    guard = Guard(limit, command)
    try:
        guard.run()
    except OSError:
        guard.reason = ""  # nobody reads any more
    with contextlib.suppress(OSError):
        guard.report()
    guard.end()
    if sys.platform != "linux" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
