"""Downloads of public media addresses. No API key is ever sent, wherever the address points."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from prefect_kosmokrator.integrations.errors import DeadlineExceeded, InvalidInput, Rejected, StorageError, Unavailable
from prefect_kosmokrator.integrations.redaction import without_query
from prefect_kosmokrator.integrations.retries import attempts, retry_after_seconds

STALL_SECONDS = 30.0
"""A download that delivers nothing for this long is broken off and resumed."""

DEADLINE_SECONDS = 3600.0
"""A whole download, resumptions included."""


def to_file(url: str, target: Path, *, max_bytes: int | None = None) -> str:
    """Downloads `url` to `target` with flat memory and returns the content type, without parameters.

    Redirects are followed. A broken transfer goes on where it stopped when the host supports ranges.

    Raises:
        InvalidInput: If it is not an address, or the file is larger than `max_bytes`.
        Rejected: If the address is gone (expired) or refused.
        Unavailable: If the host does not answer after retries.
        DeadlineExceeded: After an hour.
        StorageError: If `target` cannot be written.
    """
    deadline = time.monotonic() + DEADLINE_SECONDS
    target.unlink(missing_ok=True)
    for attempt in attempts(timeout=DEADLINE_SECONDS):
        with attempt:
            return _transfer(url, target, deadline, max_bytes)
    raise AssertionError


def is_public(host: str) -> bool:
    """Whether a host lies outside this machine and its network. One that cannot be looked up is not inside."""
    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return True
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_global for entry in found)


def _stays_outside(first: str) -> Callable[[httpx.Request], None]:
    """Refuses a redirect from a public host into this machine's own network, where it has no business."""

    def check(request: httpx.Request) -> None:
        if request.url.host != first and is_public(first) and not is_public(request.url.host):
            raise InvalidInput(f"{first} redirects to {request.url.host}, inside this network; not followed.")

    return check


def _transfer(url: str, target: Path, deadline: float, max_bytes: int | None) -> str:
    done = target.stat().st_size if target.exists() else 0
    # Unencoded, so that the bytes on disk are those a range is counted in.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    encoded = False
    try:
        with (
            httpx.Client(
                timeout=httpx.Timeout(STALL_SECONDS, connect=10),
                follow_redirects=True,
                event_hooks={"request": [_stays_outside(httpx.URL(url).host)]},
            ) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            _raise_for_status(url, response)
            resumed = response.status_code == 206
            encoded = "content-encoding" in response.headers
            with target.open("ab" if resumed else "wb") as stream:
                for chunk in response.iter_bytes():
                    stream.write(chunk)
                    if max_bytes is not None and stream.tell() > max_bytes:
                        raise InvalidInput(f"The file at {without_query(url)} is larger than {max_bytes:,} bytes.")
                    if time.monotonic() > deadline:
                        raise DeadlineExceeded(f"{without_query(url)} took longer than {DEADLINE_SECONDS:.0f} s.")
            return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
        raise InvalidInput(f"{without_query(url)!r} is not an address that can be fetched: {error}.") from error
    except httpx.HTTPError as error:
        if encoded:
            target.unlink(missing_ok=True)
        raise Unavailable(f"Could not download {without_query(url)}: {error or type(error).__name__}.") from error
    except OSError as error:
        raise StorageError(f"Could not write {target}: {error}.") from error


def _raise_for_status(url: str, response: httpx.Response) -> None:
    status = response.status_code
    if status < 400:
        return
    if status == 429 or status >= 500:
        raise Unavailable(
            f"{without_query(url)} answered {status}.", status=status, retry_after=retry_after_seconds(response.headers)
        )
    raise Rejected(
        f"{without_query(url)} answered {status}: the address has expired or is not public. "
        "Fetch the result again for a fresh address.",
        status=status,
    )
