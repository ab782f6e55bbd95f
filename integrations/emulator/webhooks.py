"""fal's webhooks: signed with ED25519, repeated until they are taken."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

if TYPE_CHECKING:
    from prefect_kosmokrator.integrations.emulator.jobs import Job, Outcome
    from prefect_kosmokrator.integrations.emulator.state import EmulatorState

_tasks: set[asyncio.Task[None]] = set()


def timestamp(seconds: float) -> str:
    """ISO 8601 in UTC, as fal writes times."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


class WebhookSigner:
    """The signing key and the published key set."""

    def __init__(self) -> None:
        self._published: list[Ed25519PrivateKey] = []
        self.rotate()

    def rotate(self) -> None:
        """Sign with a new key from now on; the previous one stays published for one more rotation."""
        key = Ed25519PrivateKey.generate()
        self._published = [key, *self._published[:1]]

    def key_set(self) -> dict[str, Any]:
        """The published JWKS document."""
        keys = [
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "alg": "EdDSA",
                "use": "sig",
                "kid": _identifier(raw),
                "x": _base64url(raw),
            }
            for raw in (key.public_key().public_bytes_raw() for key in self._published)
        ]
        return {"keys": keys}

    def headers(self, request_id: str, user_id: str, moment: int, body: bytes) -> dict[str, str]:
        """Headers of one delivery, the signature among them."""
        lines = (request_id, user_id, str(moment), hashlib.sha256(body).hexdigest())
        return {
            "X-Fal-Webhook-Request-Id": request_id,
            "X-Fal-Webhook-User-Id": user_id,
            "X-Fal-Webhook-Timestamp": str(moment),
            "X-Fal-Webhook-Signature": self._published[0].sign("\n".join(lines).encode()).hex(),
        }


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _identifier(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]


def payload(job: Job, outcome: Outcome, limit: int) -> dict[str, Any]:
    """The body of a delivery."""
    body: dict[str, Any] = {"request_id": job.id, "gateway_request_id": job.id}
    if outcome.status < 400:
        if len(json.dumps(outcome.body)) > limit:
            return {**body, "status": "OK", "payload": None, "payload_error": "Payload too large, fetch the result."}
        return {**body, "status": "OK", "payload": outcome.body}
    return {**body, "status": "ERROR", "error": f"Invalid status code: {outcome.status}", "payload": outcome.body}


def deliver_later(state: EmulatorState, job: Job, url: str) -> None:
    """Deliver once the job has completed, without holding up the request."""
    task = asyncio.get_running_loop().create_task(_deliver(state, job, url))
    # The loop keeps only weak references to tasks.
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def finished(state: EmulatorState, job: Job) -> bool:
    """Wait for a job's end; whether it came before the emulator stopped."""
    # The clock can be moved by any thread, so that there is no event to wait for.
    while job.phase(state.clock.time()) != "COMPLETED" and not state.closing.is_set():  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return not state.closing.is_set()


async def _deliver(state: EmulatorState, job: Job, url: str) -> None:
    from prefect_kosmokrator.integrations.emulator.fal_queue import complete  # noqa: PLC0415  # they need each other

    if not await finished(state, job):
        return
    outcome = await complete(job)
    state.settle()
    body = json.dumps(payload(job, outcome, state.settings.webhook_payload_limit)).encode()
    pause, taken = state.settings.webhook_backoff, 0
    for _ in range(state.settings.webhook_attempts):
        while taken < state.settings.webhook_copies and await _attempt(state, job, url, body):
            taken += 1
        if state.closing.is_set() or taken >= state.settings.webhook_copies:
            return
        await asyncio.sleep(pause)
        pause *= 2


async def _attempt(state: EmulatorState, job: Job, url: str, body: bytes) -> bool:
    """One delivery; whether it was taken, or refused for good."""
    moment = int(state.clock.time())
    headers = state.signer.headers(job.id, state.account(job.account).user_id, moment, body)
    record: dict[str, Any] = {"request_id": job.id, "url": url, "time": moment, "status": None}
    state.deliveries.append(record)
    try:
        async with httpx.AsyncClient(timeout=state.settings.webhook_timeout, trust_env=False) as client:
            answer = await client.post(url, content=body, headers={**headers, "Content-Type": "application/json"})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        record["status"] = type(error).__name__
        return isinstance(error, httpx.InvalidURL)
    record["status"] = answer.status_code
    # A redirect is a permanent failure: the service does not follow it.
    return answer.is_success or answer.is_redirect
