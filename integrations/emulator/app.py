"""The application: both services, the control endpoints and the index page behind one gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route

from prefect_kosmokrator.integrations.emulator import control, fal_platform, fal_queue, fal_storage, index, stability
from prefect_kosmokrator.integrations.emulator.gateway import Gateway
from prefect_kosmokrator.integrations.emulator.state import EmulatorState

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


async def _unknown(_request: Request) -> Response:
    return JSONResponse({"detail": "Not Found"}, 404)


def create_app(state: EmulatorState | None = None) -> Starlette:
    """The ASGI application.

    Faults that break the connection need the emulator's own server; everything else works under any.

    Args:
        state: What it serves; a fresh state when ``None``.
    """
    routes = [
        *index.routes(),
        *control.routes(),
        *stability.routes(),
        *fal_storage.routes(),
        *fal_platform.routes(),
        *fal_queue.routes(),
        Route("/{rest:path}", _unknown, methods=["GET", "POST", "PUT", "DELETE"]),
    ]
    # A slash more or less is another path for the services, not a redirect.
    app = Starlette(routes=routes, middleware=[Middleware(Gateway, state=state or EmulatorState())])
    app.router.redirect_slashes = False
    return app
