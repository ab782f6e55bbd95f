"""The life of a fal request: where it is, submitting it, looking at it, fetching its result."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from dataclasses import replace
from threading import Lock
from typing import Any, cast
from urllib.parse import quote, urlsplit

from prefect_kosmokrator.integrations import accounts
from prefect_kosmokrator.integrations.errors import (
    AmbiguousSubmission,
    ContentFiltered,
    InvalidInput,
    JobFailed,
    JobPending,
    KosmoError,
    Moderated,
    OutOfCredits,
    Rejected,
    Unavailable,
)
from prefect_kosmokrator.integrations.fal_api import (
    NAME,
    account_for,
    client_for,
    client_of,
    cost_of,
    is_filtered,
    media_of,
)
from prefect_kosmokrator.integrations.fal_platform import json_object
from prefect_kosmokrator.integrations.http import Request
from prefect_kosmokrator.integrations.records import Job, Result

logger = logging.getLogger("prefect_kosmokrator")


def app_path(model_id: str) -> str:
    """The path under which the requests of a model live: its first two segments.

    `fal-ai/flux/schnell` is submitted in full, but its requests are at `fal-ai/flux/requests/...`; the full path is
    answered with 405. The namespaces `workflows` and `comfy` keep three segments.

    Raises:
        InvalidInput: If it is not a model identifier.
    """
    legacy = re.fullmatch(r"(\d+)-([A-Za-z0-9][\w.\-]*)", model_id)
    parts = [legacy[1], legacy[2]] if legacy else model_id.split("/")
    length = 3 if parts[0] in {"workflows", "comfy"} else 2
    if len(parts) < length or any(not re.fullmatch(r"\w[\w.\-]*", part) for part in parts):
        raise InvalidInput(
            f"model_id: {model_id!r} is not a model identifier such as 'fal-ai/flux/schnell'.", parameter="model_id"
        )
    return "/".join(parts[:length])


_urls: OrderedDict[tuple[str, str], dict[str, str]] = OrderedDict()
_urls_lock = Lock()


def remember_urls(job: Job) -> None:
    """Keeps the addresses that fal returned for a job, which it asks clients to prefer to built ones."""
    with _urls_lock:
        _urls[accounts.normalise(job.account), job.id] = {
            key: str(job[key]) for key in ("status_url", "response_url", "cancel_url") if job.get(key)
        }
        while len(_urls) > 4096:  # as many as one process plausibly waits for
            _urls.popitem(last=False)


def request_url(job: Job, kind: str) -> str:
    """The address of a job: as returned by fal when it lies on the account's own host, else built by the rule.

    Args:
        job: The job.
        kind: `status`, `response` or `cancel`.
    """
    account = account_for(job.account)
    with _urls_lock:
        known = _urls.get((accounts.normalise(job.account), job.id), {})
    returned = str(job.get(f"{kind}_url") or known.get(f"{kind}_url") or "")
    if returned and client_of(account).owns(returned):
        return returned
    if returned:
        logger.warning("fal returned an address on the foreign host %s; not used.", urlsplit(returned).hostname)
    suffix = {"status": "/status", "response": "", "cancel": "/cancel"}[kind]
    return f"{account.queue_url}/{app_path(job.model_id)}/requests/{quote(job.id, safe='')}{suffix}"


def submit(model_id: str, data: dict[str, Any], account: str, headers: dict[str, str], params: dict[str, Any]) -> Job:
    """Posts `data`, the model's own input, and returns the job."""
    app_path(model_id)
    request = Request(
        "POST",
        f"{account_for(account).queue_url}/{model_id}",
        headers={"Accept": "application/json", **headers},
        params=params,
        json=data,
        paid=True,
        deadline=120.0,
    )
    client = client_for(account)
    answer = client.json(request)
    if not isinstance(answer, dict) or not cast("dict[str, Any]", answer).get("request_id"):
        raise client.fail(AmbiguousSubmission, "The request was accepted, but the answer names no request_id.")
    fields = cast("dict[str, Any]", answer)
    job = Job(
        {
            **fields,
            "id": str(fields["request_id"]),
            "request_id": str(fields["request_id"]),
            "status": str(fields.get("status") or "IN_QUEUE"),
            "provider": NAME,
            "function": "submit_request",
            "account": account,
            "model_id": model_id,
            "input": data,
        }
    )
    remember_urls(job)
    return job


def result_error(error: KosmoError, job: Job) -> KosmoError:
    """The error for a result that could not be fetched: fal replays the model's own error there."""
    if isinstance(error, Rejected) and error.status == 400 and "still in progress" in error.message.lower():
        return JobPending(f"Request {job.id} is still in progress.", job=job, request_id=job.id, status=error.status)
    if isinstance(error, Moderated | OutOfCredits) or error.status in {401, 403, 404}:
        return error
    if isinstance(error, Rejected) or error.code:
        return JobFailed(
            f"The model failed: {error.message}", job=job, request_id=job.id, status=error.status, code=error.code
        )
    return error


def fetch_result(job: Job, output: str | None, on_filtered: str) -> Result:
    """The result of a completed request, its files stored if `output` is given. See `fal.get_result` for the errors."""
    client = client_for(job.account)
    try:
        response = client.send(Request("GET", request_url(job, "response"), headers={"Accept": "application/json"}))
        data = json_object(response.json())
    except ValueError as error:
        raise client.fail(Unavailable, f"The result of request {job.id} is not JSON.") from error
    except KosmoError as error:
        raise result_error(error, job) from error
    cost = cost_of(job.model_id, job.account, response.headers.get("x-fal-billable-units"))
    filtered = is_filtered(data)
    media = media_of(
        data,
        finish_reason="CONTENT_FILTERED" if filtered else "SUCCESS",
        seed=data["seed"] if isinstance(data.get("seed"), int) else None,
        provider=NAME,
        function="submit_request",
        model=job.model_id,
        account=job.account,
        request_id=job.id,
    )
    if media and cost.amount is not None:
        # The files share the request's cost, so that adding them up gives the bill.
        share = replace(cost, amount=round(cost.amount / len(media), 6))
        media = [replace(item, cost=share) for item in media]
    if output is not None:
        said = {key: value for key, value in data.items() if isinstance(value, str | int | float | bool)}
        details = {"input": job.get("input"), **said}
        media = [item.save(output, job.model_id.replace("/", "-"), details) for item in media]
    result = Result(data, media=media, cost=cost, request_id=job.id)
    if filtered and on_filtered == "raise":
        raise ContentFiltered(
            "The model's safety checker blacked out at least one picture. Change the prompt, or pass "
            "on_filtered='return' to keep the result.",
            media=media,
            request_id=job.id,
        )
    return result


def poll(job: Job) -> dict[str, Any]:
    """One look at a job; an outage longer than the client's own retries must not end the wait for a paid job."""
    try:
        return json_object(client_for(job.account).json(Request("GET", request_url(job, "status"), params={"logs": 1})))
    except Unavailable as error:
        logger.warning("Could not look at request %s: %s Looking again.", job.id, error)
        return {}
