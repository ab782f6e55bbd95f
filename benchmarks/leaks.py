"""A search for secrets in everything that a stage has written: no key, and no part of one."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

from stage import Stage

PART = 12
"""Characters in a row that count as a part of a key."""

BLOCK = PART // 2
"""Every part holds one whole block of the key at a multiple of this position."""

ENCODED = re.compile(rb"[A-Za-z0-9+/]{24,}")


def search(stage: Stage) -> list[str]:
    """Where which secret was found; reads files, database and its log, results, bucket and command lines."""
    found: list[str] = []
    places = 0
    for place, data in _places(stage):
        places += 1
        # Results are pickled, then encoded in lines, then written as JSON.
        layers = [data, *map(_decoded, ENCODED.findall(data.replace(rb"\n", b"")))]
        for name, secret in stage.secrets.items():
            longest = max(_longest(layer, secret.encode()) for layer in layers)
            if longest >= PART:
                found.append(f"{longest} characters of the {name} in {place}")
    print(f"\nSearched {places} files, objects and command lines for {len(stage.secrets)} secrets: {len(found)} found.")
    return found


def _places(stage: Stage) -> Iterator[tuple[str, bytes]]:
    for path in stage.folder.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(stage.folder)), path.read_bytes()
    for key, content in stage.store.objects().items():
        yield f"the bucket, {key}", content
    for line in stage.commands:
        yield "a command line", line.encode()


def _decoded(run: bytes) -> bytes:
    return base64.b64decode(run[: len(run) // 4 * 4])


def _longest(data: bytes, secret: bytes) -> int:
    """How many characters of `secret` in a row are in `data`, as far as that is a whole block or more."""
    longest = 0
    for start in range(0, len(secret) - BLOCK + 1, BLOCK):
        at = data.find(secret[start : start + BLOCK])
        while at >= 0:
            before, after = data[max(0, at - start) : at], data[at : at + len(secret) - start]
            longest = max(longest, _alike(before[::-1], secret[:start][::-1]) + _alike(after, secret[start:]))
            at = data.find(secret[start : start + BLOCK], at + 1)
    return longest


def _alike(one: bytes, other: bytes) -> int:
    """How many characters two texts have in common at their start."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
