"""What a caller of `run` can rely on, beside what scripts do."""

import ctypes
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prefect_kosmokrator.integrations.errors import KosmoError, Unavailable
from prefect_kosmokrator.integrations.lua import CallRecord, Handle, Limits, LuaError, materialise, run

SPIN = "while true do end"
NO_HOST = None


def children():
    """The process numbers of this process' children, zombies included."""
    return {number for task in Path("/proc/self/task").iterdir() for number in (task / "children").read_text().split()}


def open_files():
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_the_result_has_everything():
    result = run("print('a') print('b') return app.x.y{}, 2", lambda _path, _arguments: 1)
    assert result.output == "a\nb"
    assert result.result == [1, 2]
    assert [(call.path, call.status, call.error, call.line) for call in result.calls] == [(("x", "y"), "ok", None, 1)]
    assert result.calls[0].duration > 0
    assert 0 <= result.cpu_seconds < 1
    assert result.memory_bytes > 1000
    assert "rlimits" in result.layers


def test_output_arrives_while_the_script_runs():
    seen = []
    run("print('a') sleep(0.2) print({1})", NO_HOST, on_output=lambda line: seen.append((line, time.monotonic())))
    assert [line for line, _ in seen] == ["a", "[\n  1\n]"]
    assert seen[1][1] - seen[0][1] > 0.15


def test_calls_are_recorded_in_order_with_their_errors():
    def host(path, _arguments):
        if path[-1] == "bad":
            raise ValueError("no")

    result = run("pcall(app.x.bad)\napp.x.good()\ndocs.list()", host)
    assert [(call.path, call.status, call.error, call.line) for call in result.calls] == [
        (("x", "bad"), "error", "no", 1),
        (("x", "good"), "ok", None, 2),
        (("docs", "list"), "ok", None, 3),
    ]


def test_an_error_carries_what_happened_before():
    with pytest.raises(LuaError) as caught:
        run("print('before')\napp.x.y()\nerror('boom')", lambda _p, _a: None, name="workflow.lua")
    error = caught.value
    assert (error.kind, error.line, error.message) == ("runtime", 3, "workflow.lua:3: boom")
    assert str(error) == error.message
    assert error.output == "before"
    assert [call.path for call in error.calls] == [("x", "y")]


def test_errors_are_of_the_pack_and_survive_pickling():
    error = LuaError("m", kind="cpu", line=3, output="o", calls=(CallRecord(("a",), 1.0, "ok"),))
    assert isinstance(error, KosmoError)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (copy.kind, copy.message, copy.line, copy.output, copy.calls) == ("cpu", "m", 3, "o", error.calls)


def test_a_host_error_is_the_cause_and_lends_its_attributes():
    problem = Unavailable("later", status=503, request_id="r", retry_after=2.0)

    def host(_path, _arguments):
        raise problem

    with pytest.raises(LuaError) as caught:
        run("local ok, e = pcall(app.x.y)\nerror(e)", host)
    assert caught.value.__cause__ is problem
    assert (caught.value.retryable, caught.value.status, caught.value.request_id) == (True, 503, "r")


def test_a_caught_host_error_is_no_cause():
    def host(_path, _arguments):
        raise ValueError("first")

    with pytest.raises(LuaError) as caught:
        run("pcall(app.x.y) error('own')", host)
    assert caught.value.__cause__ is None
    assert not caught.value.retryable


def test_names_that_look_odd():
    for name in ("a b.lua", "100%.lua", "[string]", "x" * 300, "né.lua", "a:1: b"):
        with pytest.raises(LuaError) as caught:
            run("\nerror({})", NO_HOST, name=name)
        assert caught.value.line == 2
        with pytest.raises(LuaError) as caught:
            run("\nerror('x')", NO_HOST, name=name)
        assert caught.value.line == 2
    with pytest.raises(LuaError, match=r"script\?:1: x"):
        run("error('x')", NO_HOST, name="script\n")


def test_without_a_host_calls_raise():
    with pytest.raises(LuaError, match="without a host"):
        run("app.x.y()", NO_HOST)


@pytest.mark.parametrize("inputs", [{"x": float("nan")}, {"x": object()}, {1: 2}])
def test_inputs_that_cannot_cross(inputs):
    with pytest.raises(LuaError) as caught:
        run("return 1", NO_HOST, inputs=inputs)
    assert caught.value.kind == "value"


@pytest.mark.parametrize(
    "limits",
    [
        {"cpu_seconds": 0},
        {"cpu_seconds": float("inf")},
        {"memory_bytes": -1},
        {"output_bytes": -1},
        {"wall_seconds": 0},
    ],
)
def test_limits_that_make_no_sense(limits):
    with pytest.raises(ValueError, match="limit"):
        Limits(**limits)


def test_cancelled_before_it_starts():
    with pytest.raises(LuaError) as caught:
        run("print(1)", NO_HOST, cancelled=lambda: True)
    assert (caught.value.kind, caught.value.output) == ("cancelled", "")


@pytest.mark.parametrize(
    "source", [SPIN, "sleep(30)", "while true do pcall(app.x.y) end", "while true do print(1) sleep(0) end"]
)
def test_cancelled_while_it_runs(source):
    until = time.monotonic() + 0.3
    with pytest.raises(LuaError) as caught:
        run(source, lambda _p, _a: None, cancelled=lambda: time.monotonic() > until, limits=Limits(host_calls=10**6))
    assert caught.value.kind == "cancelled"
    assert time.monotonic() - until < 2


def test_no_call_is_made_after_cancelling():
    made = []
    with pytest.raises(LuaError):
        run("for i = 1, 10 do app.x.y() end", lambda path, _: made.append(path), cancelled=lambda: len(made) >= 2)
    assert len(made) == 2


@pytest.mark.parametrize("source", [SPIN, "sleep(30)", "string.find(('a'):rep(60), ('a*'):rep(14) .. 'b')"])
def test_a_signal_ends_the_child_at_once(source):
    before = children()
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(source, NO_HOST)
    assert time.monotonic() - started < 3
    assert children() == before


class Stop(BaseException):
    pass


@pytest.mark.parametrize("source", [SPIN, "sleep(30)"])
def test_an_exception_sent_to_its_thread_ends_it(source):
    ended = []

    def work():
        try:
            run(source, NO_HOST)
        except Stop:
            ended.append(time.monotonic())

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.3)
    sent = time.monotonic()
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Stop))
    thread.join(5)
    assert ended
    assert ended[0] - sent < 2


def test_exceptions_of_the_callbacks_pass_through():
    def angry(*_):
        raise Stop

    for source, callbacks in (("print(1)", {"on_output": angry}), (SPIN, {"cancelled": angry})):
        with pytest.raises(Stop):
            run(source, NO_HOST, **callbacks)
    with pytest.raises(Stop):
        run("pcall(app.x.y)", angry)


def test_nothing_is_left_behind():
    run("return 1", NO_HOST)
    files, processes = open_files(), children()
    for _ in range(5):
        for source in ("return 1", "error('x')", "syntax error", "local t = {} while true do t[#t + 1] = #t end", SPIN):
            try:
                run(source, NO_HOST, limits=Limits(cpu_seconds=0.05))
            except LuaError as error:
                assert error.kind != "crash"  # noqa: PT017
    gc.collect()
    assert open_files() == files
    assert children() == processes


def test_many_at_once():
    def work(number):
        return run(
            f"local n = 0 for i = 1, 10 do n = n + app.x.y({{i}}) end return n + {number}", lambda _p, a: a[0]
        ).result

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(40))) == [[55 + number] for number in range(40)]


def test_a_run_inside_a_host_call():
    def host(_path, arguments):
        return run("return inputs.n * 2", NO_HOST, inputs=arguments).result[0]

    assert run("return app.x.y{n = 21}", host).result == [42]


def test_the_child_has_no_environment_and_no_open_files(monkeypatch):
    monkeypatch.setenv("SECRET", "hidden")
    seen = {}

    def host(_path, _arguments):
        (child,) = (Path("/proc") / number for number in children() - before)
        seen["environment"] = (child / "environ").read_text()
        seen["files"] = len(list((child / "fd").iterdir()))

    before = children()
    run("app.x.y()", host)
    assert "hidden" not in seen["environment"]
    assert seen["files"] == 3


def test_strict_runs_where_the_kernel_confines():
    result = run("return 1", NO_HOST)
    if {"landlock", "seccomp"} <= set(result.layers):
        assert run("return 1", NO_HOST, strict=True).result == [1]
    else:
        with pytest.raises(LuaError, match="cannot confine"):
            run("return 1", NO_HOST, strict=True)


def test_a_child_that_dies_is_a_crash():
    def host(_path, _arguments):
        for child in children() - before:
            try:
                os.kill(int(child), signal.SIGKILL)
            except ProcessLookupError:
                continue

    before = children()
    with pytest.raises(LuaError) as caught:
        run("app.x.y() app.x.y()", host)
    assert caught.value.kind == "crash"


def test_a_handle_as_a_result_and_as_plain_data():
    handle = Handle("target", {"seed": 1}, {"body": lambda: "x"})
    result = run("return {app.x.y()}, app.x.y()", lambda _p, _a: handle).result
    assert result == [[handle], handle]
    assert result[1].target == "target"
    assert materialise(result) == [[{"seed": 1, "body": "x"}], {"seed": 1, "body": "x"}]


def test_handles_as_inputs():
    handle = Handle("target", {"seed": 1}, {})
    got = []
    run("app.x.y{image = inputs.image}", lambda _p, a: got.append(a["image"]), inputs={"image": handle})
    assert got == [handle]


def test_the_parent_never_loads_lua():
    code = (
        "import sys, prefect_kosmokrator.integrations.lua as lua; assert lua.run('return 1', None).result == [1]; "
        "print([name for name in ('lupa', 'regex', 'prefect') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
