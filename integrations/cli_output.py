"""What `kosmo` writes, and where: results on stdout, everything else on stderr. Nothing here is slow to import."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, TextIO, cast

from prefect_kosmokrator.integrations.errors import KosmoError

SUCCESS, FAILURE, USAGE, INTERRUPTED = 0, 1, 2, 130

PATIENCE_SECONDS = 0.4
"""A call that is answered sooner shows no status line."""


class UsageError(KosmoError):
    """The command line itself is wrong: nothing was looked up, let alone sent."""

    label: ClassVar[str] = "usage"

    @property
    def kind(self) -> str:
        """A word that no class of the integrations has."""
        return self.label


class InterruptedByUser(UsageError):
    """Ctrl-C."""

    label = "cancelled"

    def __init__(self) -> None:
        super().__init__("interrupted; a request that was already sent may still be billed")


class UnexpectedError(UsageError):
    """A mistake of ours."""

    label = "internal"


def exit_code(error: KosmoError) -> int:
    """The exit code that tells of `error`."""
    codes = {"usage": USAGE, "cancelled": INTERRUPTED}
    return codes.get(error.kind, FAILURE) if isinstance(error, UsageError) else FAILURE


class StatusLine:
    """One line on stderr that tells a person what is being waited for. Nothing unless stderr is a terminal."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._label, self._message, self._drawn = "", "", False
        self._started = 0.0

    @contextmanager
    def during(self, label: str) -> Generator[None]:
        """Shows `label` and the time it takes, once that is noticeable."""
        if not sys.stderr.isatty():
            yield
            return
        self._label, self._message, self._started = label, "", time.monotonic()
        done = threading.Event()
        drawing = threading.Thread(target=self._draw_until, args=(done,), daemon=True)
        drawing.start()
        try:
            yield
        finally:
            done.set()
            drawing.join()
            self.clear()

    def progress(self, _fraction: float, message: str) -> None:
        """What the wait is at, in words; the time is shown anyway."""
        self._message = message

    @contextmanager
    def paused(self) -> Generator[None]:
        """Keeps the line out of the way of what the block writes."""
        with self._lock:
            self.clear()
            yield

    def clear(self) -> None:
        """Removes the line."""
        with self._lock:
            if self._drawn:
                _to(sys.stderr, "\r\x1b[2K")
                self._drawn = False

    def _draw_until(self, done: threading.Event) -> None:
        wait = PATIENCE_SECONDS
        while not done.wait(wait):
            wait = 0.25
            seconds = int(time.monotonic() - self._started)
            message = f": {self._message}" if self._message else ""
            text = printable(f"{self._label}{message} ({seconds} s)").replace("\n", " ")
            with self._lock:
                _to(sys.stderr, f"\r\x1b[2K{text[: shutil.get_terminal_size().columns - 1]}")
                self._drawn = True


STATUS = StatusLine()


def write(text: str) -> None:
    """Writes a line, or several, to stdout at once."""
    with STATUS.paused():
        _to(sys.stdout, f"{text}\n")


def note(text: str) -> None:
    """Tells a person something that is no part of the result."""
    with STATUS.paused():
        _to(sys.stderr, f"{printable(text)}\n")


def complain(message: str, hint: str = "") -> None:
    """Says on stderr what went wrong, and in a second line what to do."""
    red, plain = ("\x1b[31m", "\x1b[0m") if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else ("", "")
    with STATUS.paused():
        _to(sys.stderr, f"{red}error:{plain} {printable(message)}\n{f'{printable(hint)}{chr(10)}' if hint else ''}")


def write_json(document: Any) -> None:
    """Writes one JSON document to stdout; any character that stdout cannot show is escaped, so it stays JSON."""
    text = to_json(document)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = to_json(document, only_ascii=True)
    write(text)


def to_json(value: Any, *, only_ascii: bool = False) -> str:
    """`value` as indented JSON. Bytes show as `{"base64": ...}`, NaN and infinity as null."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=only_ascii, allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(_plain(value), indent=2, ensure_ascii=only_ascii, allow_nan=False)


def loose(text: str) -> Any:
    """A value without a schema: JSON if it is some, otherwise the text itself."""
    try:
        return json.loads(text, parse_constant=no_constant)
    except (ValueError, RecursionError):
        return text


def no_constant(name: str) -> Any:
    """Refuses NaN and infinity, which Python takes for JSON."""
    raise ValueError(f"{name} is not JSON")


def printable(text: str) -> str:
    """`text` without control characters: words of a service must not steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def failure(error: KosmoError) -> dict[str, Any]:
    """What every failure says beside its text: `error_kind`, whether to repeat, and the service's own numbers.

    `error_details` holds what only some errors have: the parameter to blame, seconds to wait, the job that goes on,
    the file in which paid bytes were kept.
    """
    details: dict[str, Any] = {}
    for name in ("provider", "function", "account", "code", "retry_after", "parameter", "job", "spool", "uri"):
        value = getattr(error, name, None)
        if value is not None:
            details[name] = value if isinstance(value, str | int | float | dict) else str(value)
    return {
        "error_kind": error.kind,
        "retryable": error.retryable,
        "status": error.status,
        "request_id": error.request_id,
        "error_details": details,
    }


NO_FAILURE: dict[str, Any] = {
    "error_kind": None,
    "retryable": None,
    "status": None,
    "request_id": None,
    "error_details": None,
}
"""The same keys for a success: an envelope has one shape."""


@contextmanager
def warnings_as_notes() -> Generator[None]:
    """Sends the package's own warnings to stderr, as lines for people, inside the block."""
    logger = logging.getLogger("prefect_kosmokrator")
    handler, before = _Notes(logging.WARNING), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(f"{record.levelname.lower()}: {record.getMessage()}")


def _to(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:  # a terminal that is not UTF-8
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        from base64 import b64encode  # noqa: PLC0415 - rarely needed

        return {"base64": b64encode(value).decode("ascii")}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[Any]", value)]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
