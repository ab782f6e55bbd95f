"""The `kosmo` command. It never imports Prefect, and what a command does not need is not imported either."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter, validators

from prefect_kosmokrator.integrations import cli_jobs, cli_lua, cli_mcp
from prefect_kosmokrator.integrations.cli_output import (
    FAILURE,
    InterruptedByUser,
    UnexpectedError,
    UsageError,
    complain,
    exit_code,
    failure,
    warnings_as_notes,
    write,
    write_json,
)
from prefect_kosmokrator.integrations.errors import ConfigurationError, KosmoError


def _version() -> str:
    from importlib.metadata import version  # noqa: PLC0415 - 20 ms that nothing else needs

    return version("prefect-kosmokrator")


SCRIPTS = Group("Run scripts", sort_key=1)
CALLS = Group("Call functions", sort_key=2)
CATALOGUE = Group("Look things up", sort_key=3)
LOCAL = Group("Without a key", sort_key=4)
OPERATION = Group("Beside Prefect", sort_key=5)

app = App(
    name="kosmo",
    help="Stability AI and fal.ai: Lua scripts, single calls, a local stand-in.",
    help_epilogue="Every integrations: and mcp: command takes --json. Accounts come from the environment: "
    "STABILITY_API_KEY, FAL_KEY, or KOSMO_FAL__WORK__API_KEY for an account called work.",
    version=_version,
    version_flags=["--version"],
    default_parameter=Parameter(negative=(), show_default=False),
)
app["--help"].group = app["--version"].group = Group("Options", sort_key=6)
app.command(cli_lua.integrations_lua, name="integrations:lua", group=SCRIPTS, help_epilogue="")
app.command(cli_lua.mcp_lua, name="mcp:lua", group=SCRIPTS, help_epilogue="")
cli_mcp.register(app)
app.command(cli_jobs.jobs)
app.command(cli_jobs.costs, group=cli_jobs.PAID, help_epilogue="")


@app.command(group=LOCAL, help_epilogue="")
def emulator(
    *,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on; 0 picks a free one.")] = 8787,
    account: Annotated[list[str] | None, Parameter(help="Names of the accounts whose settings are printed.")] = None,
) -> None:
    """Run a local stand-in for both services.

    It runs until Ctrl-C. Prints the settings that make the pack use it; its index page shows what was generated and
    what it would have cost.
    """
    from prefect_kosmokrator.integrations.emulator import Emulator  # noqa: PLC0415 - only this command needs a server

    with Emulator(host=host, port=port) as running:
        for name in account or ["default"]:
            for variable, value in running.environment(name).items():
                write(f"export {variable}={value}")
        write(f"# Index page: {running.url}/  Ctrl-C ends.")
        _until_interrupted()


@app.command(group=LOCAL, help_epilogue="")
def gallery(
    folder: Annotated[Path | None, Parameter(help="The folder; by default the one that KOSMO_OUTPUT names.")] = None,
    *,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on; 0 picks a free one.")] = 8788,
) -> None:
    """Serve an output folder for the Prefect UI.

    A web page cannot show local files by itself. Set KOSMO_GALLERY_URL to the printed address wherever flows run.
    """
    from prefect_kosmokrator.integrations.gallery import Gallery  # noqa: PLC0415 - only this command needs a server
    from prefect_kosmokrator.integrations.output import default_output, file_path  # noqa: PLC0415

    root = default_output()
    if folder is None and not root.startswith("file://"):
        raise ConfigurationError(f"KOSMO_OUTPUT is {root}: there is no local folder to serve.")
    with Gallery(folder or file_path(root), host=host, port=port) as running:
        write(f"export KOSMO_GALLERY_URL={running.url}")
        write(f"# Serving {running.folder}. Ctrl-C ends.")
        _until_interrupted()


@app.command(group=LOCAL, help_epilogue="")
def demo(*, keep: Annotated[bool, Parameter(help="Leave the Prefect UI running until Ctrl-C.")] = False) -> int:
    """Run the main flow for real on this machine.

    It runs against the stand-in and a local Prefect server, and shows what it made.
    """
    command = [sys.executable, "-m", "prefect_kosmokrator.deployments.demo", *(["--keep"] if keep else [])]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - our own module


@app.command(group=OPERATION, help_epilogue="")
def webhooks(
    *,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on; 0 picks a free one.")] = 8789,
    poll: Annotated[
        float,
        Parameter(
            help="Seconds between two looks at the requests of suspended runs.", validator=validators.Number(gt=0)
        ),
    ] = 60.0,
) -> None:
    """Resume flow runs when fal calls back.

    It runs until Ctrl-C, with the settings of a worker: PREFECT_API_URL and the accounts. Give the flow fal_request the
    public address of this receiver as webhook_url. It verifies what it is sent, and looks at fal itself for webhooks
    that never came.
    """
    command = [sys.executable, "-m", "prefect_kosmokrator.deployments.webhooks"]
    command += ["--host", host, "--port", str(port), "--poll", str(poll)]
    os.execv(sys.executable, command)  # noqa: S606 - our own module; it must be what SIGTERM ends


@app.command(group=OPERATION, help_epilogue="")
def limits(
    *,
    reset: Annotated[bool, Parameter(help="Undo what was changed on limits that exist.")] = False,
    as_json: Annotated[bool, Parameter(name="--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Limit how often each account is asked, for all Prefect runs together.

    Makes a global concurrency limit for every account that is set up. Run it again after adding an account.
    """
    command = [sys.executable, "-m", "prefect_kosmokrator.tasks.limits"]
    command += [*(["--reset"] if reset else []), *(["--json"] if as_json else [])]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - our own module


def _until_interrupted() -> None:
    from prefect_kosmokrator.integrations.serving import wait_for_signal  # noqa: PLC0415

    wait_for_signal()


LIGHT = frozenset(
    {"integrations:lua", "jobs", "costs", "limits", "webhooks", "emulator", "gallery", "demo", "--version"}
    | {f"mcp:{name}" for name in ("lua", "list", "status", "trust", "untrust", "tools", "schema", "call")}
)
"""Commands that do not need the catalogue of functions, which takes half a second to load."""


def _add_catalogue() -> None:
    """Adds the commands that show or call functions, among them one for each provider."""
    from prefect_kosmokrator.integrations import cli_call, cli_catalog  # noqa: PLC0415 - see LIGHT
    from prefect_kosmokrator.integrations.providers import PROVIDERS  # noqa: PLC0415

    if "integrations:call" in app:
        return
    app.command(cli_call.call, name="integrations:call", group=CALLS, help_epilogue="")
    for provider in PROVIDERS.values():
        app.command(
            cli_call.provider_command(provider), name=f"integrations:{provider.name}", group=CALLS, help_epilogue=""
        )
    commands: dict[str, Callable[..., int]] = {
        "list": cli_catalog.list_functions,
        "search": cli_catalog.search,
        "docs": cli_catalog.show_docs,
        "examples": cli_catalog.examples,
        "schema": cli_catalog.schema,
        "status": cli_catalog.status,
        "fields": cli_catalog.fields,
        "doctor": cli_catalog.doctor,
    }
    for name, command in commands.items():
        app.command(command, name=f"integrations:{name}", group=CATALOGUE, help_epilogue="")


def main(words: Sequence[str] | None = None) -> int:
    """Entry point of the `kosmo` command; returns its exit code."""
    words = list(sys.argv[1:] if words is None else words)
    name = words[0] if words else ""
    as_json = any(word == "--json" or word.startswith("--json=") for word in words)
    try:
        if name not in LIGHT:
            _add_catalogue()
        command, bound, *_ = app.parse_args(_rewritten(words), print_error=False, exit_on_error=False)
        with warnings_as_notes():
            return int(command(*bound.args, **bound.kwargs) or 0)
    except CycloptsError as error:
        return _failed(name, UsageError(_sentence(str(error))), as_json=as_json)
    except KosmoError as error:
        return _failed(name, error, as_json=as_json)
    except KeyboardInterrupt:
        return _failed(name, InterruptedByUser(), as_json=as_json)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except Exception as error:  # noqa: BLE001 - also a mistake of ours is one JSON document
        traceback.print_exc()
        return _failed(name, UnexpectedError(f"Unexpected {type(error).__name__}: {error}"), as_json=as_json)


def _rewritten(words: list[str]) -> list[str]:
    """Words as the parser understands them.

    `integrations:fal list_models --help` asks for the function's page rather than for the command's.
    """
    if words and words[0] in {"integrations:lua", "mcp:lua"}:
        return [cli_lua.STDIN if word == "-" else word for word in words]
    if len(words) == 3 and words[2] in {"--help", "-h"} and not words[1].startswith("-"):
        prefix, _, provider = words[0].partition(":")
        if prefix == "integrations" and provider == "call":
            return ["integrations:docs", words[1]]
        if prefix == "integrations" and _is_provider(provider):
            return ["integrations:docs", f"{provider}.{words[1].removeprefix(f'{provider}.')}"]
    return words


def _is_provider(name: str) -> bool:
    from prefect_kosmokrator.integrations.providers import PROVIDERS  # noqa: PLC0415 - loaded by now

    return name in PROVIDERS


def _failed(name: str, error: KosmoError, *, as_json: bool) -> int:
    """Reports what a command did not report itself, in the shape of that command."""
    if not as_json:
        known = name in app
        complain(str(error), f"Try: kosmo {f'{name} ' if known else ''}--help" if error.kind == "usage" else "")
    elif name in {"integrations:lua", "mcp:lua"}:
        write_json(cli_lua.envelope(success=False, error=error))
    elif name == "integrations:call" or (name.startswith("integrations:") and _is_provider(name.partition(":")[2])):
        from prefect_kosmokrator.integrations import cli_call  # noqa: PLC0415 - loaded by now

        write_json(cli_call.envelope(None, success=False, error=error))
    else:
        document: dict[str, Any] = {"success": False, "error": str(error), **failure(error)}
        write_json(document)
    return exit_code(error)


def _sentence(text: str) -> str:
    """A message of the parser, whose lists of all commands are for --help."""
    text = " ".join(text.split()).partition(" Available commands:")[0]
    return text if text.endswith((".", "?", "!")) else f"{text}."
