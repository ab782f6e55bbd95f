"""`kosmo mcp:*`: look at MCP servers, decide which may start, call their tools; and serve the pack as one.

Every document of `--json` has `success`. That of `mcp:call` has the keys of `integrations:call`, with `server` in place
of `account` in its `meta`. Listing starts nothing; `mcp:status`, `mcp:tools`, `mcp:schema` and `mcp:call` start the
servers they need, and end them.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from cyclopts import App, Group, Parameter

from prefect_kosmokrator.integrations.cli_output import (
    FAILURE,
    NO_FAILURE,
    STATUS,
    SUCCESS,
    USAGE,
    UsageError,
    complain,
    failure,
    note,
    printable,
    to_json,
    write,
    write_json,
)
from prefect_kosmokrator.integrations.errors import ConfigurationError, KosmoError

if TYPE_CHECKING:
    from prefect_kosmokrator.integrations.mcp.config import Server
    from prefect_kosmokrator.integrations.mcp.hub import Hub, Tool
    from prefect_kosmokrator.integrations.permissions import Permission

SERVERS = Group("MCP servers", sort_key=3)

Json = Annotated[bool, Parameter(name="--json", help="Print one JSON document, also for every failure.")]
Decision = Annotated[Literal["allow", "ask", "deny"] | None, Parameter(show_choices=True)]
OPTIONS = ("arg", "dry_run", "force", "json", "output")


def register(app: App) -> None:
    """Adds the commands. Nothing of MCP is imported before one of them runs."""
    commands: dict[str, Callable[..., int]] = {
        "list": list_servers,
        "status": status,
        "trust": trust_server,
        "untrust": untrust_server,
        "tools": list_tools,
        "schema": schema,
        "call": call,
        "serve": serve,
    }
    for name, command in commands.items():
        app.command(command, name=f"mcp:{name}", group=SERVERS, help_epilogue="")


def list_servers(*, as_json: Json = False) -> int:
    """List the configured servers; starts none."""
    from prefect_kosmokrator.integrations.mcp import access, config  # noqa: PLC0415 - see register
    from prefect_kosmokrator.integrations.permissions import Permissions  # noqa: PLC0415

    servers = config.load()
    rows = {server.name: access.row(Permissions(), server) for server in servers.all.values()}
    for problem in servers.problems:
        note(f"warning: {problem}")
    if as_json:
        write_json({"success": True, "servers": rows})
    elif not rows:
        _say("No MCP servers are configured; add them to .mcp.json or ~/.kosmo/mcp.json.")
    else:
        for name, server in rows.items():
            _say(f"{name} - {_state(server)}: {server['command'] or server['url'] or '?'} ({server['path']})")
    return SUCCESS


def status(
    server: Annotated[str | None, Parameter(help="One server; all by default.")] = None, /, *, as_json: Json = False
) -> int:
    """Start the servers and tell which of them work."""
    from prefect_kosmokrator.integrations.mcp import access  # noqa: PLC0415 - see register

    with _hub() as hub:
        servers = [hub.servers.find(server)] if server else list(hub.servers.all.values())
        with STATUS.during("starting MCP servers"):
            found = hub.tools_of(servers)
        rows: dict[str, dict[str, Any]] = {}
        for one in servers:
            tools = found[one.name]
            works = isinstance(tools, list)
            said = (
                {"tools": len(tools), "error": None}
                if isinstance(tools, list)
                else {"tools": None, "error": str(tools)}
            )
            rows[one.name] = {**access.row(hub.permissions, one), "works": works, **said}
    if as_json:
        write_json({"success": True, "servers": rows})
    else:
        for name, shown in rows.items():
            _say(f"{name} - {shown['tools']} tools" if shown["works"] else f"{name} - {shown['error']}")
    return SUCCESS if all(shown["works"] for shown in rows.values()) else FAILURE


def trust_server(
    server: Annotated[str, Parameter(help="A server of the project.")],
    /,
    *,
    read: Annotated[Decision, Parameter(help="Whether its tools that only read may be called.")] = None,
    write_: Annotated[Decision, Parameter(name="--write", help="Whether its other tools may be called.")] = None,
    as_json: Json = False,
) -> int:
    """Allow a server of the project to start, as long as its entry stays as it is.

    The decision is kept in ~/.kosmo, outside of every project.
    """
    from prefect_kosmokrator.integrations.mcp import config, trust  # noqa: PLC0415 - see register

    found = config.load().find(server)
    if found.problem:
        raise ConfigurationError(f"MCP server {found.name!r} cannot be used: {found.problem}.", provider="mcp")
    given: dict[str, Permission | None] = {"read": read, "write": write_}
    decided: dict[str, Permission] = {name: value for name, value in given.items() if value is not None}
    if found.source == "project":
        trust.trust(found, decided)
        text = f"{found.name} may start: {_command(found)}"
    else:
        text = f"{found.name} is your own server ({found.path}) and needs no trust."
    _done(text, as_json, server=found.name, trusted=True, fingerprint=found.fingerprint, permissions=decided)
    return SUCCESS


def untrust_server(
    server: Annotated[str, Parameter(help="A server of the project.")], /, *, as_json: Json = False
) -> int:
    """Take the trust in a server back."""
    from prefect_kosmokrator.integrations.mcp import config, trust  # noqa: PLC0415 - see register

    found = config.load().find(server)
    was = trust.untrust(found)
    text = f"{found.name} may no longer start." if was else f"{found.name} was not trusted."
    _done(text, as_json, server=found.name, trusted=trust.is_trusted(found))
    return SUCCESS


def list_tools(
    server: Annotated[str | None, Parameter(help="One server; all trusted ones by default.")] = None,
    /,
    *,
    as_json: Json = False,
) -> int:
    """List the tools of servers."""
    with _hub() as hub:
        servers = [hub.servers.find(server)] if server else list(hub.servers.all.values())
        with STATUS.during("asking MCP servers"):
            found = hub.tools_of(servers)
    failed = {name: error for name, error in found.items() if isinstance(error, KosmoError)}
    if server and failed:
        raise next(iter(failed.values()))
    tools = [tool for listed in found.values() if isinstance(listed, list) for tool in listed]
    for name, error in failed.items():
        note(f"warning: {name}: {error.message}")
    if as_json:
        skipped = {name: error.message for name, error in failed.items()}
        write_json({"success": True, "tools": [tool.to_json() for tool in tools], "skipped": skipped})
    else:
        for tool in tools:
            _say(f"{tool.function} ({tool.operation}) - {tool.description.strip().partition(chr(10))[0]}")
    return SUCCESS


def schema(tool: Annotated[str, Parameter(help="The tool: SERVER.TOOL.")], /, *, as_json: Json = False) -> int:
    """Print the JSON schema of a tool's arguments."""
    with _hub() as hub:
        found = hub.tool(tool)
    write_json({"success": True, **found.to_json()} if as_json else found.schema)
    return SUCCESS


@Parameter(name="*")
@dataclass(frozen=True)
class CallOptions:
    """The options of `mcp:call`."""

    output: Annotated[str | None, Parameter(help="Store returned files in this folder or s3:// address.")] = None
    dry_run: Annotated[bool, Parameter(help="Check arguments and permission; do not call the tool.")] = False
    force: Annotated[bool, Parameter(help="Take `ask` permissions as yes; `deny` stays no.")] = False
    as_json: Json = False


@dataclass
class _Progress:
    """What is known of a call so far."""

    function: str
    dry_run: bool
    server: str | None = None
    operation: str | None = None
    bypassed: bool = False
    started: float = field(default_factory=time.perf_counter)

    def envelope(self, data: Any = None, error: KosmoError | None = None) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "function": self.function,
            "success": error is None,
            "data": data,
            "error": str(error) if error else None,
            "meta": {
                "dry_run": self.dry_run,
                "operation": self.operation,
                "permission_bypassed": self.bypassed,
                "server": self.server,
            },
            "duration_ms": round((time.perf_counter() - self.started) * 1000, 1),
            **(failure(error) if error else NO_FAILURE),
        }


def call(
    tool: Annotated[str, Parameter(help="The tool: SERVER.TOOL.")],
    /,
    *words: Annotated[
        str,
        Parameter(
            name="ARGUMENTS",
            allow_leading_hyphen=True,
            help="Its arguments: --name VALUE, --arg name=VALUE, one JSON object, or - for JSON on stdin.",
        ),
    ],
    options: CallOptions | None = None,
) -> int:
    """Call one tool of a server."""
    from prefect_kosmokrator.integrations.cli_media import Files  # noqa: PLC0415 - see register

    options = options or CallOptions()
    known, files = _Progress(tool, options.dry_run), Files(as_json=options.as_json)
    try:
        with _hub(force=options.force) as hub, STATUS.during(tool):
            result = _call(hub, known, list(words), options)
        shown = files.shown(result)
        if options.as_json:
            write_json(known.envelope(shown))
        elif shown is not None:
            write(shown if isinstance(shown, str) else to_json(shown))
        files.keep([])
    except KosmoError as error:
        if options.as_json:
            write_json(known.envelope(error=error))
        else:
            complain(str(error))
        return USAGE if isinstance(error, UsageError) else FAILURE
    return SUCCESS


def serve(
    *,
    integration: Annotated[list[str] | None, Parameter(help="Offer this integration only; repeatable.")] = None,
    write_: Annotated[
        Literal["allow", "deny"], Parameter(name="--write", help="Whether to offer functions that create something.")
    ] = "deny",
    transport: Annotated[Literal["stdio", "http"], Parameter(help="How clients connect.")] = "stdio",
    port: Annotated[int, Parameter(help="Port for http on this machine; 0 picks a free one.")] = 8789,
    output: Annotated[str | None, Parameter(help="Store generated files in this folder or s3:// address.")] = None,
) -> int:
    """Serve the integrations to any MCP client.

    Their functions are tools, their documentation resources. Functions that create something, and cost, are offered
    with --write allow only.
    """
    from prefect_kosmokrator.integrations.cli_media import output_url, quiet_retries  # noqa: PLC0415 - see register
    from prefect_kosmokrator.integrations.confinement import Confinement  # noqa: PLC0415
    from prefect_kosmokrator.integrations.host import read_roots  # noqa: PLC0415
    from prefect_kosmokrator.integrations.mcp.serve import Gateway, serve_http, serve_stdio  # noqa: PLC0415
    from prefect_kosmokrator.integrations.output import default_output, resolve  # noqa: PLC0415
    from prefect_kosmokrator.integrations.permissions import Permissions  # noqa: PLC0415

    quiet_retries()
    store = output_url(output) if output else default_output()
    resolve(store)  # refuses a wrong one before anything is paid
    confinement = Confinement(read_roots(Path.cwd(), tempfile.gettempdir()), store)
    gateway = Gateway(Permissions(), confinement, integrations=integration, write=write_, store=store)
    if transport == "stdio":
        serve_stdio(gateway)
    else:
        serve_http(gateway, port, lambda url: write(f"# Serving on {url}. Ctrl-C ends."))
    return SUCCESS


@contextmanager
def _hub(*, force: bool = False) -> Generator[Hub]:
    """The servers of the working directory, ended when the block is left."""
    from prefect_kosmokrator.integrations.mcp import config  # noqa: PLC0415 - see register
    from prefect_kosmokrator.integrations.mcp.hub import Hub  # noqa: PLC0415
    from prefect_kosmokrator.integrations.permissions import Permissions  # noqa: PLC0415

    # The SDK logs what a server sends and nobody understands, with a traceback; our errors say what matters.
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    with Hub(config.load(), Permissions(force=force)) as hub:
        yield hub


def _call(hub: Hub, known: _Progress, words: list[str], options: CallOptions) -> Any:
    """The result of the call, or the checked arguments of a dry run."""
    from prefect_kosmokrator.integrations import run  # noqa: PLC0415 - see register
    from prefect_kosmokrator.integrations.cli_media import output_url  # noqa: PLC0415
    from prefect_kosmokrator.integrations.mcp.results import map_media  # noqa: PLC0415

    tool = hub.tool(known.function)
    known.function, known.server, known.operation = tool.function, tool.server.name, tool.operation
    arguments = hub.arguments(tool, _arguments(tool, words))
    known.bypassed = hub.require(tool.server, tool.operation, tool.function)
    if options.dry_run:
        return {"arguments": arguments}
    with run.calling(run.Call("mcp", tool.function, "", arguments)):
        result = hub.call(tool, arguments)
        if options.output is None:
            return result
        store = output_url(options.output)
        return map_media(result, lambda media: media.save(store, tool.function))


def _arguments(tool: Tool, words: list[str]) -> dict[str, Any]:
    """What the words give, read by the types of the tool's schema."""
    from prefect_kosmokrator.integrations import arguments, catalog  # noqa: PLC0415 - see register
    from prefect_kosmokrator.integrations.mcp.schemas import kinds  # noqa: PLC0415

    parameters = tuple(
        catalog.Parameter(name, required=required, default=None, description="", schema=kind)
        for name, required, kind in kinds(tool.schema)
    )
    like_a_function = cast("catalog.Function", SimpleNamespace(parameters=parameters))
    return arguments.parse(like_a_function, words, options=OPTIONS)


def _state(server: dict[str, Any]) -> str:
    if server["problem"]:
        return f"unusable, {server['problem']}"
    if not server["enabled"]:
        return "disabled"
    if not server["trusted"]:
        return f"not trusted (kosmo mcp:trust {server['name']})"
    return "ready"


def _command(server: Server) -> str:
    shown = server.to_json()
    return " ".join([server.command, *shown["args"]]) if server.command else str(shown["url"])


def _say(text: str) -> None:
    """Writes a line for people; names and words of a server or a project must not steer a terminal."""
    write(printable(text))


def _done(text: str, as_json: bool, **fields: Any) -> None:
    if as_json:
        write_json({"success": True, **fields})
    else:
        _say(text)
