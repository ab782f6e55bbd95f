"""Parameters that functions of every provider share, and files as parameters."""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from prefect_kosmokrator.integrations import download, output
from prefect_kosmokrator.integrations.errors import InvalidInput
from prefect_kosmokrator.integrations.images import ImageLimits, content_type_of
from prefect_kosmokrator.integrations.media import Media, fetch
from prefect_kosmokrator.integrations.redaction import without_query
from prefect_kosmokrator.integrations.run import current_call

logger = logging.getLogger("prefect_kosmokrator")

MAX_BODY_BYTES = 10 * 1024 * 1024
MAX_RESULT_BYTES = 128 * 1024 * 1024
"""The largest picture of another function that is read to be shrunk."""


class _FileSchema:
    """Lets pydantic pass a file input through unchanged: it is opened, with its limits, by the function itself."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(_accept_file)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "format": "file"}


def _accept_file(value: Any) -> str | Path | bytes | Media:
    if isinstance(value, str | Path | bytes | Media) and value not in ("", b""):
        return value
    if isinstance(value, dict):
        return _media_from_json(value)  # pyright: ignore[reportUnknownArgumentType]
    raise ValueError("must be a path, bytes, a Media, or an s3://, file:// or https:// address")


def _media_from_json(value: dict[str, Any]) -> Media:
    """A media result that went through JSON or Lua: by its bytes if it has them, else by its address."""
    content = value.get("content")
    if isinstance(content, str | bytes) and content:
        raw = content.encode() if isinstance(content, str) else content
        return Media.from_bytes(raw, str(value.get("content_type") or ""))
    body = value.get("body_base64")
    if isinstance(body, str | bytes) and body:
        try:
            return Media.from_bytes(base64.b64decode(body, validate=True), str(value.get("content_type") or ""))
        except binascii.Error as error:
            raise ValueError("has a body_base64 that is not base64") from error
    address = value.get("uri") or value.get("url")
    if isinstance(address, str) and address:
        return Media(
            content_type=str(value.get("content_type") or "application/octet-stream"),
            sha256=str(value.get("sha256") or ""),
            uri=address,
            store=value.get("store") if isinstance(value.get("store"), str) else None,
        )
    raise ValueError("must be a media result with body_base64 or uri")


FileInput = Annotated[str | Path | bytes | Media, _FileSchema()]
"""A file: a path, its bytes, a `Media`, or an `s3://`, `file://` or `https://` address."""

AccountName = Annotated[
    str, Field(min_length=1, description="Name of the account that is used and billed; never its key.")
]


def _known_store(value: str | None) -> str | None:
    # Before anything is paid: a wrong store must not be found out with the result in hand.
    if value is not None:
        output.resolve(value)
    return value


Output = Annotated[
    str | None,
    AfterValidator(_known_store),
    Field(
        description="Output store's name or URL prefix (s3://bucket/folder, file://./folder). With it the result is "
        "stored before the function returns; without it the bytes stay in the Media."
    ),
]
OnFiltered = Annotated[
    Literal["raise", "return"],
    Field(description="What to do with a result that a safety filter blurred or blacked out (it is probably charged)."),
]


def integer_from_text(value: Any) -> Any:
    """Lets the documented text form of a number (`seed = "123"` in results) be passed back as a parameter."""
    if isinstance(value, str) and value.strip().lstrip("-").isdigit():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


IntegerText = BeforeValidator(integer_from_text)


def _header_text(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise ValueError("must be plain ASCII text without line breaks: it is sent as an HTTP header")
    return value


HeaderText = Annotated[str, AfterValidator(_header_text)]


@dataclass(frozen=True)
class LoadedFile:
    """A file input, opened.

    Attributes:
        name: File name for the upload.
        content: The bytes.
        content_type: By content for pictures.
    """

    name: str
    content: bytes
    content_type: str


def load_picture(
    parameter: str, value: str | Path | bytes | Media, limits: ImageLimits, *, fit: bool = False
) -> LoadedFile:
    """Opens a picture parameter and checks it against the endpoint's limits.

    With `fit`, a `Media` with too many pixels is shrunk to the limit first: one function's result is often larger than
    the next one's input may be. Files are never altered; they are refused.

    Raises:
        InvalidInput: Naming the parameter, what is wrong and what is allowed.
    """
    fits = fit and isinstance(value, Media)
    name, content = read_file(parameter, value, max_bytes=MAX_RESULT_BYTES if fits else MAX_BODY_BYTES)
    if fits:
        content = _sized(parameter, limits.fitted(content), None, MAX_BODY_BYTES)
    call = current_call()
    if call is not None:
        call.digests[parameter] = hashlib.sha256(content).hexdigest()
    problem = limits.problem(content)
    if problem is not None:
        raise InvalidInput(f"{parameter}: {_called(value)} {problem}. Accepted: {limits}.", parameter=parameter)
    kind = content_type_of(content) or "application/octet-stream"
    stem = Path(name).stem or parameter
    return LoadedFile(f"{stem}.{kind.partition('/')[2]}", content, kind)


def read_file(parameter: str, value: str | Path | bytes | Media, *, max_bytes: int) -> tuple[str, bytes]:
    """The name and bytes of a file parameter of at most `max_bytes`.

    Raises:
        InvalidInput: If there is no such file, it is not a regular file, empty or too large.
    """
    if isinstance(value, bytes):
        return parameter, _sized(parameter, value, len(value), max_bytes)
    if isinstance(value, Media) and value.content is not None:
        return parameter, _sized(parameter, value.content, len(value.content), max_bytes)
    with tempfile.TemporaryDirectory(prefix="kosmo-") as folder:
        path = open_file(parameter, value, Path(folder), max_bytes=max_bytes)
        size = path.stat().st_size
        return path.name, _sized(parameter, path.read_bytes() if size <= max_bytes else b"", size, max_bytes)


def open_file(parameter: str, value: str | Path | Media | bytes, folder: Path, *, max_bytes: int | None = None) -> Path:
    """A local path with the content of a file parameter; what is not local yet is fetched into `folder`.

    Raises:
        InvalidInput: If there is no such file or it is not a regular file.
    """
    if isinstance(value, bytes):
        target = folder / parameter
        target.write_bytes(value)
        return target
    if isinstance(value, Media):
        return value.copy_to(folder / _file_name(value.uri or "", f"{parameter}.{value.extension}"))
    text = str(value)
    if "://" not in text:
        return _local(parameter, Path(value).expanduser())
    scheme, target = text.partition("://")[0], folder / _file_name(text, parameter)
    if scheme in {"http", "https"}:
        download.to_file(text, target, max_bytes=max_bytes)
        return target
    if scheme == "s3":
        fetch(text, target)
        return target
    if scheme == "file":
        return _local(parameter, output.file_path(text))
    raise InvalidInput(
        f"{parameter}: {scheme}:// is not supported; use a path, s3://, file:// or https://.", parameter=parameter
    )


def _file_name(address: str, fallback: str) -> str:
    """The last part of an address as a harmless file name."""
    name = re.sub(r"[^\w.\-]", "-", without_query(address).rpartition("/")[2]).strip(".-")
    return name[-100:] or fallback


def _local(parameter: str, path: Path) -> Path:
    try:
        if path.is_file():
            return path
        exists = path.exists()
    except (OSError, ValueError):  # a name too long or with a NUL: somebody passed the content as text
        raise InvalidInput(
            f"{parameter}: the value is not a path; pass file content as bytes.", parameter=parameter
        ) from None
    what = "is not a regular file" if exists else "does not exist"
    raise InvalidInput(f"{parameter}: the file {str(path)!r} {what}.", parameter=parameter)


def _sized(parameter: str, content: bytes, size: int | None, max_bytes: int) -> bytes:
    size = len(content) if size is None else size
    if size == 0:
        raise InvalidInput(f"{parameter}: the file is empty.", parameter=parameter)
    if size > max_bytes:
        raise InvalidInput(
            f"{parameter}: the file has {size:,} bytes; the service accepts at most {max_bytes:,}.", parameter=parameter
        )
    return content


def _called(value: object) -> str:
    return repr(str(value)) if isinstance(value, str | Path) else "the file"
