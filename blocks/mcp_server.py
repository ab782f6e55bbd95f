"""The block for an MCP server that workflows may use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self, cast

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, model_validator

from prefect_kosmokrator.integrations.accounts import Url
from prefect_kosmokrator.integrations.errors import ConfigurationError
from prefect_kosmokrator.integrations.mcp.config import DEFAULT_TIMEOUT, Server
from prefect_kosmokrator.integrations.permissions import Permission


class McpServer(Block):
    """An MCP server. The block's name is the server's name in workflows: `app.mcp.<name>.<tool>`.

    Example:
        Save a server, then name it when a workflow runs:
        ```python
        from prefect_kosmokrator.blocks.mcp_server import McpServer

        McpServer(command="uvx", args=["mcp-server-time"]).save("time")
        ```

        Load it again:
        ```python
        from prefect_kosmokrator.blocks.mcp_server import McpServer

        server = McpServer.load("BLOCK_NAME")
        server.check()
        ```
    """

    model_config = ConfigDict(extra="forbid")

    _block_type_name = "MCP Server"
    _block_type_slug = "mcp-server"
    _logo_url = HttpUrl("https://github.com/modelcontextprotocol.png?size=200")
    _documentation_url = HttpUrl("https://modelcontextprotocol.io")

    command: str = Field(default="", description="Program of a stdio server, or empty for one at a url.")
    args: list[str] = Field(default_factory=list, description="Arguments of the program.")
    env: dict[str, SecretStr] = Field(
        default_factory=dict[str, SecretStr], description="Variables the program gets besides a minimal environment."
    )
    cwd: str | None = Field(default=None, description="Working directory of the program.")
    url: Url | None = Field(default=None, description="Address of a streamable HTTP server.")
    headers: dict[str, SecretStr] = Field(
        default_factory=dict[str, SecretStr], description="Headers sent with each request to the url."
    )
    timeout: float = Field(default=DEFAULT_TIMEOUT, gt=0, description="Seconds for its start, and for each call.")
    read: Permission | None = Field(default=None, description="Whether its tools that only read may be called.")
    write: Permission | None = Field(default=None, description="Whether its other tools may be called.")

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if bool(self.command) == bool(self.url):
            raise ValueError("give either a command, or the url of a streamable HTTP server")
        return self

    def get_server(self, name: str | None = None) -> Server:
        """The server, ready for use under its block's name."""
        decided: dict[str, Permission | None] = {"read": self.read, "write": self.write}
        return Server(
            name or self._block_document_name or "unsaved",
            source="operator",
            command=self.command,
            args=tuple(self.args),
            env={key: value.get_secret_value() for key, value in self.env.items()},
            url=self.url or "",
            headers={key: value.get_secret_value() for key, value in self.headers.items()},
            cwd=self.cwd,
            timeout=self.timeout,
            permissions={key: value for key, value in decided.items() if value is not None},
        )

    def check(self) -> str:
        """Starts the server, asks for its tools and ends it.

        Returns:
            A sentence.

        Raises:
            KosmoError: Why it cannot be used.
        """
        from prefect_kosmokrator.integrations.mcp.config import Servers  # noqa: PLC0415 - blocks load without the SDK
        from prefect_kosmokrator.integrations.mcp.hub import Hub  # noqa: PLC0415

        server = self.get_server()
        with Hub(Servers([server])) as hub:
            return f"The server offers {len(hub.tools(server))} tools."


def saved_servers(names: Iterable[str]) -> list[Server]:
    """The servers saved as blocks with these names.

    Raises:
        ConfigurationError: If there is no such block.
    """
    servers: list[Server] = []
    for name in names:
        try:
            # Without `_sync` this would be a coroutine when a task is called from an async flow.
            load: Any = McpServer.load  # pyright: ignore[reportUnknownMemberType]
            block = cast("McpServer", load(name, _sync=True))
        except ValueError as error:  # Prefect's word for "no such block"
            raise ConfigurationError(
                f"There is no MCP server {name!r}: save a Prefect block mcp-server/{name}.", provider="mcp"
            ) from error
        servers.append(block.get_server(name))
    return servers
