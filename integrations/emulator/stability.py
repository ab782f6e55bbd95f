"""Stability AI's REST API: account, image endpoints, asynchronous results and the removed video endpoint."""

from __future__ import annotations

import base64
import math
import secrets
from functools import partial, wraps
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_kosmokrator.integrations.emulator import stability_images as images
from prefect_kosmokrator.integrations.emulator.gateway import exchange
from prefect_kosmokrator.integrations.emulator.jobs import Job, Outcome
from prefect_kosmokrator.integrations.emulator.stability_access import (
    authenticate,
    moderate,
    rate_limited,
    require_credits,
)
from prefect_kosmokrator.integrations.emulator.stability_endpoints import ENDPOINTS, VIDEO, Endpoint
from prefect_kosmokrator.integrations.emulator.stability_errors import StabilityError, bad_request, not_found
from prefect_kosmokrator.integrations.emulator.stability_forms import Form, read_form

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from prefect_kosmokrator.integrations.emulator.accounts import Account

    Handler = Callable[[Request], Awaitable[Response]]

FILTERED, SUCCESS = "CONTENT_FILTERED", "SUCCESS"
SYNC_ACCEPT = ("image/*", "application/json")
RESULT_ACCEPT = ("*/*", "image/*", "application/json")
VIDEO_ACCEPT = ("video/*", "application/json")
JSON = "application/json"
# Requests that left the client on time may arrive a little closer together.
_TOLERANCE = 0.95


def answering(handler: Handler) -> Handler:
    """Give every answer a request id, and turn refusals into the service's error bodies."""

    @wraps(handler)
    async def wrapped(request: Request) -> Response:
        entry = exchange(request).entry
        entry.request_id = entry.request_id or secrets.token_hex(16)
        try:
            response = await handler(request)
        except StabilityError as error:
            entry.outcome = error.name
            return error.response(entry.request_id, v1=request.url.path.startswith("/stability/v1/"))
        response.headers["x-request-id"] = entry.request_id
        return response

    return wrapped


def choose_accept(request: Request, allowed: tuple[str, ...]) -> str:
    """The ``Accept`` value, which must be literally one of those documented; absent, the first."""
    value = request.headers.get("accept", allowed[0]).strip()
    if value not in allowed:
        raise bad_request(f"accept: must be one of {', '.join(allowed)}")
    return value


async def account(request: Request) -> Response:
    """``GET /v1/user/account``."""
    owner = authenticate(request, v1=True)
    exchange(request).entry.operation = "account"
    organization = {"id": owner.organization_id, "name": owner.name.title(), "role": "ADMIN", "is_default": True}
    return JSONResponse({"email": owner.email, "id": owner.user_id, "organizations": [organization]})


async def balance(request: Request) -> Response:
    """``GET /v1/user/balance``."""
    owner = authenticate(request, v1=True)
    exchange(request).entry.operation = "balance"
    wanted = request.headers.get("organization")
    if wanted not in (None, owner.organization_id):
        raise StabilityError(403, "permission_denied", "You lack the necessary permissions to perform this action.")
    exchange(request).state.settle()
    return JSONResponse({"credits": owner.credits})


async def unknown_v1(request: Request) -> Response:
    """Any other v1 path: the key is checked first, then the answer is 404."""
    authenticate(request, v1=True)
    raise StabilityError(404, "not_found", "The specified resource was not found.")


async def unknown(_request: Request) -> Response:
    """Any other path of the host."""
    raise StabilityError(404, "not_found", "The specified path does not exist.")


async def _accepted(request: Request, endpoint: Endpoint) -> tuple[Account, Form, float]:
    """Everything that is checked before work begins."""
    call = exchange(request)
    call.entry.operation = endpoint.name
    owner = authenticate(request)
    if not endpoint.asynchronous:
        choose_accept(request, SYNC_ACCEPT)
    form = await read_form(request, endpoint)
    call.entry.fingerprint = form.fingerprint
    price = endpoint.price(form.texts)
    require_credits(call.state, owner, price)
    moderate(form.prompt, form.texts.get("negative_prompt", ""))
    return owner, form, price


async def generate(request: Request, endpoint: Endpoint) -> Response:
    """A synchronous image endpoint."""
    call = exchange(request)
    owner, form, price = await _accepted(request, endpoint)
    accept = choose_accept(request, SYNC_ACCEPT)
    seed = call.state.choose_seed(form.seed)
    fault = call.fault.fault if call.fault is not None else None
    if fault == "job-error":
        raise StabilityError((call.fault and call.fault.status) or 500, "internal_error", "The generation failed.")
    filtered = "filter-me" in form.prompt.lower() or fault == "job-filtered"
    plain = call.state.settings.plain_pictures
    content = await run_in_threadpool(images.render, endpoint.name, form, seed, filtered=filtered, plain=plain)
    await images.pause(call.state.settings.stability_sync_seconds)
    call.state.charge(owner.name, price, "credits", call.entry)
    output_format = form.texts.get("output_format", "png")
    name = f"{endpoint.name.replace('/', '-')}-{call.entry.number}.{output_format}"
    call.state.files.add(
        content,
        name,
        f"image/{output_format}",
        account=owner.name,
        lifetime=call.state.settings.media_retention,
        caption=form.prompt,
        operation=endpoint.name,
    )
    if filtered:
        call.entry.outcome = FILTERED
    headers = {"finish-reason": FILTERED if filtered else SUCCESS, "seed": str(seed)}
    return media_response(content, f"image/{output_format}", headers, json_field="image" if accept == JSON else None)


def media_response(content: bytes, kind: str, headers: dict[str, str], *, json_field: str | None) -> Response:
    """A picture or video: as bytes with headers, or as JSON without them under the given field name."""
    if json_field is None:
        return Response(content, media_type=kind, headers=headers)
    body = {
        json_field: base64.b64encode(content).decode(),
        "finish_reason": headers["finish-reason"],
        "seed": int(headers["seed"]),
    }
    return Response(JSONResponse(body).body, media_type=f"application/json; type={kind}")


async def start(request: Request, endpoint: Endpoint) -> Response:
    """An asynchronous endpoint: answers the id of the generation."""
    call = exchange(request)
    state, settings = call.state, call.state.settings
    if endpoint is VIDEO and not settings.legacy_video:
        raise StabilityError(settings.discontinued_status, "not_found", "The specified path does not exist.")
    owner, form, price = await _accepted(request, endpoint)
    seed, fault = state.choose_seed(form.seed), call.fault
    filtered = "filter-me" in form.prompt.lower() or (fault is not None and fault.fault == "job-filtered")
    kind = "video/mp4" if endpoint is VIDEO else f"image/{form.texts.get('output_format', 'png')}"

    def produce(job: Job) -> Outcome:
        content = images.render(endpoint.name, form, seed, filtered=filtered)
        name = f"{endpoint.name.replace('/', '-')}-{job.id[:8]}.{kind.partition('/')[2]}"
        state.files.add(
            content,
            name,
            kind,
            account=owner.name,
            lifetime=settings.media_retention,
            caption=form.prompt,
            operation=endpoint.name,
        )
        return Outcome(200, content, {"finish-reason": FILTERED if filtered else SUCCESS, "seed": str(seed)})

    hangs = fault is not None and fault.fault == "job-hang"
    job = Job(
        id=secrets.token_hex(32),
        provider="stability",
        account=owner.name,
        operation=endpoint.name,
        arguments={**form.texts, "content_type": kind},
        submitted=state.clock.time(),
        queue_seconds=0.0,
        run_seconds=math.inf if hangs else settings.stability_async_seconds,
        cost=price,
        unit="credits",
        produce=produce,
        entry=call.entry,
        retention=settings.stability_retention,
        fault=fault,
    )
    if fault is not None and fault.fault == "job-error":
        job.failure = Outcome(fault.status or 500, None)
    state.add_job(job)
    call.entry.outcome = f"accepted {job.id[:12]}"
    return JSONResponse({"id": job.id})


async def result(request: Request, accepts: tuple[str, ...], operation: str | None) -> Response:
    """The result of an asynchronous generation: 202 while it runs."""
    call = exchange(request)
    state, now = call.state, call.state.clock.time()
    call.entry.operation = "results"
    if operation == VIDEO.name and not state.settings.legacy_video:
        raise StabilityError(state.settings.discontinued_status, "not_found", "The specified path does not exist.")
    owner = authenticate(request)
    accept = choose_accept(request, accepts)
    job = state.jobs.get(request.path_params["id"])
    is_video = job is not None and job.operation == VIDEO.name
    if job is None or job.account != owner.name or job.provider != "stability" or job.expired(now):
        raise not_found()
    if is_video != (operation == VIDEO.name):
        raise not_found()
    too_soon = bool(job.polls) and now - job.polls[-1] < state.settings.poll_interval * _TOLERANCE
    job.polls.append(now)
    if too_soon:
        call.entry.violations.append(f"polled more often than every {state.settings.poll_interval:g} seconds")
        if state.settings.enforce_poll_interval:
            raise rate_limited(state, math.ceil(state.settings.poll_interval))
    if job.phase(now) != "COMPLETED":
        call.entry.outcome = "in-progress"
        return JSONResponse({"id": job.id, "status": "in-progress"}, 202)
    state.settle()
    if job.failure is not None:
        name = "content_moderation" if job.failure.status == 403 else "internal_error"
        raise StabilityError(job.failure.status, name, "The generation failed. You were not charged.")
    if job.outcome is None:
        job.outcome = await run_in_threadpool(job.produce, job)
    made = job.outcome
    name = "video" if is_video else state.settings.async_json_field
    return media_response(
        made.body, job.arguments["content_type"], made.headers, json_field=name if accept == JSON else None
    )


def routes() -> list[Route]:
    """All paths below the base address ``/stability``."""
    base = "/stability/v2beta"
    made = [
        Route("/stability/v1/user/account", answering(account), methods=["GET"]),
        Route("/stability/v1/user/balance", answering(balance), methods=["GET"]),
        Route("/stability/v1/{rest:path}", answering(unknown_v1), methods=["GET", "POST"]),
    ]
    for endpoint in ENDPOINTS.values():
        handler = partial(start if endpoint.asynchronous else generate, endpoint=endpoint)
        made.append(Route(f"{base}/stable-image/{endpoint.name}", answering(_named(handler)), methods=["POST"]))
    made.append(Route(f"{base}/{VIDEO.name}", answering(_named(partial(start, endpoint=VIDEO))), methods=["POST"]))
    for path, accepts, operation in (
        ("results/{id}", RESULT_ACCEPT, None),
        ("stable-image/upscale/creative/result/{id}", RESULT_ACCEPT, None),
        ("image-to-video/result/{id}", VIDEO_ACCEPT, VIDEO.name),
    ):
        handler = partial(result, accepts=accepts, operation=operation)
        made.append(Route(f"{base}/{path}", answering(_named(handler)), methods=["GET"]))
    made.append(Route("/stability/{rest:path}", answering(unknown), methods=["GET", "POST", "PUT", "DELETE"]))
    return made


def _named(handler: Callable[[Request], Awaitable[Response]]) -> Handler:
    async def call(request: Request) -> Response:
        return await handler(request)

    return call
