"""Running the emulator: in a thread for tests, or in the foreground for the command line."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

from prefect_kosmokrator.integrations.emulator.app import create_app
from prefect_kosmokrator.integrations.emulator.gateway import TRANSPORT
from prefect_kosmokrator.integrations.emulator.settings import EmulatorSettings
from prefect_kosmokrator.integrations.emulator.state import EmulatorState
from prefect_kosmokrator.integrations.serving import Server, wait_for_signal

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from prefect_kosmokrator.integrations.emulator.clock import Clock

STABILITY_PREFIX = {"BASE_URL": "/stability"}
FAL_PREFIXES = {
    "QUEUE_URL": "/fal/queue",
    "RUN_URL": "/fal/run",
    "REST_URL": "/fal/rest",
    "CDN_URL": "/fal/cdn",
    "API_URL": "/fal/api/v1",
}


class _Protocol(H11Protocol):
    """HTTP/1.1 that hands its transport to the application, which needs it to break connections."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport where the request's scope shows it."""
        self.app_state = {**self.app_state, TRANSPORT: transport}
        connection = transport.get_extra_info("socket")
        if connection is not None:
            # asyncio does this only for sockets that name their protocol, which accepted ones do not. Without it each
            # answer waits 40 ms for the client's acknowledgement of the headers.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(cast("asyncio.Transport", transport))


class Emulator:
    """Both services on one port of this machine, served from a background thread.

    Example:
        ```python
        with Emulator(legacy_video=True) as emulator:
            os.environ.update(emulator.environment())
        ```

    Args:
        port: Port to listen on; 0 takes a free one.
        host: Address to listen on.
        settings: Knobs; the defaults when ``None``.
        clock: Time source; wall-clock time when ``None``.
        changes: Single settings that differ, such as ``run_seconds=0``.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        settings: EmulatorSettings | None = None,
        clock: Clock | None = None,
        **changes: Any,
    ) -> None:
        self.state = EmulatorState(replace(settings or EmulatorSettings(), **changes), clock)
        self._host, self._port = host, port
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """Address of the index page and start of every other address."""
        if self._server is None:
            raise RuntimeError("the emulator is not running: use it in a with block")
        return self._server.url

    def environment(self, account: str = "default", *, scope: str = "API") -> dict[str, str]:
        """Settings that point an account of the clients at the emulator.

        Args:
            account: Name of the account.
            scope: Scope of the fal key: ``API`` or ``ADMIN`` (billing).
        """
        owner = self.state.account(account)
        name = owner.name.upper()
        values = {f"KOSMO_STABILITY__{name}__API_KEY": owner.stability_key}
        values |= {f"KOSMO_STABILITY__{name}__{key}": self.url + path for key, path in STABILITY_PREFIX.items()}
        values[f"KOSMO_FAL__{name}__API_KEY"] = owner.fal_admin_key if scope == "ADMIN" else owner.fal_key
        values |= {f"KOSMO_FAL__{name}__{key}": self.url + path for key, path in FAL_PREFIXES.items()}
        return values

    def start(self) -> Self:
        """Serve; returns when requests are answered."""
        self._server = Server(
            create_app(self.state),
            host=self._host,
            port=self._port,
            http=_Protocol,
            loop="asyncio",
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
        ).start()
        return self

    def stop(self) -> None:
        """Stop serving and remove the files."""
        self.state.closing.set()
        if self._server is not None:
            self._server.stop()
        self.state.close()

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()


def serve(
    host: str = "127.0.0.1", port: int = 8787, *, ready: Callable[[Emulator], None] | None = None, **changes: Any
) -> None:
    """Serve until the process is interrupted or terminated.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        ready: Called once requests are answered, to print the addresses for example.
        changes: Settings that differ from the defaults.
    """
    with Emulator(port, host=host, **changes) as emulator:
        if ready is not None:
            ready(emulator)
        wait_for_signal()
