"""`kosmo integrations:lua` and `mcp:lua`: where code comes from, what is printed, what becomes of files."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path

import pytest

LUA = "integrations:lua"
GENERATE = "app.integrations.stability.generate_core({ prompt = 'a lamp' })"

OTHER = GENERATE.replace("lamp", "chair")


@pytest.fixture(autouse=True)
def stdin(monkeypatch, tmp_path):
    """Sets stdin, which is empty otherwise; the working directory is the test's own."""
    monkeypatch.chdir(tmp_path)

    def put(content=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    put()
    return put


DOCUMENTED = [
    ["integrations:lua", "--eval", "dump(app.integrations.stability.get_account({}))", "--json"],
    ["integrations:lua", "--eval", 'print(docs.read("stability"))', "--json"],
    ["integrations:lua", "--eval", 'print(docs.read("stability.get_account"))', "--json"],
    ["integrations:lua", "--eval", "dump(app.integrations.fal.list_models({}))", "--json"],
    ["integrations:lua", "--eval", 'print(docs.read("fal"))', "--json"],
    ["integrations:lua", "--eval", 'print(docs.read("fal.list_models"))', "--json"],
    ["integrations:lua", "workflow.lua", "--json"],
    ["integrations:lua", "workflow.lua", "--force", "--json"],
    ["mcp:lua", "--eval", "dump(mcp.servers())", "--json"],
]


@pytest.mark.parametrize("words", DOCUMENTED, ids=[" ".join(words) for words in DOCUMENTED])
def test_the_documented_commands_work_word_by_word(emulator, kosmo, words):
    Path("workflow.lua").write_text(
        "local stability = app.integrations.stability\nlocal result = stability.get_account({})\n\ndump(result)\n"
    )
    code, out, err = kosmo(*words)
    document = json.loads(out)
    assert (code, document["success"], document["error"], err) == (0, True, None, "")
    assert document["output"]
    assert document["memory_usage"] > 0
    assert document["execution_time_ms"] > 0


def test_the_envelope_tells_the_calls_and_not_the_helpers(emulator, kosmo_json):
    document = kosmo_json(
        LUA,
        "--force",
        "-e",
        f"docs.list() mcp.servers() {GENERATE} pcall(app.integrations.fal.work.get_result, {{model_id='a/b', "
        "request_id='x'}) pcall(app.integrations.fal.nothing)",
    )
    generate, result, nothing = document["integration_calls"]
    assert document["meta"]["permission_bypassed"] is True
    assert generate.pop("durationMs") > 0
    assert generate == {
        "path": "integrations.stability.generate_core",
        "status": "ok",
        "name": "Generate Core Image",
        "group": "stability",
        "account": "default",
        "cost": generate["cost"],
    }
    assert generate["cost"]["amount"] == 3
    assert (result["path"], result["status"], result["account"]) == (
        "integrations.fal.work.get_result",
        "error",
        "work",
    )
    assert (nothing["path"], nothing["status"]) == ("integrations.fal.nothing", "error")
    assert "Unknown function" in nothing["error"]
    assert "name" not in nothing


def test_a_failure_tells_line_kind_and_the_call_that_ended_it(emulator, kosmo_json):
    document = kosmo_json(LUA, "-e", "print('so far')\n\napp.integrations.fal.nobody.get_balance{}")
    assert document["error"].startswith("eval:3: ")
    assert (document["line"], document["error_kind"], document["output"]) == (3, "runtime", "so far")
    assert document["result"] is None
    assert document["memory_usage"] is None
    assert document["error_details"]["kind"] == "ConfigurationError"
    assert document["error_details"]["account"] == "nobody"


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("return 42", [42]),
        ("return {}", [[]]),
        ("", []),
        ("return nil", [None]),
        ("return {x = 1}, {1, 2}", [{"x": 1}, [1, 2]]),
        ("return 10 / 2, 2^53, 0.1 + 0.2", [5, 9007199254740992, 0.30000000000000004]),
        ("return 'a\\0b', '\\xff'", ["a\0b", {"base64": "/w=="}]),
    ],
)
def test_returned_values_are_a_list(kosmo_json, stdin, code, result):
    stdin(code.encode() or b"-- nothing")
    assert kosmo_json(LUA)["result"] == result


def test_text_mode_prints_output_then_values(kosmo):
    code, out, err = kosmo(LUA, "-e", "print('one') print('[bold]two[/bold]') return {a = 1}")
    assert (code, err) == (0, "")
    assert out.startswith("one\n[bold]two[/bold]\n[\n")
    assert json.loads(out.partition("[/bold]\n")[2]) == [{"a": 1}]


def test_eval_comes_before_the_file_and_the_file_before_stdin(kosmo, stdin):
    Path("a.lua").write_text("print('file')")
    stdin(b"print('stdin')")
    assert kosmo(LUA, "a.lua", "--eval", "print('eval')")[1] == "eval\n"
    assert kosmo(LUA, "a.lua", "--eval", "")[1] == "file\n"
    assert kosmo(LUA)[1] == "stdin\n"
    stdin(b"print('stdin')")
    assert kosmo(LUA, "-")[1] == "stdin\n"


def test_code_may_begin_with_a_comment(kosmo):
    assert kosmo(LUA, "--eval", "-- a comment\nprint(1)")[1] == "1\n"
    assert kosmo(LUA, "--eval=--[[ a comment ]] print(1)")[1] == "1\n"


def test_messages_name_the_file_and_its_line(kosmo):
    Path("flow.lua").write_bytes(b"\xef\xbb\xbf#!/usr/bin/env kosmo\nlocal x\nx.y = 1")
    assert kosmo(LUA, "flow.lua")[2].startswith("error: flow.lua:3: ")


def test_an_endless_file_is_refused(kosmo):
    code, _, err = kosmo(LUA, "/dev/zero", "--memory-limit", "1000000")
    assert code == 1
    assert "memory limit" in err


def test_inputs_reach_the_script_as_json_or_text(kosmo):
    words = ["--input", "n=3", "--input=text=007", "--input", 'list=["a"]', "--input", "eq=a=b", "--input", "empty="]
    code, out, _ = kosmo(
        LUA, "-e", "print(inputs.n + 1, inputs.text, inputs.list[1], inputs.eq, #inputs.empty)", *words
    )
    assert (code, out) == (0, "4\t007\ta\ta=b\t0\n")


def test_a_picture_in_a_json_result_has_its_documented_fields(emulator, kosmo_json):
    (picture,) = kosmo_json(LUA, "--force", "-e", f"return {GENERATE}")["result"]
    assert list(picture)[:4] == ["content_type", "body_base64", "finish_reason", "seed"]
    assert base64.b64decode(picture["body_base64"]).startswith(b"\x89PNG")
    assert not Path("spool").exists()


def test_a_stored_picture_has_an_address_and_no_bytes(emulator, kosmo_json):
    (picture,) = kosmo_json(LUA, "--force", "--output", "./out", "-e", f"return {GENERATE}")["result"]
    assert "body_base64" not in picture
    assert picture["uri"].startswith(Path("out").resolve().as_uri())
    assert len(list(Path("out").glob("*.png"))) == 1


@pytest.mark.parametrize("mode", [[], ["--json"]])
def test_paid_pictures_that_nobody_stored_are_kept(emulator, kosmo, mode):
    code, out, err = kosmo(LUA, "--force", "-e", f"local a = {GENERATE} local b = {OTHER} print('done')", *mode)
    assert code == 0
    assert len(list(Path("spool").glob("generate_core-*.png"))) == 2
    assert err.startswith("Kept: ")
    assert err.count(".png") == 2
    assert "base64" not in out


def test_a_picture_printed_as_text_is_a_description(emulator, kosmo):
    _, out, err = kosmo(LUA, "--force", "-e", f"return {GENERATE}")
    (picture,) = json.loads(out)
    assert "body_base64" not in picture
    assert picture["uri"].endswith(".png")
    assert err.startswith("Kept: ")


def test_a_filtered_picture_is_kept_too(emulator, kosmo):
    code, _, err = kosmo(LUA, "--force", "-e", "app.integrations.stability.generate_core{prompt = 'filter-me'}")
    assert code == 1
    assert "Kept: " in err
    assert len(list(Path("spool").glob("*.png"))) == 1


def test_files_are_read_below_the_working_directory_only(emulator, kosmo, tmp_path):
    code, _, err = kosmo(LUA, "--force", "-e", "app.integrations.fal.upload_file{file_path = '/etc/hostname'}")
    assert code == 1
    assert "outside the folders" in err


def test_force_is_noted_only_where_it_was_needed(emulator, kosmo_json):
    assert (
        kosmo_json(LUA, "--force", "-e", "app.integrations.fal.get_balance{}")["meta"]["permission_bypassed"] is False
    )


def test_the_repl_runs_line_after_line(kosmo, stdin):
    stdin(b"1 + 1\nx = 3\nprint(x)\nx =\n\nfor i = 1, 2 do print(i) end\n:quit\nprint('never')\n")
    code, out, err = kosmo(LUA, "--repl")
    assert code == 0
    assert out == "[\n  2\n]\nnil\n1\n2\n"
    assert len(err.splitlines()) == 1


def test_the_repl_keeps_to_force_and_limits_and_pays_once(emulator, kosmo, stdin):
    stdin(f"{GENERATE}.seed\nwhile true do end\n".encode())
    code, out, err = kosmo(LUA, "--repl", "--force", "--cpu-limit", "0.2")
    assert code == 0
    assert out.startswith("[\n")
    assert "CPU time limit" in err
    assert len(emulator.state.ledger.entries) == 1


def test_mcp_lua_reads_docs_but_calls_no_integration(emulator, kosmo):
    assert kosmo("mcp:lua", "-e", "print(docs.read('fal'))")[0] == 0
    code, _, err = kosmo("mcp:lua", "-e", "app.integrations.fal.get_balance{}")
    assert code == 1
    assert "use integrations:lua" in err
