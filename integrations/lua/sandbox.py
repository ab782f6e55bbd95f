"""Runs one script in a child process of its own and answers what it asks for."""

from __future__ import annotations

import signal
import struct
import time
from typing import TYPE_CHECKING, Any, NoReturn, cast

from prefect_kosmokrator.integrations.lua.answers import (
    decode_path,
    encode_answer,
    encode_error,
    encode_refusal,
    prepare,
    text_of,
)
from prefect_kosmokrator.integrations.lua.errors import KINDS, Kind, LuaError
from prefect_kosmokrator.integrations.lua.process import NEVER, TICK_SECONDS, Child, ChildEndedError, signal_name
from prefect_kosmokrator.integrations.lua.results import CallRecord, Limits, ScriptResult
from prefect_kosmokrator.integrations.lua.values import (
    CorruptFrameError,
    EmptyTable,
    Encoder,
    Handle,
    OversizeError,
    RefusedValueError,
    decode,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Host = Callable[[tuple[str, ...], Any], Any]

CHECK_SECONDS = 0.05
WALL_GRACE_SECONDS = 0.3
STALL_CHECKS, STALL_CPU_SECONDS = 20, 0.01  # once a second
MAX_QUESTIONS = 100_000
PREVIEW_BYTES = 64 * 1024
PREVIEW_START = 48
OUT_OF_MEMORY_STATUS = 3  # see channel.lua
STRICT_LAYERS = ("landlock", "seccomp")


def run(
    source: str | bytes,
    host: Host | None,
    *,
    name: str = "script",
    inputs: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    on_output: Callable[[str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    strict: bool = False,
) -> ScriptResult:
    """Run a script to its end.

    Args:
        source: The script. A byte order mark and a `#!` line are skipped; compiled Lua is refused.
        host: Called as `host(path, arguments)` for every function the script calls below `app`, `docs` and `mcp`, on
            the thread of the caller. It answers a JSON-like value (bytes and `Handle` allowed) or raises, which the
            script can catch. The arguments are a dict or list (one table), or a `Positional`.
        name: How the script is called in messages: `name:line:`.
        inputs: The global `inputs` of the script.
        limits: What it may use.
        on_output: Called with each printed line, as it is printed.
        cancelled: Asked at least four times a second, during host waits only between them; True ends the run.
        strict: Refuse to start unless the kernel confines the child (Landlock and seccomp).

    Raises:
        LuaError: The script failed, met a limit or was cancelled.

    An exception that hits the calling thread, such as KeyboardInterrupt or a task's time limit, ends the child at once
    and passes on; so does one that `on_output` raises.
    """
    return _Run(host, name, limits or Limits(), on_output, cancelled).run(source, dict(inputs or {}), strict=strict)


class _Run:
    def __init__(
        self,
        host: Host | None,
        name: str,
        limits: Limits,
        on_output: Callable[[str], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self._host, self._limits, self._on_output, self._cancelled = host, limits, on_output, cancelled
        self._name = "".join(letter if letter.isprintable() else "?" for letter in name) or "script"
        self._lines: list[str] = []
        self._printed = self._questions = 0
        self._calls: list[CallRecord] = []
        self._handles: list[Handle] = []
        self._exceptions: list[BaseException] = []
        self._layers: tuple[str, ...] = ()
        self._paths: dict[bytes, tuple[str, ...]] = {}
        self._line: int | None = None  # of the call being answered

    def run(self, source: str | bytes, inputs: dict[str, Any], *, strict: bool) -> ScriptResult:
        start = self._start_frame(prepare(source), inputs)
        self._deadline = time.monotonic() + (self._limits.wall_seconds or NEVER)
        self._next_check = self._next_stall_check = 0.0
        self._cpu_seen, self._idle_checks = 0.0, 0
        self._check()
        self._child = Child(
            self._limits, use_regex=b"regex" in start.frame or any(b"regex" in s for s in start.long_strings)
        )
        try:
            self._wait_until_locked(strict=strict)
            self._child.send(b"V" + start.frame, start.long_strings, self._check)
            while True:
                letter, payload = self._child.receive(self._check_child)
                self._line = None
                if letter == b"D":
                    return self._finished(payload)
                self._handle_frame(letter, payload)
        except ChildEndedError:
            self._raise_for_status(self._child.cpu_seconds(), self._child.ended())
        except (CorruptFrameError, struct.error) as error:
            self._fail("crash", f"the sandbox sent a malformed message: {error}")
        finally:
            self._child.close()

    # ------------------------------------------------------------------ frames

    def _start_frame(self, source: bytes, inputs: dict[str, Any]) -> Encoder:
        if len(source) > self._limits.memory_bytes:
            self._fail("memory", self._limit_text("memory"))
        start = Encoder(self._handles, self._limits.memory_bytes + 2**20)
        try:
            start.put({"name": self._name, "source": source, "output": self._limits.output_bytes, "inputs": inputs})
        except RefusedValueError as error:
            kind: Kind = "memory" if isinstance(error, OversizeError) else "value"
            self._fail(kind, f"the inputs cannot be handed to the script: {error}")
        return start

    def _wait_until_locked(self, *, strict: bool) -> None:
        letter, payload = self._child.receive(self._check_child)
        if letter != b"R":
            self._handle_frame(letter, payload)
        self._layers = tuple(layer for layer in payload.decode("ascii", "replace").split(",") if layer)
        missing = [layer for layer in STRICT_LAYERS if layer not in self._layers]
        if strict and missing:
            self._fail("crash", f"this system cannot confine the script: no {' and no '.join(missing)}")

    def _handle_frame(self, letter: bytes, payload: bytes) -> None:
        self._check_child()
        if letter == b"P":
            self._print(payload)
        elif letter == b"C":
            self._call(payload)
        elif letter in b"LS":
            self._questions += 1
            if self._questions > MAX_QUESTIONS:
                self._fail("calls", f"limit of {MAX_QUESTIONS} sleeps and field reads exceeded", self._line)
            (self._fetch if letter == b"L" else self._sleep)(payload)
        elif letter == b"E":
            self._failed(payload)
        else:
            raise CorruptFrameError(f"unknown frame {letter!r}")

    def _print(self, payload: bytes) -> None:
        self._printed += len(payload) + 1
        if self._printed > self._limits.output_bytes + 1:
            raise CorruptFrameError("more output than allowed")
        line = payload.decode("utf-8", "replace")
        self._lines.append(line)
        if self._on_output is not None:
            self._on_output(line)

    def _call(self, payload: bytes) -> None:
        self._line = int.from_bytes(payload[:4], "little") or None
        after_path = 8 + int.from_bytes(payload[4:8], "little")
        path = self._paths.get(payload[8:after_path])
        if path is None:
            path = self._paths[payload[8:after_path]] = decode_path(payload[8:after_path])
        arguments = decode(payload, self._handles, EmptyTable, after_path)
        if len(self._calls) >= self._limits.host_calls:
            self._fail("calls", self._limit_text("calls"), self._line)
        self._check()
        started = time.perf_counter()
        failure: str | None = None
        try:
            answer = encode_answer((self._host or _no_host)(path, arguments), self._handles, self._limits.memory_bytes)
        except Exception as error:  # noqa: BLE001 - whatever the host raises is the script's to catch
            failure = text_of(error)
            answer = self._error_answer(error, failure)
        duration = time.perf_counter() - started
        self._calls.append(CallRecord(path, duration, "error" if failure is not None else "ok", failure, self._line))
        self._check()
        self._reply(answer)

    def _fetch(self, payload: bytes) -> None:
        number, shortened = struct.unpack_from("<IB", payload)
        key = payload[9:].decode()
        if number >= len(self._handles) or key not in self._handles[number].lazy:
            raise CorruptFrameError("unknown field")
        try:
            value = self._handles[number].lazy[key]()
            if shortened and isinstance(value, str | bytes) and len(value) > PREVIEW_BYTES:
                shown = (
                    value[:PREVIEW_START]
                    if isinstance(value, str)
                    else value[:PREVIEW_START].decode("utf-8", "replace")
                )
                value = f"{shown}... ({len(value)} bytes)"
            answer = encode_answer(value, self._handles, self._limits.memory_bytes)
        except Exception as error:  # noqa: BLE001 - as in a call
            answer = self._error_answer(error, text_of(error))
        self._reply(answer)

    def _sleep(self, payload: bytes) -> None:
        line, seconds = struct.unpack("<Id", payload)
        self._line = line or None
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._check()
            time.sleep(min(left, TICK_SECONDS, max(self._deadline - time.monotonic(), 0)))
        self._reply(encode_answer(None, [], 2**10))

    def _finished(self, payload: bytes) -> ScriptResult:
        cpu, memory = struct.unpack_from("<dd", payload)
        values = decode(payload, self._handles, list, 16)
        if not isinstance(values, list):
            raise CorruptFrameError("no list of results")
        results = list(cast("list[Any]", values))
        return ScriptResult(self._output, results, self._calls, cpu, int(memory), self._layers)

    def _failed(self, payload: bytes) -> NoReturn:
        (length,) = struct.unpack_from("<I", payload)
        kind = payload[4 : 4 + length].decode("ascii", "replace")
        line, number, _cpu, _memory, size = struct.unpack_from("<IIddI", payload, 4 + length)
        message = payload[len(payload) - size :].decode("utf-8", "replace")
        if kind not in KINDS:
            raise CorruptFrameError(f"unknown kind {kind!r}")
        cause = self._exceptions[number - 1] if 0 < number <= len(self._exceptions) else None
        self._fail(cast("Kind", kind), message or self._limit_text(kind), line or None, cause, place=not message)

    # ------------------------------------------------------------------ answers

    def _error_answer(self, error: Exception, message: str) -> Encoder:
        if isinstance(error, RefusedValueError):
            return encode_refusal(error)
        self._exceptions.append(error)
        return encode_error(error, message, len(self._exceptions))

    def _reply(self, answer: Encoder) -> None:
        self._idle_checks = 0
        self._child.send(answer.frame, answer.long_strings, self._check)

    # ------------------------------------------------------------------ limits

    def _check(self) -> None:
        """End the run when it was cancelled or its time is over."""
        if self._cancelled is not None and self._cancelled():
            self._fail("cancelled", "the run was cancelled", self._line)
        if time.monotonic() >= self._deadline:
            self._fail("wall", self._limit_text("wall"), self._line)

    def _check_child(self) -> None:
        """Do the same while the child is at work; it gets a moment to say the line it was on."""
        now = time.monotonic()
        if now < self._next_check:
            return  # a chatty script does not make the hooks expensive
        self._next_check = now + CHECK_SECONDS
        if now < self._deadline + WALL_GRACE_SECONDS and self._cancelled is None and now < self._next_stall_check:
            return
        if self._cancelled is not None and self._cancelled():
            self._fail("cancelled", "the run was cancelled")
        if now >= self._deadline + WALL_GRACE_SECONDS:
            self._fail("wall", self._limit_text("wall"))
        self._check_stall(now)

    def _check_stall(self, now: float) -> None:
        """A child that neither works nor speaks is stuck in a way that costs no CPU."""
        self._next_stall_check = now + 1
        used = self._child.cpu_seconds()
        if used is None or used - self._cpu_seen > STALL_CPU_SECONDS:
            self._cpu_seen, self._idle_checks = used or 0.0, 0
            return
        # Counted rather than timed: a paused container is not a stuck child.
        self._idle_checks += 1
        if self._idle_checks > STALL_CHECKS:
            self._fail("crash", "the sandbox stopped responding")

    def _raise_for_status(self, used: float | None, status: int) -> NoReturn:
        if status == OUT_OF_MEMORY_STATUS:
            self._fail("memory", self._limit_text("memory"), self._last_line())
        if status == -signal.SIGXCPU or (used is not None and used >= self._limits.cpu_seconds):
            self._fail("cpu", self._limit_text("cpu"))
        self._fail("crash", f"the sandbox ended unexpectedly ({signal_name(status)})")

    def _last_line(self) -> int | None:
        return self._calls[-1].line if self._calls else None

    def _limit_text(self, kind: str) -> str:
        limits = self._limits
        return {
            "cpu": f"CPU time limit of {limits.cpu_seconds:g} s exceeded",
            "wall": f"time limit of {limits.wall_seconds or 0:g} s exceeded",
            "memory": f"memory limit of {limits.memory_bytes} bytes exceeded",
            "output": f"output limit of {limits.output_bytes} bytes exceeded",
            "calls": f"limit of {limits.host_calls} host calls exceeded",
        }.get(kind, "the sandbox failed")

    def _fail(
        self,
        kind: Kind,
        message: str,
        line: int | None = None,
        cause: BaseException | None = None,
        *,
        place: bool = True,
    ) -> NoReturn:
        if place and line is not None:
            message = f"{self._name}:{line}: {message}"
        calls = tuple(self._calls)
        raise LuaError(message, kind=kind, line=line, output=self._output, calls=calls, cause=cause) from cause

    @property
    def _output(self) -> str:
        return "\n".join(self._lines)


def _no_host(path: tuple[str, ...], _arguments: Any) -> Any:
    raise LookupError(f"{'.'.join(path)} cannot be called: this script runs without a host")
