"""fal.ai's HTTP APIs: account, addresses, how answers and errors are read, prices.

Facts: fal's documentation of the queue and platform APIs (2026) and its own Python client.
"""

from __future__ import annotations

import base64
import binascii
import logging
import mimetypes
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast
from urllib.parse import urlsplit

from prefect_kosmokrator.integrations import accounts
from prefect_kosmokrator.integrations.accounts import Account, Url
from prefect_kosmokrator.integrations.errors import (
    KosmoError,
    Moderated,
    OutOfCredits,
    Rejected,
    Unavailable,
)
from prefect_kosmokrator.integrations.governor import RateLimit
from prefect_kosmokrator.integrations.http import Client
from prefect_kosmokrator.integrations.media import Cost, Media
from prefect_kosmokrator.integrations.messages import Request, Response

logger = logging.getLogger("prefect_kosmokrator")

NAME = "fal"
VENDOR_VARIABLE = "FAL_KEY"

RATE_LIMIT = RateLimit(burst=200, per_second=50.0, lock_out=0.0, counts=lambda request: request.paid)
"""Submissions only, and generously: fal queues what is too much and documents no lock-out. A 429 with `Retry-After`
pauses them; one without is about a single model's queue."""


class FalAccount(Account, frozen=True):
    """A fal.ai account; the key has the form `key_id:key_secret`.

    Attributes:
        queue_url: Queue API: submit, status, result, cancel.
        run_url: Synchronous API. Unused: a lost connection there is a paid result lost.
        rest_url: Storage tokens, user and balance.
        cdn_url: Uploads; receives a short-lived token, never the key.
        api_url: Platform API, with its version.
    """

    queue_url: Url = "https://queue.fal.run"
    run_url: Url = "https://fal.run"
    rest_url: Url = "https://rest.fal.ai"
    cdn_url: Url = "https://v3.fal.media"
    api_url: Url = "https://api.fal.ai/v1"


def account_for(name: str) -> FalAccount:
    """The named account."""
    return accounts.find(NAME, FalAccount, name, VENDOR_VARIABLE)


def client_for(account: str) -> Client:
    """The client of the named account; one per account and setting, shared by all threads."""
    return client_of(account_for(account))


@lru_cache(maxsize=64)
def client_of(account: FalAccount) -> Client:
    """The client of `account`."""
    return Client(
        NAME,
        account,
        authorization=f"Key {account.api_key.get_secret_value()}",
        hosts=(account.queue_url, account.run_url, account.rest_url, account.api_url),
        read_error=read_error,
        limit=RATE_LIMIT,
    )


def unit_price(model_id: str, account: str) -> tuple[float, str, str] | None:
    """Price per unit, unit and currency of a model; None when fal does not say. Asked once per process."""
    settings = account_for(account)
    try:
        return _unit_price(settings, model_id)
    except KosmoError as error:
        logger.info("The price of %s is not known: %s", model_id, error)
        return None


@lru_cache(maxsize=1024)
def _unit_price(account: FalAccount, model_id: str) -> tuple[float, str, str] | None:
    request = Request(
        "GET", f"{account.api_url}/models/pricing", params={"endpoint_id": model_id}, deadline=5.0, once=True
    )
    prices = client_of(account).json_object(request).get("prices")
    for price in cast("list[Any]", prices) if isinstance(prices, list) else []:
        row = cast("dict[str, Any]", price) if isinstance(price, dict) else {}
        if row.get("endpoint_id") == model_id and isinstance(row.get("unit_price"), int | float):
            return float(row["unit_price"]), str(row.get("unit") or "unit"), str(row.get("currency") or "USD")
    return None


def cost_of(model_id: str, account: str, billable_units: str | None) -> Cost:
    """The cost of a finished request (units given), or of one that was only submitted."""
    price = unit_price(model_id, account)
    if price is None:
        return Cost(None, "USD", certain=False, source="fal names no price for this model")
    amount, unit, currency = price
    try:
        units = float(billable_units or "")
    except ValueError:
        return Cost(amount, currency, certain=False, source=f"one unit ({unit}) at the list price")
    return Cost(round(units * amount, 6), currency, certain=True, source=f"{units:g} {unit} at {amount:g} {currency}")


def expected_cost(arguments: Mapping[str, Any]) -> Cost:
    """What a submission is going to cost: one unit of the model for each picture it asks for."""
    cost = cost_of(arguments["model_id"], arguments["account"], None)
    number = arguments["input"].get("num_images")
    if cost.amount is None or not isinstance(number, int) or number <= 1:
        return cost
    return replace(cost, amount=round(cost.amount * number, 6), source=f"{number} times {cost.source}")


def media_of(data: Any, **fields: Any) -> list[Media]:
    """The files in a model's result: every object with an address, and every data URI."""
    found: list[Media] = []
    _collect(data, found, fields)
    return found


def _collect(node: Any, found: list[Media], fields: dict[str, Any]) -> None:
    if isinstance(node, list):
        for item in cast("list[Any]", node):
            _collect(item, found, fields)
    elif isinstance(node, dict):
        item = cast("dict[str, Any]", node)
        url = item.get("url")
        if isinstance(url, str) and url.startswith(("http://", "https://", "data:")):
            found.append(_media(url, item, fields))
        else:
            for value in item.values():
                _collect(value, found, fields)


def _media(url: str, item: dict[str, Any], fields: dict[str, Any]) -> Media:
    if url.startswith("data:"):
        head, _, body = url.partition(",")
        try:
            return Media.from_bytes(base64.b64decode(body), head[5:].partition(";")[0], **fields)
        except binascii.Error:
            return Media(head[5:].partition(";")[0], **fields)
    guessed = mimetypes.guess_type(urlsplit(url).path)[0] or "application/octet-stream"
    return Media(
        content_type=str(item.get("content_type") or guessed).partition(";")[0].strip().lower(),
        size=_integer(item.get("file_size")) or 0,
        width=_integer(item.get("width")),
        height=_integer(item.get("height")),
        uri=url,
        **fields,
    )


def _integer(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def is_filtered(data: Any) -> bool:
    """Whether a safety checker blacked a picture out: many models answer 200 and say so only here."""
    flags = cast("dict[str, Any]", data).get("has_nsfw_concepts") if isinstance(data, dict) else None
    return any(cast("list[Any]", flags)) if isinstance(flags, list) else bool(flags)


def read_error(response: Response) -> KosmoError | None:
    """The exact error for an answer of any of fal's hosts."""
    data = response.json_or_none()
    if not isinstance(data, dict):
        return None
    answer = cast("dict[str, Any]", data)
    words, kind = error_words(answer, response)
    code = kind or None
    if response.status == 403 and "user is locked" in words.lower():
        return OutOfCredits(f"{words} Until then every call of this account is refused.", code=code)
    if response.status == 402:
        return OutOfCredits(words, code=code)
    if kind == "content_policy_violation":
        return Moderated(f"{words} Change the prompt or the input files.", code=code)
    if response.status == 429:
        return Unavailable(words, code=code)
    if response.status >= 500:
        # The documentation names this header in two ways.
        verdict = response.headers.get("x-fal-retryable", response.headers.get("x-fal-needs-retry", "1"))
        retryable = verdict.lower() not in {"0", "false", "no"}
        return Unavailable(f"The service answered {response.status}: {words}", code=code, retryable=retryable)
    return Rejected(words, code=code)


def error_words(answer: dict[str, Any], response: Response | None = None) -> tuple[str, str]:
    """The sentence and the error type in any of fal's error bodies."""
    kind = str(answer.get("error_type") or (response.headers.get("x-fal-error-type", "") if response else ""))
    detail = answer.get("detail", answer.get("error", answer.get("message")))
    if isinstance(detail, list):
        items = [cast("dict[str, Any]", item) for item in cast("list[Any]", detail) if isinstance(item, dict)]
        kind = kind if kind and kind != "bad_request" else next((str(i["type"]) for i in items if i.get("type")), kind)
        kinds = {str(item.get("type")) for item in items}
        kind = "content_policy_violation" if "content_policy_violation" in kinds else kind
        words = "; ".join(f"{'.'.join(map(str, item.get('loc', [])))}: {item.get('msg', '')}" for item in items)
    elif isinstance(detail, dict):
        fields = cast("dict[str, Any]", detail)
        words, kind = str(fields.get("message", "")), kind or str(fields.get("type", ""))
    else:
        words = str(detail or answer.get("status") or "no explanation")
    words = words[:500].rstrip(".") + "."
    return words, kind
