"""The journal of paid calls: which ones an earlier attempt started and finished, kept in Prefect's result storage."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast, get_args

from prefect.results import get_result_store
from prefect.utilities.hashing import hash_objects

from prefect_kosmokrator.integrations.errors import AmbiguousSubmission, ConfigurationError, KosmoError

logger = logging.getLogger("prefect_kosmokrator")

OnAmbiguous = Literal["fail", "resubmit"]


def on_ambiguous_setting() -> OnAmbiguous:
    """`KOSMO_ON_AMBIGUOUS`: what to do with a paid call that was in flight when an earlier attempt was killed."""
    value = os.environ.get("KOSMO_ON_AMBIGUOUS", "").strip().lower() or "fail"
    if value not in get_args(OnAmbiguous):
        raise ConfigurationError(f"KOSMO_ON_AMBIGUOUS is {value!r}; it must be fail or resubmit.")
    return cast("OnAmbiguous", value)


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

    def replay(
        self,
        function: str,
        arguments: Mapping[str, Any],
        *,
        paid: bool,
        recover: Callable[[dict[str, Any], float], Any] | None = None,
    ) -> tuple[bool, Any]:
        """Whether an earlier attempt finished this call, and its result; otherwise notes that it starts.

        A paid call that an earlier attempt started and did not finish is looked for at the service.

        Raises:
            KosmoError: With which an earlier attempt failed after it was paid, for example `ContentFiltered`.
            AmbiguousSubmission: If the service cannot say what became of it.
        """
        fingerprint = str(hash_objects(function, dict(arguments), raise_on_failure=True))
        self._counts[fingerprint] += 1
        self._key = f"{self._run}-{fingerprint}-{self._counts[fingerprint]}"
        entry = self._read()
        if entry.get("state") == "finished":
            logger.info("%s: replayed from an earlier attempt; not called and not paid again.", function)
            return True, entry["result"]
        if entry.get("state") == "failed":
            logger.info("%s: an earlier attempt was paid and failed; not called again.", function)
            raise entry["error"]
        if entry.get("state") == "started" and paid:
            found = recover(dict(arguments), float(entry["time"])) if recover is not None else None
            if found is not None:
                logger.info("%s: an earlier attempt was cut off after it was accepted; going on with that.", function)
                self.record(found)
                return True, found
            if self._on_ambiguous == "fail":
                self._counts[fingerprint] -= 1  # a script that catches this and calls again means the same call
                raise AmbiguousSubmission(
                    f"An earlier attempt ended while {function} was in flight: it may have been accepted and billed. "
                    "Look at the account's usage; to make the call again, run it with on_ambiguous='resubmit' or "
                    "KOSMO_ON_AMBIGUOUS=resubmit."
                )
        self._write({"state": "started", "time": time.time()})
        return False, None

    def record(self, result: Any) -> None:
        """Makes the result of the call that just started durable."""
        self._write({"state": "finished", "result": result})

    def fail(self, error: KosmoError) -> None:
        """Notes how the call that just started failed after it was paid; a later attempt fails the same way."""
        self._write({"state": "failed", "error": error})

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
