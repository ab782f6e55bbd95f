"""The parameters that several Stability AI functions share, each with its range and its description."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, cast

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from prefect_kosmokrator.integrations import stability_api as api
from prefect_kosmokrator.integrations.parameters import FileInput, HeaderText, IntegerText
from prefect_kosmokrator.integrations.records import Job

Prompt = Annotated[
    str,
    Field(
        min_length=1,
        max_length=10_000,
        description="What to show, in English. `(word:0.5)` weighs a word (0 to 1).",
        examples=["product photo of a matte black desk lamp"],
    ),
]
NegativePrompt = Annotated[
    str, Field(max_length=10_000, description="What not to show, in English; up to 10,000 characters.")
]
Seed = Annotated[
    int, Field(ge=0, le=4_294_967_294, description="Repeats a result; 0 or nothing picks one at random."), IntegerText
]
AspectRatio = Annotated[
    Literal["21:9", "16:9", "3:2", "5:4", "1:1", "4:5", "2:3", "9:16", "9:21"],
    Field(description="Width to height; 1:1 if nothing is given."),
]
StylePreset = Annotated[
    Literal[
        "enhance", "anime", "photographic", "digital-art", "comic-book", "fantasy-art", "line-art", "analog-film",
        "neon-punk", "isometric", "low-poly", "origami", "modeling-compound", "cinematic", "3d-model", "pixel-art",
        "tile-texture",
    ],
    Field(description="Guides the picture towards a style."),
]  # fmt: skip
OutputFormat = Annotated[Literal["png", "jpeg", "webp"], Field(description="Format of the picture.")]
Strength = Annotated[
    float, Field(ge=0, le=1, description="How far to depart from the input picture: 0 keeps it, 1 ignores it.")
]
EditImage = Annotated[
    FileInput, Field(description=f"The picture to edit: {api.EDIT_LIMITS}.", examples=["product.png"])
]
Mask = Annotated[
    FileInput,
    Field(description="Grey-scale picture: white is changed, black is kept. Without one, the picture's own transparent "
    "area is changed."),
]  # fmt: skip
_JOB_ID = r"^[A-Za-z0-9_\-]{1,128}$"


class _JobSchema:
    """A job's id, or the job; also in the JSON form that a job takes in stored results and in Lua."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(_id_or_job)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "pattern": _JOB_ID}


def _id_or_job(value: Any) -> str | Job:
    fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {"id": value}
    if not re.fullmatch(_JOB_ID, str(fields.get("id"))):
        raise ValueError("must be the id that the starting call returned (letters, digits, - and _), or the job")
    return value if isinstance(value, str) else Job({"request_id": fields["id"], "account": "default", **fields})


IdOrJob = Annotated[
    str | Job,
    _JobSchema(),
    Field(
        description="The id that the starting call returned; or the whole job, and then nothing else is needed.",
        examples=["7d2f1c0e"],
    ),
]
Organization = Annotated[
    HeaderText, Field(min_length=1, description="Organization id, for keys that belong to several.")
]
WaitSeconds = Annotated[
    float, Field(ge=0, le=86_400, description="Seconds to wait for the result, looking every 10 s; 0 looks once.")
]
CfgScale = Annotated[
    float, Field(ge=1, le=10, description="How closely to follow the prompt; 4 for Large and Medium, 1 for Turbo.")
]
Mode = Annotated[
    Literal["text-to-image", "image-to-image"], Field(description="Follows from `image` if nothing is given.")
]
Sd3Model = Annotated[
    str, Field(min_length=1, description=f"One of {', '.join(api.SD3_MODELS)}. Others are passed on with a warning.")
]
GrowInpaintMask = Annotated[
    int, Field(ge=0, le=100, description="Grows the masked area by this many pixels; 5 if not given."), IntegerText
]
GrowEraseMask = Annotated[
    int, Field(ge=0, le=20, description="Grows the masked area by this many pixels; 5 if not given."), IntegerText
]
TransparentFormat = Annotated[
    Literal["png", "webp"], Field(description="Format of the picture; jpeg cannot be transparent.")
]
ControlStrength = Annotated[float, Field(ge=0, le=1, description="How much the structure decides; 0.7 if not given.")]
Creativity = Annotated[float, Field(ge=0.1, le=0.5, description="How much detail to invent; 0.3 if not given.")]
VideoCfgScale = Annotated[
    float, Field(ge=0, le=10, description="How closely the video sticks to the picture; 1.8 if not given.")
]
MotionBucket = Annotated[int, Field(ge=1, le=255, description="How much motion; 127 if not given."), IntegerText]
CreativeImage = Annotated[
    FileInput,
    Field(description=f"The picture: {api.CREATIVE_LIMITS}. A larger Media is shrunk to fit.", examples=["small.png"]),
]
UltraImage = Annotated[FileInput, Field(description=f"A picture to start from: {api.ULTRA_LIMITS}.")]
Sd3Image = Annotated[FileInput, Field(description=f"A picture to start from: {api.SD3_LIMITS}.")]
BackgroundImage = Annotated[
    FileInput, Field(description=f"The picture: {api.BACKGROUND_LIMITS}.", examples=["product.png"])
]
StructureImage = Annotated[
    FileInput,
    Field(description=f"The picture whose structure is kept: {api.STRUCTURE_LIMITS}.", examples=["product.png"]),
]
FastImage = Annotated[
    FileInput,
    Field(description=f"The picture: {api.FAST_LIMITS}. A larger Media is shrunk to fit.", examples=["product.png"]),
]
VideoImage = Annotated[FileInput, Field(description=f"The first frame: {api.VIDEO_LIMITS}.", examples=["hero.png"])]
