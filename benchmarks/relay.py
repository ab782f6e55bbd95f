"""A relay between a client and a server on this machine that sees every exchange and may end it at an exact place.

The bytes pass unchanged and as they come: what the server breaks, delays or cuts off is broken, delayed and cut off for
the client too. A `Hook` is told about five moments of each exchange and may answer in the server's place, break the
connection, or do something else meanwhile, such as killing the client.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import urlsplit

import h11

Moment = Literal["received", "answered", "half", "delivered", "later"]
"""The server has not seen the request; it has answered, and the client has nothing; the client has half of the answer;
it has all of it; a little time has passed since then."""


@dataclass
class Exchange:
    """One request and its answer.

    Attributes:
        method: HTTP method.
        path: Path and query.
        request: The request's head and body.
        status: Status of the answer; 0 if there was none.
        headers: Headers of the answer.
        sha256: Of the answer's body, once it is complete.
        size: Bytes of the body so far.
        delivered: The client was sent the complete answer.
    """

    method: str
    path: str
    request: bytes
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    sha256: str = ""
    size: int = 0
    delivered: bool = False


Hook = Callable[[Exchange, Moment], "bytes | None"]
"""Returns None to go on, or the raw answer to send instead; an empty one resets the connection."""

LATER_SECONDS = 0.02
"""A client needs a few milliseconds to note what it was told."""


class Relay:
    """Listens on a port of its own and passes everything on to `upstream`.

    Attributes:
        url: Where clients connect.
        exchanges: All exchanges so far, in the order in which the requests were complete.

    Args:
        upstream: Address of the server, as `http://host:port`.
        hook: Told about each moment, in the relay's own thread; must not take long.
    """

    def __init__(self, upstream: str, hook: Hook | None = None) -> None:
        parts = urlsplit(upstream)
        self._upstream = str(parts.hostname), int(parts.port or 80)
        self._hook = hook or (lambda _exchange, _moment: None)
        self.exchanges: list[Exchange] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self._server = server.result(10)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def __enter__(self) -> Self:
        """Return the relay, which already listens."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close every connection and end the thread."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while (exchange := await _read_request(reader, writer)) is not None:
                self.exchanges.append(exchange)
                if not await self._answer(exchange, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client is gone, or the relay ends
        finally:
            writer.close()

    async def _answer(self, exchange: Exchange, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        instead = self._hook(exchange, "received")
        if instead is not None:
            return await _end(writer, instead)
        reader, upstream = await asyncio.open_connection(*self._upstream)
        try:
            upstream.write(exchange.request)
            return await self._pass_on(exchange, reader, writer)
        except ConnectionError:
            return await _end(writer, b"")
        finally:
            upstream.close()

    async def _pass_on(self, exchange: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=exchange.method, target="/", headers=[("host", "relay")]))
        parser.send(h11.EndOfMessage())
        body, sent, half, digest = 0, 0, -1, hashlib.sha256()
        while parser.their_state not in {h11.DONE, h11.MUST_CLOSE, h11.CLOSED}:
            data = await reader.read(65536)
            if not exchange.status and data and self._hook(exchange, "answered") is not None:
                return await _end(writer, b"")
            parser.receive_data(data)
            if not data and not exchange.status:
                writer.close()
                return False
            try:
                for event in _events(parser):
                    if isinstance(event, h11.Response):
                        exchange.status = event.status_code
                        exchange.headers = {name.decode(): value.decode() for name, value in event.headers}
                        head = data.find(b"\r\n\r\n") + 4
                        half = sent + head + int(exchange.headers.get("content-length", "2")) // 2
                    elif isinstance(event, h11.Data):
                        digest.update(event.data)
                        body += len(event.data)
            except h11.RemoteProtocolError:  # cut off
                writer.write(data)
                await writer.drain()
                return False
            exchange.size = body
            if sent <= half < sent + len(data):
                writer.write(data[: half - sent])
                await writer.drain()
                data, sent = data[half - sent :], half
                if self._hook(exchange, "half") is not None:
                    return await _end(writer, b"")
                half = -1
            writer.write(data)
            await writer.drain()
            sent += len(data)
        exchange.sha256, exchange.delivered = digest.hexdigest(), True
        self._hook(exchange, "delivered")
        self._loop.call_later(LATER_SECONDS, self._hook, exchange, "later")
        return exchange.headers.get("connection", "").lower() != "close" and parser.their_state is h11.DONE


def _events(parser: h11.Connection) -> list[h11.Event]:
    """What the bytes so far say."""
    found: list[h11.Event] = []
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA or event is h11.PAUSED:
            return found
        found.append(event)
        if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return found


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Exchange | None:
    """The next request of a connection, complete; None at its end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])}
    if headers.get("expect"):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        head = "\r\n".join(line for line in lines if not line.lower().startswith("expect:")).encode("latin-1")
    body = b""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while not body.endswith(b"0\r\n\r\n"):
            size = await reader.readline()
            body += size + await reader.readexactly(int(size.partition(b";")[0], 16) + 2)
    elif headers.get("content-length"):
        body = await reader.readexactly(int(headers["content-length"]))
    method, path, _ = lines[0].split(" ", 2)
    return Exchange(method, path, head + body)


async def _end(writer: asyncio.StreamWriter, answer: bytes) -> bool:
    """Send an answer, or reset the connection if there is none; the connection does not go on."""
    if answer:
        writer.write(answer)
        await writer.drain()
        return False
    connection = writer.get_extra_info("socket")
    if connection is not None:
        # With a linger time of zero the kernel sends a reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False
