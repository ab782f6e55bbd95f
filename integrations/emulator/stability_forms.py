"""Reading Stability's multipart forms as strictly as the service does."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from prefect_kosmokrator.integrations.emulator.stability_errors import StabilityError, bad_request

if TYPE_CHECKING:
    from starlette.types import Message

    from prefect_kosmokrator.integrations.emulator.stability_endpoints import Endpoint, Field, ImageLimits

MAX_BODY = 10 * 1024 * 1024
# The vendor's own samples force multipart with an empty part of this name.
_DUMMY = "none"


@dataclass
class Form:
    """A checked form.

    Attributes:
        texts: Text fields.
        images: Decoded pictures.
        fingerprint: Hash of all fields.
    """

    texts: dict[str, str] = field(default_factory=dict[str, str])
    images: dict[str, Image.Image] = field(default_factory=dict[str, Image.Image])
    fingerprint: str = ""

    def number(self, name: str, default: float) -> float:
        """A field that has passed the range check."""
        return float(self.texts.get(name, default))

    @property
    def prompt(self) -> str:
        """The prompt, or nothing."""
        return self.texts.get("prompt", "")

    @property
    def seed(self) -> int:
        """The seed, 0 when absent."""
        return int(self.number("seed", 0))


async def read_body(request: Request) -> bytes:
    """The body, of ten mebibytes at most."""
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size <= MAX_BODY:
            pieces.append(piece)
    if size > MAX_BODY:
        raise StabilityError(413, "payload_too_large", "body: payloads cannot be larger than 10MiB in size")
    return b"".join(pieces)


async def read_form(request: Request, endpoint: Endpoint) -> Form:
    """Parse and check the form of an endpoint; collects every complaint before refusing."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise bad_request("content-type: must be multipart/form-data")
    parts = await _parts(request, await read_body(request))
    form, digests = Form(), dict[str, str]()
    problems: list[str] = []
    for name, content, is_file in parts:
        if name not in endpoint.fields:
            problems.append(f"{name}: is not allowed")
        elif name in digests:
            problems.append(f"{name}: must be given once")
        else:
            digests[name] = hashlib.sha256(content).hexdigest()
            problems += _accept(form, name, endpoint.fields[name], content, is_file=is_file)
    absent = [name for name, spec in endpoint.fields.items() if spec.required and name not in digests]
    problems += [f"{name}: is required" for name in absent]
    problems += [text for name, image in form.images.items() for text in _limit_problems(name, image, endpoint)]
    problems += _consistency_problems(endpoint.name, form) if not problems else []
    if problems:
        raise bad_request(*problems)
    canonical = json.dumps([endpoint.name, sorted(digests.items())])
    form.fingerprint = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    return form


async def _parts(request: Request, body: bytes) -> list[tuple[str, bytes, bool]]:
    """Name and content of each part, and whether it is a file."""

    async def replay() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    found: list[tuple[str, bytes, bool]] = []
    try:
        # Text parts are bounded by their field's own limit, with the service's message.
        async with Request(request.scope, replay).form(max_part_size=MAX_BODY) as parts:
            for name, value in parts.multi_items():
                is_file = isinstance(value, UploadFile)
                content = await value.read() if isinstance(value, UploadFile) else value.encode()
                if name != _DUMMY or content:
                    found.append((name, content, is_file))
    except HTTPException as error:
        raise bad_request(f"body: {error.detail}") from error
    return found


def _accept(form: Form, name: str, spec: Field, content: bytes, *, is_file: bool) -> list[str]:
    if spec.kind == "image":
        if not is_file:
            return [f"{name}: must be a file"]
        image = decode_image(content)
        if image is None:
            return [f"{name}: must be a valid image in one of the formats: jpeg, png, webp"]
        form.images[name] = image
        return []
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return [f"{name}: must be text"]
    form.texts[name] = text
    return _text_problems(name, spec, text)


def _text_problems(name: str, spec: Field, text: str) -> list[str]:
    if spec.kind == "choice":
        return [] if text in spec.choices else [f"{name}: must be one of {', '.join(spec.choices)}"]
    if spec.kind == "text":
        if len(text) < spec.low:
            return [f"{name}: is required" if spec.required else f"{name}: is too short"]
        return [f"{name}: must be at most {spec.high:,.0f} characters"] if len(text) > spec.high else []
    try:
        number = float(text)
    except ValueError:
        return [f"{name}: must be a number"]
    if spec.kind == "integer" and not number.is_integer():
        return [f"{name}: must be an integer"]
    # Written this way round, so that NaN fails too.
    return [] if spec.low <= number <= spec.high else [f"{name}: must be between {spec.low:g} and {spec.high:.12g}"]


def decode_image(content: bytes) -> Image.Image | None:
    """The picture, or ``None`` for anything but a whole JPEG, PNG or WebP file."""
    try:
        with warnings.catch_warnings():
            # Pictures above the limit are refused by pixel count; the decoder's own warning is not for the caller.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "WEBP"))
            image.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    # A copy loses the format, which the limits ask for.
    image.info["encoding"] = (image.format or "").lower()
    return image


def _limit_problems(name: str, image: Image.Image, endpoint: Endpoint) -> list[str]:
    limits: ImageLimits | None = endpoint.limits.get(name)
    if limits is None:
        return []
    width, height = image.size
    short, long = sorted((width, height))
    if image.info["encoding"] not in limits.formats:
        return [f"{name}: must be one of the formats: {', '.join(limits.formats)}"]
    if limits.sizes:
        sizes = ", ".join(f"{w}x{h}" for w, h in limits.sizes)
        return [] if image.size in limits.sizes else [f"{name}: dimensions must be one of {sizes}"]
    problems: list[str] = []
    if short < limits.min_side:
        problems.append(f"{name}: each side must be at least {limits.min_side} pixels")
    if long > limits.max_side:
        problems.append(f"{name}: each side must be at most {limits.max_side} pixels")
    if not limits.min_pixels <= width * height <= limits.max_pixels:
        problems.append(f"{name}: total pixel count must be between {limits.min_pixels} and {limits.max_pixels}")
    if limits.max_aspect is not None and long / short > limits.max_aspect:
        problems.append(f"{name}: aspect ratio must be between 1:{limits.max_aspect} and {limits.max_aspect}:1")
    return problems


def _consistency_problems(operation: str, form: Form) -> list[str]:
    """Rules that hold between fields."""
    has_image, has_strength = "image" in form.images, "strength" in form.texts
    if operation == "generate/ultra":
        if has_image and not has_strength:
            return ["strength: is required when image is provided"]
        return ["strength: is only allowed when image is provided"] if has_strength and not has_image else []
    if operation != "generate/sd3":
        return []
    if form.texts.get("mode", "text-to-image") == "image-to-image":
        missing = [name for name, there in (("image", has_image), ("strength", has_strength)) if not there]
        problems = [f"{name}: is required when mode is image-to-image" for name in missing]
        if "aspect_ratio" in form.texts:
            problems.append("aspect_ratio: is only allowed when mode is text-to-image")
        return problems
    extra = [name for name, there in (("image", has_image), ("strength", has_strength)) if there]
    return [f"{name}: is only allowed when mode is image-to-image" for name in extra]
