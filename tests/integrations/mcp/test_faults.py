"""Servers that hang, crash, flood or do not want to end: a clear error, the run goes on, nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from prefect_kosmokrator.integrations.errors import AmbiguousSubmission, ConfigurationError, Unavailable
from prefect_kosmokrator.integrations.mcp.config import Server, Servers
from prefect_kosmokrator.integrations.mcp.hub import Hub
from prefect_kosmokrator.integrations.permissions import Permissions


def test_a_server_that_hangs_at_its_start_is_an_error_in_time(faulty, script):
    runner = script(faulty("hang", "slow", timeout=1.0), faulty(name="good"))
    started = time.monotonic()
    message, kind = runner.error("app.mcp.slow.add{a=1,b=2}")
    assert time.monotonic() - started < 2
    assert (message, kind) == ("mcp.slow: The server did not start within 1 s.", "Unavailable")
    started = time.monotonic()
    runner.error("app.mcp.slow.add{a=1,b=2}")
    assert time.monotonic() - started < 0.5  # it is not waited for again
    assert runner.value("app.mcp.good.add{a=1,b=2}.result") == 3


def test_several_servers_start_at_the_same_time(faulty, script):
    runner = script(*(faulty("hang", f"slow{number}", timeout=1.5) for number in range(4)))
    started = time.monotonic()
    assert runner.value("mcp.tools()") == []
    assert time.monotonic() - started < 4


def test_a_server_that_crashes_at_its_start_says_what_it_said(faulty, script):
    message, _ = script(faulty("crash")).error("app.mcp.faults.add{a=1,b=2}")
    assert "ended with exit status 1 while it started (it said: ImportError: no module named weather)" in message


def test_a_program_that_does_not_exist(script):
    message, kind = script(Server("none", command="/no/such/program")).error("app.mcp.none.x{}")
    assert "could not be started: /no/such/program: No such file or directory" in message
    assert kind == "ConfigurationError"


def test_a_working_directory_that_does_not_exist(faulty, script):
    message, _ = script(faulty(cwd="/no/such/folder")).error("app.mcp.faults.add{a=1,b=2}")
    assert "could not be started" in message


def test_a_server_that_dies_in_a_call(faulty, script, traces):
    runner = script(faulty(env={"API_TOKEN": "s3cret-value"}))
    message, kind = runner.error('app.mcp.faults.die{words="x"}')
    assert "ended with exit status 3 during the call of 'die' (it said: Traceback: it hurts, token ***)." in message
    assert message.endswith("It may have been carried out.")
    assert kind == "AmbiguousSubmission"
    assert (traces / "died").exists()
    assert runner.value("app.mcp.faults.add{a=1,b=2}.result") == 3  # it is started again
    assert len(list(traces.glob("started-*"))) == 2
    for _ in range(3):
        assert "exit status 3" in runner.error('app.mcp.faults.die{words="x"}')[0]
    assert len(list(traces.glob("started-*"))) == 3  # but not for ever


def test_a_flood_on_stdout_does_not_disturb(faulty, script):
    runner = script(faulty("flood"))
    assert runner.value("app.mcp.faults.add{a=1,b=2}.result") == 3
    time.sleep(0.5)
    assert runner.value("app.mcp.faults.add{a=2,b=2}.result") == 4


def test_an_answer_of_fifty_megabytes(faulty, script):
    runner = script(faulty())
    started = time.monotonic()
    message, _ = runner.error("app.mcp.faults.large{size=50*1024*1024}")
    assert "sent an answer of more than 16,777,216 bytes" in message
    assert time.monotonic() - started < 20
    assert runner.value("app.mcp.faults.add{a=1,b=2}.result") == 3


def test_the_family_of_a_server_ends_with_it(faulty, script, alive):
    runner = script(faulty("family"))
    assert runner.value("app.mcp.faults.add{a=1,b=2}.result") == 3
    assert len(alive()) >= 3  # guard, server, and its child in a session of its own
    runner.hub.close()
    assert alive(5) == []


def test_a_server_that_does_not_want_to_end_is_made_to(faulty, script, alive):
    runner = script(faulty("stubborn"))
    assert runner.value("app.mcp.faults.add{a=1,b=2}.result") == 3
    started = time.monotonic()
    runner.hub.close()
    assert time.monotonic() - started < 5
    assert alive() == []


def test_a_closed_hub_can_be_used_again(faulty):
    hub = Hub(Servers([faulty("crash")]))
    hub.close()
    for _ in range(2):
        with pytest.raises(Unavailable, match="ended with exit status 1"):
            hub.tools(hub.servers.find("faults"))
        hub.close()


def test_an_exception_in_the_thread_of_the_run_ends_the_servers(faulty, traces, alive):
    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with Hub(Servers([faulty()])) as hub:
            tool = hub.tool("faults.sleep")
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(KeyboardInterrupt):
                hub.call(tool, {"seconds": 20})
    finally:
        signal.signal(signal.SIGALRM, before)
    assert alive(5) == []


RUNNER = """
    import sys
    from prefect_kosmokrator.integrations.mcp.config import Server, Servers
    from prefect_kosmokrator.integrations.mcp.hub import Hub

    server = Server("faults", command=sys.executable, args=tuple(sys.argv[1:]))
    with Hub(Servers([server])) as hub:
        tool = hub.tool("faults.sleep")
        print("ready", flush=True)
        hub.call(tool, {"seconds": 25})
"""


def test_a_hub_that_nobody_closes_ends_with_the_interpreter(faulty, alive):
    code = textwrap.dedent(RUNNER).replace("with Hub(Servers([server])) as hub:", "if hub := Hub(Servers([server])):")
    command = [sys.executable, "-c", code.replace('{"seconds": 25}', '{"seconds": 0}'), *faulty().args]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout == "ready\n"
    assert alive(2) == []


@pytest.mark.parametrize(("mode", "number"), [("stubborn", signal.SIGKILL), ("family", signal.SIGTERM)])
def test_killing_the_run_ends_its_servers(faulty, alive, mode, number):
    args = faulty(mode).args
    command = [sys.executable, "-c", textwrap.dedent(RUNNER), *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        assert run.stdout.readline() == "ready\n"
        assert len(alive()) >= 4
        run.send_signal(number)
        run.wait(10)
    assert alive(5) == []


def test_killing_the_guard_ends_the_server(faulty, script, alive):
    runner = script(faulty())
    assert runner.value("app.mcp.faults.add{a=1,b=2}.result") == 3
    (guard,) = [pid for pid, seen in alive() if b"guard.py" in seen]
    os.kill(guard, signal.SIGKILL)
    assert alive(5) == []
    message, _ = runner.error("app.mcp.faults.add{a=1,b=2}")
    assert "ended during" in message


def test_a_server_sees_a_minimal_environment_and_its_secrets_are_hidden(faulty, script, monkeypatch):
    monkeypatch.setenv("KOSMO_MCP_TOKEN", "t0ken-from-outside")
    monkeypatch.setenv("KOSMO_STABILITY__DEFAULT__API_KEY", "sk-never")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-never")
    runner = script(faulty(env={"API_TOKEN": "${KOSMO_MCP_TOKEN}", "PLACE": "here", "MY_PASSWORD": "l1teral-pass"}))
    seen = runner.value("app.mcp.faults.environment{}")
    names = {line.partition("=")[0] for line in seen.splitlines()}
    assert names <= {"API_TOKEN", "PLACE", "MY_PASSWORD", "HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "LANG",
                     "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "TMPDIR", "TEMP", "TMP", "TZ"}  # fmt: skip
    assert "PLACE=here" in seen
    assert "API_TOKEN=***" in seen
    for secret in ("t0ken-from-outside", "l1teral-pass", "never"):
        assert secret not in seen
    listed = json.dumps([runner.value("mcp.servers()"), runner.value("mcp.tools()")])
    assert "t0ken" not in listed
    assert "l1teral" not in listed


def test_errors_carry_what_a_caller_decides_by(faulty):
    with Hub(Servers([faulty(timeout=3.0)]), Permissions(write="allow")) as hub:
        tool = hub.tool("faults.sleep")
        started = time.monotonic()
        with pytest.raises(Unavailable, match="did not answer the call of 'sleep' within 3 s") as read:
            hub.call(tool, {"seconds": 8})
        assert time.monotonic() - started < 5
        assert read.value.retryable
        with pytest.raises(AmbiguousSubmission) as write:
            hub.call(hub.tool("faults.die"), {})
        assert not write.value.retryable
        assert (write.value.provider, write.value.function) == ("mcp", "faults.die")
        with pytest.raises(ConfigurationError):
            Hub(hub.servers, Permissions(write="deny")).require(hub.servers.find("faults"), "write")


# ---------------------------------------------------------------- streamable HTTP


@pytest.mark.parametrize("options", [(), ("json",)], ids=["events", "json"])
def test_streamable_http(web_server, script, options):
    with web_server(*options) as server:
        runner = script(server)
        assert runner.value("app.mcp.web.add{a=1,b=2}.result") == 3
        assert runner.value('app.mcp.web.draw{words="x"}.content_type') == "image/png"
        assert len(runner.run("return app.mcp.web.large{size=3000000}").result[0]) == 3_000_000
        message, _ = runner.error("app.mcp.web.large{size=17*1024*1024}")
        assert "of more than 16,777,216 bytes" in message
        assert runner.value("app.mcp.web.add{a=2,b=2}.result") == 4
        wrong = Server("web", url=server.url.replace("/mcp", "/nothing"), headers={"Authorization": "Bearer s3cret-x"})
        message, kind = script(wrong).error("app.mcp.web.add{a=1,b=2}")
        assert "answered HTTP 404" in message
        assert kind == "Rejected"
        assert "s3cret" not in message
        message, kind = runner.error('app.mcp.web.die{words="x"}')
        assert "It may have been carried out." in message
        assert kind == "AmbiguousSubmission"
        assert runner.error("app.mcp.web.add{a=1,b=2}")[1] == "Unavailable"
        runner.hub.close()


def test_an_address_where_nobody_answers(script):
    message, kind = script(Server("web", url="http://127.0.0.1:9/mcp")).error("app.mcp.web.add{a=1,b=2}")
    assert "could not be reached" in message
    assert kind == "Unavailable"
