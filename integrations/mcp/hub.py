"""The servers in use by one run: started when first needed, at most once unless they break, and always ended."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import mcp_types as types
from anyio.from_thread import BlockingPortal, start_blocking_portal

from prefect_kosmokrator.integrations.catalog import Operation
from prefect_kosmokrator.integrations.errors import ConfigurationError, InvalidInput, KosmoError
from prefect_kosmokrator.integrations.mcp import access, results, schemas, trust
from prefect_kosmokrator.integrations.mcp.config import Server, Servers
from prefect_kosmokrator.integrations.mcp.connection import Connection
from prefect_kosmokrator.integrations.mcp.naming import clashing, identifier
from prefect_kosmokrator.integrations.mcp.transports import MEGABYTE
from prefect_kosmokrator.integrations.permissions import Permissions

T = TypeVar("T")

MAX_ANSWER_BYTES = 16 * MEGABYTE
MAX_STARTS = 3
TICK_SECONDS = 0.25  # no wait is longer, so that an exception sent to this thread (a cancellation) arrives


@dataclass(frozen=True)
class Tool:
    """A tool of a server.

    Attributes:
        server: The server.
        name: The server's own name for it.
        description: What it does.
        operation: `"read"` if it declares so, otherwise `"write"`.
        schema: JSON schema of its arguments.
        alone: Whether no other tool of the server has the same name in Lua.
    """

    server: Server
    name: str
    description: str
    operation: Operation
    schema: dict[str, Any]
    alone: bool = True

    @property
    def function(self) -> str:
        """`server.tool`."""
        return f"{self.server.name}.{self.name}"

    @property
    def lua_path(self) -> str:
        """How a script calls it."""
        if not self.alone:
            return f"mcp.call({self.function!r}, ...)".replace("'", '"')
        return f"app.mcp.{self.server.identifier}.{identifier(self.name)}"

    def to_json(self) -> dict[str, Any]:
        """The tool as a row of listings."""
        return {
            "server": self.server.name,
            "name": self.name,
            "function": self.function,
            "lua_path": self.lua_path,
            "description": self.description,
            "operation": self.operation,
            "parameters": schemas.parameters(self.schema),
            "schema": self.schema,
        }


class Hub:
    """Gives one run the use of MCP servers. A context manager: leaving it ends every server it started.

    Example:
        ```python
        with Hub(config.load(), Permissions(write="allow")) as hub:
            now = hub.call(hub.tool("time.get_current_time"), {"timezone": "Europe/Berlin"})
        ```

    Args:
        servers: The configured servers.
        permissions: What may be done with them; a server's rules are those of the provider `mcp_<server>`.
        max_answer_bytes: Larger answers are an error.
    """

    def __init__(
        self,
        servers: Servers,
        permissions: Permissions | None = None,
        *,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self.servers = servers
        self.permissions = permissions or Permissions()
        self._limit = max_answer_bytes
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None
        self._connections: dict[str, Connection] = {}
        self._starts: dict[str, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every server that was started, all at the same time."""
        with self._lock:
            atexit.unregister(self.close)
            portal, self._portal = self._portal, None
            connections, self._connections = list(self._connections.values()), {}
        if portal is None:
            return
        try:
            portal.call(_end, connections)
        finally:
            self._stack.close()

    def tools(self, server: Server) -> list[Tool]:
        """What a server offers, sorted by name.

        Raises:
            ConfigurationError: If it may not be started; nothing has been.
            KosmoError: If it cannot be.
        """
        connection = self._connected(server)
        return _tools(server, self._wait(connection.tools))

    def tools_of(self, servers: Iterable[Server]) -> dict[str, list[Tool] | KosmoError]:
        """The tools of several servers, started at the same time; an error in the place of those of one that fails."""
        found: dict[str, list[Tool] | KosmoError] = {}
        starting: list[tuple[Server, Future[list[types.Tool]]]] = []
        for server in servers:
            try:
                starting.append((server, self._run(self._listed, self._begin(server))))
            except KosmoError as error:
                found[server.name] = error
        for server, future in starting:
            try:
                found[server.name] = _tools(server, _result(future))
            except KosmoError as error:
                found[server.name] = error
        return found

    def tool(self, function: str) -> Tool:
        """The tool that `SERVER.TOOL` names, by their own names or those in Lua.

        Raises:
            ConfigurationError: If there is no such server, or it may not be started.
            InvalidInput: If it has no such tool, or several that the name may mean.
        """
        server, name = self.servers.split(function)
        return self.tool_of(server, name, exact=True)

    def tool_of(self, server: Server, name: str, *, exact: bool = False) -> Tool:
        """The tool of a server with this name.

        Args:
            server: The server.
            name: Its own name or the one it has in Lua.
            exact: Whether a tool's own name is never ambiguous. A Lua path cannot tell `get_time` from the `get_time`
                that stands for `get-time`.
        """
        tools = self.tools(server)
        own = [tool for tool in tools if tool.name == name]
        if len(own) == 1 and exact:
            return own[0]
        same = clashing(name, [tool.name for tool in tools])
        if len(same) > 1:
            calls = " or ".join(f'mcp.call("{server.name}.{one}", ...)' for one in dict.fromkeys(same))
            listed = " and ".join(repr(one) for one in same)
            raise InvalidInput(
                f"two tools share the name {identifier(name)}: {listed}. Call one by its own name: {calls}.",
                provider="mcp",
                function=server.name,
            )
        if same:
            return next(tool for tool in tools if tool.name == same[0])
        names = ", ".join(sorted(identifier(tool.name) for tool in tools)) or "none"
        raise InvalidInput(
            f"Unknown function: app.mcp.{server.identifier}.{name}. The tools of {server.name!r} are: {names}.",
            provider="mcp",
            function=server.name,
        )

    def require(self, server: Server, operation: Operation, function: str = "") -> bool:
        """Raises unless the operation is permitted; returns whether `force` was what permitted it.

        Raises:
            ConfigurationError: If it is denied, or would have to be asked for.
        """
        return access.require(self.permissions, server, operation, function)

    def arguments(self, tool: Tool, given: Any) -> dict[str, Any]:
        """Arguments by name, as the tool's schema wants them.

        Raises:
            InvalidInput: Naming the parameter.
        """
        return schemas.settled(schemas.named(given, tool.schema, tool.function), tool.schema, tool.function)

    def call(self, tool: Tool, arguments: Mapping[str, Any]) -> Any:
        """The result of a tool as a plain value, with files as `Media`; see `results.value_of`.

        Args:
            tool: From `tool` or `tools`.
            arguments: From `arguments`, or plain JSON.

        Raises:
            ConfigurationError: If it is not permitted.
            InvalidInput: If an argument is wrong.
            Rejected: If the tool says that it failed.
            AmbiguousSubmission: If it writes, and no answer came.
            Unavailable: If it only reads, and no answer came.
        """
        self.require(tool.server, tool.operation, tool.function)
        checked = self.arguments(tool, dict(arguments))
        connection = self._connected(tool.server)
        result = self._wait(connection.call, tool.name, checked, writes=tool.operation == "write")
        try:
            return connection.hidden(results.value_of(result, tool.function))
        except KosmoError as error:
            error.message = connection.hidden(error.message)
            error.args = (error.message,)
            raise

    def resources(self, server: Server) -> list[dict[str, Any]]:
        """The resources of a server."""
        connection = self._readable(server)
        return [connection.hidden(results.plain(resource)) for resource in self._wait(connection.resources)]

    def read_resource(self, server: Server, uri: str) -> dict[str, Any]:
        """The contents of a resource, as the protocol has them."""
        connection = self._readable(server)
        return connection.hidden(results.plain(self._wait(connection.read_resource, uri)))  # type: ignore[no-any-return]

    def prompts(self, server: Server) -> list[dict[str, Any]]:
        """The prompts of a server."""
        connection = self._readable(server)
        return [connection.hidden(results.plain(prompt)) for prompt in self._wait(connection.prompts)]

    def get_prompt(self, server: Server, name: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        """The messages of a prompt, as the protocol has them."""
        connection = self._readable(server)
        return connection.hidden(results.plain(self._wait(connection.get_prompt, name, dict(arguments))))  # type: ignore[no-any-return]

    def _readable(self, server: Server) -> Connection:
        trust.require(server)
        self.require(server, "read")
        return self._connected(server)

    # ------------------------------------------------------------------ connections

    def _connected(self, server: Server) -> Connection:
        connection = self._begin(server)
        self._wait(connection.wait_until_ready)
        return connection

    def _begin(self, server: Server) -> Connection:
        """The connection of a server, which may still be starting. Nobody untrusted gets past this."""
        trust.require(server)
        with self._lock:
            known = self._connections.get(server.name)
            if known is not None and (not known.broken or self._starts[server.name] >= MAX_STARTS):
                return known
            if self._portal is None:
                self._portal = self._stack.enter_context(start_blocking_portal(name="kosmo-mcp"))
                atexit.register(self.close)  # a hub that nobody closed would keep the interpreter from ending
            if known is not None:
                self._portal.call(known.stop)
            connection = self._portal.call(Connection, server, self._limit)
            self._portal.start_task_soon(connection.run)
            self._connections[server.name] = connection
            self._starts[server.name] = self._starts.get(server.name, 0) + 1
            return connection

    async def _listed(self, connection: Connection) -> list[types.Tool]:
        await connection.wait_until_ready()
        return await connection.tools()

    def _run(self, call: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> Future[T]:
        portal = self._portal
        if portal is None:
            raise ConfigurationError("The MCP servers of this run have been ended.", provider="mcp")

        async def run() -> T:
            return await call(*args, **kwargs)

        return portal.start_task_soon(run)

    def _wait(self, call: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
        return _result(self._run(call, *args, **kwargs))


def _result(future: Future[T]) -> T:
    try:
        while True:
            try:
                return future.result(TICK_SECONDS)
            except TimeoutError:
                if future.done():
                    return future.result()
    finally:
        future.cancel()  # of no effect when it is done; otherwise the call is given up


async def _end(connections: list[Connection]) -> None:
    for connection in connections:
        connection.stop()
    for connection in connections:
        await connection.done.wait()


def _tools(server: Server, listed: list[types.Tool]) -> list[Tool]:
    names = [identifier(tool.name) for tool in listed]
    made = [
        Tool(
            server,
            tool.name,
            tool.description or tool.title or "",
            "read" if tool.annotations is not None and tool.annotations.read_only_hint is True else "write",
            tool.input_schema,
            names.count(identifier(tool.name)) == 1,
        )
        for tool in listed
    ]
    return sorted(made, key=lambda tool: tool.name)
