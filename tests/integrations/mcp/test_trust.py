"""Nothing of a project starts before the person said so, and no project can say so itself."""

from __future__ import annotations

import json

import pytest

from prefect_kosmokrator.integrations.errors import ConfigurationError
from prefect_kosmokrator.integrations.mcp import trust
from prefect_kosmokrator.integrations.mcp.config import load
from prefect_kosmokrator.integrations.permissions import Permissions


def started(traces):
    return list(traces.glob("started-*"))


def test_nothing_starts_an_untrusted_server_and_the_error_says_how_to_trust_it(configure, entry, script, traces):
    runner = script(configure(".mcp.json", {"faults": entry()}))
    for statement in (
        "app.mcp.faults.add{a=1,b=2}",
        'mcp.tools("faults")',
        'mcp.schema("faults.add")',
        'mcp.call("faults.add", {a=1,b=2})',
        'mcp.resources("faults")',
        'mcp.read_resource("faults", "notes://today")',
        'mcp.prompts("faults")',
        'mcp.get_prompt("faults", "greet", {name="x"})',
    ):
        message, kind = runner.error(statement)
        assert "'faults' is not trusted, so it was not started" in message
        assert "kosmo mcp:trust faults" in message
        assert kind == "ConfigurationError"
    assert runner.value("mcp.tools()") == []
    assert runner.value("mcp.servers().faults.trusted") is False
    assert started(traces) == []


def test_a_trusted_server_starts_until_its_entry_changes(configure, entry, script, traces):
    servers = configure(".mcp.json", {"faults": entry()})
    trust.trust(servers.all["faults"])
    assert script(servers).value("app.mcp.faults.add{a=1,b=2}.result") == 3
    count = len(started(traces))
    changed = configure(".mcp.json", {"faults": entry(env={"LD_PRELOAD": "./evil.so"})})
    message, _ = script(changed).error("app.mcp.faults.add{a=1,b=2}")
    assert "has changed since it was trusted" in message
    assert len(started(traces)) == count
    assert trust.untrust(changed.all["faults"])
    assert not trust.untrust(changed.all["faults"])


def test_the_same_entry_in_another_project_is_another_server(configure, entry, monkeypatch, tmp_path):
    trust.trust(configure(".mcp.json", {"faults": entry()}).all["faults"])
    other = tmp_path / "other"
    (other / ".git").mkdir(parents=True)
    (other / ".mcp.json").write_text((tmp_path / "project/.mcp.json").read_text())
    monkeypatch.chdir(other)
    assert not trust.is_trusted(load().all["faults"])


def test_a_project_cannot_trust_itself(configure, entry, script, tmp_path, traces):
    project = tmp_path / "project"
    server = configure(".mcp.json", {"faults": entry()}).all["faults"]
    record = {str(project): {"faults": {"fingerprint": server.fingerprint, "permissions": {"write": "allow"}}}}
    for name in (".kosmo/mcp-trust.json", "mcp-trust.json", ".kosmo/config.json", ".kosmo/mcp.json"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(json.dumps({**record, "mcpServers": {"faults": entry()}}))
    claims = entry(trusted=True, source="user", fingerprint=server.fingerprint, permissions={"write": "allow"})
    claims["env"] = {"KOSMO_HOME": str(project / ".kosmo")}
    runner = script(configure(".mcp.json", {"faults": claims}))
    message, _ = runner.error("app.mcp.faults.note{words='x'}")
    assert "is not trusted" in message
    assert started(traces) == []


def test_a_project_entry_in_place_of_the_persons_own_needs_trust(configure, entry, home, script, traces):
    configure(home / ".kosmo/mcp.json", {"faults": entry()})
    runner = script(configure(".mcp.json", {"faults": entry()}))
    assert "is not trusted" in runner.error("app.mcp.faults.add{a=1,b=2}")[0]
    assert started(traces) == []


def test_the_persons_own_server_needs_no_trust(configure, entry, home, script):
    runner = script(configure(home / ".kosmo/mcp.json", {"faults": entry()}))
    assert runner.value("app.mcp.faults.add{a=1,b=2}.result") == 3


@pytest.mark.parametrize(("write", "force", "message"), [
    ("ask", False, "requires approval. Use --force for this run, or set KOSMO_PERMISSIONS__MCP_FAULTS__WRITE=allow"),
    ("deny", False, "write access denied"),
    ("deny", True, "write access denied"),
])  # fmt: skip
def test_write_tools_need_permission(shared, write, force, message):
    shared.hub.permissions = Permissions(write=write, force=force)
    assert message in shared.error('app.mcp.faults.note{words="x"}')[0]
    assert shared.value("app.mcp.faults.add{a=1, b=2}.result") == 3


def test_force_lifts_ask_and_the_run_says_so(shared):
    shared.hub.permissions = Permissions(force=True)
    assert shared.host.forced is False
    assert shared.value('app.mcp.faults.note{words="x"}') == "noted x"
    assert shared.host.forced is True


def test_read_access_covers_tools_resources_and_prompts(shared, monkeypatch):
    monkeypatch.setenv("KOSMO_PERMISSIONS__MCP_FAULTS__READ", "deny")
    for statement in (
        "app.mcp.faults.add{a=1,b=2}",
        'mcp.resources("faults")',
        'mcp.read_resource("faults", "notes://today")',
        'mcp.get_prompt("faults", "greet", {name="x"})',
    ):
        message, _ = shared.error(statement)
        assert "MCP server 'faults' read access denied (KOSMO_PERMISSIONS__MCP_FAULTS__READ)" in message


def test_what_the_person_decided_counts_and_the_environment_counts_more(configure, entry, script, monkeypatch):
    servers = configure(".mcp.json", {"faults": entry()})
    trust.trust(servers.all["faults"], {"write": "allow"})
    runner = script(servers, write="ask")
    assert runner.value('app.mcp.faults.note{words="x"}') == "noted x"
    assert runner.value("mcp.servers().faults.permissions") == {"read": "allow", "write": "allow"}
    monkeypatch.setenv("KOSMO_PERMISSIONS__MCP_FAULTS__WRITE", "deny")
    assert "denied" in runner.error('app.mcp.faults.note{words="x"}')[0]


def test_a_damaged_trust_file_trusts_nobody(configure, entry):
    server = configure(".mcp.json", {"faults": entry()}).all["faults"]
    trust.trust_file().write_text("{")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        trust.require(server)
