"""Names of servers and tools as Lua identifiers."""

from __future__ import annotations

import re
from collections.abc import Iterable

# fmt: off
_KEYWORDS = frozenset([
    "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in", "local",
    "nil", "not", "or", "repeat", "return", "then", "true", "until", "while",
])
# fmt: on


def identifier(name: str) -> str:
    """`name` as a Lua identifier: lower case, with `_` for everything that is neither letter nor digit."""
    made = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_") or "tool"
    if made[0].isdigit():
        return f"_{made}"
    return f"{made}_" if made in _KEYWORDS else made


def clashing(wanted: str, names: Iterable[str]) -> list[str]:
    """The names that `wanted` may mean as an identifier; more than one is a clash that nobody may guess about.

    A name that is not an identifier itself (`get-time`) means only itself.
    """
    all_names = list(names)
    if wanted in all_names and identifier(wanted) != wanted:
        return [wanted]
    return [name for name in all_names if identifier(name) == identifier(wanted)]
