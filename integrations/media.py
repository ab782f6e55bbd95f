"""Media: a generated file, either its bytes or a reference to where they are stored; and files as inputs."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import mimetypes
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from prefect_kosmokrator.integrations import download, output
from prefect_kosmokrator.integrations.errors import KosmoError, StorageError
from prefect_kosmokrator.integrations.images import content_type_of, measure, thumbnail
from prefect_kosmokrator.integrations.redaction import without_query
from prefect_kosmokrator.integrations.run import current_call, current_run

logger = logging.getLogger("prefect_kosmokrator")

USD_PER_CREDIT = 0.01
"""Of Stability AI's credits."""

MAX_TEXT = 20_000
"""Longer texts are cut in the provenance."""


@dataclass(frozen=True)
class Cost:
    """What a call cost.

    Attributes:
        amount: In `unit`; None when the service does not say and no price is known.
        unit: `"credits"` (Stability; 1 credit is 0.01 US$) or `"USD"`.
        certain: True when the service's own figures or a fixed list price say so; False for an estimate.
        source: Where the figure comes from, in words.
    """

    amount: float | None
    unit: str
    certain: bool
    source: str = ""

    @property
    def usd(self) -> float | None:
        """The amount in US dollars."""
        if self.amount is None or self.unit == "USD":
            return self.amount
        return round(self.amount * USD_PER_CREDIT, 6)

    def __str__(self) -> str:
        if self.amount is None:
            return "unknown"
        return f"{'' if self.certain else '~'}{self.amount:g} {self.unit}"

    def to_json(self) -> dict[str, Any]:
        """The cost as JSON."""
        return {
            "amount": self.amount,
            "unit": self.unit,
            "usd": self.usd,
            "certain": self.certain,
            "source": self.source,
        }


@dataclass(frozen=True)
class Media:
    """A generated file: its bytes in memory, or where they are stored.

    Attributes:
        content_type: Without parameters, for example `"image/png"`.
        size: In bytes; 0 while unknown (a remote address that was not fetched).
        sha256: Of the bytes, lower-case hex; empty while unknown.
        finish_reason: The service's word: `"SUCCESS"`, `"CONTENT_FILTERED"` or empty.
        seed: The seed that was used, when the service says.
        width: In pixels, for pictures.
        height: In pixels, for pictures.
        uri: `s3://`, `file://` or `https://` address of the stored bytes; None while they are only in memory.
        store: The name or URL prefix of the output store it was saved to, needed to read it back.
        provider: What made it, with `function` and `account`.
        function: See `provider`.
        account: See `provider`.
        model: The model that made it, where a function offers several.
        request_id: The service's id of the request that made it.
        cost: What it cost.
        preview: Address of a small version for galleries, made when a picture is stored.
    """

    content_type: str
    size: int = 0
    sha256: str = ""
    finish_reason: str = ""
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    uri: str | None = None
    store: str | None = None
    provider: str = ""
    function: str = ""
    account: str = ""
    model: str = ""
    request_id: str = ""
    cost: Cost | None = None
    preview: str | None = None
    content: bytes | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_bytes(cls, content: bytes, content_type: str, **fields: Any) -> Media:
        """Measures `content` and fills in what the running call knows."""
        call = current_call()
        if call is not None:
            made_by = {"provider": call.provider, "function": call.function, "account": call.account}
            fields = {**made_by, **fields}
        width, height = measure(content)
        return cls(
            content_type=content_type.partition(";")[0].strip().lower(),
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            width=width,
            height=height,
            content=content,
            **fields,
        )

    def read(self) -> bytes:
        """The bytes, fetched from where they are stored if they are not in memory.

        Raises:
            StorageError: If they cannot be read, or are not the bytes that were stored.
        """
        if self.content is not None:
            return self.content
        with tempfile.TemporaryDirectory(prefix="kosmo-") as folder:
            copy = self.copy_to(Path(folder, "media"))
            return copy.read_bytes()

    def copy_to(self, path: Path) -> Path:
        """Writes the bytes to `path` without holding a stored file in memory, and returns `path`."""
        if self.content is not None:
            path.write_bytes(self.content)
            return path
        if self.uri is None:
            raise StorageError("This Media has neither bytes nor an address.")
        fetch(self.uri, path, store=self.store)
        if self.sha256 and _sha256(path) != self.sha256:
            raise StorageError(f"{self.uri} is not the file that was stored: its SHA-256 differs.", uri=self.uri)
        return path

    @property
    def body_base64(self) -> str:
        """The bytes as base64 text; computed on each access, never stored."""
        return base64.b64encode(self.read()).decode("ascii")

    @property
    def extension(self) -> str:
        """The usual file extension for the content type, without the dot."""
        return _EXTENSIONS.get(self.content_type) or (mimetypes.guess_extension(self.content_type) or ".bin")[1:]

    def link(self, *, preview: bool = False) -> str | None:
        """An address at which a browser can open the file, or its preview; None when there is none."""
        uri = self.preview if preview and self.preview else self.uri
        if uri is None or uri.startswith(("http://", "https://")):
            return uri
        return (output.resolve(self.store) if self.store else output.OutputStore(uri)).link(uri)

    def without_content(self) -> Media:
        """A copy without the bytes: what may be logged, persisted and sent around."""
        return replace(self, content=None)

    def save(self, store: str, name: str | None = None, details: Mapping[str, Any] | None = None) -> Media:
        """Stores the bytes and returns a small reference to them.

        The key is `<run name>/<name>-<sha256[:12]>.<extension>` below the store's prefix, with a `.json` beside it
        that tells where the file comes from. A remote file is moved through a temporary file, with flat memory.

        Args:
            store: An output store's name or a URL prefix.
            name: The step that made it; the function's name by default.
            details: For the provenance: what the service said about the result.

        Raises:
            StorageError: After the store's own retries. The bytes are then kept in a spool file that it names.
        """
        if self.content is not None:
            return _save(self.content, self, store, name, details or {})
        with tempfile.TemporaryDirectory(prefix="kosmo-") as folder:
            path = self.copy_to(Path(folder, "media"))
            return _save(path, self._examined(path), store, name, details or {})

    def _examined(self, path: Path) -> Media:
        """A copy that knows what the file at `path` is: services often say nothing about it."""
        kind = content_type_of(path) or self.content_type
        if not kind.startswith("image/"):
            return replace(self, content_type=kind)
        width, height = measure(path)
        return replace(self, content_type=kind, width=width or self.width, height=height or self.height)

    def to_json(self) -> dict[str, Any]:
        """The documented JSON form without the bytes: callers that need `body_base64` add it when asked for it."""
        return {
            "content_type": self.content_type,
            "finish_reason": self.finish_reason,
            "seed": "" if self.seed is None else str(self.seed),
            "size": self.size,
            "sha256": self.sha256,
            "width": self.width,
            "height": self.height,
            "uri": self.uri,
            "store": self.store,
            "provider": self.provider,
            "function": self.function,
            "account": self.account,
            "model": self.model,
            "request_id": self.request_id,
            "cost": self.cost.to_json() if self.cost else None,
            "preview": self.preview,
        }


def _save(source: bytes | Path, media: Media, store: str, name: str | None, details: Mapping[str, Any]) -> Media:
    if isinstance(source, bytes):
        media = replace(media, sha256=hashlib.sha256(source).hexdigest(), size=len(source), content=None)
    else:
        media = replace(media, sha256=_sha256(source), size=source.stat().st_size, content=None)
    key = f"{_key_part(name or media.function or 'media')}-{media.sha256[:12]}"
    run = current_run()
    if run.name:
        key = f"{_key_part(run.name)}/{key}"
    try:
        target = output.resolve(store)
        uri = target.put(source, f"{key}.{media.extension}", media.content_type)
        media = replace(media, uri=uri, store=store)
        small = thumbnail(source) if media.content_type.startswith("image/") else None
        if small is not None:
            media = replace(media, preview=target.put(small, f"{key}-preview.webp", "image/webp"))
        sidecar = json.dumps(_provenance(media, details), indent=2, ensure_ascii=False)
        target.put(sidecar.encode(), f"{key}.json", "application/json")
        logger.info("Stored %s (%s).", uri, _in_words(media))
    except KosmoError as error:  # also an output that cannot be resolved: the bytes are paid for by now
        raise _spooled(source, media, error) from error
    return media


def _in_words(media: Media) -> str:
    pixels = f"{media.width}x{media.height} pixels" if media.width else f"{media.size:,} bytes"
    return f"{pixels}, cost {media.cost or 'unknown'}"


def fetch(uri: str, target: Path, *, store: str | None = None) -> str:
    """Copies the file at an `s3://`, `file://` or `https://` address to `target`; never sends an API key.

    Returns the content type that a web host names, else an empty text.

    Raises:
        StorageError: If it cannot be read from a store.
        Rejected: If a web address is gone or refuses.
        Unavailable: If its host does not answer.
    """
    scheme = urlsplit(uri).scheme
    if scheme in {"http", "https"}:
        return download.to_file(uri, target)
    if store is not None:
        output.resolve(store).fetch(uri, target)
    else:
        output.OutputStore(uri).fetch(uri, target)
    return ""


def _provenance(media: Media, details: Mapping[str, Any]) -> dict[str, Any]:
    call = current_call()
    arguments: Mapping[str, object] = call.arguments if call else {}
    return {
        **{key: value for key, value in media.to_json().items() if key != "store"},
        "inputs": dict(call.digests) if call else {},
        "parameters": {key: describe(value) for key, value in arguments.items()},
        "result": {key: describe(value) for key, value in details.items()},
        "run": {"name": current_run().name, **current_run().metadata},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"prefect-kosmokrator": version("prefect-kosmokrator")},
    }


def describe(value: Any) -> Any:
    """A parameter as provenance and the ledger show it: files by their digest or address, never their bytes."""
    if isinstance(value, Media):
        return {"sha256": value.sha256, "uri": value.uri}
    if isinstance(value, dict) and "request_id" in value:  # a job; its addresses say nothing about the file
        return {key: value.get(key) for key in ("model_id", "request_id")}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return f"{value[:100]}... ({len(value):,} characters)"  # a prompt is shorter; this is a data URI
    if isinstance(value, bytes):
        return {"sha256": hashlib.sha256(value).hexdigest(), "size": len(value)}
    if isinstance(value, str) and re.fullmatch(r"\w+://\S+", value):
        return without_query(value)  # the query of an address may carry a signature
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list):
        return [describe(item) for item in cast("list[Any]", value)]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _spooled(source: bytes | Path, media: Media, error: KosmoError) -> StorageError:
    """The error for a file that could not be stored, after keeping its paid bytes on this machine."""
    folder = output.spool_folder()
    spool: Path | None = folder / f"{media.function or 'media'}-{media.sha256[:12]}.{media.extension}"
    try:
        output.write_file(source, folder / f"{media.function or 'media'}-{media.sha256[:12]}.{media.extension}")
        kept = f"The file was paid for and is kept at {spool}; store it from there instead of generating it again."
    except OSError as problem:
        spool = None
        kept = f"It could not be kept on this machine either ({problem}): set KOSMO_SPOOL to a folder with space."
    return StorageError(
        f"{error.message} {kept}",
        spool=spool,
        uri=getattr(error, "uri", None),
        media=media.without_content(),
        transient=getattr(error, "transient", False),
        provider=media.provider or None,
        function=media.function or None,
        account=media.account or None,
        request_id=media.request_id or None,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _key_part(text: str) -> str:
    # Never an error: by now the file is paid for.
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text).strip(".-")[:120] or "unnamed"


_EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "video/mp4": "mp4",
    "video/webm": "webm",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "model/gltf-binary": "glb",
}
