"""Run a Lua workflow file as one task."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from prefect_kosmokrator.integrations.lua import Limits
from prefect_kosmokrator.integrations.permissions import Permission
from prefect_kosmokrator.integrations.providers import PROVIDERS
from prefect_kosmokrator.tasks.artifacts import publish
from prefect_kosmokrator.tasks.hooks import HOOKS
from prefect_kosmokrator.tasks.lua import LuaRun, run_lua
from prefect_kosmokrator.tasks.spending import MaxCost


@flow(**HOOKS)
def lua_workflow(
    file: str = "",
    source: str = "",
    inputs: dict[str, Any] = {},  # noqa: B006 - never changed; a form edits a dict, not a choice of types
    accounts: list[str] = [],  # noqa: B006
    write: Literal["allow", "deny"] = "allow",
    output: str = "",
    mcp_servers: list[str] = [],  # noqa: B006
    cpu_seconds: Annotated[float, Field(gt=0, le=3_600)] = 30.0,
    memory_mib: Annotated[int, Field(ge=1, le=4_096)] = 32,
    host_calls: Annotated[int, Field(ge=1, le=100_000)] = 1_000,
    wall_seconds: Annotated[float, Field(ge=0, le=604_800)] = 0.0,
    on_ambiguous: Literal["fail", "resubmit"] = "fail",
    max_cost: MaxCost = "",  # noqa: ARG001 - read by every call of the run
) -> LuaRun:
    """Run a Lua workflow in a sandbox. It calls the same functions as app.integrations.*; retries pay nothing twice.

    Args:
        file: A path on the worker, or package://prefect_kosmokrator.deployments/workflows/hero_image.lua.
        source: The script itself, instead of a file.
        inputs: What the script finds in its table "inputs".
        accounts: Names of the accounts it may use; all if the list is empty.
        write: Whether it may generate, submit and upload, or only read.
        output: Where its files are stored: a store's name or a URL prefix. Empty: the setting KOSMO_OUTPUT.
        mcp_servers: Names of saved MCP Server blocks that it may use as app.mcp.<name>.<tool>.
        cpu_seconds: CPU time of the script itself; waiting costs none.
        memory_mib: Memory of the script, in MiB.
        host_calls: How many functions it may call.
        wall_seconds: Seconds in all, waiting included; 0 for no limit.
        on_ambiguous: A paid call that was in flight when an earlier attempt was killed: fail, or make it again at the
            risk of paying for it twice.
        max_cost: Budget of the run such as "5 USD" or "300 credits". Empty: none.

    Returns:
        What it printed and returned, its calls and its files.
    """
    permissions: dict[str, dict[str, Permission]] = {provider: {"write": write} for provider in PROVIDERS}
    done = run_lua(
        source,
        file=file,
        inputs=inputs,
        accounts=accounts or None,
        permissions=permissions,
        limits=Limits(
            cpu_seconds=cpu_seconds,
            memory_bytes=memory_mib * 2**20,
            host_calls=host_calls,
            wall_seconds=wall_seconds or None,
        ),
        output=output,
        mcp_servers=mcp_servers,
        on_ambiguous=on_ambiguous,
    )
    if done.media:
        publish(done.media, key="lua-workflow", title=file.rpartition("/")[2] or "Lua workflow")
    return done
