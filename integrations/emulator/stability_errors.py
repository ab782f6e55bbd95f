"""Stability's error answers; v1 and v2beta wrap them differently."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.responses import Response


class StabilityError(Exception):
    """A refusal, with the status, name and messages of the service.

    Args:
        status: HTTP status.
        name: Machine-readable name.
        messages: What is wrong, one line each.
        retry_after: Seconds for the ``Retry-After`` header.
    """

    def __init__(self, status: int, name: str, *messages: str, retry_after: int | None = None) -> None:
        super().__init__(status, name, *messages)
        self.status, self.name, self.messages = status, name, messages
        self.retry_after = retry_after

    def response(self, request_id: str, *, v1: bool) -> Response:
        """The answer, whose id equals the request id; rate-limit answers repeat their name as id."""
        identifier = self.name if self.status == 429 and not v1 else request_id
        body = {"id": identifier, "name": self.name}
        content = {**body, "message": " ".join(self.messages)} if v1 else {**body, "errors": list(self.messages)}
        headers = {"x-request-id": identifier}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        return JSONResponse(content, self.status, headers)


def bad_request(*messages: str) -> StabilityError:
    """The refusal of a malformed request."""
    return StabilityError(400, "bad_request", *messages)


def not_found() -> StabilityError:
    """The one answer for an unknown, an expired and somebody else's generation."""
    return StabilityError(404, "generation_not_found", "id: the generation either does not exist or has expired")
