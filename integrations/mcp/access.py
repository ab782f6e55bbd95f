"""What may be done with a server: read and write, each `allow`, `ask` or `deny`.

A server's rules are those of the provider `mcp_<server>`: `KOSMO_PERMISSIONS__MCP_<SERVER>__READ` and `__WRITE`, then
what the caller says, then what the person decided in a file of their own, then the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prefect_kosmokrator.integrations.catalog import Operation
from prefect_kosmokrator.integrations.errors import ConfigurationError
from prefect_kosmokrator.integrations.mcp import trust
from prefect_kosmokrator.integrations.mcp.config import Server
from prefect_kosmokrator.integrations.permissions import Permission, Permissions


def of(permissions: Permissions, server: Server, operation: Operation) -> Permission:
    """The permission for an operation of a server.

    Raises:
        ConfigurationError: If the setting is none of allow, ask, deny.
    """
    name = f"mcp_{server.identifier}"
    own: Mapping[str, Permission] = {**trust.permissions_of(server), **permissions.rules.get(name, {})}
    return replace(permissions, rules={**permissions.rules, name: own}).of(name, operation)


def require(permissions: Permissions, server: Server, operation: Operation, function: str = "") -> bool:
    """Raises unless the operation is permitted; returns whether `force` was what permitted it.

    Raises:
        ConfigurationError: If it is denied, or would have to be asked for.
    """
    permission = of(permissions, server, operation)
    variable = f"KOSMO_PERMISSIONS__MCP_{server.identifier.upper()}__{operation.upper()}"
    if permission == "deny":
        raise ConfigurationError(
            f"MCP server '{server.name}' {operation} access denied ({variable}).",
            provider="mcp",
            function=function or server.name,
        )
    if permission == "ask" and not permissions.force:
        raise ConfigurationError(
            f"MCP server '{server.name}' {operation} requires approval. Use --force for this run, or set "
            f"{variable}=allow.",
            provider="mcp",
            function=function or server.name,
        )
    return permission == "ask"


def row(permissions: Permissions, server: Server) -> dict[str, Any]:
    """A server as a row of listings."""
    problem = server.problem
    decided: dict[str, str] = {}
    try:
        decided = {"read": of(permissions, server, "read"), "write": of(permissions, server, "write")}
    except ConfigurationError as error:
        problem = problem or error.message
    return {
        **server.to_json(),
        "lua_path": f"app.mcp.{server.identifier}",
        "trusted": trust.is_trusted(server),
        "permissions": decided,
        "problem": problem or None,
    }
