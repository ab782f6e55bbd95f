"""Servers and clients that nobody here wrote."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from prefect_kosmokrator.integrations.mcp.config import Server

SERVE = """
import sys
from cyclopts import App
from prefect_kosmokrator.integrations import cli_mcp
app = App()
cli_mcp.register(app)
command, bound, *_ = app.parse_args(sys.argv[1:])
raise SystemExit(command(*bound.args, **bound.kwargs))
"""


def test_the_time_server_from_pypi(script):
    pytest.importorskip("mcp_server_time")
    runner = script(Server("time", command=sys.executable, args=("-m", "mcp_server_time", "--local-timezone", "UTC")))
    now = runner.value('app.mcp.time.get_current_time{timezone="Europe/Berlin"}')
    assert now["timezone"] == "Europe/Berlin"
    converted = runner.value(
        'app.mcp.time.convert_time{source_timezone="UTC", time="12:00", target_timezone="Asia/Tokyo"}'
    )
    assert converted["time_difference"] == "+9.0h"
    message, _ = runner.error('app.mcp.time.get_current_time{timezone="Mars/Olympus"}')
    assert "Mars/Olympus" in message
    assert runner.value('mcp.schema("time.get_current_time")')["operation"] == "read"


def use_everything(runner):
    """Calls every kind of tool of the reference server."""
    assert runner.value('app.mcp.everything.echo{message="hi"}') == "Echo: hi"
    assert "42" in runner.value("app.mcp.everything.get_sum{a=40, b=2}")
    weather = runner.value('app.mcp.everything.get_structured_content{location="New York"}')
    assert {"temperature", "conditions", "humidity"} <= weather.keys()
    image = runner.value("app.mcp.everything.get_tiny_image{}")[1]
    assert (image["content_type"], image["size"], image["provider"]) == ("image/png", 4033, "mcp")
    linked = runner.value("app.mcp.everything.get_resource_links{count=2}")
    assert [item["type"] for item in linked] == ["text", "resource_link", "resource_link"]
    uri = runner.value('mcp.resources("everything")')[0]["uri"]
    assert runner.value(f'mcp.read_resource("everything", "{uri}").contents')[0]["uri"] == uri
    names = [prompt["name"] for prompt in runner.value('mcp.prompts("everything")')]
    assert "simple-prompt" in names
    assert runner.value('mcp.get_prompt("everything", "simple-prompt").messages')[0]["role"] == "user"
    long = "app.mcp.everything.trigger_long_running_operation{duration=0.2, steps=2}"
    assert "completed" in runner.value(long)
    assert "message is required" in runner.error("app.mcp.everything.echo{}")[0]


def test_the_reference_server_over_stdio(npm, script):
    use_everything(script(Server("everything", command=str(npm / "mcp-server-everything"), args=("stdio",))))


def test_the_reference_server_over_streamable_http(npm, script, unused_port):
    command = [str(npm / "mcp-server-everything"), "streamableHttp"]
    with serving(command, unused_port, PORT=str(unused_port)):
        runner = script(Server("everything", url=f"http://127.0.0.1:{unused_port}/mcp"))
        use_everything(runner)
        runner.hub.close()


@contextmanager
def serving(command, port, **variables):
    """Runs a server until its port answers, and then until the block is left."""
    import socket

    environment = {**os.environ, **variables}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield
        finally:
            process.terminate()


@pytest.fixture
def unused_port():
    """A port nobody listens on."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# ---------------------------------------------------------------- mcp:serve


@pytest.fixture
def served(emulator, monkeypatch, tmp_path):
    """The command that serves the pack with the emulator behind it, and its environment."""
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KOSMO_OUTPUT", (tmp_path / "outputs").as_uri())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return [sys.executable, "-c", SERVE, "mcp:serve", "--write", "allow"], environment


async def use(client):
    """What a client does: look around, generate, and pass the result on."""
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert tools["integration__stability__get_balance"].annotations.read_only_hint is True
    assert tools["integration__stability__generate_core"].annotations.destructive_hint is True
    pages = {resource.uri for resource in (await client.list_resources()).resources}
    assert "kosmo://docs/stability" in pages
    page = (await client.read_resource("kosmo://docs/stability")).contents[0]
    assert "generate_core" in page.text
    balance = await client.call_tool("integration__stability__get_balance", {})
    assert balance.structured_content["credits"] > 0
    made = await client.call_tool("integration__stability__generate_core", {"prompt": "a lamp"})
    assert not made.is_error, made.content
    assert made.structured_content["uri"].startswith("file://")
    assert [block.type for block in made.content] == ["text", "image"]
    again = {"image": made.structured_content["uri"]}
    cut = await client.call_tool("integration__stability__remove_background", again)
    assert not cut.is_error, cut.content
    secret = await client.call_tool("integration__stability__remove_background", {"image": "/proc/self/environ"})
    assert "outside the folders a script may read" in secret.structured_content["error"]["message"]
    wrong = await client.call_tool("integration__stability__generate_core", {"prompt": "x", "aspect_ratio": "7:3"})
    assert wrong.is_error
    assert wrong.structured_content["error"]["kind"] == "InvalidInput"
    assert wrong.structured_content["error"]["parameter"] == "aspect_ratio"


def test_the_sdk_client_over_stdio(served, tmp_path):
    (command, *args), environment = served

    async def run():
        parameters = StdioServerParameters(command=command, args=args, env=environment, cwd=tmp_path / "project")
        async with Client(parameters) as client:
            await use(client)

    anyio.run(run)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_sdk_client_over_http(served, unused_port, mode, monkeypatch):
    command, _ = served

    async def run():
        async with Client(f"http://127.0.0.1:{unused_port}/mcp", mode=mode) as client:
            await use(client)

    with serving([*command, "--transport", "http", "--port", str(unused_port)], unused_port):
        anyio.run(run)


def test_the_inspector(npm, served, tmp_path):
    command, environment = served
    assert shutil.which("node")

    def inspect(*args):
        passed_on = [f"-e{name}={value}" for name, value in environment.items() if name.startswith("KOSMO_")]
        words = [str(npm / "mcp-inspector"), "--cli", *command, *passed_on, *args]
        shown = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=60, env=environment, cwd=tmp_path / "project"
        )
        assert shown.returncode == 0, shown.stdout + shown.stderr
        return json.loads(shown.stdout)

    names = {tool["name"] for tool in inspect("--method", "tools/list", "--strict")["tools"]}
    assert {"integration__fal__list_models", "integration__stability__generate_core"} <= names
    made = inspect(
        "--method", "tools/call", "--tool-name", "integration__stability__generate_core", "--tool-arg", "prompt=a lamp"
    )
    assert made["structuredContent"]["content_type"] == "image/png"
    assert {block["type"] for block in made["content"]} == {"text", "image"}
    page = inspect("--method", "resources/read", "--uri", "kosmo://docs/fal")
    assert "submit_request" in page["contents"][0]["text"]
