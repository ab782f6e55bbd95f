"""Endpoints that steer the emulator from another process."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any, cast

from starlette.responses import JSONResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from prefect_kosmokrator.integrations.emulator.state import EmulatorState


def state_of(request: Request) -> EmulatorState:
    """The state behind a request to the emulator itself."""
    found: EmulatorState = request.scope["emulator.state"]
    return found


async def _body(request: Request) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", await request.json())
    except ValueError:
        return {}


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
        try:
            rule = state.inject(**await _body(request))
        except (TypeError, ValueError) as error:
            return JSONResponse({"detail": str(error)}, 422)
        return JSONResponse(rule.as_json(), 201)
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
        try:
            state.accounts[name] = replace(account, **values) if account else state.add_account(name, **values)
        except TypeError as error:
            return JSONResponse({"detail": str(error)}, 422)
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
            return JSONResponse({"detail": f"unknown settings: {', '.join(sorted(unknown))}"}, 422)
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
        Route("/emulator/ledger", ledger),
        Route("/emulator/faults", faults, methods=["GET", "POST", "DELETE"]),
        Route("/emulator/accounts", accounts, methods=["GET", "POST"]),
        Route("/emulator/settings", settings, methods=["GET", "POST"]),
        Route("/emulator/jobs", jobs),
        Route("/emulator/clock", clock, methods=["POST"]),
        Route("/emulator/reset", reset, methods=["POST"]),
    ]
