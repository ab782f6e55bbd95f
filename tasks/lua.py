"""A Lua workflow as one task."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, cast

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.tasks import TaskRunNameCallbackWithParameters

from prefect_kosmokrator.blocks.mcp_server import saved_servers
from prefect_kosmokrator.integrations.confinement import Confinement
from prefect_kosmokrator.integrations.errors import ConfigurationError, InvalidInput
from prefect_kosmokrator.integrations.host import Call, Host, without_handles
from prefect_kosmokrator.integrations.lua import Limits, run
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.output import default_output
from prefect_kosmokrator.integrations.permissions import Permission, Permissions
from prefect_kosmokrator.integrations.run import OnAmbiguous
from prefect_kosmokrator.tasks.policy import RETRY, SameCall, in_run

logger = logging.getLogger("prefect_kosmokrator")

PACKAGE = "package://"


@dataclass(frozen=True)
class LuaRun:
    """A workflow that ran to its end.

    Attributes:
        output: What it printed.
        result: The values of its `return`; files as `Media`.
        calls: Its calls of integration functions, in order.
        duration: Seconds.
        cpu_seconds: CPU time of the script itself.
        memory_bytes: Lua heap at its end.
        media: The files it made, stored.
        layers: Which layers of the sandbox were active.
    """

    output: str
    result: list[Any]
    calls: list[Call]
    duration: float
    cpu_seconds: float
    memory_bytes: int
    media: list[Media] = field(default_factory=list[Media])
    layers: tuple[str, ...] = ()


def _run_name(parameters: dict[str, Any]) -> str:
    return f"run_lua: {str(parameters.get('file') or 'script').rpartition('/')[2]}"


@task(
    name="run_lua",
    tags=["lua"],
    task_run_name=cast("TaskRunNameCallbackWithParameters", _run_name),
    cache_policy=SameCall(),
    **RETRY,
)
def run_lua(
    source: str = "",
    *,
    file: str = "",
    inputs: Mapping[str, Any] | None = None,
    accounts: list[str] | None = None,
    permissions: Mapping[str, Mapping[str, Permission]] | None = None,
    limits: Limits | None = None,
    roots: list[str] | None = None,
    output: str = "",
    mcp_servers: list[str] | None = None,
    strict: bool = False,
    on_ambiguous: OnAmbiguous = "fail",
) -> LuaRun:
    """Runs a Lua workflow in its sandbox, as one task run however many calls it makes.

    Its paid calls are journalled: a retry replays what an earlier attempt finished, instead of paying again.

    Args:
        source: The script itself; or
        file: a path to it, or `package://some.package/workflows/name.lua` for one that is installed with a package.
        inputs: The global `inputs` of the script.
        accounts: Names of the accounts it may use; all if not given.
        permissions: By provider and operation, for example `{"fal": {"write": "deny"}}`; everything is allowed by
            default, because whoever deployed the script decided that it runs.
        limits: What it may use; see `Limits`.
        roots: Folders it may read files from, besides the folder of `file`.
        output: Where its files are stored; the setting KOSMO_OUTPUT by default.
        mcp_servers: Names of saved `mcp-server` blocks that it may use as `app.mcp.<name>.<tool>`; none by default.
        strict: Refuse to run where the kernel cannot confine the sandbox.
        on_ambiguous: What to do with a paid call that was in flight when an earlier attempt was killed: `"fail"`, or
            `"resubmit"` at the risk of paying for it twice.

    Raises:
        LuaError: The script failed, met a limit or was cancelled; names its file and line.
        ConfigurationError: There is no such file, or neither or both of `source` and `file` are given.
    """
    text, name, folder = _script(source, file)
    store = output or default_output()
    started = time.monotonic()
    host = Host(
        Permissions(write="allow", rules=permissions or {}),
        Confinement([*([folder] if folder else []), *map(Path, roots or [])], store),
        account_names=accounts,
        store=store,
    )
    with in_run("run_lua", on_ambiguous), _mcp(host, mcp_servers or []):
        try:
            done = run(
                text,
                host,
                name=name,
                inputs=inputs,
                limits=limits,
                on_output=lambda line: logger.info("%s", line),
                strict=strict,
            )
        finally:
            _show(host.calls, name)
    return LuaRun(
        output=done.output,
        result=[without_handles(value) for value in done.result],
        calls=host.calls,
        duration=time.monotonic() - started,
        cpu_seconds=done.cpu_seconds,
        memory_bytes=done.memory_bytes,
        media=host.media,
        layers=done.layers,
    )


@contextmanager
def _mcp(host: Host, names: list[str]) -> Generator[None]:
    """Lets the script use saved MCP servers; what it starts is ended with the block."""
    if not names:
        yield
        return
    from prefect_kosmokrator.integrations.mcp.config import Servers  # noqa: PLC0415 - the SDK takes a second to load
    from prefect_kosmokrator.integrations.mcp.script import attached  # noqa: PLC0415

    with attached(host, Servers(saved_servers(names))):
        yield


def _script(source: str, file: str) -> tuple[str | bytes, str, Path | None]:
    """The script, its name in messages, and the folder it lies in."""
    if bool(source) == bool(file):
        raise InvalidInput("Give either source, the script itself, or file, a path to it.", parameter="source")
    if source:
        return source, "script", None
    if file.startswith(PACKAGE):
        package, _, rest = file.removeprefix(PACKAGE).partition("/")
        try:
            with as_file(files(package).joinpath(*rest.split("/"))) as path:
                return path.read_bytes(), path.name, path.parent
        except (ModuleNotFoundError, OSError, TypeError, ValueError) as error:
            raise ConfigurationError(f"There is no workflow file {file!r}: {error}.") from error
    path = Path(file).expanduser()
    try:
        return path.read_bytes(), path.name, path.parent.resolve()
    except OSError as error:
        raise ConfigurationError(f"The workflow file {file!r} cannot be read: {error.strerror}.") from error


def _show(calls: list[Call], name: str) -> None:
    if calls:
        rows: list[dict[str, Any]] = [call.to_json() for call in calls]
        try:
            create_table_artifact(rows, key="lua-calls", description=f"Calls of {name}", _sync=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        except Exception as error:  # noqa: BLE001 - a server that is down must not end a workflow that has paid
            logger.warning("The calls of %s cannot be shown: Prefect's API does not answer (%s).", name, error)
