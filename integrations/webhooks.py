"""fal's webhooks: whether a delivery is genuine, and the small web application that takes them.

Genuine is what fal signed (ED25519, with any key of the set it publishes) at most five minutes ago for one of our
accounts. What to do with a delivery is decided by whoever serves the application.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from threading import Lock
from typing import Any, Generic, TypeVar, cast
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_kosmokrator.integrations import accounts, messages
from prefect_kosmokrator.integrations.errors import KosmoError, OutOfCredits, Rejected, Unavailable
from prefect_kosmokrator.integrations.fal_api import NAME, VENDOR_VARIABLE, FalAccount, account_for, client_of

logger = logging.getLogger("prefect_kosmokrator")

T = TypeVar("T")

MAX_BODY_BYTES = 16 * 1024 * 1024
"""Larger deliveries are refused; fal leaves large results out of them."""

BODY_SECONDS = 15.0
"""How long a body may take to arrive: what fal waits for the answer to a first delivery."""

MAX_AGE_SECONDS = 300
"""How far the time in a delivery may be from now."""

KEEP_SECONDS = 24 * 3600.0
"""How long keys and user ids are used before they are fetched again."""

PAUSE_SECONDS = 60.0
"""Keys and user ids are fetched at most this often, so that forged deliveries do not make us call fal."""


@dataclass(frozen=True)
class Delivery:
    """A genuine delivery: some request of one of our accounts has ended.

    Attributes:
        request_ids: The names of the request: fal gives it another one when it repeats it on its own.
        status: `OK` or `ERROR`. The result is fetched from fal in any case.
    """

    request_ids: frozenset[str]
    status: str


class Outcome(Enum):
    """What became of a genuine delivery; the value is the HTTP status that fal is answered with."""

    RESUMED = 200, "resumed"
    NOTHING_TO_DO = 200, "nothing to do"
    UNKNOWN = 404, "no run waits for this request"
    NOT_YET = 503, "the run is not suspended yet; deliver again"

    @property
    def status(self) -> int:
        """The HTTP status. fal repeats a delivery that is not answered with 2xx."""
        return self.value[0]

    @property
    def words(self) -> str:
        """For answer and log."""
        return self.value[1]


class _Kept(Generic[T]):
    """Something that fal says, fetched when it is first needed, when it is too old, or on demand.

    Args:
        fetch: Asks fal.
        now: The time in seconds since 1970.
    """

    def __init__(self, fetch: Callable[[], T], now: Callable[[], float]) -> None:
        self._fetch = fetch
        self._now = now
        self._lock = Lock()
        self._value: tuple[float, T] | None = None
        self._tried = float("-inf")
        self._problem = ""

    def get(self, *, newer: bool = False) -> T:
        """The value; with `newer` it is fetched again, unless that was tried less than `PAUSE_SECONDS` ago.

        Raises:
            Unavailable: If there is none that is recent enough and fal does not give one.
        """
        with self._lock:
            now = self._now()
            kept = self._value if self._value is not None and now - self._value[0] <= KEEP_SECONDS else None
            if (kept is None or newer) and now - self._tried >= PAUSE_SECONDS:
                self._tried = now
                try:
                    kept = self._value = now, self._fetch()
                except KosmoError as error:
                    self._problem = str(error)
            if kept is None:
                raise Unavailable(self._problem)
            return kept[1]


class Verifier:
    """Tells genuine deliveries from others, for all fal accounts that are set up on this machine.

    Args:
        now: The time in seconds since 1970.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._keys: dict[str, _Kept[list[Ed25519PublicKey]]] = {}
        self._users: dict[FalAccount, _Kept[str]] = {}

    def check(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        """The delivery with these headers (names in lower case) and this body.

        Raises:
            Rejected: If it is not genuine; with the reason.
            Unavailable: If that cannot be said at the moment.
        """
        said = {name: headers.get(f"x-fal-webhook-{name}", "") for name in ("request-id", "user-id", "timestamp")}
        signature = headers.get("x-fal-webhook-signature", "")
        if not all(said.values()) or not signature:
            raise Rejected("a header of the signature is missing")
        if not re.fullmatch(r"[0-9]{1,12}", said["timestamp"]):
            raise Rejected("the time is not a number")
        if abs(self._now() - int(said["timestamp"])) > MAX_AGE_SECONDS:
            raise Rejected(f"the time is more than {MAX_AGE_SECONDS} s away; is this machine's clock right?")
        try:
            signed = bytes.fromhex(signature)
            message = "\n".join([*said.values(), hashlib.sha256(body).hexdigest()]).encode()
        except ValueError:
            raise Rejected("the signature is not hexadecimal") from None
        self._check_user(self._signers(signed, message), said["user-id"])
        return _read(body, said["request-id"])

    def users(self) -> dict[str, str]:
        """The user id of each account, empty where fal does not tell it: then deliveries to any user are taken."""
        return {account.name: self._user(account).get() for account in _accounts()}

    def _signers(self, signature: bytes, message: bytes) -> list[FalAccount]:
        """The accounts at whose service one of the published keys made the signature."""
        known = _accounts()
        for newer in (False, True):  # keys rotate
            found: list[FalAccount] = []
            problem: Unavailable | None = None
            for address in dict.fromkeys(account.rest_url for account in known):
                there = [account for account in known if account.rest_url == address]
                kept = self._keys.setdefault(address, _Kept(partial(_fetch_keys, there[0]), self._now))
                try:
                    keys = kept.get(newer=newer)
                except Unavailable as error:
                    problem = error
                    continue
                found += there if any(_fits(key, signature, message) for key in keys) else []
            if found:
                return found
        if problem is not None:
            raise Unavailable(f"The keys of fal are not known. {problem}")
        raise Rejected("no key of fal fits the signature")

    def _check_user(self, signers: list[FalAccount], user: str) -> None:
        problem: Unavailable | None = None
        for account in signers:
            try:
                expected = self._user(account).get()
            except Unavailable as error:
                problem = error
                continue
            if expected in {"", user}:
                return
        if problem is not None:
            raise Unavailable(f"It cannot be checked whose delivery this is. {problem}")
        raise Rejected(f"it is for the fal user {user!r:.80}, to whom none of the accounts here belongs")

    def _user(self, account: FalAccount) -> _Kept[str]:
        return self._users.setdefault(account, _Kept(partial(_fetch_user, account), self._now))


def _accounts() -> list[FalAccount]:
    """The fal accounts of this machine; one that is not set up correctly has submitted nothing."""
    found: list[FalAccount] = []
    for name in accounts.names(NAME, VENDOR_VARIABLE):
        try:
            found.append(account_for(name))
        except KosmoError as error:
            logger.warning("Deliveries for the account %r are refused: %s", name, error)
    return found


def _fetch_keys(account: FalAccount) -> list[Ed25519PublicKey]:
    url = f"{account.rest_url}/.well-known/jwks.json"
    answer = client_of(account).json_object(messages.Request("GET", url, authorized=False, once=True, deadline=5.0))
    keys: list[Ed25519PublicKey] = []
    for entry in cast("list[Any]", answer["keys"]) if isinstance(answer.get("keys"), list) else []:
        text = cast("dict[str, Any]", entry).get("x") if isinstance(entry, dict) else None
        try:
            raw = base64.urlsafe_b64decode(f"{text}==") if isinstance(text, str) else b""
            keys.append(Ed25519PublicKey.from_public_bytes(raw))
        except ValueError:  # a key of another kind
            continue
    if not keys:
        raise Unavailable(f"{url} lists no ED25519 key.")
    return keys


def _fetch_user(account: FalAccount) -> str:
    request = messages.Request("GET", f"{account.rest_url}/users/current", once=True, deadline=5.0)
    try:
        return str(client_of(account).json_object(request).get("user_id") or "")
    except Rejected as error:
        if error.status not in {403, 404} or isinstance(error, OutOfCredits):
            raise
        logger.warning("fal does not tell who the account %r is; deliveries to any fal user are taken.", account.name)
        return ""


def _fits(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _read(body: bytes, request_id: str) -> Delivery:
    try:
        data: Any = json.loads(body)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise Rejected("the body is not a JSON object")
    fields = cast("dict[str, Any]", data)
    named = (fields.get("request_id"), fields.get("gateway_request_id"), request_id)
    return Delivery(frozenset(str(name) for name in named if name), str(fields.get("status") or ""))


def create_app(
    check: Callable[[Mapping[str, str], bytes], Delivery], act: Callable[[UUID, Delivery], Outcome]
) -> Starlette:
    """The application: `POST /fal/<flow run id>` for fal, `GET /health` for whoever watches over this process.

    Args:
        check: Says whether a delivery is genuine; see `Verifier.check`.
        act: Does what is to be done for a genuine one. Called again for each repetition, so it must recognise them.
    """

    async def deliver(request: Request) -> Response:
        run_id: UUID = request.path_params["run_id"]
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _body(request)
        except (TimeoutError, ClientDisconnect):
            return _answer(408, "the body did not arrive")
        if body is None:
            logger.warning("A delivery for run %s was refused: more than %s bytes.", run_id, f"{MAX_BODY_BYTES:,}")
            return _answer(413, "too large")
        return await run_in_threadpool(handle, run_id, request.headers, body)

    def handle(run_id: UUID, headers: Mapping[str, str], body: bytes) -> Response:
        try:
            delivery = check(headers, body)
        except Rejected as error:
            logger.warning("A delivery for run %s was refused: %s.", run_id, error.message)
            return _answer(401, error.message)
        except Exception as error:  # noqa: BLE001 - whatever it is, fal shall deliver again
            logger.warning("A delivery for run %s could not be checked: %s", run_id, error)
            return _answer(503, "cannot be checked now; deliver again")
        named = ", ".join(sorted(delivery.request_ids))
        try:
            outcome = act(run_id, delivery)
        except Exception as error:  # noqa: BLE001 - as above
            logger.warning("Request %s ended (%s); run %s: %r", named, delivery.status, run_id, error)
            return _answer(503, "could not be handled now; deliver again")
        logger.info("Request %s ended (%s); run %s: %s.", named, delivery.status, run_id, outcome.words)
        return _answer(outcome.status, outcome.words)

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[Route("/fal/{run_id:uuid}", deliver, methods=["POST"]), Route("/health", health, methods=["GET"])]
    )


async def _body(request: Request) -> bytes | None:
    """The body; None if it is too large, of which no more is read."""
    parts = bytearray()
    async for chunk in request.stream():
        parts += chunk
        if len(parts) > MAX_BODY_BYTES:
            return None
    return bytes(parts)


def _answer(status: int, words: str) -> Response:
    return JSONResponse({"detail": words}, status)
