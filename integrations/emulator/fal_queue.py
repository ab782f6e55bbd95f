"""fal's queue: submit, status, result, cancel; and the synchronous endpoint."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from prefect_kosmokrator.integrations.emulator import webhooks
from prefect_kosmokrator.integrations.emulator.fal_errors import FalError, answering, authenticate
from prefect_kosmokrator.integrations.emulator.fal_models import Model, application, catalogue
from prefect_kosmokrator.integrations.emulator.fal_outputs import (
    Work,
    check,
    expected_units,
    is_flagged,
    perform,
    read_wishes,
)
from prefect_kosmokrator.integrations.emulator.gateway import Exchange, exchange
from prefect_kosmokrator.integrations.emulator.jobs import Job, Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from prefect_kosmokrator.integrations.emulator.accounts import Account
    from prefect_kosmokrator.integrations.emulator.state import EmulatorState

QUEUE, RUN = "/fal/queue/", "/fal/run/"
NOT_FOUND = {"status": "NOT_FOUND"}


def origin_of(request: Request) -> str:
    """Address of the emulator as the caller wrote it."""
    return f"{request.url.scheme}://{request.url.netloc}"


async def queue(request: Request) -> Response:
    """Every path of queue.fal.run: a submit, or something about a request id."""
    path = request.url.path.removeprefix(QUEUE).strip("/")
    app, separator, rest = path.partition("/requests/")
    if not separator:
        if request.method != "POST":
            raise FalError(405, "Method Not Allowed")
        return await submit(request, path)
    owner, _ = authenticate(request, application=app)
    if application(app) != app:
        # Only the owner and the application belong there, not the rest of the model id.
        raise FalError(405, "Method Not Allowed")
    request_id, _, action = rest.partition("/")
    call = exchange(request)
    job = call.state.jobs.get(request_id)
    call.entry.request_id = request_id
    call.entry.operation = action or "result"
    methods = {"cancel": "PUT", "status": "GET", "status/stream": "GET", "": "GET", "response": "GET"}
    if action not in methods:
        raise FalError(404, "Not Found")
    if request.method != methods[action]:
        raise FalError(405, "Method Not Allowed")
    if job is None or job.provider != "fal" or job.account != owner.name or application(job.operation) != app:
        call.entry.outcome = "NOT_FOUND"
        return JSONResponse(NOT_FOUND, 404)
    job.polls.append(call.state.clock.time())
    if action == "cancel":
        return _cancel(call, job)
    if action == "status":
        return _status(request, job)
    if action == "status/stream":
        return StreamingResponse(_events(request, job), media_type="text/event-stream")
    return await _result(call, job)


async def read_arguments(request: Request) -> Any:
    """The JSON body, which is the model's input itself."""
    body = await request.body()
    try:
        arguments = json.loads(body or b"{}")
        # Python reads NaN and half characters, which are no JSON.
        canonical = json.dumps(arguments, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        raise FalError(422, [{"loc": ["body"], "msg": "JSON decode error", "type": "json_invalid"}]) from None
    exchange(request).entry.fingerprint = hashlib.sha256(canonical).hexdigest()[:16]
    return arguments


def _find_model(request: Request, model_id: str) -> Model:
    model = catalogue(exchange(request).state.settings.catalogue_size).get(model_id)
    if model is None:
        raise FalError(404, f'Application "{model_id}" not found')
    return model


async def submit(request: Request, model_id: str) -> Response:
    """Accept a job; a wrong input fails when the job runs, as it does at the service."""
    call = exchange(request)
    state = call.state
    call.entry.operation = f"submit {model_id}"
    owner, _ = authenticate(request, application=model_id)
    model = _find_model(request, model_id)
    arguments = await read_arguments(request)
    longest = request.query_params.get("fal_max_queue_length")
    now = state.clock.time()
    mine = state.open_jobs("fal", owner.name)
    waiting = [job for job in mine if job.operation == model_id and job.phase(now) == "IN_QUEUE"]
    if longest is not None and longest.isdecimal() and len(waiting) > int(longest):
        raise FalError(429, "Queue length exceeded", "queue_length_exceeded")
    webhook = request.query_params.get("fal_webhook")
    job = make_job(request, owner, model, arguments)
    if state.settings.validate_on_submit and job.failure is not None and job.error is None:
        return JSONResponse(job.failure.body, job.failure.status, job.failure.headers)
    state.add_job(job)
    call.entry.request_id = job.id
    call.entry.outcome = "IN_QUEUE"
    if webhook is not None:
        webhooks.deliver_later(state, job, webhook)
    addresses = _addresses(request, job)
    body = {"status": "IN_QUEUE", "request_id": job.id, **addresses, "queue_position": state.queue_position(job)}
    return JSONResponse({**body, "gateway_request_id": job.id}, headers={"x-fal-request-id": job.id})


def make_job(request: Request, owner: Account, model: Model, arguments: Any) -> Job:
    """A job for a checked or refused input, with the faults it carries."""
    call = exchange(request)
    state, settings, fault = call.state, call.state.settings, call.fault
    values = cast("dict[str, Any]", arguments) if isinstance(arguments, dict) else {}
    wishes = read_wishes(values)
    job = Job(
        id=str(uuid4()),
        provider="fal",
        account=owner.name,
        operation=model.id,
        arguments=values,
        submitted=state.clock.time(),
        queue_seconds=settings.queue_seconds if wishes.queue_seconds is None else wishes.queue_seconds,
        run_seconds=settings.run_seconds if wishes.run_seconds is None else wishes.run_seconds,
        cost=0.0,
        unit="USD",
        produce=lambda _job: Outcome(500, {"detail": "Internal Server Error"}),
        entry=call.entry,
        retention=settings.fal_retention,
        media_lifetime=requested_lifetime(request, settings.media_retention),
        fault=fault,
    )
    if request.headers.get("x-fal-store-io") == "0":
        job.retention = settings.fal_retention_unstored
    job.start_deadline = job.submitted + _start_timeout(request)
    if fault is not None and fault.fault == "job-hang":
        job.run_seconds = math.inf
    if fault is not None and fault.fault == "job-error":
        error = FalError(fault.status or 500, "The runner failed.", fault.error_type or "runner_server_error")
        job.failure = Outcome(error.status, fault.body or error.body, error.headers)
        job.error, job.error_type = str(error.body["detail"]), error.error_type
        return job
    try:
        checked = check(model, arguments)
    except FalError as error:
        job.failure = Outcome(error.status, error.body, error.headers)
        return job
    seed = state.choose_seed(getattr(checked, "seed", None))
    filtered = is_flagged(checked) or (fault is not None and fault.fault == "job-filtered")
    work = Work(model, checked, seed, owner.name, origin_of(request), job.media_lifetime, filtered, wishes.size_bytes)
    job.billable_units = expected_units(model, checked)
    job.cost = round(job.billable_units * model.unit_price, 6)
    job.produce = lambda done: _produce(state, work, done)
    return job


def _start_timeout(request: Request) -> float:
    """Seconds within which the job must start; the header has an old and a new name."""
    headers = request.headers
    text = headers.get("x-fal-request-start-timeout") or headers.get("x-fal-request-timeout") or "inf"
    try:
        return float(text)
    except ValueError:
        raise FalError(400, "Invalid X-Fal-Request-Timeout header", "bad_request") from None


def requested_lifetime(request: Request, default: float) -> float | None:
    """Seconds a file may live, from the caller's lifecycle header; ``None`` for never expiring."""
    text = request.headers.get("x-fal-object-lifecycle-preference") or request.headers.get("x-fal-object-lifecycle")
    if text is None:
        return default
    try:
        wanted: Any = json.loads(text)
        seconds = wanted.get("expiration_duration_seconds", default)
        return None if seconds is None else float(seconds)
    except (ValueError, TypeError, AttributeError):
        raise FalError(400, "Invalid X-Fal-Object-Lifecycle-Preference header", "bad_request") from None


def _produce(state: EmulatorState, work: Work, job: Job) -> Outcome:
    try:
        body = perform(state, work)
    except FalError as error:
        job.failure = Outcome(error.status, error.body, error.headers)
        state.reprice(job, 0.0)
        return job.failure
    job.billable_units = work.units
    state.reprice(job, round(work.units * work.model.unit_price, 6))
    return Outcome(200, body, {"X-Fal-Billable-Units": f"{work.units:g}", "X-Fal-Served-From": "emulator"})


async def complete(job: Job) -> Outcome:
    """The result of a completed job; made at first need, billed once."""
    if job.misses_start and job.cancelled is None:
        error = FalError(504, "Request timed out before it started.", "request_timeout")
        return Outcome(504, error.body, {**error.headers, "X-Fal-Request-Timeout-Type": "user"})
    if job.cancelled is not None:
        return Outcome(499, {"detail": "Request was cancelled.", "error_type": "client_cancelled"})
    if job.failure is not None:
        return job.failure
    if job.outcome is None:
        job.outcome = await run_in_threadpool(job.produce, job)
    return job.outcome


def _addresses(request: Request, job: Job) -> dict[str, str]:
    base = f"{origin_of(request)}{QUEUE}{application(job.operation)}/requests/{job.id}"
    return {"response_url": base, "status_url": f"{base}/status", "cancel_url": f"{base}/cancel"}


def _status(request: Request, job: Job) -> Response:
    body, pending = status_body(request, job)
    call = exchange(request)
    call.entry.outcome = str(body["status"])
    return JSONResponse(body, call.state.settings.status_code_pending if pending else 200, {"x-fal-request-id": job.id})


def status_body(request: Request, job: Job) -> tuple[dict[str, Any], bool]:
    """The status answer, and whether the job still goes on."""
    state = exchange(request).state
    now = state.clock.time()
    phase = job.phase(now)
    body: dict[str, Any] = {"status": phase, "request_id": job.id, **_addresses(request, job)}
    if phase == "IN_QUEUE":
        return {**body, "queue_position": state.queue_position(job)}, True
    wanted = request.query_params.get("logs", "0").lower() in ("1", "true")
    if job.fault is None or job.fault.fault != "job-no-logs":
        if wanted:
            body["logs"] = _logs(job, now)
        elif not state.settings.omit_logs:
            body["logs"] = None
    if phase == "IN_PROGRESS":
        if job.fault is not None and job.fault.fault == "job-unknown-status":
            body["status"] = "PAUSED"
        return body, True
    state.settle()
    body["metrics"] = {"inference_time": round(max(0.0, job.ends - job.starts), 3)}
    if job.cancelled is not None:
        body |= {"error": "Request was cancelled.", "error_type": "client_cancelled"}
    elif job.misses_start:
        body |= {"error": "Request timed out before it started.", "error_type": "request_timeout"}
    elif job.error is not None:
        body |= {"error": job.error, "error_type": job.error_type}
    return body, False


def _logs(job: Job, now: float) -> list[dict[str, Any]] | None:
    """Log lines written so far; null until there is one."""
    lines = ("Loading weights", "Running inference", "50%", "100%", "Uploading the result")
    duration = job.run_seconds if math.isfinite(job.run_seconds) else 60.0
    written = [(job.starts + duration * (n + 1) / (len(lines) + 1), text) for n, text in enumerate(lines)]
    shown = [
        {"message": text, "timestamp": webhooks.timestamp(when), "level": "INFO", "source": "USER"}
        for when, text in written
        if when <= now
    ]
    return shown or None


async def _events(request: Request, job: Job) -> AsyncIterator[str]:
    last, pending = "", True
    state = exchange(request).state
    while pending and not state.closing.is_set():
        body, pending = status_body(request, job)
        text = json.dumps(body)
        if text != last:
            yield f"data: {text}\n\n"
        last = text
        await asyncio.sleep(0.05)


async def _result(call: Exchange, job: Job) -> Response:
    state, now = call.state, call.state.clock.time()
    if job.phase(now) != "COMPLETED":
        call.entry.outcome = "in-progress"
        raise FalError(400, "Request is still in progress")
    if job.expired(now):
        call.entry.outcome = "expired"
        return JSONResponse(NOT_FOUND, 404)
    outcome = await complete(job)
    state.settle()
    if outcome.status >= 400:
        call.entry.outcome = f"failed {outcome.status}"
    return JSONResponse(outcome.body, outcome.status, {**outcome.headers, "x-fal-request-id": job.id})


def _cancel(call: Exchange, job: Job) -> Response:
    now = call.state.clock.time()
    if job.phase(now) == "COMPLETED":
        call.entry.outcome = "ALREADY_COMPLETED"
        return JSONResponse({"status": "ALREADY_COMPLETED"}, 400)
    call.state.cancel_job(job)
    call.entry.outcome = "CANCELLATION_REQUESTED"
    return JSONResponse({"status": "CANCELLATION_REQUESTED"}, 202)


async def run(request: Request) -> Response:
    """The synchronous endpoint: the answer is the result; without a connection it is lost but paid for."""
    model_id = request.url.path.removeprefix(RUN).strip("/")
    call = exchange(request)
    state = call.state
    call.entry.operation = f"run {model_id}"
    owner, _ = authenticate(request, application=model_id)
    model = _find_model(request, model_id)
    arguments = await read_arguments(request)
    now = state.clock.time()
    running = [job for job in state.open_jobs("fal", owner.name) if job.phase(now) == "IN_PROGRESS"]
    if len(running) >= owner.concurrency:
        raise FalError(429, "Concurrent requests limit reached.", "concurrent_requests_limit")
    job = make_job(request, owner, model, arguments)
    job.queue_seconds = 0.0
    call.entry.request_id = job.id
    state.add_job(job)
    if job.failure is not None:
        job.run_seconds = 0.0
    await webhooks.finished(state, job)
    outcome = await complete(job)
    state.settle()
    return JSONResponse(outcome.body, outcome.status, {**outcome.headers, "x-fal-request-id": job.id})


def routes() -> list[Route]:
    """Paths below the queue and run addresses."""
    methods = ["GET", "POST", "PUT", "DELETE"]
    return [
        Route("/fal/queue/{path:path}", answering(queue), methods=methods),
        Route("/fal/run/{path:path}", answering(run), methods=["POST"]),
    ]
