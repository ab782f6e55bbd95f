"""The pack as an MCP server: integration functions as tools, documentation pages as resources.

Each call has its own host, as a script has: the same permissions, the same reach for files, the same accounts. Files
are stored, so that a client gets a reference it can pass on, and a picture besides it to look at.
"""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Collection
from functools import partial
from importlib.metadata import version
from typing import Any, Literal, cast

import anyio
import anyio.to_thread
import mcp_types as types
import uvicorn
from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server

from prefect_kosmokrator.integrations import docs
from prefect_kosmokrator.integrations.catalog import Function
from prefect_kosmokrator.integrations.confinement import Confinement
from prefect_kosmokrator.integrations.errors import ConfigurationError, InvalidInput, KosmoError
from prefect_kosmokrator.integrations.host import Host
from prefect_kosmokrator.integrations.images import thumbnail
from prefect_kosmokrator.integrations.lua import Handle
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.output import default_output
from prefect_kosmokrator.integrations.permissions import Permissions
from prefect_kosmokrator.integrations.providers import PROVIDERS

MAX_TEXT = 200_000
MAX_CONTENT_BYTES = 768 * 1024
PAGES = "kosmo://docs/"

INSTRUCTIONS = (
    "Generates and edits pictures and video with Stability AI and fal.ai. Results are stored; pass the `uri` of one "
    "as a file argument of the next call. Read the resources kosmo://docs/... for guides, parameters and costs."
)


class Gateway:
    """What is offered, and the answers to a client.

    Args:
        permissions: What is permitted; `ask` counts as no for what reads.
        confinement: Which files and stores a client may name; results of one call may be passed on to the next.
        integrations: Names of the offered providers; all by default.
        write: Whether functions that create something are offered. It also answers `ask`, never `deny`.
        store: Where files are stored; the setting KOSMO_OUTPUT by default.

    Raises:
        InvalidInput: If there is no such provider.
    """

    def __init__(
        self,
        permissions: Permissions,
        confinement: Confinement,
        *,
        integrations: Collection[str] | None = None,
        write: Literal["allow", "deny"] = "deny",
        store: str | None = None,
    ) -> None:
        for name in integrations or ():
            if name not in PROVIDERS:
                raise InvalidInput(
                    f"There is no integration {name!r}. There are: {', '.join(PROVIDERS)}.", parameter="integration"
                )
        self._permissions, self._confinement = permissions, confinement
        self._write, self._store = write == "allow", store or default_output()
        self._providers = [p for p in PROVIDERS.values() if not integrations or p.name in integrations]
        self.functions = {
            f"integration__{provider.name}__{function.name}": function
            for provider in self._providers
            for function in provider.functions.values()
        }
        self.server: Server[Any] = Server(
            "kosmo",
            version=version("prefect-kosmokrator"),
            title="prefect-kosmokrator",
            instructions=INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_read_resource=self._read_resource,
        )

    def refusal(self, function: Function) -> str:
        """Why a function is not offered, as a sentence; empty if it is."""
        name = f"{function.provider.name}.{function.name}"
        variable = f"KOSMO_PERMISSIONS__{function.provider.name.upper()}__{function.operation.upper()}"
        permission = self._permissions.of(function.provider.name, function.operation)
        if permission == "deny":
            return f"{name}: {function.operation} access is denied ({variable})."
        if function.operation == "write" and not self._write:
            return f"{name} is write-capable, and this server was started without --write allow."
        if permission == "ask" and function.operation == "read":
            return f"{name}: {function.operation} requires approval; set {variable}=allow."
        return ""

    def run(self, function: Function, arguments: dict[str, Any]) -> types.CallToolResult:
        """Calls a function and shapes its result, or its error."""
        try:
            refusal = self.refusal(function)
            if refusal:
                raise ConfigurationError(refusal)
            # `--write allow` is the answer to `ask`; what is denied was refused above.
            host = Host(
                Permissions("allow", "allow", self._permissions.rules, force=True), self._confinement, store=self._store
            )
            value = host(("integrations", function.provider.name, function.name), arguments)
            return _result(value, host.media)
        except KosmoError as error:
            return _error(error)

    # ------------------------------------------------------------------ protocol

    async def _list_tools(
        self, _context: ServerRequestContext[Any], _params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        offered = {name: function for name, function in self.functions.items() if not self.refusal(function)}
        return types.ListToolsResult(tools=[_tool(name, function) for name, function in offered.items()])

    async def _call_tool(
        self, _context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        function = self.functions.get(params.name)
        if function is None:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
        # A call that was given up ends by itself: what it makes is paid for, and stored.
        call = partial(self.run, function, params.arguments or {})
        return await anyio.to_thread.run_sync(call, abandon_on_cancel=True)

    async def _list_resources(
        self, _context: ServerRequestContext[Any], _params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        pages = [
            types.Resource(
                uri=f"{PAGES}{name}", name=name, title=title, description=description, mime_type="text/markdown"
            )
            for name, (title, description, _) in self._pages().items()
        ]
        return types.ListResourcesResult(resources=pages)

    async def _read_resource(
        self, _context: ServerRequestContext[Any], params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        page = self._pages().get(params.uri.removeprefix(PAGES)) if params.uri.startswith(PAGES) else None
        if page is None:
            raise MCPError(types.INVALID_PARAMS, f"Unknown resource: {params.uri}")
        text = types.TextResourceContents(uri=params.uri, mime_type="text/markdown", text=page[2]())
        return types.ReadResourceResult(contents=[text])

    def _pages(self) -> dict[str, tuple[str, str, Callable[[], str]]]:
        """Title, description and text of each page, by name: a guide for each provider, a page for each function."""
        pages: dict[str, tuple[str, str, Callable[[], str]]] = {}
        for provider in self._providers:
            pages[provider.name] = (provider.title, provider.summary, partial(docs.provider_page, provider))
            for function in provider.functions.values():
                name = f"{provider.name}.{function.name}"
                pages[name] = (function.title, function.description, partial(docs.function_page, function))
        return pages


def serve_stdio(gateway: Gateway) -> None:
    """Serves one client on standard input and output, until it goes."""

    async def run() -> None:
        async with stdio_server() as (read, write):
            await gateway.server.run(read, write, gateway.server.create_initialization_options())

    anyio.run(run)


def serve_http(gateway: Gateway, port: int, on_ready: Callable[[str], None]) -> None:
    """Serves clients on this machine over streamable HTTP, until Ctrl-C or SIGTERM.

    Args:
        gateway: What is served.
        port: Port to listen on; 0 picks a free one. Only this machine can reach it: there is no login.
        on_ready: Told the address.
    """
    listener = socket.create_server(("127.0.0.1", port))
    app = gateway.server.streamable_http_app()
    config = uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=2)
    on_ready(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp")
    with listener:
        uvicorn.Server(config).run([listener])


def _tool(name: str, function: Function) -> types.Tool:
    cost = f" Cost: {function.cost}." if function.cost not in {"", "free"} else ""
    returns = f"\n\nReturns: {function.returns}" if function.returns else ""
    reads = function.operation == "read"
    return types.Tool(
        name=name,
        title=f"{function.provider.title}: {function.title}",
        description=f"{function.description}{cost}{returns}",
        input_schema=function.schema,
        # What was paid for cannot be undone: a client that asks before destructive calls shall ask.
        annotations=types.ToolAnnotations(
            title=function.title, read_only_hint=reads, destructive_hint=not reads, open_world_hint=True
        ),
    )


def _result(value: Any, media: list[Media]) -> types.CallToolResult:
    plain = _plain(value)
    structured = cast("dict[str, Any]", plain) if isinstance(plain, dict) else {"value": plain}
    text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, indent=2)
    if len(text) > MAX_TEXT:
        size = len(text)
        text = f"{text[:MAX_TEXT]}\n... cut: {size:,} characters in all. Ask for less, for example with a limit."
        structured = {"truncated": True, "characters": size}
    content: list[types.ContentBlock] = [types.TextContent(text=text)]
    content += [block for item in media for block in _content(item)]
    return types.CallToolResult(content=content, structured_content=structured)


def _content(media: Media) -> list[types.ContentBlock]:
    """A file to look at or listen to: pictures in a small version if they are large, sound if it is not."""
    kind = media.content_type.partition("/")[0]
    if kind not in {"image", "audio"} or (media.uri or "").startswith(("http://", "https://")):
        return []
    try:
        body, content_type = media.read(), media.content_type
    except KosmoError:
        return []  # it is made and stored; looking at it is not worth failing for
    if kind == "image" and len(body) > MAX_CONTENT_BYTES:
        body, content_type = thumbnail(body) or b"", "image/webp"
    if not body or len(body) > MAX_CONTENT_BYTES:
        return []
    data = base64.b64encode(body).decode("ascii")
    if kind == "image":
        return [types.ImageContent(data=data, mime_type=content_type)]
    return [types.AudioContent(data=data, mime_type=content_type)]


def _error(error: KosmoError) -> types.CallToolResult:
    details = {
        "kind": error.kind,
        "message": str(error),
        "retryable": error.retryable,
        "status": error.status,
        "request_id": error.request_id,
        "parameter": getattr(error, "parameter", None),
    }
    known = {name: value for name, value in details.items() if value is not None}
    return types.CallToolResult(
        content=[types.TextContent(text=f"{error.kind}: {error}")], structured_content={"error": known}, is_error=True
    )


def _plain(value: Any) -> Any:
    """A result as JSON, files by their references."""
    if isinstance(value, Handle):
        return _plain(dict(value.fields))
    if isinstance(value, Media):
        return value.to_json()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[Any]", value)]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
