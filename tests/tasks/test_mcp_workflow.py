"""A deployed Lua workflow uses MCP servers that are saved as blocks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from prefect_kosmokrator.blocks import McpServer
from prefect_kosmokrator.flows.lua_workflow import lua_workflow
from prefect_kosmokrator.integrations.lua import LuaError


@pytest.fixture
def clock(prefect_server):
    """A published server of the time, saved as the block `clock`."""
    McpServer(command=sys.executable, args=["-m", "mcp_server_time", "--local-timezone", "UTC"]).save(
        "clock", overwrite=True
    )


def test_a_workflow_calls_a_published_server_that_ends_with_it(emulator, clock, run_flow):
    source = 'return app.mcp.clock.get_current_time{ timezone = "Europe/Berlin" }.timezone'
    assert run_flow(lua_workflow, source=source, mcp_servers=["clock"]).result().result == ["Europe/Berlin"]
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"mcp_server_time" in path.read_bytes()]


def test_a_workflow_reaches_only_the_servers_it_was_given(emulator, clock, run_flow):
    with pytest.raises(LuaError, match="no MCP servers are available"):
        run_flow(lua_workflow, source='app.mcp.clock.get_current_time{ timezone = "UTC" }').result()
