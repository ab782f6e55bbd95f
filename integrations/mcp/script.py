"""What stands behind `app.mcp.*` and `mcp.*` in a script: the hub, with the journal, files and records of its host."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Literal, cast

from prefect_kosmokrator.integrations import run
from prefect_kosmokrator.integrations.errors import InvalidInput, KosmoError
from prefect_kosmokrator.integrations.host import Call, Host
from prefect_kosmokrator.integrations.journal import Step, perform
from prefect_kosmokrator.integrations.lua import Handle
from prefect_kosmokrator.integrations.mcp import access
from prefect_kosmokrator.integrations.mcp.config import Server, Servers
from prefect_kosmokrator.integrations.mcp.hub import Hub, Tool
from prefect_kosmokrator.integrations.mcp.results import map_media
from prefect_kosmokrator.integrations.media import Media


class ScriptTools:
    """Answers the MCP calls of one script; to be set as its host's `mcp`; `attached` does.

    Example:
        ```python
        with attached(host, config.load()):
            lua.run(source, host)
        ```

    Args:
        hub: The servers; ended by whoever made it.
        host: The script's host. Calls are added to its `calls`, files to its `media`, and are stored in its `store`.
    """

    def __init__(self, hub: Hub, host: Host) -> None:
        self._hub = hub
        self._host = host
        self._helpers: dict[str, Callable[[list[Any]], Any]] = {
            "servers": self._servers,
            "tools": self._tools,
            "schema": lambda given: self._hub.tool(_text(given, 0, "mcp.schema", "SERVER.TOOL")).to_json(),
            "call": self._call_by_name,
            "resources": lambda given: self._hub.resources(self._server(given, "mcp.resources")),
            "read_resource": lambda given: self._hub.read_resource(
                self._server(given, "mcp.read_resource"), _text(given, 1, "mcp.read_resource", "the uri of a resource")
            ),
            "prompts": lambda given: self._hub.prompts(self._server(given, "mcp.prompts")),
            "get_prompt": self._get_prompt,
        }

    def __call__(self, path: tuple[str, ...], arguments: Any) -> Any:
        """Answers a tool (`mcp`, server, tool) or a helper (`mcp`, its name)."""
        if len(path) == 3:
            server = self._hub.servers.find(path[1])
            return self._call(self._hub.tool_of(server, path[2]), arguments)
        helper = self._helpers.get(path[1]) if len(path) == 2 else None
        if helper is None:
            known = ", ".join(server.identifier for server in self._hub.servers.all.values()) or "none"
            raise InvalidInput(
                f"Unknown function: {'.'.join(('app', *path))}. Tools are called as app.mcp.SERVER.TOOL; the servers "
                f"are: {known}."
            )
        # `app.mcp.tools("x")` and `mcp.tools("x")` mean the same; the former may bring its arguments as a table.
        return helper(list(cast("list[Any]", arguments)) if isinstance(arguments, list) else [])

    def _call_by_name(self, given: list[Any]) -> Any:
        tool = self._hub.tool(_text(given, 0, "mcp.call", "SERVER.TOOL"))
        return self._call(tool, given[1] if len(given) > 1 and given[1] is not None else {})

    def _call(self, tool: Tool, given: Any) -> Any:
        started = time.monotonic()
        try:
            result, replayed = self._execute(tool, given)
        except KosmoError as error:
            self._note(tool, started, "error", error.message)
            raise
        self._note(tool, started, "replayed" if replayed else "ok")
        return self._answer(result)

    def _execute(self, tool: Tool, given: Any) -> tuple[Any, bool]:
        """The result of a tool, and whether it was replayed from an earlier attempt."""
        self._host.forced |= self._hub.require(tool.server, tool.operation, tool.function)
        arguments = self._hub.arguments(tool, given)  # refuses before anything is noted down
        replayed = run.current_run().replayed
        before = len(replayed)
        with run.calling(run.Call("mcp", tool.function, "", arguments)):
            if tool.operation == "read" or not run.current_run().identity:
                return self._stored(tool, arguments), False
            result = perform(Step("mcp", tool.function, "", arguments), lambda: self._stored(tool, arguments))
        return result, f"mcp.{tool.function}" in replayed[before:]

    def _stored(self, tool: Tool, arguments: dict[str, Any]) -> Any:
        """The result of a tool with its files in the run's store, where there is one."""
        call = run.current_call()
        if call is not None:
            call.leave()  # what the tool does is not known, so it counts as something that costs
        result = self._hub.call(tool, arguments)
        store = self._host.store
        return result if store is None else map_media(result, lambda media: media.save(store, tool.function))

    def _answer(self, result: Any) -> Any:
        return map_media(result, self._handle)

    def _handle(self, media: Media) -> Handle:
        self._host.media.append(media)
        self._host.confinement.learn(media.uri)
        return Handle(media, media.to_json(), {"body_base64": lambda: media.body_base64})

    def _note(
        self, tool: Tool, started: float, status: Literal["ok", "error", "replayed"], error: str | None = None
    ) -> None:
        self._host.calls.append(
            Call(f"mcp.{tool.function}", "", time.monotonic() - started, status, error=error),
        )

    # ------------------------------------------------------------------ helpers

    def _servers(self, _given: list[Any]) -> dict[str, Any]:
        return {server.name: access.row(self._hub.permissions, server) for server in self._hub.servers.all.values()}

    def _tools(self, given: list[Any]) -> list[dict[str, Any]]:
        if given and given[0] is not None:
            return [tool.to_json() for tool in self._hub.tools(self._server(given, "mcp.tools"))]
        found = self._hub.tools_of(self._hub.servers.all.values())
        tools = [tool for listed in found.values() if isinstance(listed, list) for tool in listed]
        return [tool.to_json() for tool in sorted(tools, key=lambda tool: tool.function)]

    def _get_prompt(self, given: list[Any]) -> dict[str, Any]:
        server = self._server(given, "mcp.get_prompt")
        name = _text(given, 1, "mcp.get_prompt", "the name of a prompt")
        arguments = given[2] if len(given) > 2 else None
        if not isinstance(arguments, dict | None):
            raise InvalidInput(f"mcp.get_prompt: expected a table of arguments, got {type(arguments).__name__}.")
        texts = {key: str(value) for key, value in cast("dict[str, Any]", arguments or {}).items()}
        return self._hub.get_prompt(server, name, texts)

    def _server(self, given: list[Any], helper: str) -> Server:
        return self._hub.servers.find(_text(given, 0, helper, "the name of a server"))


@contextmanager
def attached(host: Host, servers: Servers) -> Generator[Hub]:
    """Lets the scripts of `host` use `servers` inside the block, and ends what was started."""
    with Hub(servers, host.permissions) as hub:
        host.mcp = ScriptTools(hub, host)
        try:
            yield hub
        finally:
            host.mcp = None


def _text(given: list[Any], place: int, helper: str, what: str) -> str:
    value = given[place] if len(given) > place else None
    if not isinstance(value, str):
        got = "nothing" if value is None else type(value).__name__
        raise InvalidInput(f"{helper}: expected {what}, got {got}.")
    return value
