"""Running a small web application in a thread of this process, on a port of its own."""

from __future__ import annotations

import signal
import socket
import threading
from types import FrameType, TracebackType
from typing import Self

import uvicorn
from starlette.types import ASGIApp


class Server:
    """Serves `app` from a thread while the `with` block runs.

    Args:
        app: The application.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
    """

    def __init__(self, app: ASGIApp, *, host: str = "127.0.0.1", port: int = 0) -> None:
        # Listening before uvicorn starts: the port is known, and connections wait instead of being refused.
        self._socket = socket.create_server((host, port))
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(app, log_level="warning", lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._socket.close()


def wait_for_signal() -> None:
    """Returns when this process is asked to end: Ctrl-C or SIGTERM."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the protocol of signal handlers
        asked.set()

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    asked.wait()
