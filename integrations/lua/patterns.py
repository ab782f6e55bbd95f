"""Regular expressions for the sandbox's child process.

The answers are tuples of whole numbers only. Text could not cross safely: with the Lua heap full, building a Lua string
on the way back would leave the interpreter lock taken for ever, and an exception that crossed would give the script a
Python object to walk from.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, which is slow to load
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Compiled = Any  # regex.Pattern[str] or regex.Pattern[bytes]; the package ships no types

TIMED_OUT, OUT_OF_MEMORY, FAILED = (-1,), (-2,), (-3,)
SECONDS_PER_SCAN = 2.0
MAX_COMPILED = 256
# One answer of matched offsets has to fit the Lua stack that lupa reserves.
MAX_GROUPS = 99
MAX_MESSAGE = 200

# What the regex package reads in another way than PCRE. Escapes, classes and quantifiers are matched to be kept.
PCRE_ONLY = (
    rb"\\Q(?P<literal>.*?)(?:\\E|\Z)"
    rb"|\\k[<{'](?P<name>\w+)[>}']|\\g\{?(?P<number>[1-9]\d?)\}?"
    rb"|\\x\{(?P<code>[0-9A-Fa-f]{1,6})\}"
    rb"|\\[xpPNo]\{[^}]*\}|\\."
    rb"|\[\^?\]?(?:\\.|[^\]\\])*\]"
    rb"|\{\d+(?:,\d*)?\}|\{"  # any other brace is a character; regex would start a fuzzy match there
)


class Patterns:
    """Compiled patterns by number, and the scan that is going on."""

    def __init__(self) -> None:
        # Takes longer to load than the rest of the child, hence only for scripts that use it.
        regex: Any = __import__("regex")
        self._regex = regex
        self._flags: dict[str, int] = {
            "i": regex.IGNORECASE,
            "m": regex.MULTILINE,
            "s": regex.DOTALL,
            "x": regex.VERBOSE,
        }
        self._dialect = regex.compile(PCRE_ONLY, regex.DOTALL)
        self._known: dict[tuple[bytes, bytes], tuple[int, ...]] = {}
        self._texts: list[tuple[bytes, int]] = []
        self._compiled: dict[tuple[int, bool], Compiled] = {}
        self._matches: Iterator[Any] = iter(())
        self._offset: Callable[[int], int] = int

    def compile(self, body: bytes, modifiers: bytes) -> tuple[int, ...]:
        """Answer (number, groups, then group, length of its name, the name's bytes ...) or (-1, message bytes ...)."""
        known = self._known.get((body, modifiers))
        if known is not None:
            return known
        try:
            answer = self._compile(body, modifiers)
        except MemoryError:
            return (-1, *b"out of memory")
        except Exception as error:  # noqa: BLE001 - nothing may reach Lua as an exception
            return (-1, *f"invalid pattern: {error}".encode("utf-8", "replace")[:MAX_MESSAGE])
        self._known[body, modifiers] = answer
        return answer

    def _compile(self, body: bytes, modifiers: bytes) -> tuple[int, ...]:
        flags = self._regex.VERSION0
        for letter in modifiers.decode():
            if letter in "Un":
                message = f"modifier {letter} is not supported"
                raise ValueError(message)
            flags |= self._flags.get(letter, 0)
        if "A" in modifiers.decode():
            body = b"\\G(?:" + body + b")"
        body = self._dialect.sub(_translated, body)
        if len(self._texts) >= MAX_COMPILED:
            self._compiled.clear()
        number = len(self._texts)
        self._texts.append((body, flags))
        pattern = self._pattern(number, as_text=_is_text(body))
        if pattern.groups > MAX_GROUPS:
            message = f"more than {MAX_GROUPS} groups"
            raise ValueError(message)
        answer = [number, pattern.groups]
        for name, group in pattern.groupindex.items():
            encoded = name.encode()[:MAX_MESSAGE]
            answer += [group, len(encoded), *encoded]
        return tuple(answer)

    def _pattern(self, number: int, *, as_text: bool) -> Compiled:
        pattern = self._compiled.get((number, as_text))
        if pattern is None:
            body, flags = self._texts[number]
            pattern = self._regex.compile(body.decode() if as_text else body, flags, cache_pattern=False)
            self._compiled[number, as_text] = pattern
        return pattern

    def begin(self, number: int, subject: bytes) -> tuple[int, ...]:
        """Start a scan of the subject. A dot sees characters when both sides are valid UTF-8, else bytes."""
        try:
            as_text = _is_text(subject) and _is_text(self._texts[number][0])
            text = subject.decode() if as_text else subject
            self._offset = int if len(text) == len(subject) else _ByteOffsets(text).at  # type: ignore[arg-type]
            self._matches = self._pattern(number, as_text=as_text).finditer(text, timeout=SECONDS_PER_SCAN)
        except Exception:  # noqa: BLE001 - as in compile; next() reports it
            self._matches = iter(())
            return FAILED
        return (0,)

    def next(self) -> tuple[int, ...]:
        """Answer (1, start, stop, start of group 1, ...), (0,) after the last match, or a negative problem."""
        try:
            found = next(self._matches, None)
            if found is None:
                return (0,)
            offset = self._offset
            spans = [1]
            for start, stop in found.regs:
                spans += (offset(start), offset(stop)) if start >= 0 else (-1, -1)
            return tuple(spans)
        except TimeoutError:
            return TIMED_OUT
        except MemoryError:
            return OUT_OF_MEMORY
        except Exception:  # noqa: BLE001 - as in compile
            return FAILED


def _translated(found: Any) -> bytes:
    """One piece of a PCRE pattern as the regex package writes it."""
    literal: bytes | None
    name: bytes | None
    number: bytes | None
    code: bytes | None
    literal, name, number, code = found.group("literal", "name", "number", "code")
    if code is not None and int(code, 16) < 0x110000:
        literal = chr(int(code, 16)).encode("utf-8", "replace")
    if literal is not None:
        return b"".join(b"\\x%02x" % byte if byte < 128 else bytes((byte,)) for byte in literal)
    if name is not None:
        return b"(?P=" + name + b")"
    if number is not None:
        return b"(?:\\" + number + b")"
    piece: bytes = found.group()
    return b"\\{" if piece == b"{" else piece


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class _ByteOffsets:
    """Character offsets to byte offsets, cheap when asked from left to right."""

    def __init__(self, text: str) -> None:
        self._text, self._character, self._byte = text, 0, 0

    def at(self, character: int) -> int:
        if character >= self._character:
            self._byte += len(self._text[self._character : character].encode())
        else:
            self._byte -= len(self._text[character : self._character].encode())
        self._character = character
        return self._byte
