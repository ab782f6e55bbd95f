"""Paid bytes are never only in memory: they lie on this machine's disk until the output store has them.

`hold` writes them beside the spool before they are stored; a process that is killed in between loses nothing, and the
next attempt of the call stores them from there.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

from prefect_kosmokrator.integrations.encoding import decode, encode, encode_error
from prefect_kosmokrator.integrations.errors import ContentFiltered, StorageError
from prefect_kosmokrator.integrations.ledger import Entry, Ledger
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.output import default_output, spool_folder, write_file
from prefect_kosmokrator.integrations.run import Call, Run, calling, current_call, running

logger = logging.getLogger("prefect_kosmokrator")


def hold(media: Media) -> None:
    """Keeps the bytes that the call being made has paid for on this machine, until `let_go`."""
    call = current_call()
    if call is None or call.entry is None or media.content is None:
        return
    path = _path(call.entry)
    try:
        write_file(media.content, path)
        known = encode(replace(media.without_content(), uri=path.as_uri()))
        write_file(json.dumps(known).encode(), path.with_suffix(".json"))
    except OSError as error:
        logger.warning("A paid file cannot be kept on this machine while it is stored: %s", error)


def held(entry: Entry) -> Media | None:
    """What `hold` kept for a call whose process was killed; None if there is nothing on this machine."""
    try:
        media = decode(json.loads(_path(entry).with_suffix(".json").read_bytes()))
    except (OSError, ValueError):
        return None
    return media if isinstance(media, Media) and _path(entry).exists() else None


def let_go(entry: Entry) -> None:
    """Removes what `hold` kept: it is stored, or in the spool, or was not wanted."""
    for path in (_path(entry).with_suffix(".json"), _path(entry)):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s is left over: %s", path, error)


def store_kept(ledger: Ledger, entry: Entry) -> Media:
    """Stores a paid file that an earlier attempt could only keep on this machine.

    Args:
        ledger: Where the call is.
        entry: The call; its result is the file.

    Raises:
        StorageError: If it cannot be stored now either, or lies on another machine.
        ContentFiltered: If it is blurred and the call did not ask to get it nevertheless.
    """
    media: Media = decode(entry.result)
    store = str(entry.arguments.get("output") or default_output())
    run = Run(entry.labels.get("run", ""), {name: text for name, text in entry.labels.items() if name != "run"})
    try:
        with running(run), calling(Call(entry.provider, entry.function, entry.account, entry.arguments)):
            media = media.save(store)
    except StorageError as error:
        error.retryable = error.transient  # storing it is all that a repetition does
        raise
    if media.finish_reason == "CONTENT_FILTERED" and entry.arguments.get("on_filtered") == "raise":
        filtered = ContentFiltered("The safety filter blurred the picture.", media=media)
        ledger.save(replace(entry, state="failed", error=encode_error(filtered), note=str(filtered)))
        let_go(entry)
        raise filtered
    ledger.save(replace(entry, state="finished", result=encode(media), error=None, note=places(media)))
    let_go(entry)
    return media


def places(result: object) -> str:
    """Where the files of a result are, in words."""
    found = [result] if isinstance(result, Media) else getattr(result, "media", [])
    return ", ".join(media.uri for media in found if media.uri)


def _path(entry: Entry) -> Path:
    return spool_folder() / "held" / f"{entry.run}_{entry.call}.bytes"
