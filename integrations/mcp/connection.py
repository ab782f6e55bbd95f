"""The connection to one server, from its start to its end. Everything here runs on the hub's event loop."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar, cast

import anyio
from mcp import Client, MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    METHOD_NOT_FOUND,
    REQUEST_TIMEOUT,
    UNSUPPORTED_PROTOCOL_VERSION,
    CallToolResult,
    GetPromptResult,
    Implementation,
    Prompt,
    ReadResourceResult,
    Resource,
    Tool,
)

from prefect_kosmokrator.integrations.errors import (
    AmbiguousSubmission,
    ConfigurationError,
    KosmoError,
    Rejected,
    Unavailable,
)
from prefect_kosmokrator.integrations.mcp.config import Server
from prefect_kosmokrator.integrations.mcp.environment import Secrets, expanded
from prefect_kosmokrator.integrations.mcp.transports import MEGABYTE, HttpNotes, open_transport

T = TypeVar("T")

MAX_PAGES = 100
EVENT_TOO_LARGE = "event exceeded the"  # the SDK passes the message of its HTTP client on
EXIT_NOTE_SECONDS = 1.0  # until the guard has told how a program ended; none, if it was killed itself


class Connection:
    """A server that is being used.

    Attributes:
        ready: Set once it has started, or failed to.
        done: Set once nothing of it is left.
        failure: Why it could not start.
        broken: Whether it was lost after it had started.
    """

    def __init__(self, server: Server, limit: int) -> None:
        self.server = server
        self.ready, self.done, self._stop = anyio.Event(), anyio.Event(), anyio.Event()
        self.failure: KosmoError | None = None
        self.broken = False
        self._limit = limit
        self._secrets = Secrets()
        self._client: Client | None = None
        self._tools: list[Tool] | None = None
        self._listing = anyio.Lock()
        self._notes = HttpNotes()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in run

    async def run(self) -> None:
        """Starts the server, keeps it until `stop`, and ends it. The one task that may enter and leave the client."""
        try:
            started, self._secrets = expanded(self.server)
            with anyio.CancelScope(deadline=anyio.current_time() + self.server.timeout) as scope:
                async with self._started(started) as self._client:
                    scope.deadline = float("inf")
                    self.ready.set()
                    await self._stop.wait()
            if scope.cancelled_caught:
                self.failure = self._unavailable(f"did not start within {self.server.timeout:g} s")
        except Exception as error:  # noqa: BLE001 - whatever went wrong is the caller's to hear
            if not self.ready.is_set():
                self.failure = self._start_failure(_first(error))
        finally:
            self._client = None
            self.ready.set()
            self.done.set()
            self._errors.close()

    async def wait_until_ready(self) -> None:
        """Returns when the server has started.

        Raises:
            KosmoError: If it could not, or not in time; it may still be busy ending then.
        """
        if self.failure is None:
            with anyio.move_on_after(self.server.timeout + 0.2):
                await self.ready.wait()
        if not self.ready.is_set() and self.failure is None:
            self.failure = self._unavailable(f"did not start within {self.server.timeout:g} s")
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """Asks the server to end."""
        self._stop.set()

    @asynccontextmanager
    async def _started(self, server: Server) -> AsyncGenerator[Client]:
        # The classic handshake first: servers that do not know another end at the first sight of one.
        try:
            async with self._opened(server, "legacy") as client:
                yield client
                return
        except MCPError as error:
            if self.ready.is_set() or error.code not in {UNSUPPORTED_PROTOCOL_VERSION, METHOD_NOT_FOUND}:
                raise
        async with self._opened(server, "auto") as client:
            yield client

    @asynccontextmanager
    async def _opened(self, server: Server, mode: str) -> AsyncGenerator[Client]:
        transport = open_transport(server, cast("Any", self._errors), self._notes, self._limit)
        async with Client(
            cast("Any", transport),
            mode=mode,
            read_timeout_seconds=server.timeout,
            client_info=Implementation(name="kosmo", version=version("prefect-kosmokrator")),
            cache=None,
        ) as client:
            yield client

    async def tools(self) -> list[Tool]:
        """What the server offers, asked for once."""
        async with self._listing:
            if self._tools is None:
                self._tools = await self._pages(lambda client, cursor: client.list_tools(cursor=cursor), "tools")
            return self._tools

    async def resources(self) -> list[Resource]:
        """Its resources."""
        return await self._pages(lambda client, cursor: client.list_resources(cursor=cursor), "resources")

    async def prompts(self) -> list[Prompt]:
        """Its prompts."""
        return await self._pages(lambda client, cursor: client.list_prompts(cursor=cursor), "prompts")

    async def read_resource(self, uri: str) -> ReadResourceResult:
        """The contents of a resource."""
        return await self._ask(lambda client: client.read_resource(uri), f"the resource {uri}")

    async def get_prompt(self, name: str, arguments: dict[str, str]) -> GetPromptResult:
        """The messages of a prompt."""
        return await self._ask(lambda client: client.get_prompt(name, arguments), f"the prompt {name!r}")

    async def call(self, tool: str, arguments: dict[str, Any], *, writes: bool) -> CallToolResult:
        """The raw result of a tool.

        Raises:
            AmbiguousSubmission: If a tool that writes was called and no answer came.
        """
        what = f"the call of {tool!r}"
        return await self._ask(lambda client: client.call_tool(tool, arguments), what, function=tool, writes=writes)

    def hidden(self, value: Any) -> Any:
        """`value` without the server's secrets."""
        return self._secrets.hide(value)

    async def _pages(self, ask: Callable[[Client, str | None], Awaitable[Any]], what: str) -> list[Any]:
        items: list[Any] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            try:
                page = await self._ask(partial(_turned, ask, cursor), f"its list of {what}")
            except Rejected as error:
                if error.code == str(METHOD_NOT_FOUND):  # a server need not have any
                    return items
                raise
            items += getattr(page, what)
            cursor = page.next_cursor
            if not cursor:
                return items
        raise self._error(Rejected, f"its list of {what} has no end")

    async def _ask(
        self, ask: Callable[[Client], Awaitable[T]], what: str, *, function: str = "", writes: bool = False
    ) -> T:
        """One request, with every way it can end."""
        client = self._client
        if client is None:
            raise self.failure or self._unavailable("has ended", function)
        lost = AmbiguousSubmission if writes else Unavailable
        after = " It may have been carried out." if writes else ""
        try:
            # The client's own limit counts for each message; a request may take several.
            with anyio.fail_after(self.server.timeout + 1):
                return await ask(client)
        except MCPError as error:
            if error.code == REQUEST_TIMEOUT:
                raise self._error(lost, self._late(what) + after, function) from None
            if self._notes.too_large or (self.server.url and EVENT_TOO_LARGE in error.message):
                raise self._error(lost, self._too_large(what) + after, function) from None
            if error.code == CONNECTION_CLOSED:
                self.broken = True
                reason, said = await self._ending()
                raise self._error(lost, f"{reason} during {what}{said}.{after}", function) from None
            status, self._notes.status = self._notes.status, None
            self.broken |= status == 404  # the session has been forgotten
            said = self._secrets.hide(error.message)
            raise self._error(
                Rejected, f"refused {what}: {said}", function, status=status, code=str(error.code)
            ) from None
        except TimeoutError:
            raise self._error(lost, self._late(what) + after, function) from None
        except Exception as error:  # noqa: BLE001 - an answer the SDK cannot make sense of
            shown = self._secrets.hide(str(_first(error)))[:500]
            raise self._error(lost, f"gave an answer to {what} that is not valid: {shown}.{after}", function) from None

    def _late(self, what: str) -> str:
        return f"did not answer {what} within {self.server.timeout:g} s."

    def _too_large(self, what: str) -> str:
        self._notes.too_large = False
        return f"sent an answer to {what} of more than {self._limit:,} bytes."

    async def _ending(self) -> tuple[str, str]:
        """How a program ended, and the last it said; the guard writes that as its own last act."""
        if self.server.url:
            return "closed the connection", ""
        deadline = anyio.current_time() + EXIT_NOTE_SECONDS
        while not (note := self._note()) and anyio.current_time() < deadline:  # noqa: ASYNC110 - it is a file
            await anyio.sleep(0.02)
        return _parts(note)

    def _note(self) -> str:
        # Read at a position: the guard writes through the same open file, whose own position must not move.
        return os.pread(self._errors.fileno(), 2 * MEGABYTE, 0).decode("utf-8", "replace")

    def _start_failure(self, error: BaseException) -> KosmoError:
        if isinstance(error, KosmoError):
            return error
        if isinstance(error, OSError) and not self.server.url:
            return self._error(ConfigurationError, f"could not be started: {error.strerror or error}.")
        note = self._note() if not self.server.url else ""
        if note.startswith("could not be started"):
            return self._error(ConfigurationError, f"could not be started: {note.partition(chr(10))[2]}.")
        if self._notes.status is not None:
            rejected = self._notes.status < 500 and self._notes.status not in {408, 429}
            kind = Rejected if rejected else Unavailable
            return self._error(kind, f"answered HTTP {self._notes.status}.", status=self._notes.status)
        if note:
            reason, said = _parts(note)
            return self._unavailable(f"{reason} while it started{said}")
        return self._unavailable(f"could not be reached: {str(error) or type(error).__name__}")

    def _unavailable(self, text: str, function: str = "") -> KosmoError:
        return self._error(Unavailable, f"{text}.", function)

    def _error(self, kind: type[KosmoError], text: str, function: str = "", **context: Any) -> KosmoError:
        where = f"{self.server.name}.{function}" if function else self.server.name
        message = self._secrets.hide(f"The server {text}")
        return kind(message, provider="mcp", function=where, **context)


def _parts(note: str) -> tuple[str, str]:
    """From what the guard wrote: how a program ended, and in brackets the last it said."""
    reason, _, said = note.partition("\n")
    said = " ".join(said.split())[-800:]
    return reason or "ended", f" (it said: {said})" if said else ""


def _turned(ask: Callable[[Client, str | None], Awaitable[Any]], cursor: str | None, client: Client) -> Awaitable[Any]:
    return ask(client, cursor)


def _first(error: BaseException) -> BaseException:
    """The first error of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
