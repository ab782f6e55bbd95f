"""The ledger: one small JSON file for each call that costs money, in an output store that all machines share.

It is written before the request leaves the machine and again as soon as the service has answered. Files move from
`open/` to `closed/` when nothing is left to do about a call, so that what may still cost money is a short list::

    open/<run>/<call>.json     started, ambiguous, submitted (a job that nobody has fetched), spooled
    closed/<run>/<call>.json   finished, failed, cancelled
    jobs/<provider>/<job id>   which call a job belongs to
    spend/<day>/...            see `budget`

`KOSMO_LEDGER` names the store, by default the folder `.kosmo` of `KOSMO_OUTPUT`. With neither, it is in the user's own
state folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from prefect_kosmokrator.integrations.encoding import cost_of, decode
from prefect_kosmokrator.integrations.errors import ConfigurationError, InvalidInput, StorageError
from prefect_kosmokrator.integrations.media import Cost
from prefect_kosmokrator.integrations.output import OutputStore, resolve, spool_folder
from prefect_kosmokrator.integrations.records import Job

logger = logging.getLogger("prefect_kosmokrator")

State = Literal["started", "ambiguous", "submitted", "spooled", "finished", "failed", "cancelled"]
OPEN: tuple[State, ...] = ("started", "ambiguous", "submitted", "spooled")


@dataclass(frozen=True)
class Entry:
    """What the ledger knows of one call.

    Attributes:
        run: The run it belongs to: a flow run's id, or a name made up for one that has none.
        call: Identifies the call within the run, the same in every attempt.
        state: `started` (sent or about to be, no answer yet), `ambiguous` (the answer was lost), `submitted` (a job
            runs at the service), `spooled` (paid, but only kept on one machine), or one of the three final ones.
        provider: Whose function it is.
        function: Its name.
        account: Who pays.
        time: When it was sent: seconds since 1970 by the service's own clock, as far as it is known.
        arguments: What it was called with; files by their digest or address.
        sent: Digest of the input as the service got it, by which a lost submission is found again.
        cost: What it is expected to cost, or did cost.
        result: The encoded result, see `encoding`.
        outcome: What its job made, encoded.
        error: The encoded error.
        note: What a person should know, in words.
        labels: The surrounding run: flow, task, their ids.
        spend: The keys of its entries in the budget.
    """

    run: str
    call: str
    state: State
    provider: str
    function: str
    account: str
    time: float
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    sent: str = ""
    cost: dict[str, Any] | None = None
    result: Any = None
    outcome: Any = None
    error: dict[str, Any] | None = None
    note: str = ""
    labels: dict[str, str] = field(default_factory=dict[str, str])
    spend: list[str] = field(default_factory=list[str])

    @property
    def id(self) -> str:
        """Names the entry in the whole ledger: `<run>/<call>`."""
        return f"{self.run}/{self.call}"

    @property
    def job(self) -> Job | None:
        """The job that the call started, None for other calls."""
        result = decode(self.result)
        return result if isinstance(result, Job) else None

    @property
    def price(self) -> Cost | None:
        """The cost, None if nothing is known."""
        return cost_of(self.cost)

    @property
    def when(self) -> datetime:
        """`time` as a date in UTC."""
        return datetime.fromtimestamp(self.time, UTC)

    def to_bytes(self) -> bytes:
        """As stored."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Entry:
        """From what is stored, also by a later version that knows more."""
        known = json.loads(content)
        return cls(**{name: known[name] for name in cls.__dataclass_fields__ if name in known})


class Ledger:
    """The ledger in one store.

    When the store fails after a call was paid, the entry is kept in the spool folder of this machine, and found there.

    Args:
        store: Where it is kept.
    """

    def __init__(self, store: OutputStore) -> None:
        self.store = store

    def find(self, run: str, call: str) -> Entry | None:
        """The entry of a call, None if there is none.

        Raises:
            StorageError: If the store does not answer, or the entry is damaged.
        """
        for store in (self._spool, self.store):
            for folder in ("closed", "open"):
                entry = _read(store, _key(folder, run, call))
                if entry is not None:
                    return entry
        return None

    def begin(self, entry: Entry) -> bool:
        """Writes the intent of a call; False if another process has begun this very call.

        Raises:
            StorageError: If it cannot be written; nothing was sent, nothing was paid.
        """
        return self.store.put_new(_key("open", entry.run, entry.call), entry.to_bytes())

    def save(self, entry: Entry) -> None:
        """Replaces the entry of a call that was paid; never raises, because what was paid for must not get lost."""
        folder, other = ("open", "closed") if entry.state in OPEN else ("closed", "open")
        try:
            self.store.put(entry.to_bytes(), _key(folder, entry.run, entry.call), "application/json")
        except StorageError as error:
            logger.warning("The ledger cannot be written; kept on this machine for now. %s", error)
            self._keep(folder, entry)
        else:
            self._discard(self.store, _key(other, entry.run, entry.call))
            for old in ("open", "closed"):
                self._discard(self._spool, _key(old, entry.run, entry.call))

    def amend(self, entry: Entry) -> None:
        """Replaces an entry before anything was sent.

        Raises:
            StorageError: If it cannot be written.
        """
        self.store.put(entry.to_bytes(), _key("open", entry.run, entry.call), "application/json")

    def remove(self, entry: Entry) -> None:
        """Forgets a call that was refused or never sent; never raises."""
        for store in (self.store, self._spool):
            self._discard(store, _key("open", entry.run, entry.call))

    def claim(self, job: Job, entry: Entry) -> bool:
        """Notes that `job` belongs to `entry`; False if it belongs to another call.

        Raises:
            StorageError: If the store does not answer.
        """
        key = _job_key(job.provider, job.id)
        if self.store.put_new(key, entry.id.encode()):
            return True
        owner = self.store.get(key)
        return owner is not None and owner.decode() == entry.id

    def of_job(self, provider: str, job_id: str) -> Entry | None:
        """The call that started a job, None if it was not started through this ledger."""
        owner = self.store.get(_job_key(provider, job_id))
        run, _, call = (owner or b"").decode().partition("/")
        return self.find(run, call) if call else None

    def open_entries(self, run: str = "") -> list[Entry]:
        """Every call about which something is left to do, oldest first; of one run, or of all."""
        entries = {entry.id: entry for entry in self._entries("open", run)}
        for known in list(entries):
            key = _key("closed", *known.split("/", 1))
            if self.store.get(key) is not None:  # a crash between writing it and removing the other left both
                del entries[known]
                self._discard(self.store, _key("open", *known.split("/", 1)))
            elif (kept := _read(self._spool, key)) is not None:  # the store failed when the call was closed
                del entries[known]
                self.save(kept)
        return sorted(entries.values(), key=lambda entry: entry.time)

    def all_entries(self, run: str = "") -> list[Entry]:
        """Every call, oldest first; of one run, or of all."""
        found = {entry.id: entry for folder in ("open", "closed") for entry in self._entries(folder, run)}
        return sorted(found.values(), key=lambda entry: entry.time)

    def _entries(self, folder: str, run: str) -> Iterator[Entry]:
        for store in (self.store, self._spool):
            for key in store.keys(f"{folder}/{run}" if run else folder):
                try:
                    entry = _read(store, key)
                except DamagedEntry as error:
                    logger.warning("%s", error)
                    continue
                if entry is not None:  # else it was closed a moment ago
                    yield entry

    @property
    def _spool(self) -> OutputStore:
        return OutputStore((spool_folder() / "ledger").as_uri())

    def _keep(self, folder: str, entry: Entry) -> None:
        try:
            self._spool.put(entry.to_bytes(), _key(folder, entry.run, entry.call), "application/json")
        except StorageError as error:
            # The next attempt finds the intent and asks the service, or reports the call as ambiguous.
            logger.error("Call %s was paid, and nothing could be noted down about it. %s", entry.id, error)  # noqa: TRY400

    @staticmethod
    def _discard(store: OutputStore, key: str) -> None:
        try:
            store.remove(key)
        except StorageError as error:
            logger.warning("A file of the ledger is left over. %s", error)


def current_ledger() -> Ledger:
    """The ledger that the settings name.

    Raises:
        ConfigurationError: If they name no store.
    """
    return Ledger(ledger_store())


def ledger_store() -> OutputStore:
    """Where the ledger is: `KOSMO_LEDGER`, or beside the outputs, or in the user's own state folder.

    Raises:
        ConfigurationError: If the settings name no store.
    """
    chosen, output = os.environ.get("KOSMO_LEDGER", ""), os.environ.get("KOSMO_OUTPUT", "")
    try:
        if chosen:
            return resolve(chosen)
        if output:
            store = resolve(output)
            return replace(store, url=f"{store.url.rstrip('/')}/.kosmo")
    except InvalidInput as error:
        raise ConfigurationError(
            f"The ledger of paid calls has no place: {error.message} Set KOSMO_LEDGER to a URL prefix."
        ) from None
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return OutputStore(Path(state, "prefect-kosmokrator", "ledger").as_uri())


def matching(entries: Iterable[Entry], name: str) -> list[Entry]:
    """The entries that a person may mean by `name`: the start of a job's id, of a call's or of a run's."""
    found: list[Entry] = []
    for entry in entries:
        names = [entry.call, entry.id, *([job.id] if (job := entry.job) else [])]
        if name in names:
            return [entry]
        if any(known.startswith(name) for known in names):
            found.append(entry)
    return found


class DamagedEntry(StorageError):
    """A file of the ledger is not what was written."""


def _read(store: OutputStore, key: str) -> Entry | None:
    content = store.get(key)
    try:
        return None if content is None else Entry.from_bytes(content)
    except (ValueError, TypeError) as error:
        uri = f"{store.url}/{key}"
        raise DamagedEntry(
            f"{uri}, an entry of the ledger of paid calls, cannot be read ({error}). Look at the account's usage "
            "whether that call was paid; remove the file to have it made again.",
            uri=uri,
        ) from error


def _key(folder: str, run: str, call: str) -> str:
    return f"{folder}/{run}/{call}.json"


def _job_key(provider: str, job_id: str) -> str:
    plain = re.fullmatch(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]{0,127}", job_id)
    return f"jobs/{provider}/{job_id if plain else hashlib.sha256(job_id.encode()).hexdigest()}"
