"""`kosmo integrations:lua` and `kosmo mcp:lua`: run a Lua script and print what it printed, or one JSON envelope.

The envelope has the keys `success`, `output`, `error`, `result` (the list of returned values; null after a failure),
`execution_time_ms`, `memory_usage` (bytes; null after a failure), `integration_calls`, `meta` (`permission_bypassed`:
whether --force was what permitted a call; `layers`: what confined the script), then `error_kind` (`LuaError.kind`, or
`usage`), `line`, `retryable`, `status`, `request_id` and `error_details` (of the call that ended the script).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from prefect_kosmokrator.integrations.cli_host import ScriptHost
from prefect_kosmokrator.integrations.cli_output import (
    NO_FAILURE,
    STATUS,
    SUCCESS,
    InterruptedByUser,
    UsageError,
    complain,
    exit_code,
    failure,
    loose,
    note,
    to_json,
    write,
    write_json,
)
from prefect_kosmokrator.integrations.errors import InvalidInput, KosmoError
from prefect_kosmokrator.integrations.lua import Limits, LuaError, ScriptResult, run
from prefect_kosmokrator.integrations.run import listening

STDIN = "/dev/stdin"
"""What `-` stands for: the parser would take a lone hyphen for an option."""

_DEFAULTS = Limits()


@Parameter(name="*")
@dataclass(frozen=True)
class ScriptOptions:
    """The options of both commands."""

    code: Annotated[
        str | None, Parameter(name=["--eval", "-e"], allow_leading_hyphen=True, help="Run this code instead of a file.")
    ] = None
    as_json: Annotated[bool, Parameter(name="--json", help="Print one JSON document, also for every failure.")] = False
    force: Annotated[bool, Parameter(name="--force", help="Take `ask` permissions as yes; `deny` stays no.")] = False
    inputs: Annotated[
        tuple[str, ...],
        Parameter(name="--input", help="KEY=VALUE for the script's table `inputs`; repeatable. JSON, or else text."),
    ] = ()
    output: Annotated[
        str | None, Parameter(name="--output", help="Store generated files in this folder or s3:// address.")
    ] = None
    memory_limit: Annotated[int, Parameter(help="Bytes of Lua memory.", show_default=True)] = _DEFAULTS.memory_bytes
    cpu_limit: Annotated[float, Parameter(help="Seconds of computing; waiting is free.", show_default=True)] = (
        _DEFAULTS.cpu_seconds
    )
    wall_limit: Annotated[float | None, Parameter(help="Seconds in all; none by default.")] = None
    output_limit: Annotated[int, Parameter(help="Bytes of printed text.", show_default=True)] = _DEFAULTS.output_bytes
    call_limit: Annotated[int, Parameter(help="Calls of functions.", show_default=True)] = _DEFAULTS.host_calls
    strict: Annotated[
        bool, Parameter(name="--strict", help="Refuse to start unless the kernel confines the script.")
    ] = False
    repl: Annotated[bool, Parameter(name="--repl", help="Read lines and run each as a script of its own.")] = False


def integrations_lua(
    file: Annotated[str | None, Parameter(help="A Lua file; - or nothing reads stdin.")] = None,
    /,
    *,
    options: ScriptOptions | None = None,
) -> int:
    """Run a Lua script.

    It sees app.integrations.*, docs, json, regex, inputs and sleep, and nothing of the machine: files and network are
    reached through the functions of app only. Code comes from --eval, else the file, else stdin.
    """
    return _command(file, options or ScriptOptions(), "integrations")


def mcp_lua(
    file: Annotated[str | None, Parameter(help="A Lua file; - or nothing reads stdin.")] = None,
    /,
    *,
    options: ScriptOptions | None = None,
) -> int:
    """Run a Lua script that needs MCP servers only.

    Servers come from the files that other tools use; those of a project run once they are trusted (mcp:trust).
    """
    return _command(file, options or ScriptOptions(), "mcp")


def _command(file: str | None, options: ScriptOptions, reach: str) -> int:
    started = time.perf_counter()
    host = ScriptHost(options.force, reach)
    printed: list[str] = []
    try:
        if options.repl:
            return _repl(host, options)
        source, name = _source(file, options)
        host.store = _store(options)
        with listening(STATUS.progress):
            result = run(
                source,
                host,
                name=name,
                inputs=_inputs(options),
                limits=_limits(options),
                on_output=printed.append if options.as_json else write,
                strict=options.strict,
            )
        return _report(result, host, started, as_json=options.as_json)
    except KosmoError as error:
        return _fail(error, host, started, printed, as_json=options.as_json)
    except KeyboardInterrupt:
        return _fail(InterruptedByUser(), host, started, printed, as_json=options.as_json)
    finally:
        host.close()


def _fail(error: KosmoError, host: ScriptHost, started: float, printed: list[str], *, as_json: bool) -> int:
    kept = host.keep_files(error, as_json=False)
    if as_json:
        document = _failed(error, host, started, "\n".join(printed))
        document["error_details"] |= {"kept": kept} if kept else {}
        write_json(document)
    else:
        complain(str(error), _hint(error))
    return exit_code(error)


def _report(result: ScriptResult, host: ScriptHost, started: float, *, as_json: bool) -> int:
    shown = host.shown(result.result, as_json=as_json)
    if as_json:
        write_json(
            envelope(
                success=True,
                output=result.output,
                result=shown,
                started=started,
                memory=result.memory_bytes,
                calls=host.described(result.calls),
                meta={"permission_bypassed": host.forced, "layers": list(result.layers)},
            )
        )
    elif shown:
        write(to_json(shown))
    host.keep_files(as_json=as_json)
    return SUCCESS


def _failed(error: KosmoError, host: ScriptHost, started: float, output: str) -> dict[str, Any]:
    records = error.calls if isinstance(error, LuaError) else ()
    return envelope(
        success=False,
        output=error.output if isinstance(error, LuaError) and error.output else output,
        error=error,
        started=started,
        calls=host.described(records),
        meta={"permission_bypassed": host.forced, "layers": []},
    )


def envelope(
    *,
    success: bool,
    output: str = "",
    error: KosmoError | None = None,
    result: Any = None,
    started: float | None = None,
    memory: int | None = None,
    calls: list[dict[str, Any]] | None = None,
    meta: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What `--json` prints, for every outcome; the module tells the keys."""
    outcome = failure(error) if error else dict(NO_FAILURE)
    cause = error.__cause__ if error else None
    if isinstance(cause, KosmoError):
        outcome["error_details"] = {"kind": cause.kind, **failure(cause)["error_details"]}
    return {
        "success": success,
        "output": output,
        "error": str(error) if error else None,
        "result": result,
        "execution_time_ms": round((time.perf_counter() - started) * 1000, 1) if started else 0.0,
        "memory_usage": memory,
        "integration_calls": calls or [],
        "meta": meta or {"permission_bypassed": False, "layers": []},
        "error_kind": outcome.pop("error_kind"),
        "line": getattr(error, "line", None),
        **outcome,
    }


def _source(file: str | None, options: ScriptOptions) -> tuple[str | bytes, str]:
    """The script and what to call it: `--eval`, then the file, then stdin."""
    if options.code:
        return options.code, "eval"
    enough = max(options.memory_limit, 0) + 1  # a longer one is refused as too large, whatever follows
    if file is not None and file != STDIN:
        try:
            with Path(file).open("rb") as stream:
                return stream.read(enough), Path(file).name
        except FileNotFoundError:
            raise InvalidInput(f"Lua file not found: {file}") from None
        except (OSError, ValueError) as error:
            raise InvalidInput(f"The Lua file {file} cannot be read: {getattr(error, 'strerror', error)}.") from None
    if sys.stdin is not None and not sys.stdin.isatty():  # pyright: ignore[reportUnnecessaryComparison] - no console
        source = sys.stdin.buffer.read(enough)
        if source.strip():
            return source, "stdin"
    raise UsageError("Provide a Lua file, --eval code, or pipe Lua code on stdin.")


def _inputs(options: ScriptOptions) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for word in options.inputs:
        key, equals, text = word.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--input {word!r}: must be KEY=VALUE.")
        given[key.strip()] = loose(text)
    return given


def _limits(options: ScriptOptions) -> Limits:
    try:
        return Limits(
            cpu_seconds=options.cpu_limit,
            memory_bytes=options.memory_limit,
            output_bytes=options.output_limit,
            host_calls=options.call_limit,
            wall_seconds=options.wall_limit,
        )
    except ValueError as error:
        raise UsageError(f"{error}.") from None


def _store(options: ScriptOptions) -> str | None:
    if options.output is None:
        return None
    from prefect_kosmokrator.integrations.cli_media import output_url  # noqa: PLC0415 - most scripts make no files
    from prefect_kosmokrator.integrations.output import resolve  # noqa: PLC0415

    store = output_url(options.output)
    resolve(store)  # refuses a wrong one before anything is paid
    return store


def _repl(host: ScriptHost, options: ScriptOptions) -> int:
    """Runs line after line. A line keeps nothing for the next one: repeating the earlier ones would pay them again."""
    if options.as_json:
        raise UsageError("--repl prints no JSON; use --eval.")
    limits, inputs = _limits(options), _inputs(options)
    host.store = _store(options)
    person = sys.stdin.isatty()
    if person:
        with suppress(ImportError):  # line editing and history, where Python has them
            import_module("readline")
        note("Each line is a script of its own. :quit or Ctrl-D ends.")
    while True:
        try:
            line = input("lua> " if person else "")
        except EOFError:
            return SUCCESS
        except KeyboardInterrupt:
            note("")
            continue
        if line.strip() == ":quit":
            return SUCCESS
        if line.strip():
            _run_line(line, host, lambda code: _run_here(code, host, inputs, limits, options))


def _run_here(
    code: str, host: ScriptHost, inputs: dict[str, Any], limits: Limits, options: ScriptOptions
) -> ScriptResult:
    host.noted.clear()
    with listening(STATUS.progress):
        return run(code, host, name="line", inputs=inputs, limits=limits, on_output=write, strict=options.strict)


def _run_line(line: str, host: ScriptHost, runner: Callable[[str], ScriptResult]) -> None:
    try:
        try:
            result = runner(f"return {line}")
        except LuaError as error:
            if error.kind != "syntax":  # a script with a syntax error has not begun, so this repeats nothing
                raise
            result = runner(line)
        if result.result:
            write(to_json(host.shown(result.result, as_json=False)))
        host.keep_files(as_json=False)
    except KosmoError as error:
        complain(str(error), _hint(error))
    except KeyboardInterrupt:
        complain(str(InterruptedByUser()))


def _hint(error: KosmoError) -> str:
    if error.kind == "usage":
        return "Try: kosmo integrations:lua --help"
    return ""
