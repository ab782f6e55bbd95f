"""What every proof needs that starts servers on this machine: a free port, and patience."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

import httpx

T = TypeVar("T")


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def until(what: str, check: Callable[[], T], seconds: float) -> T:
    """The first true answer of `check`; TimeoutError that names `what` when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if answer := check():
                return answer
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"{what}: not after {seconds:.0f} s")
