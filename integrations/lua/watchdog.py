"""The thread that ends a script at its CPU or wall limit, with the line it was on.

A Lua count hook would do it too, but it costs half the speed of every script. This thread sleeps until the limit and
only then asks Lua for a hook on the next instruction, as the stand-alone `lua` does on Ctrl-C. The hook runs on the
thread of the script, reads the line and ends the process, so no `pcall` can catch it. A script stuck inside one C
function (`string.find`, `table.move`) never gets to its hook; after a moment its stack, which then stands still, is
read from here.

The kernel's own CPU limit (see `lockdown`) is what holds if any of this fails.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time

TYPE_CHECKING = False  # as in typing, which is slow to load
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

EVERY_INSTRUCTION = 1 << 3  # LUA_MASKCOUNT
MAX_NESTED_COROUTINES = 250  # Lua's own limit is lower
GRACE_SECONDS = 0.1
# lua_upvalueindex(1) of Lua 5.4: where the function made by coroutine.wrap keeps its coroutine
FIRST_UPVALUE = -1_000_000 - 1000 - 1


class _Activation(ctypes.Structure):
    """`lua_Debug` of Lua 5.4 as far as it is read, with room to spare for the rest."""

    _fields_ = (
        ("event", ctypes.c_int),
        ("name", ctypes.c_void_p),
        ("namewhat", ctypes.c_void_p),
        ("what", ctypes.c_void_p),
        ("source", ctypes.c_char_p),
        ("srclen", ctypes.c_size_t),
        ("currentline", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


_HOOK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)


class Watchdog:
    """Watches one Lua state from a second thread."""

    def __init__(self, library: str, cpu_seconds: float, wall_seconds: float) -> None:
        self._cpu_seconds, self._wall_seconds = cpu_seconds, wall_seconds
        self._state = 0
        self._cpu_start = self._wall_start = 0.0
        self._kind = b""
        try:
            lua: Any = ctypes.CDLL(library)
            self._sethook, self._getstack, self._getinfo = lua.lua_sethook, lua.lua_getstack, lua.lua_getinfo
            self._tothread = lua.lua_tothread
            # Kept here: the closure has to outlive the call that installs it, and must exist before memory is locked.
            self._hook = _HOOK(self._on_instruction)
            self._sees_lua = True
        except (AttributeError, OSError, MemoryError):
            self._sees_lua = False  # limits hold all the same, without a line
            return
        pointer = ctypes.POINTER(_Activation)
        self._sethook.argtypes = (ctypes.c_void_p, _HOOK, ctypes.c_int, ctypes.c_int)
        self._getstack.argtypes = (ctypes.c_void_p, ctypes.c_int, pointer)
        self._getinfo.argtypes = (ctypes.c_void_p, ctypes.c_char_p, pointer)
        self._tothread.argtypes = (ctypes.c_void_p, ctypes.c_int)
        self._tothread.restype = ctypes.c_void_p

    def watch(self, state: int) -> int:
        """Start the clocks for the main thread of a Lua state, given by its address."""
        self._cpu_start, self._wall_start = time.process_time(), time.monotonic()
        self._state = state if self._sees_lua else 0
        return 0

    def run(self, confine: Callable[[], None]) -> None:
        """Run on a thread of its own until the process ends; `confine` locks that thread first."""
        confine()
        self._cpu_start, self._wall_start = time.process_time(), time.monotonic()
        while not self._kind:
            time.sleep(max(self._remaining(), 0.002))
            if self._cpu() >= self._cpu_seconds:
                self._kind = b"cpu"
            elif time.monotonic() - self._wall_start >= self._wall_seconds:
                self._kind = b"wall"
        for state in self._running():
            self._sethook(state, self._hook, EVERY_INSTRUCTION, 1)
        time.sleep(GRACE_SECONDS)
        if self._kind == b"cpu":  # at the wall limit the script may be waiting; the parent then ends it
            lines = [self._line(state) for state in reversed(self._running())]
            self._end(next(filter(None, lines), 0))  # the innermost coroutine knows best

    def _cpu(self) -> float:
        return time.process_time() - self._cpu_start

    def _remaining(self) -> float:
        wall = self._wall_seconds - (time.monotonic() - self._wall_start)
        return min(self._cpu_seconds - self._cpu(), wall, 3600.0)

    def _running(self) -> list[int]:
        """The main thread and, from each coroutine that waits in `resume`, the one it waits for."""
        states: list[int] = []
        state: int | None = self._state or None
        while state and state not in states and len(states) < MAX_NESTED_COROUTINES:
            states.append(state)
            state = self._tothread(state, 1) or self._tothread(state, FIRST_UPVALUE)
        return states

    def _line(self, state: int) -> int:
        """The innermost line of the script on the stack of one coroutine, or 0."""
        activation = _Activation()
        level = 0
        while self._getstack(state, level, ctypes.byref(activation)):
            self._getinfo(state, b"Sl", ctypes.byref(activation))
            if activation.source[:1] == b"@":
                return int(activation.currentline)
            level += 1
        return 0

    def _on_instruction(self, state: int, _activation: int) -> None:
        self._end(self._line(state))

    def _end(self, line: int) -> None:
        report(self._kind, max(line, 0), cpu=self._cpu())


def report(kind: bytes, line: int = 0, message: bytes = b"", cpu: float = 0.0) -> None:
    """Write the last frame, as `K.fail` of channel.lua does, and end the process."""
    payload = struct.pack("<I", len(kind)) + kind + struct.pack("<IIddI", line, 0, cpu, 0.0, len(message)) + message
    os.write(1, b"E" + struct.pack("<I", len(payload)) + payload)
    os._exit(0)
