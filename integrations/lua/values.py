"""Values on the wire, Python side; wire.lua is the other half.

Every value is one letter and what follows it, numbers little-endian:

====== ============================================== ======================================
letter after it                                       value
====== ============================================== ======================================
n t f  nothing                                        null, true, false
i d    8 bytes                                        whole number, float
s      32-bit length, bytes                           string
b      32-bit length; bytes follow the frame          long string (to the script only)
l      32-bit count, values                           list
m      32-bit count, (length, key, value) ...         object
e      nothing                                        empty table (from the script only)
p      32-bit count, values                           arguments by position (from the script)
h      32-bit number; to the script also the fields   handle
       and the lazy names, each as in m
====== ============================================== ======================================
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, ClassVar, cast

MAX_DEPTH = 64
MAX_VALUES = 500_000
MAX_INTEGRAL = 1e21  # floats without a fraction below this are whole numbers to the host, as they print
LONG_STRING = 32 * 1024

_LENGTH = struct.Struct("<I").pack
_INTEGER = struct.Struct("<cq").pack
_FLOAT = struct.Struct("<cd").pack
_COUNT = struct.Struct("<cI").pack
_U32 = struct.Struct("<I").unpack_from
_I64 = struct.Struct("<q").unpack_from
_F64 = struct.Struct("<d").unpack_from
_CONSTANTS = {ord("n"): None, ord("t"): True, ord("f"): False}


class EmptyTable(dict[str, Any]):
    """`{}` inside an argument, which in Lua is both the empty list and the empty object.

    It is an empty dict for hosts that do not care; one that knows the parameter's schema may put `[]` in its place.
    Tables that came from json.decode or the host remember what they were and arrive as a plain `[]` or `{}`.
    """


class Positional(list[Any]):
    """Arguments by position: `f("a", 2)`, and every call of a `docs` or `mcp` helper.

    A table argument arrives as a plain dict, or as a plain list for `f({"a", "b"})`.
    """


@dataclass(frozen=True, eq=False)
class Handle:
    """A host value the script sees as a table while the value itself stays with the host.

    Attributes:
        target: The host's own object; never sent.
        fields: What the script can read at once.
        lazy: Fields fetched when the script, `json.encode` or `dump` reads them.

    A script that passes the table on unchanged passes the handle: the host finds this very object in the arguments.
    Once the script has changed a field it is an ordinary table with all fields, lazy ones included.
    """

    target: Any
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    lazy: Mapping[str, Callable[[], Any]] = field(default_factory=dict[str, Callable[[], Any]])


class RefusedValueError(ValueError):
    """A value that cannot cross."""


class OversizeError(RefusedValueError):
    """A value larger than the script's memory."""


class CorruptFrameError(Exception):
    """The child sent what no prelude of ours sends."""


def materialise(value: Any) -> Any:
    """Replace every handle in a value by a dict of all its fields, lazy ones fetched."""
    if isinstance(value, Handle):
        return materialise({**value.fields, **{name: fetch() for name, fetch in value.lazy.items()}})
    if isinstance(value, dict):
        return {key: materialise(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [materialise(item) for item in cast("list[Any]", value)]
    return value


class Encoder:
    """Turns one host value into a frame and the long strings that follow it."""

    def __init__(self, handles: list[Handle], max_bytes: int) -> None:
        self.frame = bytearray()
        self.long_strings: list[bytes] = []
        self._handles, self._max_bytes = handles, max_bytes
        self._left = MAX_VALUES
        self._long_bytes = 0

    def put(self, value: Any, depth: int = 0) -> None:
        """Append a value. Raises RefusedValueError for anything that is not JSON-like."""
        self._left -= 1
        if self._left < 0:
            raise RefusedValueError(f"more than {MAX_VALUES} values")
        # The exact types first: nearly every value has one of them, and a large answer has many values.
        writer = _WRITERS.get(value.__class__)
        if writer is not None:
            writer(self, value, depth)
        else:
            self._put_other(value, depth)
        if len(self.frame) > self._max_bytes:
            self._too_large()

    def _put_other(self, value: Any, depth: int) -> None:
        if isinstance(value, str):  # an enumeration, say
            self._put_str(str.__str__(value), depth)
        elif isinstance(value, int):
            self._put_int(int(value), depth)
        elif isinstance(value, float):
            self._put_float(float(value), depth)
        elif isinstance(value, bytearray | memoryview):
            self._put_bytes(bytes(cast("bytearray", value)), depth)
        elif isinstance(value, Mapping):
            self._put_dict(cast("Mapping[Any, Any]", value), depth)
        elif isinstance(value, Sequence):
            self._put_list(cast("Sequence[Any]", value), depth)
        else:
            raise RefusedValueError(f"a {type(value).__name__}")

    def _put_none(self, _value: None, _depth: int) -> None:
        self.frame += b"n"

    def _put_bool(self, value: bool, _depth: int) -> None:
        self.frame += b"t" if value else b"f"

    def _put_int(self, value: int, depth: int) -> None:
        if -(2**63) <= value < 2**63:
            self.frame += _INTEGER(b"i", value)
        else:
            self._put_bytes(_digits(value), depth)

    def _put_float(self, value: float, _depth: int) -> None:
        if not isfinite(value):
            raise RefusedValueError(f"the number {value}")
        self.frame += _FLOAT(b"d", value)

    def _put_str(self, value: str, depth: int) -> None:
        self._put_bytes(_utf8(value), depth)

    def _put_bytes(self, data: bytes, _depth: int) -> None:
        length = len(data)
        if length < LONG_STRING:
            self.frame += _COUNT(b"s", length)
            self.frame += data
            return
        self._long_bytes += length
        if self._long_bytes > self._max_bytes:
            self._too_large()
        self.frame += _COUNT(b"b", length)
        self.long_strings.append(data)

    def _put_list(self, value: Sequence[Any], depth: int) -> None:
        _check_depth(depth)
        self.frame += _COUNT(b"l", len(value))
        for item in value:
            self.put(item, depth + 1)

    def _put_dict(self, value: Mapping[Any, Any], depth: int) -> None:
        self.frame += b"m"
        self._put_fields(value, depth)

    def _put_fields(self, fields: Mapping[Any, Any], depth: int) -> None:
        _check_depth(depth)
        frame = self.frame
        frame += _LENGTH(len(fields))
        for key, item in fields.items():
            if not isinstance(key, str):
                raise RefusedValueError(f"an object with a {type(key).__name__} key")
            name = _utf8(key)
            frame += _LENGTH(len(name))
            frame += name
            self.put(item, depth + 1)

    def _put_handle(self, handle: Handle, depth: int) -> None:
        self.frame += _COUNT(b"h", len(self._handles))
        self._handles.append(handle)
        self._put_fields({name: item for name, item in handle.fields.items() if item is not None}, depth)
        self._put_fields(dict.fromkeys(name for name in handle.lazy if name not in handle.fields), depth)

    def _too_large(self) -> None:
        raise OversizeError(f"more data than the script may hold ({self._max_bytes} bytes)")

    writers: ClassVar[dict[type, Any]] = {
        type(None): _put_none,
        bool: _put_bool,
        int: _put_int,
        float: _put_float,
        str: _put_str,
        bytes: _put_bytes,
        list: _put_list,
        tuple: _put_list,
        dict: _put_dict,
        Handle: _put_handle,
    }


_WRITERS: dict[type, Callable[[Encoder, Any, int], None]] = Encoder.writers


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise RefusedValueError(f"a value nested deeper than {MAX_DEPTH} levels, or inside itself")


def _utf8(text: str) -> bytes:
    """Encode; half a surrogate pair, which JSON escapes can smuggle in, becomes the replacement character."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _digits(value: int) -> bytes:
    """Return a whole number beyond 64 bits as its digits, exactly."""
    if value.bit_length() > 4096:  # Python itself refuses to print much larger ones
        raise RefusedValueError("a whole number of more than 4096 bits")
    return str(value).encode()


def decode(frame: bytes, handles: list[Handle], empty: Callable[[], Any], at: int = 0) -> Any:
    """Read the value that begins at an offset. Trusts nothing: the child may have been taken over.

    Raises:
        CorruptFrameError: Nothing our own side writes looks like this.
    """
    try:
        value, end = _Reader(frame, handles, empty).read(at, 0)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise CorruptFrameError(str(error)) from error
    if end > len(frame):
        raise CorruptFrameError("cut short")
    return value


class _Reader:
    def __init__(self, frame: bytes, handles: list[Handle], empty: Callable[[], Any]) -> None:
        self._frame, self._handles, self._empty = frame, handles, empty
        self._left = MAX_VALUES + 1000

    def read(self, at: int, depth: int) -> tuple[Any, int]:
        """Return a value and the offset after it. A string that runs past the end is noticed there."""
        frame = self._frame
        letter = frame[at]
        if letter == 115:  # s
            end = at + 5 + _U32(frame, at + 1)[0]
            return _text(frame[at + 5 : end]), end
        if letter == 105:  # i
            return _I64(frame, at + 1)[0], at + 9
        if letter == 100:  # d
            return _number(_F64(frame, at + 1)[0]), at + 9
        if letter == 109:  # m
            return self._fields(at, depth + 1)
        if letter in b"lp":
            return self._items(at, depth + 1, positional=letter == 112)
        if letter == 104:  # h
            number: int = _U32(frame, at + 1)[0]
            if number >= len(self._handles):
                raise CorruptFrameError("unknown handle")
            return self._handles[number], at + 5
        if letter == 101:  # e
            return self._empty(), at + 1
        if letter in _CONSTANTS:
            return _CONSTANTS[letter], at + 1
        raise CorruptFrameError(f"unknown letter {letter}")

    def _count(self, at: int, depth: int) -> int:
        count: int = _U32(self._frame, at + 1)[0]
        self._left -= count
        if self._left < 0 or depth > MAX_DEPTH + 2:
            raise CorruptFrameError("too many values")
        return count

    def _items(self, at: int, depth: int, *, positional: bool) -> tuple[list[Any], int]:
        count = self._count(at, depth)
        items: list[Any] = Positional() if positional else list[Any]()
        at += 5
        for _ in range(count):
            item, at = self.read(at, depth)
            items.append(item)
        return items, at

    def _fields(self, at: int, depth: int) -> tuple[dict[str, Any], int]:
        frame = self._frame
        count = self._count(at, depth)
        fields: dict[str, Any] = {}
        at += 5
        for _ in range(count):
            end = at + 4 + _U32(frame, at)[0]
            key = frame[at + 4 : end].decode()
            fields[key], at = self.read(end, depth)
        # Lua's order changes from process to process; a request should look the same each time.
        return {key: fields[key] for key in sorted(fields)}, at


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _number(value: float) -> int | float:
    return int(value) if value.is_integer() and abs(value) < MAX_INTEGRAL else value
