"""Results of tools as plain values: JSON decoded, pictures and sound as `Media`."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any, cast

from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    TextContent,
)
from pydantic import BaseModel

from prefect_kosmokrator.integrations.errors import Rejected
from prefect_kosmokrator.integrations.media import Media

_MEDIA_TYPES = ("image/", "audio/", "video/")


def value_of(result: CallToolResult, function: str) -> Any:
    """What a tool returned, with files as `Media`.

    Structured content comes first, with the files among the content under `media`. Else a single item is returned as
    it is, text that holds a JSON object or array decoded; several items are returned as a list. No content is None.

    Raises:
        Rejected: If the tool says that it failed.
    """
    if result.is_error:
        said = "\n".join(item.text for item in result.content if isinstance(item, TextContent))
        raise Rejected(said or "the tool failed and did not say why.", provider="mcp", function=function)
    items = [_item(item, function) for item in result.content]
    if result.structured_content is not None:
        files = [item for item in items if isinstance(item, Media)]
        structured: Any = result.structured_content
        if files and isinstance(structured, dict) and "media" not in structured:
            return {**cast("dict[str, Any]", structured), "media": files}
        return cast("Any", structured)
    if len(items) == 1:
        return _decoded(items[0]["text"]) if isinstance(result.content[0], TextContent) else items[0]
    return items or None


def map_media(value: Any, change: Callable[[Media], Any]) -> Any:
    """`value` with every file in it replaced."""
    if isinstance(value, Media):
        return change(value)
    if isinstance(value, dict):
        return {key: map_media(item, change) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [map_media(item, change) for item in cast("list[Any]", value)]
    return value


def plain(model: BaseModel) -> dict[str, Any]:
    """A protocol object as JSON, by the protocol's own names."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"result_type", "meta"})


def _item(item: ContentBlock, function: str) -> Any:
    if isinstance(item, ImageContent | AudioContent):
        return _media(item.data, item.mime_type, function) or plain(item)
    if isinstance(item, EmbeddedResource) and isinstance(item.resource, BlobResourceContents):
        kind = item.resource.mime_type or ""
        if kind.startswith(_MEDIA_TYPES):
            return _media(item.resource.blob, kind, function) or plain(item)
    return plain(item)


def _media(data: str, content_type: str, function: str) -> Media | None:
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return None  # shown as it came: the rest of the result may still be of use
    return Media.from_bytes(content, content_type, provider="mcp", function=function, account="")


def _decoded(text: str) -> Any:
    """JSON objects and arrays decoded; `123` and `true` stay the texts they are."""
    if text.lstrip()[:1] not in {"{", "["}:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
