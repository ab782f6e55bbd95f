"""fal's error answers, and who may ask."""

from __future__ import annotations

import re
from functools import wraps
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from starlette.responses import JSONResponse

from prefect_kosmokrator.integrations.emulator.gateway import authorization_parts, exchange

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from prefect_kosmokrator.integrations.emulator.accounts import Account

    Handler = Callable[[Request], Awaitable[Response]]

_KEY_FORM = re.compile(r"[^:\s]+:[^:\s]+")


class FalError(Exception):
    """A refusal with the service's status, body and headers.

    Args:
        status: HTTP status.
        detail: Text, or a list of input errors.
        error_type: Machine-readable kind, also sent as a header.
        headers: Further headers.
    """

    def __init__(
        self, status: int, detail: Any, error_type: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, detail, error_type)
        self.status, self.error_type = status, error_type
        self.body: dict[str, Any] = {"detail": detail} | ({"error_type": error_type} if error_type else {})
        self.headers = dict(headers or {}) | ({"X-Fal-Error-Type": error_type} if error_type else {})

    def response(self) -> Response:
        """The answer."""
        return JSONResponse(self.body, self.status, self.headers)


class PlatformError(FalError):
    """A refusal of the platform API, which has its own envelope."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(status, message)
        self.error_type = kind
        self.body = {"error": {"type": kind, "message": message, "request_id": str(uuid4())}}
        self.headers = {}


def input_error(
    kind: str, message: str, *location: str, value: Any = None, context: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The detail of a model's own refusal."""
    problem: dict[str, Any] = {
        "loc": ["body", *location],
        "msg": message,
        "type": kind,
        "url": f"https://docs.fal.ai/errors#{kind}",
    }
    if context:
        problem["ctx"] = context
    problem["input"] = value
    return [problem]


def answering(handler: Handler) -> Handler:
    """Turn refusals into answers and note them in the ledger."""

    @wraps(handler)
    async def wrapped(request: Request) -> Response:
        try:
            return await handler(request)
        except FalError as error:
            exchange(request).entry.outcome = error.error_type or str(error.status)
            return error.response()

    return wrapped


def authenticate(request: Request, *, application: str | None = None) -> tuple[Account, str]:
    """The account and scope of the request's key; locked accounts are refused before anything else is looked at.

    Args:
        request: The request.
        application: Model the request is for, named in the answer to a request without a key.
    """
    state = exchange(request).state
    scheme, key = authorization_parts(request.headers.get("authorization", ""))
    if not scheme:
        name = application or request.url.path.rpartition("/")[2]
        text = f'Cannot access application "{name}". Authentication is required to access this application.'
        raise FalError(401, text)
    if scheme.lower() == "key" and not _KEY_FORM.fullmatch(key):
        text = "Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'."
        raise FalError(401, text)
    owner = state.owner_of(key)
    if scheme.lower() != "key" or owner is None or owner[1] == "stability" or owner[0].revoked:
        raise FalError(401, "No user found for Key ID and Secret")
    state.settle()
    if owner[0].lock_reason is not None:
        raise FalError(403, f"User is locked. Reason: {owner[0].lock_reason}")
    return owner
