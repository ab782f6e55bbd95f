"""Running a fal model: check the input, fetch its picture, draw, store, and answer what the model answers."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_kosmokrator.integrations.emulator import edits, pictures, video
from prefect_kosmokrator.integrations.emulator.canvas import resized
from prefect_kosmokrator.integrations.emulator.fal_errors import FalError, input_error
from prefect_kosmokrator.integrations.emulator.fal_models import Model, ModelInput, output_size
from prefect_kosmokrator.integrations.emulator.stability_forms import decode_image

if TYPE_CHECKING:
    from prefect_kosmokrator.integrations.emulator.state import EmulatorState

_OWN_FILE = re.compile(r"/fal/(?:media|cdn)/files/([0-9a-f]{32})/")
_DOWNLOAD_LIMIT = 20 * 1024 * 1024
_DOWNLOAD_SECONDS = 5.0
_MAX_SIDE = 4096
_FRAMES = 16
_VIDEO_SIZES = {"16:9": (1024, 576), "9:16": (576, 1024), "1:1": (768, 768)}


class Wishes(BaseModel):
    """The further field ``_emulator`` of any input, for what no real field can ask of the emulator.

    Attributes:
        queue_seconds: How long this job waits, instead of the setting.
        run_seconds: How long this job runs, instead of the setting.
        size_bytes: Make a synthetic file of this size instead of a video or picture.
    """

    model_config = ConfigDict(extra="forbid")

    queue_seconds: float | None = None
    run_seconds: float | None = None
    size_bytes: int | None = None


def read_wishes(arguments: dict[str, Any]) -> Wishes:
    """What an input asks of the emulator."""
    try:
        return Wishes.model_validate(arguments.get("_emulator", {}))
    except ValidationError as error:
        raise FalError(422, f"_emulator: {error.errors()[0]['msg']}") from error


@dataclass
class Work:
    """A checked piece of work.

    Attributes:
        model: What runs.
        values: Its input.
        seed: The seed used.
        account: Who asked.
        origin: Address of the emulator as the caller knows it.
        lifetime: Seconds its files can be downloaded; ``None`` for never expiring.
        filtered: The safety checker blacks the result out.
        size_bytes: Make a synthetic file of this size instead of a video or picture.
        units: Billable units, once it has run.
    """

    model: Model
    values: ModelInput
    seed: int
    account: str
    origin: str
    lifetime: float | None
    filtered: bool = False
    size_bytes: int | None = None
    units: float = 0.0
    files: list[str] = field(default_factory=list[str])


def check(model: Model, arguments: Any) -> ModelInput:
    """The model's input, or its 422 refusal."""
    try:
        values = model.input.model_validate(arguments)
    except ValidationError as error:
        problems = [{**problem, "loc": ["body", *problem["loc"]]} for problem in error.errors(include_context=False)]
        raise FalError(422, problems) from error
    prompt = str(getattr(values, "prompt", ""))
    if "moderate-me" in prompt.lower():
        text = "The content could not be processed because it contained material flagged by a content checker."
        raise FalError(422, input_error("content_policy_violation", text, "prompt", value=prompt))
    return values


def is_flagged(values: ModelInput) -> bool:
    """Whether the safety checker is on and finds a trigger word (``filter-me`` or ``nsfw``)."""
    prompt = str(getattr(values, "prompt", "")).lower()
    return bool(getattr(values, "enable_safety_checker", True)) and ("filter-me" in prompt or "nsfw" in prompt)


def expected_units(model: Model, values: ModelInput) -> float:
    """Billable units as far as they follow from the input alone; upscalers depend on the picture."""
    return model.units(output_size(values), int(getattr(values, "num_images", 1)))


def perform(state: EmulatorState, work: Work) -> dict[str, Any]:
    """Run the model and store what it makes; sets the billable units."""
    if work.model.kind == "video":
        return _make_video(state, work)
    if work.model.kind == "upscale":
        return _upscale(state, work)
    return _make_images(state, work)


def fetch(state: EmulatorState, url: str, origin: str) -> Image.Image:
    """The picture behind an input address: a data URI, a file of the emulator, or any other address."""
    content = _fetch_bytes(state, url, origin)
    image = decode_image(content) if content is not None else None
    if content is None:
        text = "Failed to download the file. Please check if the URL is accessible and try again."
        raise FalError(422, input_error("file_download_error", text, "image_url", value=url[:500]))
    if image is None:
        text = "Failed to load the image. Please ensure the image file is not corrupted and is in a supported format."
        raise FalError(422, input_error("image_load_error", text, "image_url", value=url[:500]))
    return image


def _fetch_bytes(state: EmulatorState, url: str, origin: str) -> bytes | None:
    if url.startswith("data:"):
        try:
            return base64.b64decode(url.partition(";base64,")[2], validate=True)
        except ValueError:
            return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    own = _OWN_FILE.match(parts.path)
    if own and f"{parts.scheme}://{parts.netloc}" == origin:
        file = state.files.find(own[1])
        return file.read() if file is not None and file.size <= _DOWNLOAD_LIMIT else None
    return _download(url) if parts.scheme in ("http", "https") else None


def _download(url: str) -> bytes | None:
    content = b""
    try:
        with httpx.stream("GET", url, timeout=_DOWNLOAD_SECONDS, follow_redirects=True, trust_env=False) as response:
            response.raise_for_status()
            for piece in response.iter_bytes():
                content += piece
                if len(content) > _DOWNLOAD_LIMIT:
                    return None
    except (httpx.HTTPError, httpx.InvalidURL):
        return None
    return content


def _make_images(state: EmulatorState, work: Work) -> dict[str, Any]:
    values, size = work.values, output_size(work.values)
    prompt, count = str(getattr(values, "prompt", "")), int(getattr(values, "num_images", 1))
    source = (
        fetch(state, str(getattr(values, "image_url", "")), work.origin) if work.model.kind == "image-edit" else None
    )
    if source is not None:
        size = source.size
    images: list[dict[str, Any]] = []
    for number in range(count):
        if work.filtered:
            image = pictures.black(size)
        elif source is not None:
            image = edits.restyle(source, prompt, work.seed + number, float(getattr(values, "strength", 0.95)))
        else:
            paint = pictures.plain if state.settings.plain_pictures else pictures.scene
            image = resized(paint(prompt, work.seed + number, _bounded(size)), size)
        images.append(_store_image(state, work, image, prompt))
    work.units = work.model.units(size, count)
    return {
        "images": images,
        "timings": {"inference": round(state.settings.run_seconds, 3)},
        "seed": work.seed,
        "has_nsfw_concepts": [work.filtered] * count,
        "prompt": prompt,
    }


def _upscale(state: EmulatorState, work: Work) -> dict[str, Any]:
    values = work.values
    source = fetch(state, str(getattr(values, "image_url", "")), work.origin)
    factor = float(getattr(values, "upscale_factor", getattr(values, "scale", 2)))
    size = _bounded((round(source.width * factor), round(source.height * factor)))
    image = pictures.black(size) if work.filtered else edits.enlarge(source, size)
    work.units = work.model.units(size)
    return {
        "image": _store_image(state, work, image, str(getattr(values, "prompt", "upscaled"))),
        "timings": {"inference": round(state.settings.run_seconds, 3)},
        "seed": work.seed,
        **({"has_nsfw_concepts": [True]} if work.filtered else {}),
    }


def _make_video(state: EmulatorState, work: Work) -> dict[str, Any]:
    values = work.values
    prompt, url = str(getattr(values, "prompt", "")), getattr(values, "image_url", None)
    if url is not None:
        picture = fetch(state, str(url), work.origin)
    else:
        size = _VIDEO_SIZES[str(getattr(values, "aspect_ratio", "16:9"))]
        picture = pictures.black(size) if work.filtered else pictures.scene(prompt, work.seed, size)
    motion = int(getattr(values, "motion_bucket_id", 127)) / 255
    content = video.mp4(video.camera_move(picture, _FRAMES, motion=motion))
    work.units = work.model.units(picture.size)
    return {"video": _store(state, work, content, "video/mp4", prompt), "seed": work.seed}


def _bounded(size: tuple[int, int]) -> tuple[int, int]:
    """The size, scaled down where drawing it would take too long."""
    scale = min(1.0, _MAX_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _store_image(state: EmulatorState, work: Work, image: Image.Image, caption: str) -> dict[str, Any]:
    fallback = "png" if work.model.kind == "upscale" else "jpeg"
    kind = str(getattr(work.values, "output_format", fallback))
    content = pictures.encode(image, kind)
    if getattr(work.values, "sync_mode", False):
        address = {"url": f"data:image/{kind};base64,{base64.b64encode(content).decode()}"}
    else:
        address = _store(state, work, content, f"image/{kind}", caption)
    return {**address, "width": image.width, "height": image.height, "content_type": f"image/{kind}"}


def _store(state: EmulatorState, work: Work, content: bytes, content_type: str, caption: str) -> dict[str, Any]:
    suffix = content_type.partition("/")[2]
    name = f"{hashlib.sha256(content).hexdigest()[:20]}.{suffix}"
    if work.size_bytes is not None:
        file = state.files.add_synthetic(work.size_bytes, f"large.{suffix}", content_type, account=work.account)
    else:
        file = state.files.add(
            content,
            name,
            content_type,
            account=work.account,
            lifetime=work.lifetime,
            caption=caption,
            operation=work.model.id,
        )
    work.files.append(file.id)
    url = f"{work.origin}/fal/media/files/{file.id}/{file.name}"
    return {"url": url, "content_type": content_type, "file_name": file.name, "file_size": file.size}


def thumbnail(content: bytes) -> bytes:
    """A small JPEG of a picture, for the index page."""
    image = Image.open(io.BytesIO(content))
    image.thumbnail((480, 480))
    ground = Image.new("RGB", image.size, (238, 238, 238))
    shown = image.convert("RGBA")
    ground.paste(shown, (0, 0), shown)
    return pictures.encode(ground, "jpeg")
