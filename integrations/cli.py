"""The `kosmo` command. It never imports Prefect, so that it starts fast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

app = App(
    name="kosmo",
    help="Stability AI and fal.ai as Prefect tasks: local stand-in, demo and gallery.",
    version_flags=["--version"],
)


@app.command
def emulator(
    *,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on; 0 picks a free one.")] = 8787,
    account: Annotated[list[str] | None, Parameter(help="Names of the accounts whose settings are printed.")] = None,
) -> None:
    """Run a local stand-in for Stability AI and fal.ai until Ctrl-C.

    Prints the settings that make the pack use it; its index page shows what was generated and what it would have cost.
    """
    from prefect_kosmokrator.integrations.emulator import Emulator  # noqa: PLC0415 - only this command needs a server

    with Emulator(host=host, port=port) as running:
        console = Console(highlight=False, soft_wrap=True)
        for name in account or ["default"]:
            for variable, value in running.environment(name).items():
                console.print(f"export {variable}={value}", markup=False)
        console.print(f"# Index page: {running.url}/  Ctrl-C ends.", markup=False)
        _until_interrupted()


@app.command
def gallery(
    folder: Annotated[Path | None, Parameter(help="The folder; by default the one that KOSMO_OUTPUT names.")] = None,
    *,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on; 0 picks a free one.")] = 8788,
) -> None:
    """Serve a local output folder until Ctrl-C, so that the Prefect UI can show the pictures in it.

    Set KOSMO_GALLERY_URL to the printed address wherever flows run.
    """
    from prefect_kosmokrator.integrations.gallery import Gallery  # noqa: PLC0415 - only this command needs a server
    from prefect_kosmokrator.integrations.output import default_output, file_path  # noqa: PLC0415

    console = Console(highlight=False, soft_wrap=True)
    root = default_output()
    if folder is None and not root.startswith("file://"):
        Console(stderr=True).print(f"KOSMO_OUTPUT is {root}: there is no local folder to serve.", markup=False)
        sys.exit(1)
    with Gallery(folder or file_path(root), host=host, port=port) as running:
        console.print(f"export KOSMO_GALLERY_URL={running.url}", markup=False)
        console.print(f"# Serving {running.folder}. Ctrl-C ends.", markup=False)
        _until_interrupted()


@app.command
def demo(*, keep: Annotated[bool, Parameter(help="Leave the Prefect UI running until Ctrl-C.")] = False) -> None:
    """Run the main flow for real against the local stand-in and a local Prefect server, and show what it made."""
    command = [sys.executable, "-m", "prefect_kosmokrator.deployments.demo", *(["--keep"] if keep else [])]
    sys.exit(subprocess.run(command, check=False).returncode)  # noqa: S603 - our own module


def _until_interrupted() -> None:
    from prefect_kosmokrator.integrations.serving import wait_for_signal  # noqa: PLC0415

    wait_for_signal()


def main() -> None:
    """Entry point of the `kosmo` command."""
    app()
