"""Endpoints that steer the emulator from another process."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

from starlette.responses import JSONResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from prefect_kosmokrator.integrations.emulator.state import EmulatorState

    Handler = Callable[[Request], Awaitable[Response]]


def state_of(request: Request) -> EmulatorState:
    """The state behind a request to the emulator itself."""
    found: EmulatorState = request.scope["emulator.state"]
    return found


def steering(handler: Handler) -> Handler:
    """Answer 422 with the reason to a body that makes no sense."""

    @wraps(handler)
    async def wrapped(request: Request) -> Response:
        try:
            return await handler(request)
        except (TypeError, ValueError) as error:
            return JSONResponse({"detail": str(error)}, 422)

    return wrapped


async def _body(request: Request) -> dict[str, Any]:
    body: Any = await request.json()
    if not isinstance(body, dict):
        raise TypeError("the body must be a JSON object")
    return cast("dict[str, Any]", body)


async def ledger(request: Request) -> Response:
    """``GET /emulator/ledger``: every request, the bills and the violations."""
    book = state_of(request).ledger
    return JSONResponse(
        {
            "entries": [entry.as_json() for entry in book],
            "billed": {"credits": book.billed("credits"), "USD": book.billed("USD")},
            "violations": book.violations(),
            "paid_twice": [entry.number for entry in book.paid_twice()],
        }
    )


async def faults(request: Request) -> Response:
    """``GET``, ``POST`` and ``DELETE /emulator/faults``: list, add and drop rules."""
    state = state_of(request)
    if request.method == "POST":
        return JSONResponse(state.inject(**await _body(request)).as_json(), 201)
    if request.method == "DELETE":
        state.clear_faults()
    return JSONResponse({"faults": [rule.as_json() for rule in state.faults]})


async def accounts(request: Request) -> Response:
    """``GET`` and ``POST /emulator/accounts``: list accounts with their keys; create or change one by name."""
    state = state_of(request)
    if request.method == "POST":
        values = await _body(request)
        name = str(values.pop("name", "default")).lower()
        account = state.accounts.get(name)
        state.accounts[name] = replace(account, **values) if account else state.add_account(name, **values)
    state.settle()
    shown = [
        {**asdict(a), "stability_key": a.stability_key, "fal_key": a.fal_key, "fal_admin_key": a.fal_admin_key}
        for a in state.accounts.values()
    ]
    return JSONResponse({"accounts": shown})


async def settings(request: Request) -> Response:
    """``GET`` and ``POST /emulator/settings``: read the knobs and change some."""
    state = state_of(request)
    if request.method == "POST":
        values = await _body(request)
        unknown = set(values) - {field.name for field in fields(state.settings)}
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        for name, value in values.items():
            setattr(state.settings, name, value)
    return JSONResponse(asdict(state.settings))


async def jobs(request: Request) -> Response:
    """``GET /emulator/jobs``: all asynchronous work."""
    state = state_of(request)
    now = state.clock.time()
    shown = [
        {
            "id": job.id,
            "provider": job.provider,
            "account": job.account,
            "operation": job.operation,
            "arguments": job.arguments,
            "phase": job.phase(now),
            "submitted": job.submitted,
            "polls": len(job.polls),
            "cancelled": job.cancelled is not None,
            "failed": job.failure is not None,
        }
        for job in state.jobs.values()
    ]
    return JSONResponse({"jobs": shown})


async def clock(request: Request) -> Response:
    """``POST /emulator/clock`` with ``{"advance": seconds}``."""
    state = state_of(request)
    state.clock.advance(float((await _body(request)).get("advance", 0)))
    return JSONResponse({"time": state.clock.time()})


async def reset(request: Request) -> Response:
    """``POST /emulator/reset``: forget everything but settings and clock."""
    state_of(request).reset()
    return JSONResponse({"status": "ok"})


def routes() -> list[Route]:
    """Paths below ``/emulator``."""
    return [
        Route("/emulator/ledger", steering(ledger)),
        Route("/emulator/faults", steering(faults), methods=["GET", "POST", "DELETE"]),
        Route("/emulator/accounts", steering(accounts), methods=["GET", "POST"]),
        Route("/emulator/settings", steering(settings), methods=["GET", "POST"]),
        Route("/emulator/jobs", steering(jobs)),
        Route("/emulator/clock", steering(clock), methods=["POST"]),
        Route("/emulator/reset", steering(reset), methods=["POST"]),
    ]
