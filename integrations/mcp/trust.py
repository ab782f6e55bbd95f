"""Which servers of a project the person allowed to start. Kept outside of every project: none can trust itself."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from prefect_kosmokrator.integrations.errors import ConfigurationError
from prefect_kosmokrator.integrations.mcp.config import Server, kosmo_home
from prefect_kosmokrator.integrations.permissions import Permission

Records = dict[str, dict[str, dict[str, Any]]]


def is_trusted(server: Server) -> bool:
    """Whether a server may start: one of the person or operator, or one whose entry was trusted as it is now."""
    return server.source != "project" or _record(server).get("fingerprint") == server.fingerprint


def require(server: Server) -> None:
    """Raises unless the server may be used. Nothing has been started then.

    Raises:
        ConfigurationError: If it is disabled, misconfigured or not trusted; says how to trust it.
    """
    if server.problem:
        raise ConfigurationError(f"MCP server {server.name!r} cannot be used: {server.problem}.", provider="mcp")
    if not server.enabled:
        raise ConfigurationError(f"MCP server {server.name!r} is disabled in {server.path}.", provider="mcp")
    if not is_trusted(server):
        changed = " Its entry has changed since it was trusted." if _record(server) else ""
        raise ConfigurationError(
            f"Project MCP server {server.name!r} is not trusted, so it was not started.{changed} "
            f"Look at its entry in {server.path}, then run: kosmo mcp:trust {server.name}",
            provider="mcp",
        )


def permissions_of(server: Server) -> Mapping[str, Permission]:
    """What the person decided about a server's read and write: in the own file, or when trusting it."""
    if server.source == "project":
        return cast("Mapping[str, Permission]", _record(server).get("permissions", {})) if is_trusted(server) else {}
    return server.permissions


def trust(server: Server, permissions: Mapping[str, Permission] | None = None) -> None:
    """Allows a project's server to start as long as its entry stays as it is.

    Args:
        server: From a project; others need no trust.
        permissions: What it may do, for example `{"write": "allow"}`; the defaults count for the rest.
    """

    def add(records: Records) -> None:
        records.setdefault(str(server.root), {})[server.name] = {
            "fingerprint": server.fingerprint,
            "permissions": dict(permissions or {}),
        }

    _change(add)


def untrust(server: Server) -> bool:
    """Takes the trust back; returns whether there was any."""
    was = bool(_record(server))
    _change(lambda records: records.get(str(server.root), {}).pop(server.name, None))
    return was


def trust_file() -> Path:
    """The file with the decisions."""
    return kosmo_home() / "mcp-trust.json"


def _record(server: Server) -> dict[str, Any]:
    # By root as well: `./server.sh` is another program in another project.
    return _read().get(str(server.root), {}).get(server.name, {})


def _read() -> Records:
    path = trust_file()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.", provider="mcp") from error
    return cast("Records", data)


def _change(change: Callable[[Records], object]) -> None:
    """Changes the file as a whole: two commands at once lose nothing, and no reader sees half of it."""
    path = trust_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.with_suffix(".lock").open("w") as lock:
        if sys.platform != "win32":
            import fcntl  # noqa: PLC0415 - exists only there

            fcntl.flock(lock, fcntl.LOCK_EX)
        records = _read()
        change(records)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".mcp-trust-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(records, file, indent=2)
        Path(name).replace(path)
