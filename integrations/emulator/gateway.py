"""The outermost layer: writes the ledger and lets injected faults strike at the transport."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from prefect_kosmokrator.integrations.emulator.faults import GATEWAY_FAULTS, JOB_FAULTS, STREAM_FAULTS

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from prefect_kosmokrator.integrations.emulator.faults import FaultRule
    from prefect_kosmokrator.integrations.emulator.ledger import LedgerEntry
    from prefect_kosmokrator.integrations.emulator.state import EmulatorState

TRANSPORT = "emulator.transport"
PROVIDERS = ("stability", "fal")
PUBLIC_PATHS = ("/fal/media/", "/fal/cdn/files/", "/fal/gcs/")
BAD_GATEWAY = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
    "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
_STABILITY_NAMES = {
    400: "bad_request",
    401: "unauthorized",
    402: "payment_required",
    403: "content_moderation",
    404: "generation_not_found",
    413: "payload_too_large",
    429: "rate_limit_exceeded",
    500: "internal_error",
}
_PLATFORM_TYPES = {
    400: "validation_error",
    401: "authorization_error",
    403: "authorization_error",
    404: "not_found",
    429: "rate_limited",
}
_FAL_TYPES = {
    400: "bad_request",
    429: "concurrent_requests_limit",
    500: "internal_error",
    502: "runner_incomplete_response",
    503: "runner_scheduling_failure",
    504: "request_timeout",
}


@dataclass
class Exchange:
    """What a handler needs to know about the request it answers.

    Attributes:
        state: The emulator's state.
        entry: The request's ledger entry, for the handler to complete.
        fault: Injected fault that the handler must carry out, if any.
    """

    state: EmulatorState
    entry: LedgerEntry
    fault: FaultRule | None = None


def exchange(request: Request) -> Exchange:
    """The exchange of a request."""
    found: Exchange = request.scope["emulator.exchange"]
    return found


def authorization_parts(value: str) -> tuple[str, str]:
    """Scheme and credential of an ``Authorization`` header."""
    scheme, _, credential = value.partition(" ")
    return scheme, credential.strip()


class Gateway:
    """ASGI middleware around both services."""

    def __init__(self, app: ASGIApp, state: EmulatorState) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Record the request, then answer it or let its fault strike."""
        provider = str(scope.get("path", "")).split("/")[1:2]
        if scope["type"] != "http" or not provider or provider[0] not in PROVIDERS:
            scope["emulator.state"] = self.state
            await self.app(scope, receive, send)
            return
        entry = self._open(scope, provider[0])
        fault = self.state.take_fault(entry.method, entry.path, entry.account)
        entry.fault = fault.fault if fault else None
        scope["emulator.exchange"] = Exchange(self.state, entry, fault if fault and fault.fault in JOB_FAULTS else None)

        async def recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                status: int = message["status"]
                entry.status = status
                if entry.outcome == "open":
                    entry.outcome = "ok" if status < 400 else str(status)
            await send(message)

        if fault is None or fault.fault in JOB_FAULTS:
            await self.app(scope, receive, recorded)
        elif fault.fault in STREAM_FAULTS:
            await self._stream(fault, scope, receive, recorded)
        else:
            entry.outcome = fault.fault
            await self._strike(fault, scope, receive, recorded)

    def _open(self, scope: Scope, provider: str) -> LedgerEntry:
        headers = Headers(scope=scope)
        entry = self.state.ledger.open(
            time=self.state.clock.time(),
            provider=provider,
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode("latin-1"),
        )
        authorization = headers.get("authorization", "")
        owner = self.state.owner_of(authorization_parts(authorization)[1])
        if owner is not None:
            entry.account = owner[0].name
        public = entry.path.startswith(PUBLIC_PATHS) and "/multipart/" not in entry.path
        if (
            public
            and authorization
            and not (entry.path == "/fal/cdn/files/upload" or entry.path.endswith("/multipart"))
        ):
            entry.violations.append("key leak: a public file address received an Authorization header")
        if any(key in unquote(entry.query) for key in self._keys()):
            entry.query = "(withheld)"
            entry.violations.append("key leak: a key in the query string")
        return entry

    def _keys(self) -> list[str]:
        accounts = self.state.accounts.values()
        return [key for a in accounts for key in (a.stability_key, a.fal_key, a.fal_admin_key)]

    async def _strike(self, fault: FaultRule, scope: Scope, receive: Receive, send: Send) -> None:
        """Process the request if the fault says so, then answer wrongly or not at all."""
        if fault.processed:
            await self.app(scope, receive, _discard)
        else:
            # Reading the request first makes "before" and "after" look the same to the client, as on a real network.
            while (await receive()).get("more_body"):
                pass
        if fault.kind in ("reset", "close"):
            await disconnect(scope, receive, hard=fault.kind == "reset")
        elif fault.kind == "timeout":
            await self._hold(scope, receive)
        else:
            await self._answer(fault, scope)(scope, receive, send)

    async def _hold(self, scope: Scope, receive: Receive) -> None:
        """Never answer; end when the client gives up or the emulator stops."""
        gone = asyncio.ensure_future(_wait_for_disconnect(receive))
        while not gone.done() and not self.state.closing.is_set():
            await asyncio.wait([gone], timeout=0.05)
        if not gone.done():
            gone.cancel()
            await disconnect(scope, receive, hard=False)

    def _answer(self, fault: FaultRule, scope: Scope) -> Response:
        headers = dict(fault.headers)
        if fault.retry_after is not None:
            headers["Retry-After"] = str(fault.retry_after)
        if fault.kind == "502-html":
            return HTMLResponse(BAD_GATEWAY, 502, headers)
        if fault.kind == "redirect":
            host = Headers(scope=scope).get("host", "")
            # "localhost" is another origin than 127.0.0.1: a client that repeats its key there leaks it.
            target = fault.location or f"http://localhost:{host.rpartition(':')[2]}/fal/media/redirected"
            return RedirectResponse(target, fault.status or 307, headers)
        if fault.kind == "malformed":
            return Response(b'{"status": "IN_', fault.status or 200, headers, "application/json")
        status = fault.status or (int(fault.kind) if fault.kind not in GATEWAY_FAULTS else 200)
        if fault.body is None and fault.kind != "respond":
            body = _service_error(scope["path"], status)
            if "error_type" in body:
                headers["X-Fal-Error-Type"] = body["error_type"]
            return JSONResponse(body, status, headers)
        if isinstance(fault.body, str):
            return Response(fault.body, status, headers, headers.get("content-type", "text/plain"))
        return Response(json.dumps(fault.body), status, headers, "application/json")

    async def _stream(self, fault: FaultRule, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer late, in drips, or not to the end."""
        if fault.fault == "slow":
            await asyncio.sleep(fault.seconds)
            await self.app(scope, receive, send)
            return
        limit = fault.bytes
        sent, cut = 0, False

        async def meddle(message: Message) -> None:
            nonlocal limit, sent, cut
            if message["type"] == "http.response.start":
                length = int(Headers(raw=message["headers"]).get("content-length", "0"))
                limit = length // 2 if limit is None else limit
                await send(message)
            elif fault.fault == "drip":
                await _drip(message, send, fault.seconds)
            elif not cut:
                body: bytes = message.get("body", b"")[: (limit or 0) - sent]
                sent += len(body)
                await send({"type": "http.response.body", "body": body, "more_body": True})
                if sent >= (limit or 0):
                    cut = True
                    # Let the transport send what it holds before the connection goes.
                    await asyncio.sleep(0.05)
                    await disconnect(scope, receive, hard=False)

        await self.app(scope, receive, meddle)


async def _discard(_message: Message) -> None:
    """Drop a response."""


async def _drip(message: Message, send: Send, seconds: float) -> None:
    body: bytes = message.get("body", b"")
    step = max(1, len(body) // 10)
    for start in range(0, len(body), step):
        await send({"type": "http.response.body", "body": body[start : start + step], "more_body": True})
        await asyncio.sleep(seconds / 10)
    await send({"type": "http.response.body", "body": b"", "more_body": bool(message.get("more_body"))})


def _service_error(path: str, status: int) -> dict[str, Any]:
    """The body each service gives a failure of its own."""
    if path.startswith("/stability/"):
        name = _STABILITY_NAMES.get(status, "service_unavailable")
        text = "the request could not be processed, try again later"
        messages = {"message": text} if path.startswith("/stability/v1/") else {"errors": [text]}
        return {"id": name, "name": name, **messages}
    if path.startswith("/fal/api/"):
        kind = _PLATFORM_TYPES.get(status, "server_error")
        return {"error": {"type": kind, "message": "The request could not be processed."}}
    detail = {"detail": "The request could not be processed."}
    return {**detail, "error_type": _FAL_TYPES[status]} if status in _FAL_TYPES else detail


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def disconnect(scope: Scope, receive: Receive, *, hard: bool) -> None:
    """End the connection without an answer.

    Args:
        scope: The request's scope, which carries the server's transport.
        receive: The request's channel, to learn when the connection is gone.
        hard: Reset the connection (RST) instead of closing it in order (FIN).
    """
    transport = scope.get("state", {}).get(TRANSPORT)
    if not isinstance(transport, asyncio.Transport):
        raise TypeError("this fault needs the emulator's own server")
    connection = transport.get_extra_info("socket")
    if hard and connection is not None:
        # With a linger time of zero the kernel answers the client with a reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    await _wait_for_disconnect(receive)
