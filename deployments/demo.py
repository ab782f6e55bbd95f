"""The demo: the main flow, run for real through a local Prefect server against the local stand-in of both services."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

import httpx
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from prefect_kosmokrator.integrations.emulator import Emulator
from prefect_kosmokrator.integrations.gallery import Gallery
from prefect_kosmokrator.integrations.serving import wait_for_signal

if TYPE_CHECKING:
    from prefect_kosmokrator.flows.generate_image import Model
    from prefect_kosmokrator.integrations.media import Media

PROMPTS: dict[Model, str] = {
    "stability/core": "product photo of a matte black desk lamp, soft morning light",
    "fal-ai/flux/schnell": "a lighthouse on a cliff at dusk, cinematic, long exposure",
}
VARIANTS = 2
SERVER_SECONDS = 180.0
"""A small machine takes half a minute to start the server for the first time."""

console = Console(highlight=False)


def main() -> int:
    """Runs the demo and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the UI running until Ctrl-C")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder for the files")
    options = parser.parse_args()
    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with (
        tempfile.TemporaryDirectory(prefix="kosmo-demo-") as home,
        Gallery(options.output) as gallery,
        Progress(*columns, console=console) as progress,
    ):
        step = progress.add_task("Stand-in for Stability AI and fal.ai", total=1)
        with Emulator() as emulator:
            progress.advance(step)
            os.environ.update(emulator.environment())
            os.environ |= {"KOSMO_OUTPUT": gallery.folder.as_uri(), "KOSMO_GALLERY_URL": gallery.url}
            step = progress.add_task("Prefect server (SQLite)", total=1)
            with _prefect_server(Path(home)) as ui:
                progress.advance(step)
                made = [media for model in PROMPTS for media in _run(model, gallery.folder, progress)]
                progress.stop()
                _show(made, gallery.folder)
                if options.keep:
                    console.print(f"\nPrefect UI  {ui}\nGallery     {gallery.url}\nEmulator    {emulator.url}")
                    console.print("Ctrl-C ends all three.")
                    wait_for_signal()
                else:
                    console.print(f"\nThe runs were shown at {ui}, which ends now: [bold]make demo KEEP=1[/] keeps it.")
    return 0


@contextmanager
def _prefect_server(home: Path) -> Generator[str]:
    """A Prefect server of its own on a free port, with its database in `home`; yields the address of its UI."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    # Before Prefect is imported: it reads its settings then.
    os.environ |= {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_UI_API_URL": f"{url}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # The run log in the UI stays complete; only this terminal is kept for the progress display.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
    }
    log = home / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)  # noqa: S603 - our own interpreter
    try:
        _wait_until_healthy(server, url, log)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_until_healthy(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{url}/api/health", timeout=5).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.3)
    sys.exit(f"The Prefect server did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _run(model: Model, folder: Path, progress: Progress) -> list[Media]:
    """Runs the main flow with one model, counting the files as they are stored."""
    from prefect_kosmokrator.flows.generate_and_upscale import generate_and_upscale  # noqa: PLC0415 - after the settings

    step = progress.add_task(f"generate_and_upscale with {model}", total=2 * VARIANTS)
    before, done = _count(folder), Event()

    def watch() -> None:
        while not done.wait(0.2):
            progress.update(step, completed=min(_count(folder) - before, 2 * VARIANTS))

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        made = generate_and_upscale(PROMPTS[model], model=model, variants=VARIANTS, seed=7)
    finally:
        done.set()
        watcher.join()
    progress.update(step, completed=2 * VARIANTS)
    return made


def _count(folder: Path) -> int:
    """Files stored so far; each has one description beside it, written last."""
    return sum(1 for _ in folder.rglob("*.json"))


def _show(made: list[Media], folder: Path) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading, justify in (
        ("File", "left"), ("Pixels", "right"), ("Seed", "right"), ("Cost", "right"), ("SHA-256", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    for run, files in groupby(made, lambda media: Path(str(media.uri)).parent.name):
        table.add_row(f"[dim]{run}/[/]")
        for media in files:
            digest, pixels = media.sha256[:12], f"{media.width}x{media.height}"
            step = Path(str(media.uri)).name.replace(f"-{digest}", "")
            table.add_row(step, pixels, str(media.seed), str(media.cost), digest)
        table.add_section()
    console.print(table)
    console.print(f"Files are in {folder}, named <step>-<SHA-256>.<type>", soft_wrap=True, markup=False)


if __name__ == "__main__":
    sys.exit(main())
