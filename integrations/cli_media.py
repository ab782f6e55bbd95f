"""Generated files on the command line: described, stored or kept, never poured over a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import stamina

from prefect_kosmokrator.integrations import output
from prefect_kosmokrator.integrations.cli_output import note
from prefect_kosmokrator.integrations.errors import InvalidInput
from prefect_kosmokrator.integrations.lua import Handle
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.records import Result


def quiet_retries() -> None:
    """Keeps stamina from reporting each retry in its own words (to stdout, if structlog is installed)."""
    stamina.instrumentation.set_on_retry_hooks([])


def output_url(value: str) -> str:
    """The store that `--output` means: an address, or a folder of this machine given as a path.

    Raises:
        InvalidInput: For a bare word that is no folder yet: it may be the name of a saved store, which only tasks and
            flows can look up.
    """
    if "://" in value:
        return value
    path = Path(value).expanduser()
    if "/" in value or value.startswith((".", "~")) or path.is_dir():
        return path.resolve().as_uri()
    raise InvalidInput(
        f"output: there is no folder {value!r}. Write ./{value} to make it, or an address such as s3://bucket/folder; "
        "saved output stores are known in flows only.",
        parameter="output",
    )


class Files:
    """The files of one command, each of which ends up somewhere.

    Args:
        as_json: Whether the result is printed as JSON. Then the bytes are part of it, as documented, unless a person
            would have to look at them.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._with_bytes = as_json and not sys.stdout.isatty()
        self._given: set[str] = set()
        self._kept: dict[str, Media] = {}

    def shown(self, value: Any) -> Any:
        """A result as it is printed: JSON values only."""
        if isinstance(value, Handle):
            return self.shown(value.target if isinstance(value.target, Media) else dict(value.fields))
        if isinstance(value, Media):
            return self._media(value)
        if isinstance(value, Result):
            known: dict[str, Any] = {
                "request_id": value.request_id,
                "cost": value.cost.to_json() if value.cost else None,
            }
            if any(media.store for media in value.media):
                known["media"] = [self._media(media) for media in value.media]
            return {**known, **cast("dict[str, Any]", self.shown(dict(value)))}
        if isinstance(value, dict):
            return {key: self.shown(item) for key, item in cast("dict[str, Any]", value).items()}
        if isinstance(value, list | tuple):
            return [self.shown(item) for item in cast("list[Any]", value)]
        return value

    def keep(self, files: Iterable[Any]) -> list[str]:
        """Keeps paid bytes that are neither stored nor printed, says where, and returns the addresses."""
        for media in files:
            if isinstance(media, Media) and media.sha256 not in self._given | self._kept.keys():
                self._keep(media)
        addresses = [str(media.uri) for media in self._kept.values()]
        if addresses:
            where = ", ".join(str(output.file_path(address)) for address in addresses)
            note(f"Kept: {where}. To choose the place, give --output FOLDER or --output s3://bucket/folder.")
            self._kept.clear()
        return addresses

    def _media(self, media: Media) -> dict[str, Any]:
        if media.content is None:
            return media.to_json()
        if self._with_bytes:
            self._given.add(media.sha256)
            whole = media.to_json()
            return {"content_type": whole.pop("content_type"), "body_base64": media.body_base64, **whole}
        return self._keep(media).to_json()

    def _keep(self, media: Media) -> Media:
        if media.content is None:
            return media
        kept = self._kept.get(media.sha256)
        if kept is None:
            path = output.spool_folder() / f"{media.function or 'media'}-{media.sha256[:12]}.{media.extension}"
            try:
                output.write_file(media.content, path)
            except OSError as error:
                note(f"warning: a generated file could not be kept ({error}). Set KOSMO_SPOOL to a folder with space.")
                return media
            kept = self._kept[media.sha256] = replace(media, uri=path.resolve().as_uri())
        return kept


def media_of(error: BaseException | None) -> list[Any]:
    """The files that an error carries: paid for, but filtered."""
    media = getattr(error, "media", None)
    return list(cast("list[Any]", media)) if isinstance(media, list) else [media]


def described(shown: dict[str, Any]) -> str:
    """A file in words: what it is, and in a second line where."""
    parts = [str(shown["content_type"])]
    if shown.get("width"):
        parts.append(f"{shown['width']} x {shown['height']}")
    parts.append(f"{shown['size']:,} bytes")
    if shown.get("seed"):
        parts.append(f"seed {shown['seed']}")
    cost = shown.get("cost")
    if cost and cost["amount"] is not None:
        parts.append(f"cost {'' if cost['certain'] else '~'}{cost['amount']:g} {cost['unit']}")
    if shown.get("finish_reason") not in {"", "SUCCESS", None}:
        parts.append(str(shown["finish_reason"]))
    address = shown.get("uri")
    if not address:
        return ", ".join(parts)
    return f"{', '.join(parts)}\n{output.file_path(address) if address.startswith('file:') else address}"
