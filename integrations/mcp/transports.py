"""How a server is reached: a program in the care of our guard, or an address with limits on what it sends back."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TextIO

import httpx2
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from prefect_kosmokrator.integrations.mcp.config import Server

GUARD = Path(__file__).with_name("guard.py")
MEGABYTE = 1024 * 1024


class AnswerTooLargeError(httpx2.StreamError):
    """A web server sent more than is accepted."""


class HttpNotes:
    """What a web server said that its MCP messages do not.

    Attributes:
        status: The last HTTP status that was an error.
        too_large: Whether an answer was cut off.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.too_large = False


@asynccontextmanager
async def open_transport(server: Server, errors: TextIO, notes: HttpNotes, limit: int) -> AsyncGenerator[object]:
    """The transport for the SDK's client: its pair of message streams.

    Args:
        server: With its references expanded.
        errors: Gets how a program ended and the end of its standard error; a real file.
        notes: Told about HTTP errors.
        limit: Bytes of the largest message.
    """
    async with AsyncExitStack() as stack:
        if server.url:
            client = httpx2.AsyncClient(
                headers={"accept-encoding": "identity", **server.headers},
                timeout=httpx2.Timeout(server.timeout, read=server.timeout + 5),
                transport=_Limited(notes, limit),
            )
            await stack.enter_async_context(client)
            http = streamable_http_client(server.url, http_client=client, max_sse_event_size=limit)
            yield await stack.enter_async_context(http)
        else:
            yield await stack.enter_async_context(stdio_client(_program(server, limit), errlog=errors))


def _program(server: Server, limit: int) -> StdioServerParameters:
    command, args = server.command, list(server.args)
    if os.name == "posix":
        guard = ["-I", "-S", "-B", str(GUARD), str(limit), str(os.getpid()), command]
        command, args = sys.executable, [*guard, *args]
    folder = Path(server.cwd).expanduser() if server.cwd else None
    if server.root is not None and server.source == "project":
        folder = server.root / folder if folder else server.root
    return StdioServerParameters(command=command, args=args, env=dict(server.env), cwd=folder)


class _Limited(httpx2.AsyncHTTPTransport):
    """Cuts answers off that are larger than accepted. The SDK limits events of a stream, but not JSON answers."""

    def __init__(self, notes: HttpNotes, limit: int) -> None:
        super().__init__()
        self._notes, self._limit = notes, limit

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if response.status_code >= 400:
            self._notes.status = response.status_code
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            return response
        assert isinstance(response.stream, httpx2.AsyncByteStream)  # noqa: S101 - for the type checkers
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_LimitedStream(response.stream, self._notes, self._limit),
            extensions=response.extensions,
        )


class _LimitedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, notes: HttpNotes, limit: int) -> None:
        self._stream, self._notes, self._left = stream, notes, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._left -= len(chunk)
            if self._left < 0:
                self._notes.too_large = True
                raise AnswerTooLargeError("the answer is too large")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
