"""Results and errors as JSON and back: what the ledger keeps of a call, readable by people and by other versions."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

from prefect_kosmokrator.integrations.errors import KosmoError
from prefect_kosmokrator.integrations.media import Cost, Media
from prefect_kosmokrator.integrations.records import Job, Record, Result

TYPE = "$type"
"""The key that names the type of an encoded object; plain JSON has none."""


def encode(value: Any) -> Any:
    """`value` as JSON. Files are kept as references: bytes that are only in memory are left out.

    Raises:
        TypeError: If it holds something that is neither JSON nor a type of this package.
    """
    if isinstance(value, Media):
        known = {field.name: getattr(value, field.name) for field in fields(value) if field.name != "content"}
        return {TYPE: "media", **known, "cost": value.cost and asdict(value.cost)}
    if isinstance(value, Result):
        return {
            TYPE: "result",
            "data": encode(dict(value)),
            "media": encode(value.media),
            "cost": value.cost and asdict(value.cost),
            "request_id": value.request_id,
        }
    if isinstance(value, Record):
        return {TYPE: "job" if isinstance(value, Job) else "record", "data": encode(dict(value))}
    if isinstance(value, dict):
        plain = {str(key): encode(item) for key, item in cast("dict[Any, Any]", value).items()}
        return {TYPE: "dict", "data": plain} if TYPE in plain else plain
    if isinstance(value, list | tuple):
        return [encode(item) for item in cast("list[Any]", value)]
    if isinstance(value, bytes):
        return {TYPE: "bytes", "data": base64.b64encode(value).decode("ascii")}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a {type(value).__name__} is not JSON")


def decode(value: Any) -> Any:
    """What `encode` was given."""
    if isinstance(value, list):
        return [decode(item) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    known = cast("dict[str, Any]", value)
    data = known.get("data")
    match known.get(TYPE):
        case "media":
            names = {field.name for field in fields(Media)}  # a later version may know more
            values: dict[str, Any] = {name: value for name, value in known.items() if name in names}
            return replace(Media(**values), cost=cost_of(values.get("cost")))
        case "result":
            return Result(
                decode(data),
                media=decode(known["media"]),
                cost=cost_of(known["cost"]),
                request_id=str(known["request_id"]),
            )
        case "job":
            return Job(decode(data))
        case "record":
            return Record(decode(data))
        case "bytes":
            return base64.b64decode(str(data))
        case "dict":
            return {key: decode(item) for key, item in cast("dict[str, Any]", data).items()}
        case _:
            return {key: decode(item) for key, item in known.items()}


def cost_of(known: Any) -> Cost | None:
    """A cost that was written with `dataclasses.asdict`, or with `Cost.to_json`."""
    if not known:
        return None
    return Cost(known["amount"], known["unit"], certain=known["certain"], source=known["source"])


def encode_error(error: KosmoError) -> dict[str, Any]:
    """An error with everything it carries."""
    carried = {key: str(value) if isinstance(value, Path) else encode(value) for key, value in vars(error).items()}
    return {"kind": type(error).__name__, **carried}


def decode_error(known: dict[str, Any]) -> KosmoError:
    """The error that `encode_error` was given; a plain `KosmoError` if its class is gone."""
    kind = next((one for one in _subclasses(KosmoError) if one.__name__ == known["kind"]), KosmoError)
    error = kind(str(known["message"]))
    for name, value in known.items():
        if name != "kind":
            setattr(error, name, Path(value) if name == "spool" and value else decode(value))
    return error


def _subclasses(kind: type[KosmoError]) -> Iterator[type[KosmoError]]:
    for one in kind.__subclasses__():
        yield one
        yield from _subclasses(one)


def content_free(value: Any) -> bool:
    """Whether nothing is lost when `value` is encoded: no file in it has its bytes only in memory."""
    if isinstance(value, Media):
        return value.content is None
    if isinstance(value, Result):
        return all(content_free(media) for media in value.media)
    if isinstance(value, dict):
        return all(content_free(item) for item in cast("dict[Any, Any]", value).values())
    if isinstance(value, list | tuple):
        return all(content_free(item) for item in cast("list[Any]", value))
    return not is_dataclass(value)
