"""fal's storage: upload tokens, the CDN with its multipart uploads, the fall-back store, and public files."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, unquote

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from prefect_kosmokrator.integrations.emulator.fal_errors import FalError, answering, authenticate
from prefect_kosmokrator.integrations.emulator.fal_queue import origin_of, requested_lifetime
from prefect_kosmokrator.integrations.emulator.files import MultipartUpload, StoredFile, receive_into
from prefect_kosmokrator.integrations.emulator.gateway import authorization_parts, exchange
from prefect_kosmokrator.integrations.emulator.webhooks import timestamp

if TYPE_CHECKING:
    from starlette.requests import Request

    from prefect_kosmokrator.integrations.emulator.files import FileStore

MAX_SINGLE = 100 * 1024 * 1024
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


async def token(request: Request) -> Response:
    """``POST /storage/auth/token``: a short-lived token for the CDN."""
    call = exchange(request)
    call.entry.operation = "upload token"
    owner, _ = authenticate(request)
    if request.query_params.get("storage_type") != "fal-cdn-v3":
        raise FalError(422, [{"loc": ["query", "storage_type"], "msg": "Field required", "type": "missing"}])
    value = secrets.token_urlsafe(32)
    expires = call.state.clock.time() + call.state.settings.cdn_token_seconds
    call.state.tokens[value] = (owner.name, expires)
    base = f"{origin_of(request)}/fal/cdn"
    return JSONResponse({"token": value, "token_type": "Bearer", "base_url": base, "expires_at": timestamp(expires)})


def _uploader(request: Request) -> str:
    """The account of a CDN token; the API key itself is not accepted there."""
    call = exchange(request)
    scheme, value = authorization_parts(request.headers.get("authorization", ""))
    if call.state.owner_of(value) is not None:
        call.entry.violations.append("key leak: the CDN received an API key instead of a token")
    name, expires = call.state.tokens.get(value, ("", 0.0))
    if scheme.lower() != "bearer" or expires <= call.state.clock.time():
        raise FalError(401, "Invalid or expired token")
    call.entry.account = name
    return name


def _reserve(request: Request, account: str) -> StoredFile:
    state = exchange(request).state
    name = unquote(request.headers.get("x-fal-file-name", "upload.bin"))
    kind = request.headers.get("content-type", "application/octet-stream")
    lifetime = requested_lifetime(request, state.settings.media_retention)
    return state.files.reserve(name, kind, account=account, origin="upload", lifetime=lifetime)


def _access_url(request: Request, file: StoredFile) -> str:
    return f"{origin_of(request)}/fal/cdn/files/{file.id}/{quote(file.name)}"


async def upload(request: Request) -> Response:
    """``POST /files/upload``: one file as the body."""
    call = exchange(request)
    call.entry.operation = "upload"
    file = _reserve(request, _uploader(request))
    if file.path is None:
        raise FalError(500, "Internal Server Error")
    await receive_into(file.path, request.stream())
    if file.path.stat().st_size > MAX_SINGLE:
        file.path.unlink()
        raise FalError(413, "File too large, use a multipart upload")
    await run_in_threadpool(call.state.files.commit, file)
    call.entry.fingerprint = file.sha256[:16]
    return JSONResponse({"access_url": _access_url(request, file)})


async def start_multipart(request: Request) -> Response:
    """``POST /files/upload/multipart``: announce a large file."""
    call = exchange(request)
    call.entry.operation = "multipart upload"
    file = _reserve(request, _uploader(request))
    started = MultipartUpload(secrets.token_hex(16), file)
    call.state.files.uploads[started.id] = started
    return JSONResponse({"access_url": _access_url(request, file), "uploadId": started.id})


def _open_upload(request: Request) -> MultipartUpload:
    account = _uploader(request)
    files: FileStore = exchange(request).state.files
    found = files.uploads.get(request.path_params["upload"])
    if found is None or found.file.id != request.path_params["id"] or found.file.account != account:
        raise FalError(404, "Upload not found")
    return found


async def put_part(request: Request) -> Response:
    """``PUT {access_url}/multipart/{uploadId}/{n}``: one part, numbered from 1."""
    call = exchange(request)
    call.entry.operation = "multipart part"
    started, number = _open_upload(request), request.path_params["number"]
    if number < 1:
        raise FalError(400, "Part numbers start at 1")
    tag = await receive_into(call.state.files.part_path(started, number), request.stream())
    started.parts[number] = tag
    return JSONResponse({"partNumber": number, "etag": f'"{tag}"'}, headers={"etag": f'"{tag}"'})


async def complete_multipart(request: Request) -> Response:
    """``POST {access_url}/multipart/{uploadId}/complete``: join the parts that are listed with their tags."""
    call = exchange(request)
    call.entry.operation = "multipart complete"
    started = _open_upload(request)
    try:
        body: Any = await request.json()
        listed = {int(part["partNumber"]): str(part["etag"]).strip('"') for part in body["parts"]}
    except (ValueError, KeyError, TypeError):
        raise FalError(400, "Expected a list of parts with partNumber and etag") from None
    numbers = sorted(listed)
    if not numbers or numbers != list(range(1, len(numbers) + 1)) or listed != started.parts:
        raise FalError(400, "The listed parts do not match the uploaded parts")
    file = await run_in_threadpool(call.state.files.assemble, started, numbers)
    call.entry.fingerprint = file.sha256[:16]
    return JSONResponse({"access_url": _access_url(request, file)})


async def initiate(request: Request) -> Response:
    """``POST /storage/upload/initiate``: an address that takes the bytes without a key."""
    call = exchange(request)
    call.entry.operation = "initiate upload"
    owner, _ = authenticate(request)
    try:
        body: Any = await request.json()
        values = cast("dict[str, Any]", body)
        name, kind = str(values["file_name"]), str(values["content_type"])
    except (ValueError, KeyError, TypeError):
        raise FalError(422, [{"loc": ["body"], "msg": "Field required", "type": "missing"}]) from None
    lifetime = requested_lifetime(request, call.state.settings.media_retention)
    file = call.state.files.reserve(name, kind, account=owner.name, origin="upload", lifetime=lifetime)
    call.state.files.uploads[file.id] = MultipartUpload(file.id, file)
    upload_url = f"{origin_of(request)}/fal/gcs/{file.id}?X-Goog-Signature={secrets.token_hex(16)}"
    file_url = f"{origin_of(request)}/fal/media/files/{file.id}/{quote(file.name)}"
    return JSONResponse({"upload_url": upload_url, "file_url": file_url})


async def put_object(request: Request) -> Response:
    """``PUT upload_url``: the bytes for an initiated upload."""
    call = exchange(request)
    call.entry.operation = "upload"
    started = call.state.files.uploads.pop(request.path_params["id"], None)
    if started is None or started.file.path is None or "X-Goog-Signature" not in request.query_params:
        return Response("<Error><Code>AccessDenied</Code></Error>", 403, media_type="application/xml")
    await receive_into(started.file.path, request.stream())
    await run_in_threadpool(call.state.files.commit, started.file)
    call.entry.account = started.file.account
    return Response(status_code=200)


async def download(request: Request) -> Response:
    """A public file, whole or a range of it."""
    call = exchange(request)
    call.entry.operation = "download"
    file = call.state.files.find(request.path_params["id"])
    if file is None or file.name != request.path_params["name"]:
        known = request.path_params["id"] in call.state.files.files
        return Response("Not Found", call.state.settings.expired_media_status if known else 404)
    headers = {"Accept-Ranges": "bytes", "ETag": f'"{file.sha256[:32]}"', "Content-Length": str(file.size)}
    span = _RANGE.fullmatch(request.headers.get("range", ""))
    if span is not None:
        first, last = int(span[1]), min(int(span[2] or file.size - 1), file.size - 1)
        if first > last:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{file.size}"})
        headers |= {"Content-Range": f"bytes {first}-{last}/{file.size}", "Content-Length": str(last - first + 1)}
        return StreamingResponse(file.chunks(first, last + 1), 206, headers, file.content_type)
    if request.method == "HEAD":
        return Response(headers=headers, media_type=file.content_type)
    return StreamingResponse(file.chunks(), 200, headers, file.content_type)


async def missing(_request: Request) -> Response:
    """Any other public address."""
    return Response("Not Found", 404)


def routes() -> list[Route]:
    """Paths of the storage part of rest, of the CDN and of public files."""
    part = "/fal/cdn/files/{id}/{name}/multipart/{upload}"
    return [
        Route("/fal/rest/storage/auth/token", answering(token), methods=["POST"]),
        Route("/fal/rest/storage/upload/initiate", answering(initiate), methods=["POST"]),
        Route("/fal/cdn/files/upload", answering(upload), methods=["POST"]),
        Route("/fal/cdn/files/upload/multipart", answering(start_multipart), methods=["POST"]),
        Route(part + "/{number:int}", answering(put_part), methods=["PUT"]),
        Route(part + "/complete", answering(complete_multipart), methods=["POST"]),
        Route("/fal/gcs/{id}", answering(put_object), methods=["PUT"]),
        Route("/fal/cdn/files/{id}/{name}", answering(download), methods=["GET", "HEAD"]),
        Route("/fal/media/files/{id}/{name}", answering(download), methods=["GET", "HEAD"]),
        Route("/fal/media/{rest:path}", answering(missing), methods=["GET", "HEAD", "POST", "PUT"]),
    ]
