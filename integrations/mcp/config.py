"""Which MCP servers there are: the files other tools already use, and what an operator hands in.

Later files override earlier ones, a whole entry at a time::

    ~/.kosmokrator/mcp.json  <  ~/.kosmo/mcp.json  <  .vscode/mcp.json  <  .cursor/mcp.json  <  .mcp.json

The first two belong to the person, the others to the project, whose root is the git root or else the working
directory. Reading them starts nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args
from urllib.parse import urlsplit

from prefect_kosmokrator.integrations.errors import ConfigurationError
from prefect_kosmokrator.integrations.mcp.naming import clashing, identifier
from prefect_kosmokrator.integrations.permissions import Permission

DEFAULT_TIMEOUT = 30.0
PROJECT_FILES = (".vscode/mcp.json", ".cursor/mcp.json", ".mcp.json")

Source = Literal["user", "project", "operator"]


@dataclass(frozen=True)
class Server:
    """One MCP server, as it was configured: references to the environment are not expanded yet.

    Attributes:
        name: As in the file.
        source: Whose entry it is. Entries of a project have to be trusted before they start.
        command: The program of a stdio server; empty for one at an address.
        args: Its arguments.
        env: Variables it gets besides a minimal environment.
        url: The address of a streamable HTTP server.
        headers: Sent with each request to `url`.
        cwd: Working directory of the program.
        timeout: Seconds for its start, and for each call.
        enabled: Whether it may be used.
        permissions: Read and write, from a file of the person; entries of a project cannot set them.
        path: The file it comes from.
        root: The project's folder.
        problem: Why it cannot be used, as half a sentence; empty if it can.
        fingerprint: Identifies the entry: whatever changes in it changes this.
    """

    name: str
    source: Source = "operator"
    command: str = ""
    args: tuple[str, ...] = field(default=(), repr=False)
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    url: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    cwd: str | None = None
    timeout: float = DEFAULT_TIMEOUT
    enabled: bool = True
    permissions: Mapping[str, Permission] = field(default_factory=dict[str, Permission])
    path: Path | None = None
    root: Path | None = None
    problem: str = ""
    fingerprint: str = ""

    @property
    def transport(self) -> Literal["stdio", "http"]:
        """How it is spoken to."""
        return "http" if self.url else "stdio"

    @property
    def identifier(self) -> str:
        """Its name in Lua and, in upper case, in settings."""
        return identifier(self.name)

    def to_json(self) -> dict[str, Any]:
        """The entry for listings: no variables, no headers, and nothing that looks like a secret."""
        return {
            "name": self.name,
            "type": self.transport,
            "enabled": self.enabled,
            "source": self.source,
            "path": str(self.path) if self.path else None,
            "command": self.command or None,
            "args": masked(self.args) if self.command else None,
            "url": _without_secrets(self.url) if self.url else None,
            "timeout": self.timeout,
        }


class Servers:
    """The configured servers.

    Args:
        servers: The last one of a name counts.
        problems: What could not be read, a sentence each.
    """

    def __init__(self, servers: Iterable[Server] = (), problems: Iterable[str] = ()) -> None:
        self.all: dict[str, Server] = {server.name: server for server in servers}
        self.problems = list(problems)

    def find(self, name: str) -> Server:
        """The server with this name, its own or the one it has in Lua.

        Raises:
            ConfigurationError: If there is none, or two share the Lua name.
        """
        same = clashing(name, self.all)
        if len(same) > 1:
            listed = " and ".join(repr(one) for one in same)
            raise ConfigurationError(
                f"Two MCP servers share the Lua name {identifier(name)}: {listed}. Rename one of them.", provider="mcp"
            )
        if name in self.all:
            return self.all[name]
        if same:
            return self.all[same[0]]
        known = ", ".join(self.all) or "none; they are configured in .mcp.json or ~/.kosmo/mcp.json"
        raise ConfigurationError(f"Unknown MCP server: {name}. There are: {known}.", provider="mcp")

    def split(self, function: str) -> tuple[Server, str]:
        """The server and the tool that `SERVER.TOOL` means; a prefix `mcp.` or `app.mcp.` is ignored.

        Raises:
            ConfigurationError: If it names no known server.
        """
        name = function.removeprefix("app.").removeprefix("mcp.")
        ends = [place for place, letter in enumerate(name) if letter == "." and 0 < place < len(name) - 1]
        known = {one for server in self.all.values() for one in (server.name, server.identifier)}
        for end in reversed(ends):  # names may contain dots themselves
            if name[:end] in known:
                return self.find(name[:end]), name[end + 1 :]
        if not ends:
            raise ConfigurationError(
                f"{function!r} does not name a tool of an MCP server: write SERVER.TOOL.", provider="mcp"
            )
        return self.find(name[: ends[0]]), name[ends[0] + 1 :]


def load(folder: Path | None = None, operator: Iterable[Server] = ()) -> Servers:
    """The servers configured for a working directory, and those handed in, which override the files.

    Args:
        folder: Where the project's root is looked for; the working directory by default.
        operator: Servers of whoever deployed the run.
    """
    root = project_root(folder or Path.cwd())
    found: list[Server] = []
    problems: list[str] = []
    files: list[tuple[Path, Source]] = [
        (Path.home() / ".kosmokrator" / "mcp.json", "user"),
        (kosmo_home() / "mcp.json", "user"),
        *((root / name, cast("Source", "project")) for name in PROJECT_FILES),
    ]
    for path, source in files:
        try:
            entries = _entries(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            problems.append(f"{path} cannot be read: {error}.")
            continue
        found += [_server(name, entry, source, path, root) for name, entry in entries.items()]
    return Servers([*found, *operator], problems)


def kosmo_home() -> Path:
    """The person's own folder: `KOSMO_HOME`, or `~/.kosmo`."""
    configured = os.environ.get("KOSMO_HOME")
    return Path(configured).expanduser() if configured else Path.home() / ".kosmo"


def project_root(folder: Path) -> Path:
    """The folder with `.git` at or above `folder`, or else `folder`."""
    folder = folder.resolve()
    return next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), folder)


def masked(args: Iterable[str]) -> list[str]:
    """Program arguments for display: the values of options that look secret are hidden."""
    shown: list[str] = []
    hide_next = False
    for arg in args:
        name, equals, _ = arg.partition("=")
        if hide_next and not arg.startswith("-"):
            shown.append("***")
        elif equals and SECRET_NAME.search(name):
            shown.append(f"{name}=***")
        else:
            shown.append(_without_secrets(arg) if "://" in arg else arg)
        hide_next = arg.startswith("-") and not equals and SECRET_NAME.search(arg) is not None
    return shown


SECRET_NAME = re.compile(r"key|token|secret|passw|auth|credential|bearer", re.IGNORECASE)
"""Names of variables and options whose values are never shown."""

_STRING = r'("(?:\\.|[^"\\])*")'


def _entries(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        data = json.loads(text)
    except ValueError:  # editors allow comments and trailing commas
        text = re.sub(rf"{_STRING}|//[^\n]*|/\*.*?\*/", lambda found: found[1] or "", text, flags=re.DOTALL)
        data = json.loads(re.sub(rf"{_STRING}|,(?=\s*[}}\]])", lambda found: found[1] or "", text))
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - what is wrong is the file
    file = cast("dict[str, Any]", data)
    entries = file.get("mcpServers", file.get("servers", {}))
    if not isinstance(entries, dict):
        raise ValueError("its servers are not a JSON object")  # noqa: TRY004
    return cast("dict[str, Any]", entries)


def _server(name: str, entry: Any, source: Source, path: Path, root: Path) -> Server:
    common: dict[str, Any] = {"name": name, "source": source, "path": path, "root": root}
    canonical = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    common["fingerprint"] = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
    if not isinstance(entry, dict):
        return Server(**common, problem="its entry is not a JSON object")
    fields = cast("dict[str, Any]", entry)
    url = fields.get("url") or fields.get("serverUrl") or ""
    command, cwd = fields.get("command") or "", fields.get("cwd")
    kind = str(fields.get("type") or fields.get("transport") or "local").lower()
    args: Any = fields.get("args") or []
    env: Any = fields.get("env") or fields.get("environment") or {}
    headers: Any = fields.get("headers") or {}
    permissions: Any = fields.get("permissions") or {}
    problem = ""
    if not (isinstance(url, str) and isinstance(command, str) and isinstance(cwd, str | None)):
        return Server(**common, problem="command, url and cwd must be texts")
    if not isinstance(args, list) or not all(isinstance(value, dict) for value in (env, headers, permissions)):
        return Server(**common, problem="args must be a list, env and headers must be objects")
    if kind not in {"local", "stdio", "http", "streamable-http", "streamablehttp", "streamable_http"}:
        problem = f"its type {kind!r} is not supported; there are stdio and http (streamable HTTP)"
    elif bool(url) == bool(command) or (url and kind == "stdio"):
        problem = "it needs either a command, or a url of streamable HTTP"
    elif url and urlsplit(url).scheme not in {"http", "https"} and "${" not in url:
        problem = "its url must begin with http:// or https://"
    rules = cast("dict[str, Any]", permissions) if source == "user" else {}
    if not all(key in {"read", "write"} and value in get_args(Permission) for key, value in rules.items()):
        problem = "its permissions must be read and write, each allow, ask or deny"
    return Server(
        **common,
        command=command,
        args=tuple(str(value) for value in cast("list[Any]", args)),
        env=_texts(env),
        url=url,
        headers=_texts(headers),
        cwd=cwd,
        timeout=_timeout(fields.get("timeout", fields.get("timeoutSeconds"))),
        enabled=str(fields.get("enabled", True)).lower() in {"true", "on"} and fields.get("disabled") is not True,
        permissions=rules,
        problem=problem,
    )


def _texts(values: Any) -> dict[str, str]:
    given = cast("dict[str, Any]", values).items()
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in given if value is not None}


def _timeout(value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 < value < float("inf") else DEFAULT_TIMEOUT


def _without_secrets(url: str) -> str:
    """An address without user, password and query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="***" if parts.query else "", fragment="").geturl()
