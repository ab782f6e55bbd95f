"""What the sandbox costs, each figure beside what it is compared with, in one run.

    python benchmarks/lua_sandbox.py

The comparisons are: an interpreter that does nothing, for the start; the sandbox' own Lua files inside this process,
without a child and its pipes, and one hand-written lupa callback, for a call; bare lupa, for work that never leaves
Lua. What dominates: two process switches in a call, the interpreter's own start and loading lupa in a run.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_kosmokrator.integrations.lua import Limits, process, run
from prefect_kosmokrator.integrations.lua.answers import encode_answer
from prefect_kosmokrator.integrations.lua.values import EmptyTable, decode

if TYPE_CHECKING:
    from collections.abc import Callable

lua54: Any = import_module("lupa.lua54")
CALLS = 5000
FIBONACCI = "local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end return fib(31)"
COROUTINES = (
    "local n = 0 for i in coroutine.wrap(function() for i = 1, 10^6 do coroutine.yield(i) end end) do n = n + i end"
)
STRINGS = (
    "local t = {} for i = 1, 300000 do t[i % 100 + 1] = ('%d:%s'):format(i, 'x') .. #t end return #table.concat(t)"
)
MANY = Limits(host_calls=10**6)


def milliseconds(work: Callable[[], Any], times: int = 30) -> float:
    """Return the median time of one call."""
    taken: list[float] = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1000


def row(name: str, value: float, unit: str, base: float | None = None, goal: str = "") -> None:
    """Print one figure."""
    ratio = f"{value / base:6.2f} x" if base else ""
    print(f"{name:<52} {value:9.2f} {unit:<3} {ratio:<9} {goal}")


def start() -> None:
    """The start of a run."""
    nothing = [sys.executable, "-I", "-S", "-c", "pass"]
    bare = milliseconds(lambda: subprocess.run(nothing, check=True))
    row("python -I -S -c pass", bare, "ms")
    row("a run that returns 1", milliseconds(lambda: run("return 1", None)), "ms", bare, "goal 3.5 x")
    row("  of a script that uses regex", milliseconds(lambda: run("return 1 -- regex", None)), "ms", bare)


def sandbox_call(arguments: str) -> float:
    """Microseconds of one call from a child."""
    idle = milliseconds(lambda: run("return 1", None), 10)
    source = f"for i = 1, {CALLS} do app.integrations.fal.echo({arguments}) end"
    return (milliseconds(lambda: run(source, lambda _path, given: given, limits=MANY), 5) - idle) / CALLS * 1000


def same_prelude_call(arguments: str) -> float:
    """Microseconds of the same call, through the same Lua files, inside this process."""
    runtime: Any = lua54.LuaRuntime(encoding=None)
    shared = runtime.table()
    replies: list[bytes] = []

    def send(_letter: bytes, payload: bytes) -> None:
        after_path = 8 + int.from_bytes(payload[4:8], "little")
        answer = encode_answer(decode(payload, [], EmptyTable, after_path), [], 2**25)
        replies.append(bytes(answer.frame))

    shared[b"send"], shared[b"read_frame"] = send, replies.pop
    runtime.execute("local K = ... K.line = function() return 1 end K.guarded = function(f) return f() end", shared)
    for part in ("wire", "text", "host"):
        runtime.compile((Path(process.FOLDER) / f"{part}.lua").read_bytes())(shared)
    loop = runtime.compile(
        f"local app = (...).app for i = 1, {CALLS} do app.integrations.fal.echo({arguments}) end".encode()
    )
    return milliseconds(lambda: loop(shared), 5) / CALLS * 1000


def lupa_call(arguments: str) -> float:
    """Microseconds of a hand-written callback that turns a table into a dict and a dict into a table."""
    runtime: Any = lua54.LuaRuntime()

    def plain(value: Any) -> Any:
        return {key: plain(item) for key, item in value.items()} if lua54.lua_type(value) == "table" else value

    def table(value: Any) -> Any:
        return runtime.table_from({key: table(value[key]) for key in value}) if value.__class__ is dict else value

    def host(given: Any) -> Any:
        return table(plain(given))

    loop = runtime.eval(f"function(host) for i = 1, {CALLS} do host({arguments}) end end")
    return milliseconds(lambda: loop(host), 5) / CALLS * 1000


def calls() -> None:
    """One host call."""
    fields = ", ".join(f"field_{number} = 'value {number}'" for number in range(10))
    for name, arguments in (("{a = 1}", "{a = 1}"), ("10 fields", f"{{{fields}}}")):
        same = same_prelude_call(arguments)
        row(f"a call with {name}, same Lua files in process", same, "us")
        row(f"a call with {name}, hand-written lupa callback", lupa_call(arguments), "us")
        row(f"a call with {name}, sandbox", sandbox_call(arguments), "us", same, "goal 2.5 x")


def work() -> None:
    """Scripts that only compute."""
    for name, source in (("fib(31)", FIBONACCI), ("10^6 coroutine turns", COROUTINES), ("strings", STRINGS)):
        bare = milliseconds(partial(lua54.LuaRuntime().execute, source), 5)
        boxed = statistics.median(run(source, None).cpu_seconds for _ in range(5)) * 1000
        row(f"{name}, bare lupa", bare, "ms")
        row(f"{name}, sandbox", boxed, "ms", bare, "goal 1.1 x" if name == "fib(31)" else "")


def answer(value: Any, _path: tuple[str, ...], _arguments: Any) -> Any:
    """Answer every call with one value."""
    return value


def conversions() -> None:
    """Large values; the start of the run is taken off."""
    idle = milliseconds(lambda: run("return 1", None), 10)
    large = "x" * 5 * 2**20
    rows = [{"id": number, "name": f"row {number}", "ok": True, "score": 0.5} for number in range(10_000)]
    one_way, both_ways = "local v = app.x.y() return 1", "local v = app.x.y() return v"
    for name, value in (("5 MB string", large), ("10,000 rows", rows)):
        for direction, source in (("host to script", one_way), ("and back as the result", both_ways)):
            taken = milliseconds(partial(run, source, partial(answer, value)), 5) - idle
            row(f"{name}, {direction}", taken, "ms")


if __name__ == "__main__":
    start()
    calls()
    work()
    conversions()
