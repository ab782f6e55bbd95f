"""Uploads to fal's CDN: a short-lived token, one request or parts, and a fall-back when token or CDN fail."""

from __future__ import annotations

import logging
import math
import mimetypes
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import quote, urlsplit

from prefect_kosmokrator.integrations.errors import KosmoError, OutOfCredits, Rejected, Unavailable
from prefect_kosmokrator.integrations.fal_api import FalAccount, client_of
from prefect_kosmokrator.integrations.http import origin
from prefect_kosmokrator.integrations.images import content_type_of
from prefect_kosmokrator.integrations.messages import Request

logger = logging.getLogger("prefect_kosmokrator")

MULTIPART_ABOVE = 100 * 1024 * 1024
"""Larger files go up in parts."""

PART_BYTES = 10 * 1024 * 1024
PARALLEL_PARTS = 4
"""Keeps 40 MB in memory at most; a faster line gains little from more."""

UPLOAD_SECONDS = 900.0


@dataclass(frozen=True)
class _Token:
    authorization: str
    base_url: str
    expires: float  # wall clock, as the service gives it


class _Tokens:
    """The upload token of one account, fetched once until it expires, also across threads."""

    def __init__(self, account: FalAccount) -> None:
        self._account = account
        self._lock = Lock()
        self._token: _Token | None = None

    def get(self) -> _Token:
        with self._lock:
            if self._token is None or time.time() > self._token.expires - 30:
                self._token = self._fetch()
            return self._token

    def drop(self, token: _Token) -> None:
        with self._lock:
            if self._token is token:
                self._token = None

    def _fetch(self) -> _Token:
        account = self._account
        request = Request(
            "POST",
            f"{account.rest_url}/storage/auth/token",
            params={"storage_type": "fal-cdn-v3"},
            headers={"Accept": "application/json"},
            json={},
            deadline=30.0,
        )
        answer = client_of(account).json_object(request)
        if not isinstance(answer.get("token"), str):
            raise client_of(account).fail(Unavailable, "The storage token answer names no token.")
        base_url = str(answer.get("base_url") or account.cdn_url).rstrip("/")
        return _Token(
            f"{answer.get('token_type') or 'Bearer'} {answer['token']}",
            base_url if _is_cdn(account, base_url) else account.cdn_url,
            _expiry(answer.get("expires_at")),
        )


@lru_cache(maxsize=64)
def _tokens(account: FalAccount) -> _Tokens:
    return _Tokens(account)


def upload(account: FalAccount, path: Path, file_name: str) -> tuple[str, str]:
    """Uploads the file at `path` and returns its public address and content type.

    Raises:
        Rejected: If the account is refused.
        Unavailable: If neither the CDN nor the fall-back takes the file.
    """
    content_type = _content_type(path, file_name)
    try:
        try:
            return _to_cdn(account, path, file_name, content_type), content_type
        except Rejected as error:
            if error.status != 401 or error.code == _KEY_REFUSED:
                raise
            return _to_cdn(account, path, file_name, content_type), content_type  # with a new token
    except OutOfCredits:
        raise
    except KosmoError as error:
        if error.code == _KEY_REFUSED:
            raise
        logger.warning("The CDN did not take %s (%s); using the fall-back.", file_name, error)
    return _to_fallback(account, path, file_name, content_type), content_type


_KEY_REFUSED = "key_refused"


def _to_cdn(account: FalAccount, path: Path, file_name: str, content_type: str) -> str:
    tokens = _tokens(account)
    try:
        token = tokens.get()
    except Rejected as error:
        error.code = error.code or (_KEY_REFUSED if error.status == 401 else None)
        raise
    try:
        if path.stat().st_size > MULTIPART_ABOVE:
            return _in_parts(account, token, path, file_name, content_type)
        request = Request(
            "POST",
            f"{account.cdn_url}/files/upload",
            headers={
                "Authorization": token.authorization,
                "Content-Type": content_type,
                "X-Fal-File-Name": _header_safe(file_name),
            },
            content=path,
            deadline=UPLOAD_SECONDS,
            authorized=False,
        )
        return _address(account, client_of(account).json(request), "access_url")
    except Rejected as error:
        if error.status == 401:
            tokens.drop(token)
        raise


def _in_parts(account: FalAccount, token: _Token, path: Path, file_name: str, content_type: str) -> str:
    client = client_of(account)
    authorization = {"Authorization": token.authorization}
    created = client.json_object(
        Request(
            "POST",
            f"{token.base_url}/files/upload/multipart",
            headers={**authorization, "Content-Type": content_type, "X-Fal-File-Name": _header_safe(file_name)},
            deadline=60.0,
            authorized=False,
        )
    )
    access_url = _address(account, created, "access_url")
    if not _is_cdn(account, access_url):
        raise client.fail(Unavailable, f"The upload was directed to the foreign host {urlsplit(access_url).hostname}.")
    if not created.get("uploadId"):
        raise client.fail(Unavailable, "The answer to a multipart upload names no uploadId.")
    upload_url = f"{access_url}/multipart/{quote(str(created['uploadId']), safe='')}"

    def send_part(number: int) -> dict[str, Any]:
        with path.open("rb") as stream:
            stream.seek((number - 1) * PART_BYTES)
            part = stream.read(PART_BYTES)
        request = Request(
            "PUT",
            f"{upload_url}/{number}",
            # A compressing proxy would otherwise change the etag that `complete` is checked against.
            headers={**authorization, "Content-Type": content_type, "Accept-Encoding": "identity"},
            content=part,
            deadline=UPLOAD_SECONDS,
            authorized=False,
        )
        tag = client.send(request).headers.get("etag")
        if not tag:
            raise client.fail(Unavailable, f"The answer to part {number} of the upload has no etag.")
        return {"partNumber": number, "etag": tag}

    count = math.ceil(path.stat().st_size / PART_BYTES)
    with ThreadPoolExecutor(PARALLEL_PARTS) as pool:
        parts = list(pool.map(send_part, range(1, count + 1)))
    client.send(
        Request(
            "POST",
            f"{upload_url}/complete",
            headers=authorization,
            json={"parts": parts},
            deadline=UPLOAD_SECONDS,
            authorized=False,
        )
    )
    return access_url


def _to_fallback(account: FalAccount, path: Path, file_name: str, content_type: str) -> str:
    client = client_of(account)
    answer = client.json(
        Request(
            "POST",
            f"{account.rest_url}/storage/upload/initiate",
            params={"storage_type": "gcs"},
            headers={"Accept": "application/json"},
            json={"file_name": file_name, "content_type": content_type},
        )
    )
    target = _address(account, answer, "upload_url")
    # The address carries its own signature; the key must not go there.
    client.send(
        Request(
            "PUT",
            target,
            headers={"Content-Type": content_type},
            content=path,
            deadline=UPLOAD_SECONDS,
            authorized=False,
        )
    )
    return _address(account, answer, "file_url")


def _address(account: FalAccount, answer: Any, field: str) -> str:
    value = answer.get(field) if isinstance(answer, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(value, str) or not value.startswith(("http://", "https://")):
        raise client_of(account).fail(Unavailable, f"The storage answer names no {field}.")
    return value


def _is_cdn(account: FalAccount, url: str) -> bool:
    """Whether `url` may receive the upload token: the configured CDN, and beside fal's own any fal.media host."""
    if origin(url) == origin(account.cdn_url):
        return True
    hosts = [urlsplit(address).hostname or "" for address in (url, account.cdn_url)]
    return url.startswith("https://") and all(host.endswith(".fal.media") for host in hosts)


def _expiry(value: object) -> float:
    if isinstance(value, int | float):
        return float(value)
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return time.time() + 60  # unreadable: use it for the upload at hand only
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _content_type(path: Path, file_name: str) -> str:
    return content_type_of(path) or mimetypes.guess_type(file_name)[0] or "application/octet-stream"


def _header_safe(file_name: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() else "_" for c in file_name)
