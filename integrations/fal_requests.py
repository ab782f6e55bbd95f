"""The life of a fal request: where it is, submitting it, looking at it, fetching its result."""

from __future__ import annotations

import logging
import re
import time
from collections import OrderedDict
from dataclasses import replace
from datetime import UTC, datetime
from threading import Lock
from typing import Any, cast
from urllib.parse import quote, urlsplit

from prefect_kosmokrator.integrations import accounts
from prefect_kosmokrator.integrations.download import is_public
from prefect_kosmokrator.integrations.errors import (
    AmbiguousSubmission,
    ContentFiltered,
    DeadlineExceeded,
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
from prefect_kosmokrator.integrations.fal_platform import get_object, json_object, json_objects
from prefect_kosmokrator.integrations.journal import digest_of, sending
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.messages import Request
from prefect_kosmokrator.integrations.records import Job, Result
from prefect_kosmokrator.integrations.run import report_progress

logger = logging.getLogger("prefect_kosmokrator")

CLOCK_SKEW_SECONDS = 5.0
"""How far the clocks of fal's hosts may be apart; the time they tell has whole seconds."""


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
    sending(data)
    answer = client.json(request)
    if not isinstance(answer, dict) or not cast("dict[str, Any]", answer).get("request_id"):
        raise client.fail(AmbiguousSubmission, "The request was accepted, but the answer names no request_id.")
    fields = cast("dict[str, Any]", answer)
    job = _job(fields, model_id, data, account)
    remember_urls(job)
    return job


def _job(answer: dict[str, Any], model_id: str, data: dict[str, Any], account: str) -> Job:
    return Job(
        {
            **answer,
            "id": str(answer["request_id"]),
            "request_id": str(answer["request_id"]),
            "status": str(answer.get("status") or "IN_QUEUE"),
            "provider": NAME,
            "function": "submit_request",
            "account": account,
            "model_id": model_id,
            "input": data,
        }
    )


def find_submitted(model_id: str, account: str, digest: str, since: float) -> list[Job]:
    """The requests that a submission may have made whose answer was lost: same model, same input, sent since then.

    Args:
        model_id: The model.
        account: Whose requests.
        digest: `journal.digest_of` the input.
        since: Seconds since 1970 by fal's clock.

    Returns:
        The one that was sent closest to that time comes first.
    """
    params: dict[str, Any] = {
        "endpoint_id": model_id,
        "start": datetime.fromtimestamp(since - CLOCK_SKEW_SECONDS, UTC).isoformat(timespec="seconds"),
        "limit": 100,
        "expand": "payloads",
    }
    found: list[tuple[float, Job]] = []
    while True:
        answer = get_object(account, "/models/requests/by-endpoint", params)
        for item in json_objects(answer.get("items")):
            data = json_object(item.get("json_input"))
            if digest_of(data) == digest and item.get("request_id"):
                job = _job({"request_id": item["request_id"], "status": "IN_QUEUE"}, model_id, data, account)
                found.append((abs(_seconds(item.get("sent_at") or item.get("started_at")) - since), job))
        if not answer.get("next_cursor") or not answer.get("items"):
            return [job for _, job in sorted(found, key=lambda one: one[0])]
        params["cursor"] = answer["next_cursor"]


def _seconds(moment: Any) -> float:
    try:
        return datetime.fromisoformat(str(moment)).timestamp()
    except ValueError:
        return 0.0


def result_error(error: KosmoError, job: Job) -> KosmoError:
    """The error for a result that could not be fetched: fal replays the model's own error there."""
    if isinstance(error, Rejected) and error.status == 400 and "still in progress" in error.message.lower():
        return JobPending(
            f"Request {job.id} is still in progress.",
            job=job,
            account=job.account,
            request_id=job.id,
            status=error.status,
        )
    if isinstance(error, Moderated | OutOfCredits) or error.status in {401, 403, 404}:
        return error
    if isinstance(error, Rejected) or error.code:
        return JobFailed(
            f"The model failed: {error.message}",
            job=job,
            account=job.account,
            request_id=job.id,
            status=error.status,
            code=error.code,
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
        for item in media:
            _require_outside(job, item)
        said = {key: value for key, value in data.items() if isinstance(value, str | int | float | bool)}
        details = {"input": job.get("input"), **said}
        media = _stored(media, output, job, details)
    result = Result(data, media=media, cost=cost, request_id=job.id)
    if filtered and on_filtered == "raise":
        raise ContentFiltered(
            "The model's safety checker blacked out at least one picture. Change the prompt, or pass "
            "on_filtered='return' to keep the result.",
            media=media,
            account=job.account,
            request_id=job.id,
        )
    return result


def _stored(media: list[Media], output: str, job: Job, details: dict[str, Any]) -> list[Media]:
    """The files, stored; one that cannot be stored does not keep the others from it.

    Raises:
        StorageError: For the first file that could not be stored, after all of them were tried.
    """
    stored: list[Media] = []
    problem: KosmoError | None = None
    for item in media:
        try:
            stored.append(item.save(output, job.model_id.replace("/", "-"), details))
        except KosmoError as error:
            logger.warning("A file of request %s was not stored. %s", job.id, error)
            problem = problem or error
    if problem is not None:
        raise problem
    return stored


def _require_outside(job: Job, media: Media) -> None:
    """A model's answer is its author's: it must not make this machine fetch from its own network."""
    host = urlsplit(media.uri or "").hostname
    own = account_for(job.account)
    hosts = {urlsplit(url).hostname for url in (own.queue_url, own.run_url, own.rest_url, own.cdn_url, own.api_url)}
    if host is not None and host not in hosts and not is_public(host):
        raise Rejected(
            f"The result of request {job.id} names a file on {host}, inside this network; it is not fetched.",
            account=job.account,
            request_id=job.id,
        )


def wait(job: Job, timeout: float, poll_interval: float, output: str | None, on_filtered: str) -> Result:
    """Looks at `job` until it is completed and returns its result. See `fal.wait_for_request`."""
    started, interval, seen = time.monotonic(), poll_interval, 0
    while True:
        left = started + timeout - time.monotonic()
        status, pause = _look(job, left)
        state = str(status.get("status") or "")
        seen = _log_lines(job, status.get("logs"), seen)
        if state == "COMPLETED":
            _raise_if_failed(job, status)
            try:
                return fetch_result(job, output, on_filtered)
            except JobPending:
                logger.info("Request %s is completed, but its result is not there yet.", job.id)
        waited, pause = time.monotonic() - started, max(interval, pause)
        if waited + pause > timeout:
            raise DeadlineExceeded(
                f"Request {job.id} of {job.model_id} was not completed after {waited:.0f} s ({state or 'no answer'}). "
                "It goes on and may be billed; wait for it again or cancel it.",
                job=job,
                account=job.account,
                request_id=job.id,
            )
        place = status.get("queue_position")
        message = f"{state or 'no answer'}{f', place {place} in the queue' if place is not None else ''}"
        logger.info("Request %s: %s; waited %.0f of %.0f s.", job.id, message, waited, timeout)
        report_progress(min(waited / timeout, 0.99), message)
        time.sleep(pause)
        interval = min(interval * 1.5, 5.0)


def _look(job: Job, left: float) -> tuple[dict[str, Any], float]:
    """The status of a job and how long to pause, within the time that is left.

    An outage must not end the wait for a paid job, so the loop around this is the retry.
    """
    url = request_url(job, "status")
    request = Request("GET", url, params={"logs": 1}, deadline=min(60.0, max(left, 1.0)), once=True)
    try:
        return json_object(client_for(job.account).json(request)), 0.0
    except Unavailable as error:
        logger.warning("Could not look at request %s: %s Looking again.", job.id, error)
        return {}, error.retry_after or 0.0


def _log_lines(job: Job, logs: Any, seen: int) -> int:
    """Logs the model's new log lines and returns how many there are."""
    lines = cast("list[Any]", logs) if isinstance(logs, list) else []
    for line in lines[seen:]:
        logger.info("%s: %s", job.model_id, json_object(line).get("message", line))
    return max(seen, len(lines))


def _raise_if_failed(job: Job, status: dict[str, Any]) -> None:
    if not status.get("error"):
        return
    kind = str(status.get("error_type") or "") or None
    message = f"The model failed: {str(status['error'])[:500]}"
    if kind == "content_policy_violation":
        raise Moderated(message, account=job.account, request_id=job.id, code=kind)
    raise JobFailed(message, job=job, account=job.account, request_id=job.id, code=kind)
