"""Arguments of a tool against its JSON schema: by position, empty tables, files, validation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, cast

from jsonschema import Draft202012Validator
from jsonschema import exceptions as problems
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import validator_for
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from prefect_kosmokrator.integrations.errors import InvalidInput
from prefect_kosmokrator.integrations.lua import EmptyTable, Handle, materialise
from prefect_kosmokrator.integrations.media import Media

Schema = Mapping[str, Any]

_ANY: Schema = {}


def parameters(schema: Schema) -> list[dict[str, Any]]:
    """The parameters of a tool as rows: name, type, required, description."""
    required: Any = schema.get("required") or []
    return [
        {
            "name": name,
            "type": "|".join(sorted(types_of(part, schema))) or "any",
            "required": name in required,
            "description": str(part.get("description", "")),
        }
        for name, part in _properties(schema).items()
    ]


def named(arguments: Any, schema: Schema, function: str) -> dict[str, Any]:
    """Arguments by name; those given by position are named in the order of the schema."""
    if isinstance(arguments, Handle):
        arguments = [arguments]
    if isinstance(arguments, dict):
        return dict(cast("dict[str, Any]", arguments))
    values, names = list(cast("list[Any]", arguments)), list(_properties(schema))
    if len(values) > len(names):
        raise _invalid(function, f"takes at most {len(names)} arguments, got {len(values)}.", None)
    return {name: value for name, value in zip(names, values, strict=False) if value is not None}


def settled(arguments: Mapping[str, Any], schema: Schema, function: str) -> dict[str, Any]:
    """Arguments as JSON that fits the schema: `{}` as list or object, files as text or object.

    Raises:
        InvalidInput: Naming the parameter, before anything is sent.
    """
    properties = _properties(schema)
    made = {name: _settled(value, properties.get(name, _ANY), schema) for name, value in arguments.items()}
    for name, value in made.items():
        if not _is_json(value):
            raise _invalid(function, f"{name} must be text or JSON, not bytes or NaN.", name)
    problem = _problem(made, schema, function)
    if problem is not None:
        raise problem
    return made


def kinds(schema: Schema) -> list[tuple[str, bool, dict[str, Any]]]:
    """Each parameter with whether it is required and a schema of its one type, for readers of command lines."""
    made: list[tuple[str, bool, dict[str, Any]]] = []
    for name, part in _properties(schema).items():
        types = sorted(types_of(part, schema) - {"null"})
        kind: dict[str, Any] = {"type": types[0]} if len(types) == 1 else {}
        items = _resolved(part, schema).get("items")
        if types == ["array"] and isinstance(items, dict):
            inner = sorted(types_of(cast("Schema", items), schema))
            kind["items"] = {"type": inner[0]} if len(inner) == 1 else {}
        made.append((name, name in (schema.get("required") or []), kind))
    return made


def types_of(part: Schema, root: Schema, depth: int = 0) -> set[str]:
    """The JSON types that a part of a schema allows; empty when it allows any."""
    part = _resolved(part, root)
    kind = part.get("type")
    if isinstance(kind, str):
        return {kind}
    if isinstance(kind, list):
        return {str(one) for one in cast("list[Any]", kind)}
    if "enum" in part or "const" in part:
        return {_type_name(value) for value in part.get("enum", [part.get("const")])}
    choices = [choice for key in ("anyOf", "oneOf", "allOf") for choice in part.get(key, []) if depth < 8]
    return {one for choice in choices for one in types_of(choice, root, depth + 1)}


def _type_name(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    kind: type = value.__class__
    return names.get(kind, "null")


def _properties(schema: Schema) -> dict[str, Schema]:
    found = schema.get("properties")
    given = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    return {name: part if isinstance(part, dict) else _ANY for name, part in given.items()}


def _resolved(part: Schema, root: Schema) -> Schema:
    """`part`, or what its reference within the same document means."""
    for _ in range(8):
        reference = part.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return part
        target: Any = root
        for step in reference[2:].split("/"):
            target = target.get(step.replace("~1", "/").replace("~0", "~"), {}) if isinstance(target, dict) else {}  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        part = cast("Schema", target) if isinstance(target, dict) else _ANY
    return _ANY


def _settled(value: Any, part: Schema, root: Schema) -> Any:
    part = _resolved(part, root)
    types = types_of(part, root)
    if isinstance(value, EmptyTable):
        return [] if "array" in types and "object" not in types else {}
    if isinstance(value, Handle):
        return _file(value, part, types)
    choices = [part, *(_resolved(one, root) for key in ("anyOf", "oneOf", "allOf") for one in part.get(key, []))]
    if isinstance(value, dict):
        known: dict[str, Schema] = {}
        for choice in choices:
            known |= _properties(choice)
        extra = _inner(choices, "additionalProperties")
        fields = cast("dict[str, Any]", value).items()
        return {key: _settled(item, known.get(key, extra), root) for key, item in fields}
    if isinstance(value, list):
        items = _inner(choices, "items")
        return [_settled(item, items, root) for item in cast("list[Any]", value)]
    return value


def _inner(choices: list[Schema], key: str) -> Schema:
    found = next((choice[key] for choice in choices if isinstance(choice.get(key), dict)), _ANY)
    return cast("Schema", found)


def _file(handle: Handle, part: Schema, types: set[str]) -> Any:
    """A generated file for a tool: its address or its content as base64 where text is expected, else all fields."""
    media = handle.target
    if isinstance(media, Media) and types == {"string"}:
        return (media.link() or media.uri or "") if part.get("format") in {"uri", "url"} else media.body_base64
    return materialise(handle)


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_json(item) for item in cast("dict[str, Any]", value).values())
    if isinstance(value, list):
        return all(_is_json(item) for item in cast("list[Any]", value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int)


def _problem(arguments: dict[str, Any], schema: Schema, function: str) -> InvalidInput | None:
    try:
        kind: Any = validator_for(schema, default=Draft202012Validator)
        # An empty registry: a reference to another document must not fetch it.
        validator: Any = kind(schema, registry=EMPTY_REGISTRY)
        best: Any = problems.best_match  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        error = cast("ValidationError | None", best(validator.iter_errors(arguments)))
    except (SchemaError, Unresolvable, TypeError, ValueError, AttributeError):
        return None  # a schema that is broken itself: the server has to check
    if error is None:
        return None
    path = [str(step) for step in error.absolute_path]
    where = path[0] + "".join(f"[{step}]" if step.isdigit() else f".{step}" for step in path[1:]) if path else ""
    instance, names = cast("Any", error.instance), list(_properties(cast("Schema", error.schema)))
    if error.validator == "required" and isinstance(instance, dict):
        missing = next((one for one in cast("list[str]", error.validator_value) if one not in instance), "")
        return _invalid(function, f"{f'{where}.' if where else ''}{missing} is required.", path[0] if path else missing)
    if error.validator == "additionalProperties" and isinstance(instance, dict):
        unknown = next((str(one) for one in cast("dict[str, Any]", instance) if one not in names), "")
        close = get_close_matches(unknown, names, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Its parameters are: {', '.join(names) or 'none'}."
        inside = f" in {where}" if where else ""
        return _invalid(function, f"there is no parameter {unknown!r}{inside}. {hint}", path[0] if path else unknown)
    message = error.message if len(error.message) <= 300 else f"{error.message[:297]}..."
    return _invalid(function, f"{where}: {message}." if where else f"{message}.", path[0] if path else None)


def _invalid(function: str, message: str, parameter: str | None) -> InvalidInput:
    return InvalidInput(message, parameter=parameter, provider="mcp", function=function)
