"""Keeps keys out of everything that is shown: messages, logs, provenance."""

from __future__ import annotations

import re

_KEY_LIKE = re.compile(
    r"\bsk-[\w*.\-]{4,}"  # Stability, whole or masked
    r"|\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}:[\w*]+"  # fal: uuid:secret
    r"|(?<=Bearer )\S+|(?<=Key )\S{12,}"
    r"|(?<=[?&])(?:X-Amz-Signature|X-Goog-Signature|Signature|sig|token)=[^&\s]+",
)


def redact(text: str, *secrets: str) -> str:
    """`text` without `secrets`, their parts, and anything else that looks like a key or a signature."""
    for secret in secrets:
        for part in {secret, *secret.split(":")}:
            if len(part) >= 6:  # shorter pieces are ordinary words
                text = text.replace(part, "[key]")
    return _KEY_LIKE.sub("[key]", text)


def without_query(url: str) -> str:
    """The address without its query and fragment, which may carry a signature."""
    return re.split(r"[?#]", url, maxsplit=1)[0]
