"""The commands `mcp:*`, run in a process of their own through the words of a command line."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
from cyclopts import App

from prefect_kosmokrator.integrations import cli_mcp
from prefect_kosmokrator.integrations.errors import KosmoError
from prefect_kosmokrator.integrations.permissions import Permissions


@pytest.fixture
def kosmo(capsys, monkeypatch):
    """Runs a command; returns its exit code and what it wrote. With `--json` that is decoded."""
    app = App()
    cli_mcp.register(app)
    monkeypatch.setattr(logging.getLogger("mcp"), "level", logging.getLogger("mcp").level)

    def run(*words):
        command, bound, *_ = app.parse_args(list(words), print_error=False, exit_on_error=False)
        code = command(*bound.args, **bound.kwargs)
        shown = capsys.readouterr()
        return code, json.loads(shown.out) if "--json" in words else shown.out + shown.err

    return run


def test_listing_starts_nothing(kosmo, configure, entry, traces, home):
    secret = entry(env={"API_KEY": "s3cret"}, headers={"X": "s3cret"})
    configure(".mcp.json", {"faults": secret, "broken": {}, "off": entry(enabled=False)})
    code, shown = kosmo("mcp:list", "--json")
    assert (code, shown["success"]) == (0, True)
    row = shown["servers"]["faults"]
    assert (row["trusted"], row["source"], row["type"], row["lua_path"]) == (
        False,
        "project",
        "stdio",
        "app.mcp.faults",
    )
    assert row["permissions"] == {"read": "allow", "write": "ask"}
    assert "s3cret" not in json.dumps(shown)
    _, text = kosmo("mcp:list")
    assert "faults - not trusted (kosmo mcp:trust faults)" in text
    assert "broken - unusable, it needs either a command" in text
    assert "off - disabled" in text
    assert not list(traces.glob("started-*"))


def test_no_servers(kosmo):
    assert kosmo("mcp:list") == (0, "No MCP servers are configured; add them to .mcp.json or ~/.kosmo/mcp.json.\n")
    assert kosmo("mcp:tools", "--json") == (0, {"success": True, "tools": [], "skipped": {}})


def test_a_server_is_trusted_used_and_untrusted(kosmo, configure, entry, traces):
    configure(".mcp.json", {"faults": entry()})
    with pytest.raises(KosmoError, match="is not trusted, so it was not started"):
        kosmo("mcp:tools", "faults")
    code, shown = kosmo("mcp:tools", "--json")
    assert shown["tools"] == []
    assert "is not trusted" in shown["skipped"]["faults"]
    with pytest.raises(KosmoError, match="is not trusted"):
        kosmo("mcp:schema", "faults.add")
    code, shown = kosmo("mcp:call", "faults.add", "--a", "1", "--b", "2", "--json")
    assert (code, shown["success"], shown["error_kind"]) == (1, False, "ConfigurationError")
    assert not list(traces.glob("started-*"))

    code, shown = kosmo("mcp:trust", "faults", "--write", "allow", "--json")
    assert (code, shown["trusted"], shown["permissions"]) == (0, True, {"write": "allow"})
    code, shown = kosmo("mcp:tools", "--json")
    assert {"server", "name", "function", "lua_path", "description", "operation", "parameters", "schema"} == set(
        shown["tools"][0]
    )
    code, shown = kosmo("mcp:schema", "faults.add", "--json")
    assert (shown["success"], shown["operation"], shown["schema"]["required"]) == (True, "read", ["a", "b"])
    code, text = kosmo("mcp:call", "faults.note", '{"words": "one"}')  # --write allow, when it was trusted
    assert (code, text) == (0, "noted one\n")
    code, shown = kosmo("mcp:status", "--json")
    assert (code, shown["servers"]["faults"]["works"]) == (0, True)

    assert kosmo("mcp:untrust", "faults", "--json") == (0, {"success": True, "server": "faults", "trusted": False})
    assert "was not trusted" in kosmo("mcp:untrust", "faults")[1]
    assert kosmo("mcp:status")[0] == 1


def test_the_envelope_of_a_call(kosmo, shared_hub, monkeypatch, tmp_path):
    @contextmanager
    def one_for_all(*, force=False):  # a start takes a second, and this makes ten calls
        shared_hub.permissions = Permissions(force=force)
        yield shared_hub

    monkeypatch.setattr(cli_mcp, "_hub", one_for_all)
    assert "faults.add (read) - Add two numbers." in kosmo("mcp:tools")[1]
    assert json.loads(kosmo("mcp:schema", "faults.add")[1])["required"] == ["a", "b"]
    code, shown = kosmo("mcp:call", "faults.add", "--a=1", "--b", "2", "--json")
    assert code == 0
    assert list(shown)[:6] == ["function", "success", "data", "error", "meta", "duration_ms"]
    assert shown["data"] == {"result": 3}
    assert shown["meta"] == {"dry_run": False, "operation": "read", "permission_bypassed": False, "server": "faults"}
    code, shown = kosmo("mcp:call", "faults.said", "--value", "007", "--dry-run", "--json")
    assert shown["data"] == {"arguments": {"value": "007"}}  # text stays as it was typed
    code, shown = kosmo("mcp:call", "faults.note", "--words", "x", "--json")
    assert (code, shown["error_kind"]) == (1, "ConfigurationError")
    assert "requires approval. Use --force" in shown["error"]
    code, shown = kosmo("mcp:call", "faults.add", "{broken", "--json")
    assert (code, shown["error_kind"]) == (2, "usage")
    code, shown = kosmo("mcp:call", "nope.nope", "--json")
    assert (code, shown["success"]) == (1, False)
    folder = str(tmp_path / "pictures")
    code, shown = kosmo("mcp:call", "faults.draw", "--words", "x", "--force", "--output", folder, "--json")
    assert shown["data"]["uri"].startswith((tmp_path / "pictures").as_uri())
    assert shown["meta"]["permission_bypassed"] is True
    code, shown = kosmo("mcp:call", "faults.shapes", "--items", "a", "--items", "b", "--options", '{"x": 1}', "--json")
    assert shown["data"] == "['a', 'b'] {'x': 1} None"


def test_ones_own_server_needs_no_trust(kosmo, configure, entry, home):
    configure(home / ".kosmo/mcp.json", {"faults": entry()})
    assert "needs no trust" in kosmo("mcp:trust", "faults")[1]
    with pytest.raises(KosmoError, match="Unknown MCP server: nope"):
        kosmo("mcp:trust", "nope")


@pytest.mark.parametrize("module", ["cli", "cli_mcp", "mcp.config", "mcp.access"])
def test_the_commands_do_not_load_what_they_do_not_need(module):
    code = (
        f"import sys, prefect_kosmokrator.integrations.{module};"
        "print([name for name in ('prefect', 'mcp', 'mcp_types', 'boto3', 'jsonschema') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert shown.stdout.strip() == "[]"


def test_the_mcp_package_imports_no_prefect():
    code = (
        "import sys, prefect_kosmokrator.integrations.mcp.script, prefect_kosmokrator.integrations.mcp.serve;"
        "print('prefect' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30, env=environment
    )
    assert shown.stdout.strip() == "False"
