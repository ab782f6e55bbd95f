"""fal's platform API (api.fal.ai/v1) and the account part of rest.fal.ai."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_kosmokrator.integrations.emulator.fal_errors import FalError, PlatformError, answering, authenticate
from prefect_kosmokrator.integrations.emulator.fal_models import Model, catalogue
from prefect_kosmokrator.integrations.emulator.fal_queue import complete, origin_of
from prefect_kosmokrator.integrations.emulator.gateway import exchange
from prefect_kosmokrator.integrations.emulator.settings import DAY
from prefect_kosmokrator.integrations.emulator.stability_endpoints import ENDPOINTS
from prefect_kosmokrator.integrations.emulator.webhooks import timestamp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from prefect_kosmokrator.integrations.emulator.accounts import Account
    from prefect_kosmokrator.integrations.emulator.files import StoredFile
    from prefect_kosmokrator.integrations.emulator.jobs import Job

API = "/fal/api/v1"
MAX_IDS = 50
MAX_PAGE = 100
_CATALOGUE_DATE = 1_790_000_000.0


def _owner(request: Request, *, admin: bool = False) -> Account:
    """The account of the key, with the platform's own error bodies."""
    try:
        owner, scope = authenticate(request)
    except FalError as error:
        raise PlatformError(error.status, "authorization_error", str(error.body["detail"])) from None
    if admin and scope != "ADMIN":
        raise PlatformError(403, "authorization_error", "This operation requires an API key with the ADMIN scope.")
    return owner


def _catalogue(request: Request) -> dict[str, Model]:
    return catalogue(exchange(request).state.settings.catalogue_size)


def _page(request: Request, items: Sequence[Any], default: int) -> tuple[list[Any], dict[str, Any]]:
    """One page of a list, by opaque cursor."""
    query = request.query_params
    try:
        limit = int(query.get("limit", default))
        start = int(base64.urlsafe_b64decode(query["cursor"]).decode()) if "cursor" in query else 0
    except ValueError:
        raise PlatformError(400, "validation_error", "Invalid limit or cursor.") from None
    if not 1 <= limit <= MAX_PAGE:
        raise PlatformError(400, "validation_error", f"limit must be between 1 and {MAX_PAGE}.")
    more = start + limit < len(items)
    cursor = base64.urlsafe_b64encode(str(start + limit).encode()).decode() if more else None
    return list(items[start : start + limit]), {"next_cursor": cursor, "has_more": more}


def _requested_ids(request: Request) -> list[str]:
    """Endpoint ids, given several times or separated by commas."""
    ids = [part for text in request.query_params.getlist("endpoint_id") for part in text.split(",") if part]
    if len(ids) > MAX_IDS:
        raise PlatformError(400, "validation_error", f"At most {MAX_IDS} endpoint ids are allowed.")
    return ids


async def models(request: Request) -> Response:
    """``GET /models``: works without a key, but not with a wrong one."""
    exchange(request).entry.operation = "models"
    if "authorization" in request.headers:
        _owner(request)
    query, known = request.query_params, _catalogue(request)
    ids = _requested_ids(request)
    unknown = [identifier for identifier in ids if identifier not in known]
    if unknown:
        raise PlatformError(404, "not_found", f"Unknown endpoint ids: {', '.join(unknown)}")
    text, category, status = query.get("q", "").lower(), query.get("category"), query.get("status")
    if status not in (None, "active", "deprecated"):
        raise PlatformError(400, "validation_error", "status must be active or deprecated.")
    found = [
        model
        for model in (known[i] for i in ids or known)
        if text in f"{model.id} {model.name} {model.category}".lower()
        and category in (None, model.category)
        and status in (None, model.status)
    ]
    page, rest = _page(request, found, 50)
    expand = query.getlist("expand")
    return JSONResponse({"models": [_describe(request, model, expand) for model in page], **rest})


def _describe(request: Request, model: Model, expand: list[str]) -> dict[str, Any]:
    group = model.id.split("/")[1]
    metadata = {
        "display_name": model.name,
        "category": model.category,
        "description": f"{model.name}: {model.category.replace('-', ' ')}.",
        "status": model.status,
        "tags": [model.category.rpartition("-")[2], group],
        "updated_at": timestamp(_CATALOGUE_DATE),
        "is_favorited": False,
        "thumbnail_url": f"{origin_of(request)}/fal/media/thumbnails/{group}.jpg",
        "model_url": f"https://fal.run/{model.id}",
        "license_type": "commercial",
        "date": timestamp(_CATALOGUE_DATE),
        "group": {"key": group, "label": group.title()},
        "kind": "inference",
    }
    described: dict[str, Any] = {"endpoint_id": model.id, "metadata": metadata}
    if "openapi-3.0" in expand:
        schemas = {"Input": model.input.model_json_schema(ref_template="#/components/schemas/{model}")}
        described["openapi"] = {"openapi": "3.0.4", "info": {"title": model.id}, "components": {"schemas": schemas}}
    return described


async def pricing(request: Request) -> Response:
    """``GET /models/pricing``."""
    exchange(request).entry.operation = "pricing"
    _owner(request)
    known, ids = _catalogue(request), _requested_ids(request)
    if not ids:
        raise PlatformError(400, "validation_error", "endpoint_id is required.")
    missing = [identifier for identifier in ids if identifier not in known]
    if missing:
        raise PlatformError(404, "not_found", f"No pricing for: {', '.join(missing)}")
    prices = [
        {"endpoint_id": m.id, "unit_price": m.unit_price, "unit": m.unit, "currency": "USD"}
        for m in (known[identifier] for identifier in ids)
    ]
    return JSONResponse({"prices": prices, "next_cursor": None, "has_more": False})


async def estimate(request: Request) -> Response:
    """``POST /models/pricing/estimate``: by calls or by units."""
    exchange(request).entry.operation = "estimate"
    _owner(request)
    try:
        body = cast("dict[str, Any]", await request.json())
        kind, endpoints = str(body["estimate_type"]), dict[str, dict[str, Any]](body["endpoints"])
        field = {"historical_api_price": "call_quantity", "unit_price": "unit_quantity"}[kind]
        amounts = {identifier: float(values[field]) for identifier, values in endpoints.items()}
    except (ValueError, KeyError, TypeError):
        raise PlatformError(400, "validation_error", "Invalid estimate request.") from None
    known = _catalogue(request)
    missing = [identifier for identifier in amounts if identifier not in known]
    if missing:
        raise PlatformError(404, "not_found", f"No pricing for: {', '.join(missing)}")
    total = sum(known[identifier].unit_price * amount for identifier, amount in amounts.items())
    return JSONResponse({"estimate_type": kind, "total_cost": round(total, 6), "currency": "USD"})


async def requests_by_endpoint(request: Request) -> Response:
    """``GET /models/requests/by-endpoint``: the caller's requests, newest first; recovers lost request ids."""
    call = exchange(request)
    call.entry.operation = "requests"
    owner = _owner(request)
    ids = _requested_ids(request)
    if not ids:
        raise PlatformError(400, "validation_error", "endpoint_id is required.")
    mine = [j for j in call.state.jobs.values() if j.provider == "fal" and j.account == owner.name]
    now = call.state.clock.time()
    start, end = _moment(request, "start", now - DAY), _moment(request, "end", now)
    wanted = [j for j in mine if j.operation in ids and start <= j.submitted <= end]
    newest = sorted(wanted, key=lambda job: job.submitted, reverse=True)
    page, rest = _page(request, newest, 50)
    expand = request.query_params.getlist("expand")
    return JSONResponse({"items": [await _request_item(request, job, expand) for job in page], **rest})


def _moment(request: Request, name: str, default: float) -> float:
    """A point in time given in ISO 8601."""
    text = request.query_params.get(name)
    try:
        return default if text is None else datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise PlatformError(400, "validation_error", f"{name} must be a time in ISO 8601.") from None


async def _request_item(request: Request, job: Job, expand: list[str]) -> dict[str, Any]:
    state = exchange(request).state
    done = job.phase(state.clock.time()) == "COMPLETED"
    outcome = await complete(job) if done else None
    item: dict[str, Any] = {
        "request_id": job.id,
        "endpoint_id": job.operation,
        "sent_at": timestamp(job.submitted),
        "started_at": timestamp(job.starts),
        "ended_at": timestamp(job.ends) if done else None,
        "status_code": outcome.status if outcome else None,
        "duration": round(max(0.0, job.ends - job.starts), 3) if done else None,
    }
    if "payloads" in expand:
        item |= {"json_input": job.arguments, "json_output": outcome.body if outcome else None}
    return item


async def billing(request: Request) -> Response:
    """``GET /account/billing``, for keys of the scope ADMIN."""
    exchange(request).entry.operation = "billing"
    owner = _owner(request, admin=True)
    body: dict[str, Any] = {"username": owner.name}
    if "credits" in request.query_params.getlist("expand"):
        body["credits"] = {"current_balance": owner.balance, "currency": "USD"}
    return JSONResponse(body)


async def volume_files(request: Request) -> Response:
    """``GET /serverless/files/list``: the account's data volume, which holds no CDN uploads."""
    exchange(request).entry.operation = "files"
    _owner(request)
    folder = str(request.path_params.get("folder", "")).strip("/")
    stamp = timestamp(_CATALOGUE_DATE)
    tree = {"": (("models", False, 0), ("notes.txt", True, 312)), "models": (("lora.safetensors", True, 18_874_368),)}
    if folder not in tree:
        raise PlatformError(404, "not_found", f"Directory not found: {folder}")
    return JSONResponse(
        [
            {
                "path": f"{folder}/{name}".strip("/"),
                "name": name,
                "created_time": stamp,
                "updated_time": stamp,
                "is_file": is_file,
                "size": size,
                "checksum_sha256": None,
                "checksum_md5": None,
            }
            for name, is_file, size in tree[folder]
        ]
    )


async def assets(request: Request) -> Response:
    """``GET /assets``: generated and uploaded files, where the feature is enabled."""
    call = exchange(request)
    call.entry.operation = "assets"
    owner = _owner(request)
    if not call.state.settings.assets_enabled:
        raise PlatformError(403, "authorization_error", "Assets are not enabled for this account.")
    query, text = request.query_params, request.query_params.get("q", "").lower()
    wanted = [
        f
        for f in call.state.files.files.values()
        # What Stability made is kept in the same store, but fal does not know of it.
        if f.account == owner.name
        and f.operation not in ENDPOINTS
        and call.state.files.find(f.id) is not None
        and text in f"{f.name} {f.caption}".lower()
        and query.get("media_type") in (None, f.content_type.partition("/")[0])
    ]
    page, rest = _page(request, sorted(wanted, key=lambda f: f.created, reverse=True), 50)
    items = [
        {
            "vector_id": f.id,
            "request_id": None,
            "url": _public_url(request, f),
            "type": f.content_type.partition("/")[0],
            "title": f.name,
            "endpoint": f.operation or None,
            "created_at": timestamp(f.created),
            "source": "upload" if f.origin == "upload" else "generation",
            "prompt": f.caption or None,
            "content_type": f.content_type,
        }
        for f in page
    ]
    return JSONResponse({"assets": items, **rest, "total_count": len(wanted)})


def _public_url(request: Request, file: StoredFile) -> str:
    folder = "cdn" if file.origin == "upload" else "media"
    return f"{origin_of(request)}/fal/{folder}/files/{file.id}/{quote(file.name)}"


async def meta(_request: Request) -> Response:
    """``GET /meta``: where webhooks come from."""
    return JSONResponse({"webhook_ip_ranges": ["127.0.0.1/32"]})


async def no_such_path(request: Request) -> Response:
    """Any other platform path."""
    raise PlatformError(404, "not_found", f"No such path: {request.url.path.removeprefix(API)}")


async def current_user(request: Request) -> Response:
    """``GET /users/current`` of rest: answers locked accounts too, since it tells why."""
    call = exchange(request)
    call.entry.operation = "current user"
    owner = _identify(request)
    return JSONResponse(
        {
            "full_name": owner.name.title(),
            "nickname": owner.name,
            "user_id": owner.user_id,
            "is_personal": True,
            "is_locked": owner.lock_reason is not None,
            "lock_reason": owner.lock_reason,
            "is_paying": True,
            "members": [],
        }
    )


async def user_balance(request: Request) -> Response:
    """``GET /billing/user_balance`` of rest: a bare number."""
    exchange(request).entry.operation = "balance"
    return JSONResponse(_identify(request).balance)


def _identify(request: Request) -> Account:
    try:
        return authenticate(request)[0]
    except FalError as error:
        name = exchange(request).entry.account
        if error.status != 403 or name is None:
            raise
        return exchange(request).state.account(name)


async def key_set(request: Request) -> Response:
    """``GET /.well-known/jwks.json`` of rest: keys that verify webhooks."""
    return JSONResponse(exchange(request).state.signer.key_set())


def routes() -> list[Route]:
    """Paths of the platform API and of rest."""
    paths = {
        f"{API}/models": models,
        f"{API}/models/pricing": pricing,
        f"{API}/models/requests/by-endpoint": requests_by_endpoint,
        f"{API}/account/billing": billing,
        f"{API}/serverless/files/list": volume_files,
        f"{API}/serverless/files/list/{{folder:path}}": volume_files,
        f"{API}/assets": assets,
        f"{API}/meta": meta,
        "/fal/rest/users/current": current_user,
        "/fal/rest/billing/user_balance": user_balance,
        "/fal/rest/.well-known/jwks.json": key_set,
    }
    made = [Route(path, answering(handler), methods=["GET"]) for path, handler in paths.items()]
    made.append(Route(f"{API}/models/pricing/estimate", answering(estimate), methods=["POST"]))
    made.append(Route(API + "/{rest:path}", answering(no_such_path), methods=["GET", "POST", "PUT", "DELETE"]))
    return made
