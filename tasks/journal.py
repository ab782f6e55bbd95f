"""The journal of a Lua workflow: which paid calls an earlier attempt finished, kept in Prefect's result storage."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from prefect.results import get_result_store
from prefect.utilities.hashing import hash_objects

from prefect_kosmokrator.integrations.errors import AmbiguousSubmission

logger = logging.getLogger("prefect_kosmokrator")

OnAmbiguous = Literal["fail", "resubmit"]


class ResultJournal:
    """Remembers calls by function, arguments and the how-manieth such call it is; never by attempt or position.

    So a script that takes another path on retry pays for what is new and gets back what it asked for before.

    Args:
        run: What identifies the run across its attempts.
        on_ambiguous: What to do with a paid call that was in flight when an earlier attempt was killed.
    """

    def __init__(self, run: str, on_ambiguous: OnAmbiguous = "fail") -> None:
        self._run = run
        self._on_ambiguous = on_ambiguous
        self._store = get_result_store()
        self._counts: Counter[str] = Counter()
        self._key = ""

    def replay(self, function: str, arguments: Mapping[str, Any], *, paid: bool) -> tuple[bool, Any]:
        """Whether an earlier attempt finished this call, and its result; otherwise notes that it starts.

        Raises:
            AmbiguousSubmission: If an earlier attempt was killed while a paid call was in flight.
        """
        fingerprint = str(hash_objects(function, dict(arguments), raise_on_failure=True))
        self._counts[fingerprint] += 1
        number = self._counts[fingerprint]
        self._key = f"{self._run}-{fingerprint}-{number}"
        entry = self._read()
        if entry.get("state") == "finished":
            logger.info("%s: replayed from an earlier attempt; not called and not paid again.", function)
            return True, entry["result"]
        if entry.get("state") == "started" and paid and self._on_ambiguous == "fail":
            self._counts[fingerprint] -= 1  # a script that catches this and calls again means the same call
            raise AmbiguousSubmission(
                f"An earlier attempt ended while {function} was in flight: it may have been accepted and billed. "
                "Look at the account's usage; run again with on_ambiguous='resubmit' to make the call again."
            )
        self._write({"state": "started"})
        return False, None

    def record(self, result: Any) -> None:
        """Makes the result of the call that just started durable."""
        self._write({"state": "finished", "result": result})

    def abandon(self) -> None:
        """Notes that the call that just started was refused, so that it may be made again."""
        self._write({"state": "refused"})

    def _read(self) -> dict[str, Any]:
        if not self._store.exists(self._key):
            return {}
        entry: dict[str, Any] = self._store.read(self._key).result
        return entry

    def _write(self, entry: dict[str, Any]) -> None:
        self._store.write(entry, key=self._key)
