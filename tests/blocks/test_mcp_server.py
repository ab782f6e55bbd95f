"""The block for MCP servers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import ValidationError

from prefect_kosmokrator.blocks.mcp_server import McpServer, saved_servers
from prefect_kosmokrator.integrations.errors import ConfigurationError

SECRET = "t0ken-a1b2c3d4"
MADE = McpServer(
    command="server", args=["-v"], env={"TOKEN": SECRET, "PLACE": "here"}, timeout=5, read="allow", write="deny"
)
WEB = McpServer(url="https://host/mcp", headers={"Authorization": f"Bearer {SECRET}"})


@pytest.mark.parametrize("block", [McpServer])
class TestBlock(BlockStandardTestSuite):
    @pytest.fixture
    def block(self, block):
        return block

    def test_has_a_valid_image(self, block):
        # The suite would fetch it; tests do not leave this machine.
        assert str(block._logo_url).startswith("https://")
        assert str(block._logo_url).endswith(".png?size=200")


def test_the_slug_never_changes():
    assert McpServer._block_type_slug == "mcp-server"


@pytest.mark.parametrize("block", [MADE, WEB], ids=["stdio", "http"])
def test_a_secret_shows_nowhere(block):
    shown = f"{block!r} {block!s} {block.model_dump()} {block.model_dump_json()} {block.get_server('one')!r}"
    assert SECRET not in shown


def test_it_becomes_the_server_it_describes():
    server = MADE.get_server("one")
    assert (server.name, server.source, server.command, server.args) == ("one", "operator", "server", ("-v",))
    assert server.env == {"TOKEN": SECRET, "PLACE": "here"}
    assert (server.timeout, server.permissions) == (5, {"read": "allow", "write": "deny"})
    assert WEB.get_server("web").headers == {"Authorization": f"Bearer {SECRET}"}


@pytest.mark.parametrize(
    "fields",
    [{}, {"command": "x", "url": "http://x"}, {"url": "x"}, {"command": "x", "timeout": 0}, {"command": "x", "cmd": 1}],
)
def test_a_wrong_block_is_refused(fields):
    with pytest.raises(ValidationError):
        McpServer(**fields)


def test_it_checks_that_the_server_works(tmp_path):
    faults = Path(__file__).parent.parent / "integrations/mcp/fault_server.py"
    assert "tools" in McpServer(command=sys.executable, args=[str(faults), "well", str(tmp_path)]).check()
    with pytest.raises(ConfigurationError, match="could not be started"):
        McpServer(command="/no/such/program").check()


def test_blocks_are_loaded_by_name(prefect_server):
    MADE.save("one", overwrite=True)
    (server,) = saved_servers(["one"])
    assert (server.name, server.env["TOKEN"]) == ("one", SECRET)
    with pytest.raises(ConfigurationError, match="There is no MCP server 'nope': save a Prefect block mcp-server/nope"):
        saved_servers(["nope"])
