"""Who may ask Stability, and how often."""

from __future__ import annotations

import math
import unicodedata
from collections import deque
from typing import TYPE_CHECKING

from prefect_kosmokrator.integrations.emulator.gateway import authorization_parts, exchange
from prefect_kosmokrator.integrations.emulator.stability_errors import StabilityError

if TYPE_CHECKING:
    from starlette.requests import Request

    from prefect_kosmokrator.integrations.emulator.accounts import Account
    from prefect_kosmokrator.integrations.emulator.state import EmulatorState

KEYS_PAGE = "https://platform.stability.ai/account/keys"
CREDITS_PAGE = "https://platform.stability.ai/account/credits"


def authenticate(request: Request, *, v1: bool = False) -> Account:
    """The account of the request's key, within its rate limit."""
    state = exchange(request).state
    scheme, key = authorization_parts(request.headers.get("authorization", ""))
    owner = state.owner_of(key)
    if scheme.lower() != "bearer" or owner is None or owner[1] != "stability" or owner[0].revoked:
        if not v1:
            raise StabilityError(401, "unauthorized", "authorization: invalid or missing header value")
        if not key:
            raise StabilityError(401, "unauthorized", "missing authorization header")
        shown = key if state.settings.echo_key == "whole" else f"{key[:7]}****{key[-4:]}"
        text = f"Incorrect API key provided: {shown}. You can find your API key at {KEYS_PAGE}."
        raise StabilityError(401, "unauthorized", text)
    _limit_rate(state, owner[0])
    return owner[0]


def _limit_rate(state: EmulatorState, account: Account) -> None:
    now = state.clock.time()
    recent = state.stability_requests.setdefault(account.name, deque())
    if now >= account.blocked_until:
        recent.append(now)
        while recent and recent[0] <= now - state.settings.rate_limit_window:
            recent.popleft()
        if len(recent) <= state.settings.rate_limit_requests:
            return
        account.blocked_until = now + state.settings.rate_limit_penalty
        recent.clear()
    raise rate_limited(state, math.ceil(account.blocked_until - now))


def rate_limited(state: EmulatorState, seconds: int) -> StabilityError:
    """The refusal of a request too many."""
    settings = state.settings
    text = (
        f"You have exceeded the rate limit of {settings.rate_limit_requests} requests within a "
        f"{settings.rate_limit_window:g} second period, and have been timed out for "
        f"{settings.rate_limit_penalty:g} seconds."
    )
    retry_after = seconds if settings.retry_after_header else None
    return StabilityError(429, "rate_limit_exceeded", text, retry_after=retry_after)


def require_credits(state: EmulatorState, account: Account, price: float) -> None:
    """Refuse work that the balance, less what running jobs will cost, does not cover."""
    state.settle()
    reserved = sum(job.cost for job in state.open_jobs("stability", account.name) if job.succeeds)
    if account.credits - reserved < price:
        text = (
            "You lack sufficient credits to make this request. "
            f"Please purchase more credits at {CREDITS_PAGE} and try again."
        )
        raise StabilityError(402, "payment_required", text)


def moderate(*texts: str) -> None:
    """Refuse prompts by the trigger words ``moderate-me`` and ``public-figure``, and those that are not English."""
    words = " ".join(texts).lower()
    if "moderate-me" in words:
        text = "Your request was flagged by our content moderation system, as a result your request was denied."
        raise StabilityError(403, "content_moderation", f"{text} You were not charged for this request.")
    if "public-figure" in words:
        raise StabilityError(422, "public_figure", "Our system detected the likeness of a public figure.")
    if any(letter.isalpha() and not unicodedata.name(letter, "LATIN").startswith("LATIN") for letter in words):
        raise StabilityError(422, "invalid_language", "English is the only supported language for this service.")
