"""From the words of a command line to the arguments of a function, by the function's own schema.

======================================== ===========================================================================
typed                                    means
======================================== ===========================================================================
`'{"prompt": "a lamp"}'`                 a payload: a JSON object of arguments, or a list in the parameters' order
`-`                                      the payload is read from stdin
`--prompt "a lamp"`, `--prompt="a lamp"` one argument, in place of the payload's; `-` in names counts as `_`
`--all-pages`                            true, for a boolean
`--arg prompt="a lamp"`                  the same as `--prompt`; also for names that are options of the command
======================================== ===========================================================================

Without any of these a payload is read from stdin if it is a pipe or file that has something to say.

Values are read by the type of the parameter: text stays as it was typed (`123`, `007`, `true`), files are paths,
numbers and booleans must be some, objects and lists are JSON. A list may also be given as single elements, by repeating
the flag. `null` leaves out any parameter that is not text. The last of several values counts.
"""

from __future__ import annotations

import json
import re
import select
import sys
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from typing import Any, cast

from prefect_kosmokrator.integrations.catalog import Function, Parameter
from prefect_kosmokrator.integrations.cli_output import UsageError, loose, no_constant
from prefect_kosmokrator.integrations.errors import InvalidInput

STDIN_SECONDS = 2.0
"""How long a command that cannot do without arguments waits for them on a silent stdin."""

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_INTEGER = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def parse(
    function: Function,
    words: Sequence[str],
    *,
    options: Collection[str] = (),
    read_stdin: Callable[[float | None], str] | None = None,
) -> dict[str, Any]:
    """The arguments that `words` give.

    Args:
        function: Whose arguments.
        words: What followed the function's name, without the options of the command.
        options: The names of those options, for the hint at a misspelt one.
        read_stdin: Reads stdin, waiting for its first word at most so many seconds (None: as long as it takes).

    Raises:
        UsageError: If a word is no argument.
        InvalidInput: If an argument does not exist or its value is not of its type; it names the parameter.
    """
    read = read_stdin or read_available
    payload, flags = _split(function, words)
    if payload is None and not words:
        needed = any(parameter.required for parameter in function.parameters)
        payload = read(STDIN_SECONDS if needed else 0.0)
    elif payload == "-":
        payload = read(None)
    given = _payload(function, payload or "")
    by_name = {parameter.name: parameter for parameter in function.parameters}
    repeated: set[str] = set()
    for key, text in flags:
        parameter = by_name.get(key)
        if parameter is None:
            raise InvalidInput(_unknown(key, [*by_name, *options]), parameter=key)
        value = _typed(parameter, text)
        if parameter.type == "array" and isinstance(value, _Element):
            value = [*(cast("list[Any]", given[key]) if key in repeated else []), value.value]
            repeated.add(key)
        given[key] = value
    return given


def read_available(seconds: float | None) -> str:
    """What stdin has to say, if it begins within `seconds`; nothing if it is a terminal."""
    if sys.stdin is None or sys.stdin.isatty():  # pyright: ignore[reportUnnecessaryComparison] - None without a console
        return ""
    if seconds is not None:
        try:
            ready, _, _ = select.select([sys.stdin], [], [], seconds)
        except (OSError, ValueError):  # no real file
            ready = []
        if not ready:
            return ""
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError("The JSON payload on stdin is not UTF-8 text.") from None


def _split(function: Function, words: Sequence[str]) -> tuple[str | None, list[tuple[str, str | None]]]:
    """The payload, and the flags in order; a flag without a value has None."""
    booleans = {parameter.name for parameter in function.parameters if parameter.type == "boolean"}
    payload: str | None = None
    flags: list[tuple[str, str | None]] = []
    waiting = list(reversed(words))
    while waiting:
        word = waiting.pop()
        if word.startswith("--"):
            key, equals, text = word[2:].partition("=")
            key = key.strip().replace("-", "_")
            value = text if equals else None
            if value is None and waiting and _is_value(waiting[-1], boolean=key in booleans):
                value = waiting.pop()
            if key == "arg":
                name, equals, text = (value or "").partition("=")
                if not equals or not name.strip():
                    raise UsageError("--arg values must use key=value syntax.")
                key, value = name.strip().replace("-", "_"), text
            if not key:
                raise UsageError(f"{word!r} names no parameter.")
            flags.append((key, value))
        elif payload is None and (word == "-" or word.lstrip()[:1] in {"{", "[", ""}):
            payload = word
        else:
            raise UsageError(f"Unexpected {word!r}: arguments are given as --name VALUE, or all in one JSON object.")
    return payload, flags


def _is_value(word: str, *, boolean: bool) -> bool:
    return word.lower() in _TRUE | _FALSE | {"null"} if boolean else not word.startswith("--")


def _payload(function: Function, text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        decoded: object = json.loads(text, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        reason = f" ({error})" if isinstance(error, json.JSONDecodeError) else ""
        raise UsageError(f"The JSON payload must decode to an object{reason}.") from None
    if isinstance(decoded, dict):
        return cast("dict[str, Any]", decoded)
    if not isinstance(decoded, list):
        raise UsageError("The JSON payload must decode to an object.")
    values = cast("list[Any]", decoded)
    names = [parameter.name for parameter in function.parameters]
    if len(values) > len(names):
        raise InvalidInput(f"takes at most {len(names)} arguments, got {len(values)}.")
    return dict(zip(names, values, strict=False))


class _Element:
    """A value that is one element of a list."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _typed(parameter: Parameter, text: str | None) -> Any:
    """The value that `text` spells; None in place of a text is a flag without a value."""
    kind = parameter.type
    if text is None:
        if kind == "boolean":
            return True
        raise InvalidInput(f"{parameter.name}: --{_dashed(parameter.name)} needs a value.", parameter=parameter.name)
    if kind in {"string", "file"}:
        return text
    if text.strip().lower() == "null":
        return None
    if kind == "array" and not text.lstrip().startswith("["):
        items = parameter.schema.get("items")
        element = Parameter(parameter.name, required=True, default=None, description="", schema=items or {})
        return _Element(_typed(element, text))
    return _READERS.get(kind, _any)(parameter, text.strip())


def _integer(parameter: Parameter, text: str) -> int:
    if not _INTEGER.fullmatch(text) or len(text) > 30:
        raise _mistyped(parameter, text, "a whole number")
    return int(text)


def _number(parameter: Parameter, text: str) -> float:
    if _INTEGER.fullmatch(text) and len(text) <= 30:
        return int(text)
    if not _NUMBER.fullmatch(text) or float(text) in {float("inf"), float("-inf")}:
        raise _mistyped(parameter, text, "a number")
    return float(text)


def _boolean(parameter: Parameter, text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise _mistyped(parameter, text, "true or false")
    return text.lower() in _TRUE


def _object(parameter: Parameter, text: str) -> Any:
    return _json(parameter, text, dict, "a JSON object")


def _list(parameter: Parameter, text: str) -> Any:
    return _json(parameter, text, list, "a JSON list")


def _json(parameter: Parameter, text: str, kind: type, words: str) -> Any:
    try:
        decoded: object = json.loads(text, parse_constant=no_constant)
    except (ValueError, RecursionError):
        decoded = None
    if not isinstance(decoded, kind):
        raise _mistyped(parameter, text, words)
    return cast("Any", decoded)


def _any(_parameter: Parameter, text: str) -> Any:
    return loose(text)


_READERS: dict[str, Callable[[Parameter, str], Any]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "object": _object,
    "array": _list,
}


def _mistyped(parameter: Parameter, text: str, words: str) -> InvalidInput:
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    allowed = f" Allowed: {parameter.allowed}." if parameter.allowed else ""
    return InvalidInput(f"{parameter.name}: must be {words}, got {shown!r}.{allowed}", parameter=parameter.name)


def _unknown(key: str, names: list[str]) -> str:
    close = get_close_matches(key, names, n=1)
    hint = f"Did you mean --{_dashed(close[0])}?" if close else f"There are: {', '.join(names)}."
    return f"there is no parameter {key!r}. {hint}"


def _dashed(name: str) -> str:
    return name.replace("_", "-")
