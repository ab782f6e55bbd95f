"""HTTP to a service: one client per account with its key, deadlines, retries, size caps and redaction.

A request is a value (`Request`), built by a provider module and testable as such; `Client.send` is the only place that
talks to a service. The rule that protects money lives here: a paid request is repeated only when it provably was not
accepted (no connection, 429); when it may have been, `AmbiguousSubmission` is raised. Every attempt waits for its turn
(`governor`), and a 429 pauses the whole account.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import httpx

from prefect_kosmokrator.integrations import governor
from prefect_kosmokrator.integrations.accounts import Account
from prefect_kosmokrator.integrations.errors import (
    AmbiguousSubmission,
    ConfigurationError,
    KosmoError,
    Rejected,
    Unavailable,
)
from prefect_kosmokrator.integrations.governor import RateLimit, Turn
from prefect_kosmokrator.integrations.messages import Request, Response
from prefect_kosmokrator.integrations.redaction import redact, without_query
from prefect_kosmokrator.integrations.retries import attempts, retry_after_seconds
from prefect_kosmokrator.integrations.run import current_call

T = TypeVar("T")
ErrorT = TypeVar("ErrorT", bound=KosmoError)

MAX_ANSWER_BYTES = 128 * 1024 * 1024
"""Larger answers are refused; big media is downloaded from its address instead."""

MAX_ERROR_CHARS = 500


ErrorReader = Callable[[Response], KosmoError | None]
"""Turns an error answer into a more exact error than the status alone gives, or None."""


class Client:
    """All traffic of one account.

    Args:
        provider: For error messages.
        account: Whose key is sent.
        authorization: The value of the Authorization header.
        hosts: The account's own addresses; only their hosts ever receive the key.
        read_error: The provider's reading of its error answers.
        limit: How often the service may be asked.
        transport: Replaces the network, in tests.
    """

    def __init__(
        self,
        provider: str,
        account: Account,
        *,
        authorization: str,
        hosts: tuple[str, ...],
        read_error: ErrorReader,
        limit: RateLimit = governor.UNDECLARED,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.provider = provider
        self.account = account
        self._authorization = authorization
        self._origins = {origin(url) for url in hosts}
        self._read_error = read_error
        self._told_time = (0.0, 0.0)
        self._limit = limit
        self._http = httpx.Client(
            transport=transport,
            follow_redirects=False,
            headers={"User-Agent": f"prefect-kosmokrator/{version('prefect-kosmokrator')}"},
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=15),
        )

    def time(self) -> float:
        """Seconds since 1970 by the service's clock, as its last answer told; by this machine's before the first."""
        told, read = self._told_time
        return told + time.monotonic() - read if told else time.time()

    def owns(self, url: str) -> bool:
        """Whether `url` lies on one of the account's own hosts."""
        return origin(url) in self._origins

    def send(self, request: Request) -> Response:
        """Sends `request` and returns the answer if its status is below 300.

        Raises:
            Rejected: Or a more exact subclass: the service refused.
            Unavailable: After the retries that are safe, or if its turn does not come in time.
            AmbiguousSubmission: For a paid request that may have been accepted.
            ConfigurationError: On a redirect: the configured address is wrong, and a key is never sent elsewhere.
        """
        return self._repeated(request, self._once)

    def json(self, request: Request) -> Any:
        """Sends `request` and returns its JSON answer; an answer that is not JSON counts as none."""

        def read(request: Request) -> Any:
            response = self._once(request)
            try:
                return response.json()
            except ValueError:
                if request.paid:
                    raise self._ambiguous("the answer was not readable") from None
                raise self.fail(Unavailable, f"{_bare(request.url)} answered with something else than JSON.") from None

        return self._repeated(request, read)

    def json_object(self, request: Request) -> dict[str, Any]:
        """As `json`, for an answer that is documented to be an object."""
        answer = self.json(request)
        if not isinstance(answer, dict):
            raise self.fail(Unavailable, f"{_bare(request.url)} answered with something else than a JSON object.")
        return cast("dict[str, Any]", answer)

    def _repeated(self, request: Request, send: Callable[[Request], T]) -> T:
        patience = governor.PATIENCE_SECONDS if request.total is None else request.total
        until = time.monotonic() + patience
        counts = self._limit.counts(request)
        turn = Turn(self.provider, self.account.name, self._limit, until) if counts else None
        # Before the clock of the retries starts: a long queue must not use them up.
        governor.wait_for_turn(turn)
        if request.total is not None:
            request = replace(request, deadline=min(request.deadline, max(until - time.monotonic(), 0.1)))
        if request.once:
            return self._sent(turn, lambda: send(request))
        repeat = _provably_not_accepted if request.paid else None
        for attempt in attempts(repeat=repeat, pause=request.pause):
            with attempt:
                if attempt.num > 1:
                    governor.wait_for_turn(turn)
                return self._sent(turn, lambda: send(request))
        raise AssertionError

    @staticmethod
    def _sent(turn: Turn | None, send: Callable[[], T]) -> T:
        try:
            return send()
        except Unavailable as error:
            if turn is not None and error.status == 429:
                governor.pause(turn, error.retry_after)
            raise

    def _once(self, request: Request) -> Response:
        headers = dict(request.headers)
        if request.authorized:
            if not self.owns(request.url):
                raise self.fail(
                    ConfigurationError,
                    f"{_bare(request.url)} is not one of this account's addresses; its key is not sent there.",
                )
            headers["Authorization"] = self._authorization
        call = current_call()
        if request.paid and call is not None:
            call.leave()
        try:
            response = self._exchange(request, headers)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            # No connection, so nothing was accepted: safe to repeat even when it is paid.
            raise self.fail(Unavailable, f"{_bare(request.url)} cannot be reached: {_reason(error)}.") from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            if request.paid:
                raise self._ambiguous(f"the connection broke ({_reason(error)})") from error
            raise self.fail(Unavailable, f"{_bare(request.url)} did not answer: {_reason(error)}.") from error
        except httpx.InvalidURL as error:
            raise self.fail(ConfigurationError, f"{_bare(request.url)} is not a valid address: {error}.") from error
        if response.status >= 300:
            raise self._error(request, response)
        return response

    def _exchange(self, request: Request, headers: dict[str, str]) -> Response:
        body: dict[str, Any] = {}
        if request.form is not None:
            # A plain text goes as (None, text): httpx would send a form without files urlencoded, which is refused.
            body["files"] = {
                name: (None, part) if isinstance(part, str) else part for name, part in request.form.items()
            }
        elif request.json is not ...:
            body["json"] = request.json
        elif request.content is not None:
            body["content"] = request.content
        started = time.monotonic()
        timeout = httpx.Timeout(request.deadline, connect=min(10.0, request.deadline))
        with ExitStack() as stack:
            if isinstance(request.content, Path):
                body["content"] = stack.enter_context(request.content.open("rb"))
            response = stack.enter_context(
                self._http.stream(
                    request.method,
                    request.url,
                    headers=headers,
                    params=dict(request.params) or None,
                    timeout=timeout,
                    **body,
                )
            )
            self._told_time = _date_of(response), time.monotonic()
            parts: list[bytes] = []
            size = 0
            for chunk in response.iter_bytes():
                parts.append(chunk)
                size += len(chunk)
                if time.monotonic() - started > request.deadline:
                    # httpx limits the wait for each chunk only; a body that drips would go on for ever.
                    raise httpx.ReadTimeout(f"no complete answer within {request.deadline:.0f} s")
                if size > MAX_ANSWER_BYTES:
                    raise httpx.ReadError(f"an answer of more than {MAX_ANSWER_BYTES:,} bytes")
            return Response(response.status_code, response.headers, b"".join(parts))

    def _error(self, request: Request, response: Response) -> KosmoError:
        """The one mapping from an answer to an error; providers only refine it."""
        status = response.status
        request_id = str(response.headers.get("x-request-id") or response.headers.get("x-fal-request-id") or "") or None
        if status < 400:
            error: KosmoError = ConfigurationError(
                f"{_bare(request.url)} redirects to {_bare(str(response.headers.get('location', '?')))}. "
                "Redirects are not followed, so that a key never leaves its service: correct the account's address."
            )
        elif status == 401:
            # The service's own text is left out: it may repeat parts of the key.
            error = Rejected(
                f"The key of account {self.account.name!r} was not accepted. Check "
                f"KOSMO_{self.provider.upper()}__{self.account.name.upper().replace('-', '_')}__API_KEY or the block "
                f"{self.provider}-credentials/{self.account.name}."
            )
        elif (exact := self._read_error(response)) is not None:
            error = exact
        elif status == 429:
            error = Unavailable("The rate limit was exceeded.")
        elif status >= 500 or status == 408:
            error = Unavailable(f"The service answered {status}: {self.excerpt(response)}")
        else:
            error = Rejected(f"The service answered {status}: {self.excerpt(response)}")
        if request.paid and isinstance(error, Unavailable) and _from_gateway(response):
            error = self._ambiguous(f"a gateway answered {status}")
        error.status = status
        error.request_id = error.request_id or request_id
        if isinstance(error, Unavailable):
            asked = retry_after_seconds(response.headers)
            error.retry_after = error.retry_after if asked is None else asked
        return self._located(error)

    def _ambiguous(self, what: str) -> AmbiguousSubmission:
        return self.fail(
            AmbiguousSubmission,
            f"The request was sent, then {what}. It may have been accepted and billed, so it is not repeated. "
            f"Look at the account's usage before you send it again.",
        )

    def fail(self, kind: type[ErrorT], message: str) -> ErrorT:
        """An error of `kind` that knows its provider and account."""
        return self._located(kind(self.redact(message)))

    def _located(self, error: ErrorT) -> ErrorT:
        error.provider = error.provider or self.provider
        error.account = error.account or self.account.name
        error.message = self.redact(error.message)
        error.args = (error.message,)
        return error

    def excerpt(self, response: Response) -> str:
        """The words of an error answer, short and without secrets."""
        if response.is_json or response.content_type.startswith("text/plain"):
            text = response.body[: MAX_ERROR_CHARS * 4].decode("utf-8", errors="replace").strip()
        else:
            text = ""  # an HTML page of a gateway says nothing that the status does not
        return self.redact(text[:MAX_ERROR_CHARS]) or "no explanation."

    def redact(self, text: str) -> str:
        """`text` without the account's key, its parts and anything else that looks like one."""
        return redact(text, self.account.api_key.get_secret_value())


class _WithoutQueries(logging.Filter):
    """httpx logs every address; those of uploads and stored media are signed in their query."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                without_query(str(value)) if isinstance(value, httpx.URL) else value for value in record.args
            )
        return True


logging.getLogger("httpx").addFilter(_WithoutQueries())


def _date_of(response: httpx.Response) -> float:
    """The moment in an answer's `Date` header, 0 without one."""
    try:
        return parsedate_to_datetime(response.headers.get("date", "")).timestamp()
    except ValueError:
        return 0.0


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of `url`."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or (443 if scheme == "https" else 80)


def _bare(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _provably_not_accepted(error: Unavailable) -> bool:
    """Whether a paid request can be repeated at once: refused by the rate limit, or never connected (no status)."""
    return error.status is None or error.status == 429


def _from_gateway(response: Response) -> bool:
    """Whether a 5xx comes from something in front of the service, which cannot know what the service did.

    A service's own 5xx is JSON and means that nothing was produced. A gateway's 503 means that no service was there.
    """
    if response.status == 504:
        return not response.is_json
    return response.status in {500, 502} and not response.is_json
