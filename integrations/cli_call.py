"""`kosmo integrations:call` and `kosmo integrations:<provider>`: one call of one function.

The envelope has the keys `function`, `success`, `data`, `error`, `meta` (`dry_run`, `operation`,
`permission_bypassed`, `account`), `duration_ms`, then `error_kind`, `retryable`, `status`, `request_id` and
`error_details`. Failures before the call, of the command line too, have the same shape. `data` of a dry run holds the
arguments as they were understood.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from prefect_kosmokrator.integrations import arguments
from prefect_kosmokrator.integrations.catalog import Function, Provider
from prefect_kosmokrator.integrations.cli_catalog import check_account, docs_page, resolve
from prefect_kosmokrator.integrations.cli_media import Files, described, media_of, output_url, quiet_retries
from prefect_kosmokrator.integrations.cli_output import (
    NO_FAILURE,
    STATUS,
    SUCCESS,
    InterruptedByUser,
    UsageError,
    complain,
    exit_code,
    failure,
    note,
    to_json,
    write,
    write_json,
)
from prefect_kosmokrator.integrations.errors import InvalidInput, KosmoError
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.parameters import open_file
from prefect_kosmokrator.integrations.permissions import Permissions
from prefect_kosmokrator.integrations.providers import find_function
from prefect_kosmokrator.integrations.run import listening

OPTIONS = ("account", "arg", "output", "dry_run", "force", "json")
"""Names of the options below, for the hint at a misspelt one."""


@Parameter(name="*")
@dataclass(frozen=True)
class CallOptions:
    """The options of both commands."""

    account: Annotated[str | None, Parameter(help="Name of the account that is used and billed.")] = None
    output: Annotated[str | None, Parameter(help="Store generated files in this folder or s3:// address.")] = None
    dry_run: Annotated[bool, Parameter(help="Check arguments, account and permission; send nothing.")] = False
    force: Annotated[bool, Parameter(help="Take `ask` permissions as yes; `deny` stays no.")] = False
    as_json: Annotated[bool, Parameter(name="--json", help="Print one JSON document, also for every failure.")] = False


Words = Annotated[
    str,
    Parameter(
        name="ARGUMENTS",
        allow_leading_hyphen=True,
        help="Its arguments: --name VALUE, --arg name=VALUE, one JSON object, or - for JSON on stdin.",
    ),
]


def call(
    function: Annotated[str, Parameter(help="The function, such as stability.generate_core.")],
    /,
    *words: Words,
    options: CallOptions | None = None,
) -> int:
    """Call one function.

    kosmo integrations:call FUNCTION --help tells its parameters.
    """
    return _command(function, list(words), options or CallOptions())


def provider_command(provider: Provider) -> Callable[..., int]:
    """The command `integrations:<provider>`."""

    def command(
        function: Annotated[str | None, Parameter(help="The function; without it, the provider's guide.")] = None,
        /,
        *words: Words,
        options: CallOptions | None = None,
    ) -> int:
        options = options or CallOptions()
        if function is None:
            return docs_page(provider.name, as_json=options.as_json)
        return _command(function, list(words), options, provider.name)

    command.__doc__ = f"Call one function of {provider.title}."
    return command


@dataclass
class _Progress:
    """What is known of a call so far."""

    name: str
    dry_run: bool
    operation: str | None = None
    account: str | None = None
    bypassed: bool = False
    started: float = field(default_factory=time.perf_counter)


def envelope(
    function: str | None,
    *,
    success: bool,
    data: Any = None,
    error: KosmoError | None = None,
    known: _Progress | None = None,
) -> dict[str, Any]:
    """What `--json` prints, for every outcome; the module tells the keys."""
    return {
        "function": function,
        "success": success,
        "data": data,
        "error": str(error) if error else None,
        "meta": {
            "dry_run": bool(known and known.dry_run),
            "operation": known.operation if known else None,
            "permission_bypassed": bool(known and known.bypassed),
            "account": known.account if known else None,
        },
        "duration_ms": round((time.perf_counter() - known.started) * 1000, 1) if known else 0.0,
        **(failure(error) if error else NO_FAILURE),
    }


def _command(name: str, words: list[str], options: CallOptions, provider: str | None = None) -> int:
    known = _Progress(name if provider is None or "." in name else f"{provider}.{name}", options.dry_run)
    files = Files(as_json=options.as_json)
    quiet_retries()
    try:
        return _show(_call(known, words, options, provider), known, files, as_json=options.as_json)
    except KosmoError as error:
        return _report(error, known, files, as_json=options.as_json)
    except KeyboardInterrupt:
        return _report(InterruptedByUser(), known, files, as_json=options.as_json)


def _show(result: Any, known: _Progress, files: Files, *, as_json: bool) -> int:
    shown = files.shown(result)
    if as_json:
        write_json(envelope(known.name, success=True, data=shown, known=known))
    elif isinstance(result, Media):
        write(described(shown))
    else:
        if known.dry_run:
            note("Nothing was sent. The call would be made with these arguments:")
        write(shown if isinstance(shown, str) else to_json(shown))
    files.keep([])
    return SUCCESS


def _report(error: KosmoError, known: _Progress, files: Files, *, as_json: bool) -> int:
    if isinstance(error, InvalidInput) and known.operation and error.provider is None:
        error.provider, _, error.function = known.name.partition(".")
    kept = files.keep(media_of(error))
    if as_json:
        document = envelope(known.name, success=False, error=error, known=known)
        document["error_details"] |= {"kept": kept} if kept else {}
        write_json(document)
    else:
        complain(str(error), _hint(error, known))
    return exit_code(error)


def _call(known: _Progress, words: list[str], options: CallOptions, provider: str | None) -> Any:
    """The result of the call, or the checked arguments of a dry run."""
    function, account = resolve(known.name, provider)
    known.name, known.operation = f"{function.provider.name}.{function.name}", function.operation
    known.account = options.account or account or "default"
    given = arguments.parse(function, words, options=OPTIONS)
    if options.account or account:
        given["account"] = options.account or account
    known.account = str(given.get("account") or "default")
    _set_output(function, given, options.output)
    _check(function, given)
    if options.dry_run:
        check_account(function.provider, known.account)
    known.bypassed = Permissions(force=options.force).require(function.provider.name, function.operation)
    if options.dry_run:
        return {"arguments": given}
    with STATUS.during(known.name), listening(STATUS.progress):
        return function.call(**given)


def _set_output(function: Function, given: dict[str, Any], output: str | None) -> None:
    value = output if output is not None else given.get("output")
    if isinstance(value, str):
        if all(parameter.name != "output" for parameter in function.parameters):
            raise InvalidInput(
                "output: this function makes no file.",
                parameter="output",
                provider=function.provider.name,
                function=function.name,
            )
        given["output"] = output_url(value)


def _check(function: Function, given: dict[str, Any]) -> None:
    """Refuses what can be refused without asking the service; files that do not exist, for one."""
    function.check(**given)
    for parameter in function.parameters:
        value = given.get(parameter.name)
        if parameter.type == "file" and isinstance(value, str) and "://" not in value:
            try:
                open_file(parameter.name, value, Path())
            except InvalidInput as error:
                error.provider, error.function = function.provider.name, function.name
                raise


def _hint(error: KosmoError, known: _Progress) -> str:
    job: Any = getattr(error, "job", None)
    function = find_function(known.name)
    if job is not None and function is not None:  # the call that waits takes what tells the job
        names = [parameter.name for parameter in function.parameters if job.get(parameter.name)]
        flags = [
            f"--{name.replace('_', '-')} {job[name]}" for name in names if name in {"model_id", "request_id", "id"}
        ]
        return f"Go on with: kosmo integrations:{function.provider.name} {function.name} {' '.join(flags)}"
    if isinstance(error, InvalidInput | UsageError) and known.operation:
        return f"Its parameters: kosmo integrations:docs {known.name}"
    return ""
