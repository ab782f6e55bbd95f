"""Stability AI's REST API: account, prices, limits, how a request is built and how an answer is read.

Facts: the service's OpenAPI description of the v2beta API (2026) and its price list of August 2025.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import time
from dataclasses import replace
from functools import lru_cache
from typing import Any

from prefect_kosmokrator.integrations import accounts
from prefect_kosmokrator.integrations.accounts import Account, Url
from prefect_kosmokrator.integrations.errors import (
    AmbiguousSubmission,
    ConfigurationError,
    ContentFiltered,
    DeadlineExceeded,
    EndpointDiscontinued,
    InvalidInput,
    JobPending,
    KosmoError,
    Moderated,
    OutOfCredits,
    Rejected,
    StorageError,
    Unavailable,
)
from prefect_kosmokrator.integrations.governor import RateLimit
from prefect_kosmokrator.integrations.http import Client
from prefect_kosmokrator.integrations.images import ImageLimits, measure
from prefect_kosmokrator.integrations.media import USD_PER_CREDIT, Cost, Media
from prefect_kosmokrator.integrations.messages import Request, Response
from prefect_kosmokrator.integrations.parameters import MAX_BODY_BYTES, LoadedFile
from prefect_kosmokrator.integrations.records import Job
from prefect_kosmokrator.integrations.run import current_call, report_progress
from prefect_kosmokrator.integrations.safekeeping import hold

logger = logging.getLogger("prefect_kosmokrator")

NAME = "stability"
VENDOR_VARIABLE = "STABILITY_API_KEY"

GENERATION_SECONDS = 180.0
"""Deadline of one generating call; the slowest synchronous models answer within a minute."""

POLL_SECONDS = 10.0
"""The service allows one look at a job every ten seconds."""

LOCK_OUT_SECONDS = 60.0
"""After 150 requests within ten seconds the service refuses for a minute."""

RATE_LIMIT = RateLimit(burst=20, per_second=11.0, lock_out=LOCK_OUT_SECONDS)
"""130 requests within any ten seconds, of the 150 allowed: those that arrive up to 1.8 s late still fit."""

PRICES_DATE = "2026-11"
PRICES: dict[str, float] = {
    "generate_core": 3,
    "generate_ultra": 8,
    "generate_sd3/sd3.5-large": 6.5,
    "generate_sd3/sd3.5-large-turbo": 4,
    "generate_sd3/sd3.5-medium": 3.5,
    "generate_sd3/sd3.5-flash": 2.5,
    # Re-routed to their 3.5 successors since April 2025, at the successors' prices.
    "generate_sd3/sd3-large": 6.5,
    "generate_sd3/sd3-large-turbo": 4,
    "generate_sd3/sd3-medium": 3.5,
    "inpaint": 5,
    "erase": 5,
    "remove_background": 5,
    "control_structure": 5,
    "upscale_fast": 2,
    "upscale_creative": 60,
    "image_to_video": 20,
}
"""Credits per call (1 credit is 0.01 US$). `KOSMO_STABILITY_PRICES` overrides entries with a JSON object."""

SD3_MODELS = tuple(key.partition("/")[2] for key in PRICES if key.startswith("generate_sd3/"))

EDIT_LIMITS = ImageLimits(sides=(64, None), pixels=(4_096, 9_437_184))
BACKGROUND_LIMITS = ImageLimits(sides=(64, None), pixels=(4_096, 4_194_304))
STRUCTURE_LIMITS = ImageLimits(sides=(1, None), pixels=(4_096, 9_437_184), aspect=2.5)
ULTRA_LIMITS = ImageLimits(sides=(64, 16_384), pixels=(4_096, None))
SD3_LIMITS = ImageLimits(sides=(64, None), pixels=(4_096, None))
MASK_LIMITS = ImageLimits(sides=(1, None), pixels=(1, None))
FAST_LIMITS = ImageLimits(sides=(32, 1_536), pixels=(1_024, 1_048_576))
CREATIVE_LIMITS = ImageLimits(sides=(1, None), pixels=(4_096, 1_048_576))
VIDEO_LIMITS = ImageLimits(sizes=((1024, 576), (576, 1024), (768, 768)), formats=("JPEG", "PNG"))


class StabilityAccount(Account, frozen=True):
    """A Stability AI account.

    Attributes:
        base_url: Root of the API.
    """

    base_url: Url = "https://api.stability.ai"


def client_for(account: str) -> Client:
    """The client of the named account; one per account and setting, shared by all threads."""
    return client_of(accounts.find(NAME, StabilityAccount, account, VENDOR_VARIABLE))


@lru_cache(maxsize=64)
def client_of(account: StabilityAccount) -> Client:
    """The client of `account`."""
    key = account.api_key.get_secret_value()
    return Client(
        NAME, account, authorization=f"Bearer {key}", hosts=(account.base_url,), read_error=read_error, limit=RATE_LIMIT
    )


def url(account: str, path: str) -> str:
    """The address of `path` for the named account."""
    return accounts.find(NAME, StabilityAccount, account, VENDOR_VARIABLE).base_url + path


def price(function: str, model: str | None = None) -> Cost:
    """The list price of one successful call."""
    prices = PRICES | _price_overrides(os.environ.get("KOSMO_STABILITY_PRICES", ""))
    amount = prices.get(f"{function}/{model}" if model else function)
    return Cost(amount, "credits", certain=amount is not None, source=f"price list of {PRICES_DATE}")


@lru_cache(maxsize=4)
def _price_overrides(text: str) -> dict[str, float]:
    try:
        return {str(key): float(value) for key, value in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError):
        raise ConfigurationError(
            'KOSMO_STABILITY_PRICES must be a JSON object of credits, for example {"generate_core": 3}.'
        ) from None


def balance(account: str, organization: str | None = None) -> dict[str, Any]:
    """The service's answer about the credits that are left."""
    headers = {"Organization": organization} if organization else {}
    return client_for(account).json_object(Request("GET", url(account, "/v1/user/balance"), headers))


def balance_in_usd(account: str) -> float | None:
    """What is left on the account, in US dollars; None if the service does not say."""
    credits_ = balance(account).get("credits")
    return credits_ * USD_PER_CREDIT if isinstance(credits_, int | float) else None


def form(fields: dict[str, Any]) -> dict[str, str | tuple[str, bytes, str]]:
    """The fields that were given, as texts and files of a multipart form.

    Raises:
        InvalidInput: If the files exceed the 10 MiB the service accepts in one request.
    """
    parts: dict[str, str | tuple[str, bytes, str]] = {}
    size = 0
    for name, value in fields.items():
        if value is None or value == "":
            continue
        if isinstance(value, LoadedFile):
            parts[name] = (value.name, value.content, value.content_type)
            size += len(value.content)
        elif isinstance(value, float):
            parts[name] = f"{value:.10g}"
        else:
            parts[name] = str(value)
    if size > MAX_BODY_BYTES - 64 * 1024:  # room for the other fields and the boundaries
        raise InvalidInput(f"The files have {size:,} bytes together; the service accepts 10 MiB in one request.")
    return parts


def generate(path: str, fields: dict[str, Any], account: str, output: str | None, on_filtered: str) -> Media:
    """Calls a synchronous picture endpoint; see `deliver` for what happens to the picture."""
    client, cost = client_for(account), price(_function(), fields.get("model"))
    request = Request(
        "POST",
        url(account, f"/v2beta/stable-image/{path}"),
        headers={"Accept": "image/*"},
        form=form(fields),
        paid=True,
        deadline=GENERATION_SECONDS,
    )
    response = client.send(request)
    try:
        media = read_media(response, cost)
    except ValueError as error:
        raise client.fail(
            AmbiguousSubmission, f"The call succeeded and was billed, but its answer cannot be read: {error}."
        ) from error
    if output is not None:
        hold(media)
    return deliver(media, output, on_filtered)


def start(path: str, fields: dict[str, Any], account: str) -> Job:
    """Starts an asynchronous job and returns its reference."""
    client = client_for(account)
    request = Request(
        "POST",
        url(account, path),
        headers={"Accept": "application/json"},
        form=form(fields),
        paid=True,
        deadline=GENERATION_SECONDS,
    )
    job = make_job("", account, _function())
    answer = client.json(request)
    job_id = answer.get("id") if isinstance(answer, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(job_id, str) or not job_id:
        raise client.fail(AmbiguousSubmission, "The job was accepted, but the answer names no id.")
    return Job({**job, "id": job_id, "request_id": job_id})


def make_job(job_id: str, account: str, function: str) -> Job:
    """The reference of a job that is not finished."""
    return Job(
        id=job_id,
        request_id=job_id,
        status="in-progress",
        provider=NAME,
        function=function,
        account=account,
        cost=price(function).to_json(),
    )


def _function() -> str:
    """The name of the function being executed: what prices are listed by."""
    call = current_call()
    return call.function if call else ""


_fetch_again: dict[str, float] = {}


def fetch(path: str, job: Job, *, accept: str, output: str | None, on_filtered: str, timeout: float) -> Media:
    """Fetches the result of `job`, waiting up to `timeout` seconds with one look every ten seconds.

    Raises:
        JobPending: If it is not ready and `timeout` is 0.
        DeadlineExceeded: If it is not ready after `timeout` seconds.
        Rejected: If the id is unknown, older than 24 hours or was started with another account's key.
    """
    client = client_for(job.account)
    request = Request("GET", url(job.account, path), headers={"Accept": accept}, pause=POLL_SECONDS)
    # A file that could not be stored is fetched again, but not sooner than the service allows.
    time.sleep(max(0.0, _fetch_again.pop(job.id, 0.0) - time.monotonic()))
    started = time.monotonic()
    while True:
        left = started + timeout - time.monotonic()
        pause = POLL_SECONDS
        try:
            # While waiting, the loop is the retry; a single look uses the client's own.
            look = replace(request, total=max(left, 1.0), once=True) if timeout > 0 else request
            response = client.send(look)
            if response.status != 202:  # 202 is the only sign of "in progress"
                return deliver(
                    replace(_readable(client, response, job.cost), function=job.function), output, on_filtered
                )
        except StorageError:
            _fetch_again[job.id] = time.monotonic() + POLL_SECONDS
            raise
        except Unavailable as error:
            if timeout <= 0 or not error.retryable:
                raise
            logger.warning("%s Looking again.", error)
            pause = max(pause, error.retry_after or 0.0)
        waited = time.monotonic() - started
        if timeout <= 0:
            raise JobPending(
                f"Job {job.id} is still in progress.", job=job, request_id=job.id, retry_after=POLL_SECONDS
            )
        if waited + pause > timeout:
            raise DeadlineExceeded(
                f"Job {job.id} was not ready after {waited:.0f} s. It goes on; fetch it again within 24 hours.", job=job
            )
        logger.info("Job %s is in progress; waited %.0f of %.0f s.", job.id, waited, timeout)
        report_progress(min(waited / timeout, 0.99), f"{job.function} in progress")
        time.sleep(pause)


def _readable(client: Client, response: Response, cost: Cost | None) -> Media:
    try:
        return read_media(response, cost)
    except ValueError as error:
        raise client.fail(Unavailable, f"The result cannot be read: {error}.") from error


def read_media(response: Response, cost: Cost | None) -> Media:
    """The picture or video in an answer: raw bytes, or JSON with base64 if the service chose that.

    Raises:
        ValueError: If there is none.
    """
    content_type, content, seed = response.content_type, response.body, response.headers.get("seed")
    finish_reason = response.headers.get("finish-reason") or ""
    if response.is_json:
        data = response.json()
        if not isinstance(data, dict):
            raise ValueError("it is not a JSON object")
        # The description says `image`, live clients of asynchronous results read `result`.
        fields: dict[str, Any] = data  # pyright: ignore[reportUnknownVariableType]
        encoded = next((fields[name] for name in ("image", "result", "video", "audio") if fields.get(name)), "")
        try:
            content = base64.b64decode("".join(encoded.split()), validate=True)
        except (binascii.Error, AttributeError) as error:
            raise ValueError("its base64 is damaged") from error
        seed = fields.get("seed", seed)
        finish_reason = str(fields.get("finish_reason") or finish_reason)
        full_type = str(response.headers.get("content-type", ""))
        content_type = full_type.partition("type=")[2].strip(' "') or (
            "video/mp4" if "video" in fields else "image/png"
        )
    if not content:
        raise ValueError("it is empty")
    if not content_type.startswith(("image/", "video/", "audio/", "model/")):
        raise ValueError(f"it is {content_type or 'of no type'}")
    if content_type.startswith("image/") and measure(content) == (None, None):
        raise ValueError("it is no picture")
    finish_reason = finish_reason or "SUCCESS"
    if cost is not None and finish_reason != "SUCCESS":
        # Whether a filtered picture is billed is not documented.
        cost = Cost(
            cost.amount, cost.unit, certain=False, source=f"{cost.source}; filtered results are probably charged"
        )
    return Media.from_bytes(
        content,
        content_type,
        finish_reason=finish_reason,
        seed=int(seed) if str(seed or "").isdigit() else None,
        request_id=str(response.headers.get("x-request-id") or ""),
        cost=cost,
    )


def deliver(media: Media, output: str | None, on_filtered: str) -> Media:
    """Stores a paid result first, then judges it."""
    if output is not None:
        media = media.save(output)
    if media.finish_reason == "CONTENT_FILTERED" and on_filtered == "raise":
        raise ContentFiltered(
            "The safety filter blurred the picture. Change the prompt, or pass on_filtered='return' to keep it.",
            media=media,
            request_id=media.request_id or None,
        )
    return media


def read_error(response: Response) -> KosmoError | None:
    """The exact error for an answer, by the names the service gives its errors."""
    data = response.json_or_none()
    if not isinstance(data, dict):
        return None
    answer: dict[str, Any] = data  # pyright: ignore[reportUnknownVariableType]
    name = str(answer.get("name", ""))
    errors = answer.get("errors")
    words = "; ".join(map(str, errors)) if isinstance(errors, list) else str(answer.get("message") or name)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    words = words[:500]
    error_id = str(answer.get("id") or "") or None
    kind: type[Rejected]
    if response.status == 402 or name == "payment_required":
        kind, text = OutOfCredits, f"{words} Buy credits for this account and run again."
    elif name in {"content_moderation", "public_figure"}:
        kind, text = Moderated, f"{words} Nothing was charged; change the prompt or the picture."
    elif name == "invalid_language":
        kind, text = Rejected, f"{words} Prompts must be in English."
    elif response.status == 404:
        gone = "Results are kept for 24 hours and only for the account that started them."
        kind, text = Rejected, f"{words} {gone}" if name == "generation_not_found" else words
    elif response.status == 429:
        return Unavailable(words, retry_after=LOCK_OUT_SECONDS, request_id=error_id, code=name)
    elif response.status >= 500:
        return Unavailable(f"The service answered {response.status}: {words}", request_id=error_id, code=name)
    else:
        kind, text = Rejected, words
    return kind(text, request_id=error_id, code=name or None)


def as_discontinued(error: Rejected) -> Rejected:
    """The error to raise for `error` from an endpoint that the vendor removed in July 2025."""
    if error.status not in {404, 410} or error.code == "generation_not_found":
        return error
    return EndpointDiscontinued(
        "Stability AI removed image-to-video on 24 July 2025. Use the model fal-ai/stable-video through "
        "fal.submit_request, or the flow image_to_video, which does.",
        status=error.status,
        request_id=error.request_id,
        account=error.account,
    )
