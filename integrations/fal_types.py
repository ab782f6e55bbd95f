"""The parameters that several fal.ai functions share, each with its range and its description."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from prefect_kosmokrator.integrations.fal_requests import app_path
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.parameters import HeaderText
from prefect_kosmokrator.integrations.records import Job


def _checked_model(value: str) -> str:
    app_path(value)
    return value


def _checked_webhook(value: str) -> str:
    # Passed on to the letter: a receiver that redirects because of a slash is given up by fal for good.
    if not re.fullmatch(r"https?://[!-~]+", value):
        raise ValueError("must be an address such as https://host/path")
    return value


def _checked_directory(value: str) -> str:
    if ".." in re.split(r"[/\\]", value):
        raise ValueError("must be a folder below /data")
    return value


def _checked_tag(value: str) -> str:
    if not value.isascii() or not value.isprintable() or set(value) & {",", "="}:
        raise ValueError("must be plain ASCII text without comma and equals sign")
    return value


def _checked_input(value: dict[str, Any]) -> dict[str, Any]:
    _check_json("input", value, 0)
    return value


def _check_json(where: str, value: Any, depth: int) -> None:
    if depth > 64:  # far beyond any model's input; also ends cycles
        raise ValueError("is nested too deeply")
    if isinstance(value, dict):
        for key, item in cast("dict[Any, Any]", value).items():
            if not isinstance(key, str) or not _is_unicode(key):
                raise ValueError(f"{where} has the key {key!r}, which is not a string")
            _check_json(f"{where}.{key}", item, depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(cast("list[Any]", value)):
            _check_json(f"{where}[{index}]", item, depth + 1)
    elif isinstance(value, str) and not _is_unicode(value):
        raise ValueError(f"{where} holds half a character (a lone surrogate), which JSON cannot hold")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, which JSON cannot hold")
    elif not isinstance(value, str | int | float | bool | None | Media | Path):
        raise ValueError(f"{where} is a {type(value).__name__}, which JSON cannot hold")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _JobSchema:
    """A model identifier, or a job; also in the JSON form that a job takes in stored results and in Lua."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(_model_or_job)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string"}


def _model_or_job(value: Any) -> str | Job:
    if isinstance(value, str) and value:
        return _checked_model(value)
    if isinstance(value, dict) and {"request_id", "model_id"} <= value.keys():
        fields = cast("dict[str, Any]", value)
        return Job({"id": fields["request_id"], "account": "default", **fields})
    raise ValueError("must be a model identifier such as 'fal-ai/flux/schnell', or a job")


ModelId = Annotated[
    str,
    AfterValidator(_checked_model),
    Field(
        min_length=1, description='Model identifier, such as "fal-ai/flux/schnell".', examples=["fal-ai/flux/schnell"]
    ),
]
ModelOrJob = Annotated[
    str | Job,
    _JobSchema(),
    Field(
        description="Model identifier used when submitting; or the whole job, and then nothing else is needed.",
        examples=["fal-ai/flux/schnell"],
    ),
]
RequestId = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_\-]{1,128}$",
        description="The request id that submit_request returned; required unless the job is given.",
        examples=["abc123-def456"],
    ),
]
Input = Annotated[
    dict[str, Any],
    AfterValidator(_checked_input),
    Field(
        description="The model's own input, for example prompt and image_size.",
        examples=[{"prompt": "a lighthouse at dusk"}],
    ),
]
WebhookUrl = Annotated[
    str,
    AfterValidator(_checked_webhook),
    Field(description="Public address that fal posts to when the request completes; it must not redirect."),
]
Tag = Annotated[str, AfterValidator(_checked_tag)]
Tags = Annotated[
    dict[Tag, Tag], Field(max_length=10, description="Up to ten key-value pairs for fal's cost attribution.")
]
Limit = Annotated[int, Field(ge=1, le=10_000, description="At most this many entries.")]
WaitSeconds = Annotated[float, Field(gt=0, le=604_800, description="Seconds after which waiting is given up.")]
PollSeconds = Annotated[
    float, Field(gt=0, le=60, description="Seconds before the second look; grows by half each time, up to 5 s.")
]
Query = Annotated[str, Field(description="Words to search for in names and descriptions.")]
Category = Annotated[str, Field(description="Only this category, for example text-to-image.")]
ModelStatus = Annotated[Literal["active", "deprecated"], Field(description="Only models in this state.")]
EndpointIds = Annotated[list[str], Field(max_length=50, description="Only these models.")]
Cursor = Annotated[str, Field(description="Where to go on: `next_cursor` of an earlier answer.")]
AllPages = Annotated[bool, Field(description="Fetch the whole catalogue (about 1,400 models).")]
Priority = Annotated[Literal["normal", "low"], Field(description="Place in the queue.")]
StartTimeout = Annotated[float, Field(gt=1, description="Seconds within which processing must have started.")]
MaxQueueLength = Annotated[int, Field(ge=1, description="Refuse when more requests than this are waiting.")]
RunnerHint = Annotated[HeaderText, Field(description="Prefer the runner that saw this hint before.")]
NoRetry = Annotated[bool, Field(description="Turn fal's own retries off.")]
NoFallback = Annotated[bool, Field(description="Turn fal's fall-back providers off.")]
MediaExpiry = Annotated[int, Field(ge=1, description="Seconds after which fal deletes the output files.")]
StorePayloads = Annotated[bool, Field(description="Whether fal keeps input and result beyond an hour.")]
Directory = Annotated[
    str, AfterValidator(_checked_directory), Field(description="A folder of the /data volume (serverless only).")
]
