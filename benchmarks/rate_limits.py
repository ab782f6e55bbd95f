"""Four processes on one Stability account: do they keep to what the service allows, and how much of it do they use?

    python benchmarks/rate_limits.py [--requests 2000] [--processes 4]

Starts a Prefect server, the emulator with the service's own limit (150 requests in ten seconds, then a minute of
lock-out) and the processes, which ask for balances and pictures as fast as they may, each from one task with eight
threads. For comparison the same without limits, for a few seconds. Exits with 1 after a lock-out, or if the key is
found in a log, a result, the ledger, the database or a command line. Takes about four minutes.
"""

from __future__ import annotations

import argparse
import bisect
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from loopback import free_port
from proof import Secrets

THREADS = 8
UNLIMITED_SECONDS = 15.0
WINDOW, ALLOWED = 10.0, 150
EMULATOR = "from prefect_kosmokrator.integrations.emulator.server import serve; serve(port={port}, plain_pictures=True)"


def main() -> int:
    """Runs both, prints the figures and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="requests of all processes together")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return 0
    with tempfile.TemporaryDirectory(prefix="kosmo-limits-") as folder:
        return measure(Path(folder), options.requests, options.processes)


def work(count: int) -> None:
    """One process: its share of the requests, in one task."""
    from prefect import flow, task  # noqa: PLC0415 - not for the process that measures

    from prefect_kosmokrator.integrations import stability  # noqa: PLC0415
    from prefect_kosmokrator.tasks import policy  # noqa: F401, PLC0415 - makes requests keep to the limits

    def one(number: int) -> None:
        if number % 4:
            stability.get_balance()
        else:
            stability.generate_core(f"lamp {os.getpid()} {number}")

    @task
    def share() -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(one, range(count)))

    @flow
    def load() -> None:
        share()

    load()


def measure(folder: Path, requests: int, processes: int) -> int:
    """Measures with limits, then without."""
    api, stand_in = free_port(), free_port()
    os.environ |= {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": f"http://127.0.0.1:{api}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "KOSMO_LIMITS": "strict",
        "KOSMO_LEDGER": (folder / "ledger").as_uri(),
        "KOSMO_SPOOL": str(folder / "spool"),
    }
    secrets = Secrets()
    server = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(api), "--no-ui"]
    emulator = [sys.executable, "-c", EMULATOR.format(port=stand_in)]
    with (
        running(server, folder / "server.log", f"http://127.0.0.1:{api}/api/health"),
        running(emulator, folder / "emulator.log", f"http://127.0.0.1:{stand_in}/emulator/settings"),
        httpx.Client(base_url=f"http://127.0.0.1:{stand_in}/emulator", timeout=60) as control,
        secrets.watched_processes(),
    ):
        (account, *_) = control.post("/accounts", json={"name": "default", "credits": 1e6}).json()["accounts"]
        os.environ |= {
            "KOSMO_STABILITY__DEFAULT__API_KEY": secrets.add(account["stability_key"]),
            "KOSMO_STABILITY__DEFAULT__BASE_URL": f"http://127.0.0.1:{stand_in}/stability",
        }
        subprocess.run([sys.executable, "-m", "prefect_kosmokrator.tasks.limits"], check=True)
        print(f"\nOne turn on an idle limit: {turn_milliseconds():.0f} ms (median)\n")
        load(folder, processes, requests // processes, control)
        limited = figures(f"{processes} processes, with limits", control)
        control.post("/reset")
        control.post("/accounts", json={"name": "default", "credits": 1e6})
        os.environ["KOSMO_LIMITS"] = "off"
        load(folder, processes, 10**6, control, UNLIMITED_SECONDS)
        figures(f"the same without, for {UNLIMITED_SECONDS:.0f} s", control)
    size = secrets.look_through(folder)
    print(f"\n{size / 2**20:.0f} MiB and the list of processes searched for the key: {len(secrets.found)} found.")
    print(*sorted(secrets.found), sep="\n")
    return 1 if limited or secrets.found else 0


def turn_milliseconds() -> float:
    """What a request waits when nothing else is going on."""
    from prefect_kosmokrator.integrations import governor  # noqa: PLC0415 - after the settings
    from prefect_kosmokrator.integrations.stability_api import RATE_LIMIT  # noqa: PLC0415
    from prefect_kosmokrator.tasks import policy  # noqa: F401, PLC0415

    taken: list[float] = []
    for _ in range(15):
        started = time.perf_counter()
        governor.wait_for_turn(governor.Turn("stability", "default", RATE_LIMIT, time.monotonic() + 60))
        taken.append(time.perf_counter() - started)
        time.sleep(0.1)
    return statistics.median(taken) * 1000


def load(folder: Path, processes: int, count: int, control: httpx.Client, seconds: float | None = None) -> None:
    """Runs the processes to their end, or ends them `seconds` after the first request."""
    command = [sys.executable, __file__, "--work", str(count)]
    started: list[subprocess.Popen[bytes]] = []
    for number in range(processes):
        with (folder / f"worker-{number}.log").open("wb") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
    if seconds is not None:
        while not control.get("/ledger").json()["entries"]:
            time.sleep(0.5)
        time.sleep(seconds)
    for number, process in enumerate(started):
        if seconds is not None:
            process.kill()
        elif process.wait():
            raise SystemExit((folder / f"worker-{number}.log").read_text(errors="replace")[-3000:])
        process.wait()


def figures(name: str, control: httpx.Client) -> int:
    """Prints what the service saw, and returns how many requests it refused."""
    entries: list[dict[str, Any]] = [
        entry for entry in control.get("/ledger").json()["entries"] if entry["provider"] == "stability"
    ]
    times = sorted(entry["time"] for entry in entries)
    refused = sum(entry["status"] == 429 for entry in entries)
    lost = sum(entry["status"] not in {200, 429, None} for entry in entries)
    most = max((bisect.bisect_left(times, moment + WINDOW) - index for index, moment in enumerate(times)), default=0)
    lasted = times[-1] - times[0] if times else 0.0
    print(
        f"{name:<32} {len(times):>6} requests in {lasted:>6.1f} s ({len(times) / max(lasted, 0.1):.1f} a second), "
        f"{refused} refused by the rate limit, {lost} otherwise, at most {most} in {WINDOW:.0f} s (allowed {ALLOWED})"
    )
    return refused + lost


@contextmanager
def running(command: list[str], log: Path, ready: str) -> Generator[None]:
    """Runs a server until the block ends."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            deadline = time.monotonic() + 180
            while not answers(ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(log.read_text(errors="replace")[-3000:])
                time.sleep(0.3)
            yield
        finally:
            process.terminate()
            process.wait(30)


def answers(url: str) -> bool:
    """Whether somebody answers there."""
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    sys.exit(main())
