"""Requests to a service and its answers as values: built and read by provider modules, testable without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx


@dataclass(frozen=True)
class Request:
    """A request to a service.

    Attributes:
        method: HTTP method.
        url: Full address; the key is sent only if it lies on one of the account's own hosts.
        headers: Without authorization.
        params: Query parameters.
        form: Fields of a multipart form: texts, or (file name, bytes, content type).
        json: JSON body; `...` for none.
        content: Raw body: bytes, or a file that is streamed from disk.
        paid: Whether being accepted costs money.
        deadline: Seconds for one attempt, connecting and reading included.
        total: Seconds for waiting for its turn and the first attempt together, where the caller promised an end.
            Without it a request waits up to ten minutes for its turn, which is no part of `deadline`.
        once: True when the caller repeats by itself.
        pause: Seconds before a repetition, where the service limits how often it may be asked.
        authorized: False for hosts that must not see the key; `headers` may then carry another token.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    params: Mapping[str, str | int] = field(default_factory=dict[str, "str | int"])
    form: Mapping[str, str | tuple[str, bytes, str]] | None = None
    json: Any = ...
    content: bytes | Path | None = None
    paid: bool = False
    deadline: float = 60.0
    total: float | None = None
    once: bool = False
    pause: float | None = None
    authorized: bool = True


@dataclass(frozen=True)
class Response:
    """A service's answer, read completely.

    Attributes:
        status: HTTP status.
        headers: Case-insensitive.
        body: The bytes.
    """

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def content_type(self) -> str:
        """Without parameters, lower case: `application/json; type=image/png` is `application/json`."""
        return str(self.headers.get("content-type", "")).partition(";")[0].strip().lower()

    @property
    def is_json(self) -> bool:
        """Whether the body claims to be JSON."""
        return self.content_type == "application/json" or self.content_type.endswith("+json")

    def json(self) -> Any:
        """The body as JSON; raises ValueError if it is not."""
        return json.loads(self.body)

    def json_or_none(self) -> Any:
        """The body as JSON, None if it is not."""
        try:
            return self.json()
        except ValueError:
            return None
