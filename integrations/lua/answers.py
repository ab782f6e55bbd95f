"""The pieces of the conversation with a script that need no process: its source, answers, errors."""

from __future__ import annotations

from typing import Any

from prefect_kosmokrator.integrations.lua.values import Encoder, Handle, OversizeError, RefusedValueError, decode

MAX_MESSAGE = 4000
BOM = b"\xef\xbb\xbf"
# While a <close> variable is in scope Lua makes no tail calls: the frame of `return app.x.y{}` stays, and its line.
NO_TAIL_CALL = b"local _keeps_the_line <close> = nil; "


def prepare(source: str | bytes) -> bytes:
    """Bytes without byte order mark and with a `#!` line emptied, so that lines keep their numbers."""
    data = source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source
    data = data.removeprefix(BOM)
    if data.startswith(b"#"):
        data = data[data.index(b"\n") :] if b"\n" in data else b""
    return NO_TAIL_CALL + data


def decode_path(encoded: bytes) -> tuple[str, ...]:
    """Read the names of a path; one that is not text shows as its bytes and will be unknown to the host."""
    names: list[str | bytes] = decode(encoded, [], list)
    return tuple(name if isinstance(name, str) else repr(name) for name in names)


def encode_answer(value: Any, handles: list[Handle], max_bytes: int) -> Encoder:
    """Encode what the host answered. Raises RefusedValueError, and then no handle of the answer stays behind."""
    encoder = Encoder(handles, max_bytes)
    encoder.frame += b"V"
    before = len(handles)
    try:
        encoder.put(value)
    except BaseException:
        del handles[before:]
        raise
    return encoder


def encode_error(error: Exception, message: str, number: int) -> Encoder:
    """Encode what the host raised; the number finds the exception again if the script does not catch it."""
    return _error(
        {
            "message": message,
            "kind": _kind_of(error),
            "retryable": _attribute(error, "retryable") is True,
            "status": _plain(_attribute(error, "status")),
            "request_id": _plain(_attribute(error, "request_id")),
            "id": number,
        }
    )


def encode_refusal(error: RefusedValueError) -> Encoder:
    """Encode that the host answered something a script cannot be given."""
    kind = "memory" if isinstance(error, OversizeError) else "value"
    message = f"the answer cannot be handed to the script: {error}"
    return _error({"message": message, "kind": kind, "retryable": False, "id": 0})


def text_of(error: BaseException) -> str:
    """Return an exception's message, whatever its class makes of it."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception whose text fails still has to reach the script
        text = ""
    return (text or type(error).__name__)[:MAX_MESSAGE].encode("utf-8", "backslashreplace").decode()


def _error(fields: dict[str, Any]) -> Encoder:
    encoder = Encoder([], 100 * MAX_MESSAGE)
    encoder.frame += b"X"
    encoder.put(fields)
    return encoder


def _kind_of(error: BaseException) -> str:
    """Name an error for scripts: its own `kind`, else its class."""
    kind = _attribute(error, "kind")
    return kind if isinstance(kind, str) else type(error).__name__


def _attribute(error: BaseException, name: str) -> Any:
    try:
        return getattr(error, name, None)
    except Exception:  # noqa: BLE001 - as in text_of
        return None


def _plain(value: Any) -> str | int | None:
    return value if isinstance(value, str | int) else None
