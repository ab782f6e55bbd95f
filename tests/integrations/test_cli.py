"""The `kosmo` command as a whole: one JSON document for every outcome, exit codes, help, start-up."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefect_kosmokrator.integrations import cli, stability

KOSMO = str(Path(sys.executable).with_name("kosmo"))
LUA_KEYS = ["success", "output", "error", "result", "execution_time_ms", "memory_usage", "integration_calls", "meta",
            "error_kind", "line", "retryable", "status", "request_id", "error_details"]  # fmt: skip
CALL_KEYS = ["function", "success", "data", "error", "meta", "duration_ms",
             "error_kind", "retryable", "status", "request_id", "error_details"]  # fmt: skip


@pytest.fixture(autouse=True)
def stdin(monkeypatch, tmp_path):
    """Sets stdin, which is empty otherwise; the working directory is the test's own."""
    monkeypatch.chdir(tmp_path)

    def put(content=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    put()
    return put


@pytest.fixture
def outcome(kosmo):
    """Runs a command with --json: exit code and the one document on stdout."""

    def run(*words):
        code, out, err = kosmo(*words, "--json")
        assert "Traceback" not in err
        return code, json.loads(out)

    return run


LUA = "integrations:lua"
OUTCOMES = {
    "success": ([LUA, "-e", "print(1) return 2"], 0, None),
    "nothing printed": ([LUA, "-e", "local x"], 0, None),
    "runtime error": ([LUA, "-e", "print(1)\nerror('no')"], 1, "runtime"),
    "syntax error": ([LUA, "-e", "x ="], 1, "syntax"),
    "cpu limit": ([LUA, "-e", "while true do end", "--cpu-limit", "0.1"], 1, "cpu"),
    "wall limit": ([LUA, "-e", "sleep(9)", "--wall-limit", "0.1"], 1, "wall"),
    "memory limit": ([LUA, "-e", "local t = {} for i = 1, 1e9 do t[i] = {} end", "--memory-limit=999999"], 1, "memory"),
    "output limit": ([LUA, "-e", "while true do print('x') end", "--output-limit", "100"], 1, "output"),
    "calls limit": ([LUA, "-e", "while true do mcp.servers() end", "--call-limit", "3"], 1, "calls"),
    "a value that cannot leave": ([LUA, "-e", "return print"], 1, "value"),
    "ask": ([LUA, "-e", "app.integrations.stability.generate_core{prompt='x'}"], 1, "runtime"),
    "unknown function in a script": ([LUA, "-e", "app.integrations.fal.nope{}"], 1, "runtime"),
    "unknown account in a script": ([LUA, "-e", "app.integrations.fal.nobody.get_balance{}"], 1, "runtime"),
    "output that is not UTF-8": ([LUA, "-e", "print('\\xff') return '\\xff', 'a\\0b'"], 0, None),
    "missing file": ([LUA, "nowhere.lua"], 1, "InvalidInput"),
    "a folder as file": ([LUA, "."], 1, "InvalidInput"),
    "no code": ([LUA], 2, "usage"),
    "empty code": ([LUA, "-e", ""], 2, "usage"),
    "unknown flag": ([LUA, "--jsn"], 2, "usage"),
    "two files": ([LUA, "a.lua", "b.lua"], 2, "usage"),
    "limit that is no number": ([LUA, "-e", "x", "--cpu-limit", "many"], 2, "usage"),
    "limit below zero": ([LUA, "-e", "x", "--memory-limit", "-1"], 2, "usage"),
    "input without =": ([LUA, "-e", "x", "--input", "a"], 2, "usage"),
    "bad output": ([LUA, "-e", "x", "--output", "ftp://host/x"], 1, "InvalidInput"),
    "mcp servers": (["mcp:lua", "-e", "dump(mcp.servers())"], 0, None),
    "mcp tools": (["mcp:lua", "-e", "return mcp.tools('x')"], 1, "runtime"),
    "integrations in mcp:lua": (["mcp:lua", "-e", "app.integrations.fal.get_balance{}"], 1, "runtime"),
    "mcp:lua without code": (["mcp:lua"], 2, "usage"),
    "call": (["integrations:call", "stability.get_balance"], 0, None),
    "call of a provider": (["integrations:fal", "list_models", "--limit", "1"], 0, None),
    "call that asks": (["integrations:call", "stability.generate_core", "--prompt", "x"], 1, "ConfigurationError"),
    "call with force": (["integrations:call", "stability.generate_core", "--prompt", "x", "--force"], 0, None),
    "dry run": (["integrations:call", "stability.generate_core", "--prompt", "x", "--force", "--dry-run"], 0, None),
    "call of nothing": (["integrations:call"], 2, "usage"),
    "unknown function": (["integrations:call", "stability.generte_core"], 1, "InvalidInput"),
    "unknown provider": (["integrations:call", "replicate.run"], 1, "InvalidInput"),
    "unknown account": (["integrations:call", "fal.get_balance", "--account", "nobody"], 1, "ConfigurationError"),
    "unknown parameter": (["integrations:call", "fal.list_models", "--limits", "1"], 1, "InvalidInput"),
    "bad value": (["integrations:call", "fal.list_models", "--limit", "many"], 1, "InvalidInput"),
    "bad payload": (["integrations:call", "fal.list_models", '{"limit": '], 2, "usage"),
    "loose word": (["integrations:fal", "list_models", "flux"], 2, "usage"),
    "missing parameter": (["integrations:fal", "submit_request", "--force", "--input={}"], 1, "InvalidInput"),
    "missing input file": (["integrations:stability", "upscale_fast", "--image", "no.png"], 1, "InvalidInput"),
    "call with an unknown flag before": (["integrations:call", "--wrong", "fal.get_balance"], 2, "usage"),
    "list": (["integrations:list"], 0, None),
    "status": (["integrations:status"], 0, None),
    "search": (["integrations:search", "upscale", "image"], 0, None),
    "search without words": (["integrations:search"], 2, "usage"),
    "docs": (["integrations:docs"], 0, None),
    "docs of a provider": (["integrations:docs", "fal"], 0, None),
    "docs of a function": (["integrations:docs", "app.integrations.fal.work.list_models"], 0, None),
    "docs of nothing": (["integrations:docs", "nothing"], 1, "InvalidInput"),
    "bad format": (["integrations:docs", "--format", "pdf"], 2, "usage"),
    "examples": (["integrations:examples", "fal"], 0, None),
    "schema": (["integrations:schema", "stability_upscale_fast"], 0, None),
    "schema of nothing": (["integrations:schema", "fal.nothing"], 1, "InvalidInput"),
    "fields": (["integrations:fields", "fal", "--account", "work"], 0, None),
    "fields of nothing": (["integrations:fields", "nothing"], 1, "InvalidInput"),
    "doctor": (["integrations:doctor"], 0, None),
    "doctor of a provider": (["integrations:doctor", "fal"], 0, None),
    "doctor of nothing": (["integrations:doctor", "nothing"], 1, "InvalidInput"),
    "provider guide": (["integrations:stability"], 0, None),
    "unknown command": (["integrations:luau"], 2, "usage"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "code", "kind"), OUTCOMES.values(), ids=OUTCOMES)
def test_every_outcome_is_one_json_document(emulator, outcome, words, code, kind):
    actual, document = outcome(*words)
    assert actual == code, document
    assert document.get("error_kind") == kind
    if "schema" not in words[0] or code:
        assert document["success"] is (code == 0)
    assert bool(document.get("error")) is (code != 0)
    if words[0].endswith(":lua"):
        assert list(document) == LUA_KEYS
    elif words[0] in {"integrations:call", "integrations:fal", "integrations:stability"} and len(words) > 1:
        assert list(document) == CALL_KEYS


def test_the_repl_has_no_json(outcome):
    assert outcome(LUA, "--repl")[0] == 2


@pytest.mark.parametrize(("words", "code", "kind"), OUTCOMES.values(), ids=OUTCOMES)
def test_without_json_failures_are_short_and_on_stderr(emulator, kosmo, words, code, kind):
    actual, out, err = kosmo(*words)
    assert actual == code
    assert err.startswith("error: ") if code else "error" not in err
    assert len(err.splitlines()) <= 2
    if code == 2:
        assert out == ""


BALANCE = ([LUA, "-e", "app.integrations.fal.get_balance{}"], ["integrations:fal", "get_balance"])


@pytest.mark.parametrize("words", BALANCE)
def test_an_error_of_the_service_is_one_json_document(emulator, outcome, words):
    emulator.state.inject("/fal/", "503", times=0)
    code, document = outcome(*words)
    assert (code, document["success"], document["status"], document["retryable"]) == (1, False, 503, True)


def test_denied_is_final(emulator, outcome, monkeypatch):
    monkeypatch.setenv("KOSMO_PERMISSIONS__FAL__READ", "deny")
    for words in BALANCE:
        code, document = outcome(*words, "--force")
        assert code == 1
        assert "access denied" in document["error"]
        assert document["meta"]["permission_bypassed"] is False


def test_a_mistake_of_ours_is_one_json_document_too(kosmo, monkeypatch):
    monkeypatch.setattr("prefect_kosmokrator.integrations.docs.find", lambda _query: 1 / 0)
    code, out, err = kosmo("integrations:search", "x", "--json")
    assert code == 1
    assert "ZeroDivisionError" in json.loads(out)["error"]
    assert json.loads(out)["error_kind"] == "internal"
    assert "Traceback" in err


def test_a_stdout_that_is_not_utf_8_still_gets_json(monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    assert cli.main([LUA, "-e", "print('é ✓') return '\\xed\\xa0\\x80'", "--json"]) == 0
    assert json.loads(shown.getvalue())["output"] == "é ✓"
    assert cli.main([LUA, "-e", "print('é ✓')"]) == 0
    assert shown.getvalue().endswith(b"\\xe9 \\u2713\n")


def test_help_names_every_command_in_a_line(kosmo, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = kosmo("--help")
    assert code == 0
    lines = out.splitlines()
    assert max(len(line) for line in lines) <= 80
    for name in ("lua", "list", "status", "search", "docs", "examples", "schema", "fields", "doctor", "call",
                 "stability", "fal"):  # fmt: skip
        (line,) = [line for line in lines if f" integrations:{name} " in line]
        assert line.rstrip(" │").endswith(".")
    assert kosmo()[1] == out


def test_help_of_a_function_is_its_page(kosmo):
    page = kosmo("integrations:docs", "fal.list_models")[1]
    assert kosmo("integrations:fal", "list_models", "--help")[1] == page
    assert kosmo("integrations:call", "fal.list_models", "-h")[1] == page


def test_the_version_is_the_package_s(kosmo):
    assert kosmo("--version")[1].strip() == "0.1.0"


def test_retries_are_told_on_stderr_once(emulator, kosmo):
    emulator.state.inject("/stability/v1/user/balance", "503")
    code, out, err = kosmo("integrations:stability", "get_balance")
    assert code == 0
    assert list(json.loads(out)) == ["credits"]
    assert len(err.splitlines()) <= 1


def run_kosmo(*words, **options):
    return subprocess.run([KOSMO, *words], capture_output=True, timeout=30, check=False, **options)


def test_the_command_reads_code_from_stdin(tmp_path):
    done = run_kosmo(LUA, "--json", input=b"print(inputs)", cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["output"] == "{}"
    assert done.stderr == b""


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    command = f"{KOSMO} integrations:docs stability | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=30, check=False, cwd=tmp_path)
    assert done.stdout.decode().startswith("# Stability AI")
    assert done.stderr == b""


def test_interrupting_a_script_leaves_one_json_document(tmp_path):
    script = Path(tmp_path, "wait.lua")
    script.write_text("print('started') sleep(60)")
    with subprocess.Popen(
        [KOSMO, LUA, str(script), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        while not children.read_text():
            time.sleep(0.05)
        time.sleep(1)  # the script has begun
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
    document = json.loads(out)
    assert running.returncode == 130
    assert (document["output"], document["error_kind"]) == ("started", "cancelled")
    assert err == b""


def test_a_script_without_calls_loads_neither_prefect_nor_the_catalogue():
    code = (
        "import sys; from prefect_kosmokrator.integrations.cli import main;"
        "main(['integrations:lua', '--eval', 'print(1)']);"
        "print([name for name in ('prefect', 'boto3', 'httpx', 'pydantic', 'rich') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert shown.stdout == "1\n[]\n"


def test_no_command_loads_prefect():
    code = (
        "import sys; from prefect_kosmokrator.integrations.cli import main;"
        "main(['integrations:list']); main(['integrations:doctor']); sys.exit('prefect' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=30).returncode == 0


def test_start_up_is_no_slower_than_the_imports_of_its_libraries():
    def seconds(command):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        return time.perf_counter() - started

    base = [sys.executable, "-c", "import lupa.lua54, pydantic_settings"]
    pairs = [(seconds(base), seconds([KOSMO, LUA, "--eval", "print(1)"])) for _ in range(5)]
    assert min(kosmo for _, kosmo in pairs) <= 1.5 * min(bare for bare, _ in pairs)


def test_the_emulator_prints_settings_that_work(tmp_path):
    with subprocess.Popen([KOSMO, "emulator", "--port", "0"], stdout=subprocess.PIPE, text=True) as running:
        lines = [running.stdout.readline() for _ in range(9)]
        settings = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines[:8])
        done = run_kosmo("integrations:fal", "get_current_user", "--json", env={**os.environ, **settings}, cwd=tmp_path)
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=20) == 0
    assert json.loads(done.stdout)["success"] is True


def test_the_terminal_sees_no_megabytes(emulator, tmp_path):
    """With --json at a terminal the picture is kept in a file, and its bytes are left out."""
    script = shutil.which("script")
    if script is None:
        pytest.skip("needs script(1)")
    command = f"{KOSMO} integrations:stability generate_core --prompt x --force --json"
    done = subprocess.run(
        [script, "-qec", command, "/dev/null"], capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=True
    )
    shown = done.stdout.decode()
    assert "body_base64" not in shown
    assert "Kept: " in shown
    assert len(shown) < 4000
    assert stability.provider.name in shown
