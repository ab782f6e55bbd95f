"""What stands behind a script that `kosmo` runs: the integrations' own host, loaded when a script first needs it."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from prefect_kosmokrator.integrations.cli_output import STATUS
from prefect_kosmokrator.integrations.errors import ConfigurationError, KosmoError

if TYPE_CHECKING:
    from prefect_kosmokrator.integrations.cli_media import Files
    from prefect_kosmokrator.integrations.host import Call, Host
    from prefect_kosmokrator.integrations.lua import CallRecord


class ScriptHost:
    """Answers the calls of a script. The catalogue is loaded by the first call that needs it.

    Args:
        force: Whether `ask` permissions count as yes.
        reach: `integrations`, or `mcp` for MCP servers only.

    Attributes:
        store: Where generated files go.
        noted: For each call of the current script, in order, what the integrations noted of it.
    """

    def __init__(self, force: bool, reach: str) -> None:
        self._force, self._reach = force, reach
        self.store: str | None = None
        self.noted: list[Call | None] = []
        self._shown: Files | None = None
        self._servers: ExitStack | None = None

    def __call__(self, path: tuple[str, ...], arguments: Any) -> Any:
        """Answers one call."""
        self.noted.append(None)
        if path[0] == "mcp":
            return self._mcp(path, arguments)
        if path[0] == "integrations" and self._reach == "mcp":
            raise ConfigurationError(f"app.{'.'.join(path)} is not available in mcp:lua; use integrations:lua.")
        host = self.host
        before = len(host.calls)
        with STATUS.during(".".join(path[1:])):
            try:
                return host(path, arguments)
            finally:
                if len(host.calls) > before:
                    self.noted[-1] = host.calls[-1]

    def _mcp(self, path: tuple[str, ...], arguments: Any) -> Any:
        """A call of an MCP server, or of a helper. Servers start when they are first used."""
        host = self.host
        if self._servers is None:
            from prefect_kosmokrator.integrations.mcp.config import load  # noqa: PLC0415 - for scripts that use it

            servers = load()
            if not servers.all:
                return host(path, arguments)
            from prefect_kosmokrator.integrations.mcp.script import attached  # noqa: PLC0415 - the SDK takes a second

            self._servers = ExitStack()
            self._servers.enter_context(attached(host, servers))
        before = len(host.calls)
        with STATUS.during(".".join(path[1:])):
            try:
                return host(path, arguments)
            finally:
                if len(host.calls) > before:
                    self.noted[-1] = host.calls[-1]

    def close(self) -> None:
        """Ends the MCP servers that were started."""
        if self._servers is not None:
            self._servers.close()
            self._servers = None

    @cached_property
    def host(self) -> Host:
        """The integrations' own host: files within the working directory and the temp directory."""
        from prefect_kosmokrator.integrations.cli_media import quiet_retries  # noqa: PLC0415 - half a second
        from prefect_kosmokrator.integrations.confinement import Confinement  # noqa: PLC0415
        from prefect_kosmokrator.integrations.host import Host, read_roots  # noqa: PLC0415
        from prefect_kosmokrator.integrations.permissions import Permissions  # noqa: PLC0415

        quiet_retries()
        roots = read_roots(Path.cwd(), tempfile.gettempdir())
        return Host(Permissions(force=self._force), Confinement(roots, self.store), store=self.store)

    @property
    def forced(self) -> bool:
        """Whether --force was what permitted a call."""
        return self._loaded and self.host.forced

    def described(self, records: list[CallRecord] | tuple[CallRecord, ...]) -> list[dict[str, Any]]:
        """The calls as rows. Helpers (`docs`, `mcp`) are none."""
        rows: list[dict[str, Any]] = []
        for record, noted in zip(records, [*self.noted, *[None] * len(records)], strict=False):
            if record.path[0] == "docs" or (record.path[0] == "mcp" and len(record.path) < 3):
                continue
            row: dict[str, Any] = {
                "path": ".".join(record.path),
                "durationMs": round(record.duration * 1000, 1),
                "status": record.status,
            }
            if record.error is not None:
                row["error"] = record.error
            if noted is not None:
                from prefect_kosmokrator.integrations.providers import find_function  # noqa: PLC0415 - loaded by now

                function = find_function(noted.function)
                row |= {"name": function.title if function else noted.function}
                row |= {"group": noted.function.partition(".")[0], "account": noted.account}
                if noted.cost is not None:
                    row["cost"] = noted.cost.to_json()
            rows.append(row)
        return rows

    def shown(self, values: list[Any], *, as_json: bool) -> list[Any]:
        """Returned values as JSON; only calls of the integrations bring anything else into a script."""
        return cast("list[Any]", self._files(as_json=as_json).shown(values)) if self._loaded else values

    def keep_files(self, error: KosmoError | None = None, *, as_json: bool) -> list[str]:
        """Keeps the bytes that the script paid for, or its error carries, and that nothing else keeps."""
        if not self._loaded:
            return []
        from prefect_kosmokrator.integrations.cli_media import media_of  # noqa: PLC0415 - loaded by now

        return self._files(as_json=as_json).keep([*self.host.media, *media_of(error and error.__cause__)])

    @property
    def _loaded(self) -> bool:
        return "host" in self.__dict__

    def _files(self, *, as_json: bool) -> Files:
        from prefect_kosmokrator.integrations.cli_media import Files  # noqa: PLC0415 - loaded by now

        if self._shown is None:
            self._shown = Files(as_json=as_json)
        return self._shown
