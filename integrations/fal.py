"""fal.ai: run any of its models through the queue, upload inputs, look at models, files and the account."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from urllib.parse import quote

from pydantic import Field

from prefect_kosmokrator.integrations import fal_api as api
from prefect_kosmokrator.integrations import fal_platform as platform
from prefect_kosmokrator.integrations import fal_requests as requests
from prefect_kosmokrator.integrations import fal_storage
from prefect_kosmokrator.integrations import fal_types as types
from prefect_kosmokrator.integrations.catalog import Provider
from prefect_kosmokrator.integrations.errors import (
    InvalidInput,
    OutOfCredits,
    Rejected,
)
from prefect_kosmokrator.integrations.fal_platform import PAGE, json_object
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.messages import Request
from prefect_kosmokrator.integrations.parameters import AccountName, FileInput, OnFiltered, Output, open_file
from prefect_kosmokrator.integrations.records import Job, Record, Result

logger = logging.getLogger("prefect_kosmokrator")

provider = Provider(
    "fal",
    "fal.ai",
    "Runs any fal.ai model: pictures, video, audio and more.",
    account=api.FalAccount,
    vendor_variable=api.VENDOR_VARIABLE,
    price=lambda _function, arguments: api.expected_cost(arguments),
    balance=platform.balance_in_usd,
    clock=lambda account: api.client_for(account).time(),
    rate_limit=api.RATE_LIMIT,
)


@provider.function("List Models", operation="read")
def list_models(
    *,
    q: types.Query | None = None,
    category: types.Category | None = None,
    status: types.ModelStatus | None = None,
    endpoint_id: types.EndpointIds | None = None,
    limit: types.Limit = PAGE,
    cursor: types.Cursor | None = None,
    all_pages: types.AllPages = False,
    account: AccountName = "default",
) -> list[Record]:
    """List fal.ai models with their descriptions and categories.

    Returns:
        Models with `id`, `description`, `display_name`, `category`, `status` and the service's own `metadata`; the
        last one has `next_cursor` if there are more.
    """
    models: list[Record] = []
    while all_pages or len(models) < limit:
        params: dict[str, Any] = {"limit": PAGE if all_pages else min(PAGE, limit - len(models))}
        given = {"q": q, "category": category, "status": status, "endpoint_id": endpoint_id, "cursor": cursor}
        params |= {name: value for name, value in given.items() if value}
        answer = platform.get_object(account, "/models", params)
        models += [platform.model_record(entry) for entry in platform.json_objects(answer.get("models"))]
        cursor = answer.get("next_cursor")
        if not cursor or not answer.get("has_more", True) or not answer.get("models"):
            return models
    if models:
        models[-1]["next_cursor"] = cursor
    return models


def _recover_submission(arguments: Mapping[str, Any], digest: str, since: float) -> Iterator[Job]:
    for job in requests.find_submitted(arguments["model_id"], arguments["account"], digest, since):
        job["cost"] = api.expected_cost(arguments).to_json()
        yield job


@provider.function(
    "Submit Request",
    operation="write",
    cost="by model; see the model's page",
    recover=_recover_submission,
    result="wait_for_request",
)
def submit_request(
    model_id: types.ModelId,
    input: types.Input,  # noqa: A002 - the documented name
    webhook_url: types.WebhookUrl | None = None,
    *,
    priority: types.Priority | None = None,
    start_timeout: types.StartTimeout | None = None,
    max_queue_length: types.MaxQueueLength | None = None,
    runner_hint: types.RunnerHint | None = None,
    no_retry: types.NoRetry = False,
    no_fallback: types.NoFallback = False,
    media_expires_after: types.MediaExpiry | None = None,
    store_payloads: types.StorePayloads = True,
    tags: types.Tags | None = None,
    account: AccountName = "default",
) -> Job:
    """Submit a generation request to a fal.ai model. Goes on with `wait_for_request` or `get_request_status`.

    A `Media` or `Path` anywhere in the input is uploaded first and replaced by its address.

    Returns:
        The job: `request_id`, `status`, `queue_position` and the addresses fal returned.
    """
    headers = {
        "X-Fal-Queue-Priority": priority,
        # The newer name and the one that fal's own client still sends.
        "X-Fal-Request-Start-Timeout": None if start_timeout is None else f"{start_timeout:.15g}",
        "X-Fal-Request-Timeout": None if start_timeout is None else f"{start_timeout:.15g}",
        "X-Fal-Runner-Hint": runner_hint,
        "X-Fal-No-Retry": "1" if no_retry else None,
        "x-app-fal-disable-fallback": "1" if no_fallback else None,
        "X-Fal-Object-Lifecycle-Preference": media_expires_after
        and json.dumps({"expiration_duration_seconds": media_expires_after}),
        "X-Fal-Store-IO": None if store_payloads else "0",
        "X-Fal-Tags": ",".join(f"{key}={value}" for key, value in (tags or {}).items()) or None,
    }
    params: dict[str, Any] = {"fal_webhook": webhook_url, "fal_max_queue_length": max_queue_length}
    # Before: nothing may come between an accepted job and its return.
    cost = api.expected_cost({"model_id": model_id, "input": input, "account": account})
    job = requests.submit(
        model_id,
        _with_addresses(input, account),
        account,
        {name: str(value) for name, value in headers.items() if value is not None},
        {name: value for name, value in params.items() if value is not None},
    )
    job["cost"] = cost.to_json()
    return job


@provider.function("Get Request Status", operation="read")
def get_request_status(
    model_id: types.ModelOrJob,
    request_id: types.RequestId | None = None,
    *,
    logs: Annotated[bool, Field(description="Ask for the model's log lines.")] = True,
    account: AccountName = "default",
) -> Record:
    """Get the status of a submitted fal.ai request.

    Returns:
        `status` (`IN_QUEUE`, `IN_PROGRESS` or `COMPLETED`), `queue_position` while queued, `logs` (a list, possibly
        empty), and for a completed request `metrics`, and `error` with `error_type` if the model failed.
    """
    job = _job(model_id, request_id, account)
    params = {"logs": 1} if logs else {}
    status = api.client_for(job.account).json(Request("GET", requests.request_url(job, "status"), params=params))
    return Record({**json_object(status), "logs": json_object(status).get("logs") or []})


@provider.function("Get Result", operation="read", ends="fetch")
def get_result(
    model_id: types.ModelOrJob,
    request_id: types.RequestId | None = None,
    *,
    account: AccountName = "default",
    output: Output = None,
    on_filtered: OnFiltered = "raise",
) -> Result:
    """Get the result of a completed fal.ai request. Raises `JobPending` while it is not completed.

    Returns:
        The model's own result, for example with `images` or `video`; `media` lists its files and `cost` what it cost.
    """
    return requests.fetch_result(_job(model_id, request_id, account), output, on_filtered)


@provider.function("Wait For Request", operation="read", ends="fetch")
def wait_for_request(
    model_id: types.ModelOrJob,
    request_id: types.RequestId | None = None,
    *,
    timeout: types.WaitSeconds = 600.0,
    poll_interval: types.PollSeconds = 0.5,
    account: AccountName = "default",
    output: Output = None,
    on_filtered: OnFiltered = "raise",
) -> Result:
    """Wait until a fal.ai request is completed and get its result.

    The request goes on when waiting ends early: `DeadlineExceeded` carries it, and it can be waited for again.

    Returns:
        As `get_result`.
    """
    job = _job(model_id, request_id, account)
    return requests.wait(job, timeout, poll_interval, output, on_filtered)


@provider.function("Cancel Request", operation="write", ends="cancel")
def cancel_request(
    model_id: types.ModelOrJob,
    request_id: types.RequestId | None = None,
    *,
    account: AccountName = "default",
) -> Record:
    """Cancel a fal.ai request. A queued one is dropped unbilled; a running one may still complete.

    Returns:
        `status`: `CANCELLATION_REQUESTED` or `ALREADY_COMPLETED`; and `request_id`.
    """
    job = _job(model_id, request_id, account)
    try:
        answer = json_object(api.client_for(job.account).json(Request("PUT", requests.request_url(job, "cancel"))))
    except Rejected as error:
        if error.status != 400 or "ALREADY_COMPLETED" not in error.message:
            raise
        answer = {"status": "ALREADY_COMPLETED"}
    return Record({**answer, "request_id": job.id})


@provider.function("List Files", operation="read")
def list_files(
    *,
    source: Annotated[
        Literal["serverless", "assets"],
        Field(
            description="serverless: the account's /data volume; assets: uploads and generations, with addresses, "
            "for accounts that have the Assets feature. Plain CDN uploads are listed nowhere by fal."
        ),
    ] = "serverless",
    directory: types.Directory = "",
    q: Annotated[str, Field(description="Words to search for (assets only).")] | None = None,
    limit: types.Limit = PAGE,
    account: AccountName = "default",
) -> list[Record]:
    """List files stored in fal.ai storage.

    Returns:
        Files with `file_name`, `url` (empty where fal gives none) and the service's own fields.
    """  # fmt: skip
    try:
        if source == "serverless":
            path = f"/serverless/files/list/{quote(directory.strip('/'))}".rstrip("/")
            files = platform.json_objects(platform.get(account, path, {}))
            return [platform.file_record(entry, "name") for entry in files[:limit]]
        return platform.list_assets(account, q, limit)
    except Rejected as error:
        if error.status in {403, 404}:
            error.message = (
                f"The {source} files of this account cannot be listed: {error.message} The feature may be off, or the "
                f"key lacks the scope; try source={'assets' if source == 'serverless' else 'serverless'!r}."
            )
        raise


@provider.function("Upload File", operation="write", cost="free")
def upload_file(
    file_path: Annotated[FileInput, Field(description="The file to upload.", examples=["reference.png"])],
    file_name: Annotated[str, Field(min_length=1, description="Name for the upload; the file's own by default.")]
    | None = None,
    *,
    account: AccountName = "default",
) -> Record:
    """Upload a file to fal.ai storage for use as model input. The address is public.

    Files above 100 MB are streamed from disk in parts.

    Returns:
        `url`, `file_name`, `content_type`, `size` in bytes and `sha256`.
    """
    with tempfile.TemporaryDirectory(prefix="kosmo-") as folder:
        path = open_file("file_path", file_path, Path(folder))
        if path.stat().st_size == 0:
            raise InvalidInput("file_path: the file is empty.", parameter="file_path")
        name = Path(file_name).name if file_name else path.name
        url, content_type = fal_storage.upload(api.account_for(account), path, name)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        size = path.stat().st_size
    return Record(url=url, file_name=name, content_type=content_type, size=size, sha256=digest)


@provider.function("Get Current User", operation="read")
def get_current_user(*, account: AccountName = "default") -> Record:
    """Get the current fal.ai user profile and account information.

    Returns:
        `name`, `email` (empty: fal does not give it) and the service's own fields.
    """
    settings = api.account_for(account)
    try:
        answer = json_object(api.client_of(settings).json(Request("GET", f"{settings.rest_url}/users/current")))
    except Rejected as error:
        if error.status not in {403, 404} or isinstance(error, OutOfCredits):
            raise
        try:
            answer = platform.get_object(account, "/account/billing", {})
        except Rejected as refused:
            raise type(refused)(
                "fal does not tell this key who it belongs to: the profile is not available, and the billing "
                f"account needs a key with ADMIN scope ({refused.message})",
                status=refused.status,
                request_id=refused.request_id,
            ) from refused
    name = answer.get("full_name") or answer.get("nickname") or answer.get("username") or ""
    return Record({**answer, "name": name, "email": answer.get("email") or ""})


@provider.function("Get Balance", operation="read")
def get_balance(*, account: AccountName = "default") -> Record:
    """Get the balance of the fal.ai account.

    Returns:
        `balance` and `currency`.
    """
    amount, currency = platform.balance(account)
    return Record(balance=amount, currency=currency)


def _job(model_id: str | Job, request_id: str | None, account: str) -> Job:
    """The job that a call means: one that `submit_request` returned, or a model and a request id."""
    if isinstance(model_id, Job):
        return model_id
    if not request_id:
        raise InvalidInput("request_id is required.", parameter="request_id")
    requests.app_path(model_id)
    return Job(
        id=request_id,
        request_id=request_id,
        status="",
        provider=api.NAME,
        function="submit_request",
        account=account,
        model_id=model_id,
    )


def _with_addresses(value: Any, account: str) -> Any:
    """`value` with every file in it uploaded and replaced by its address."""
    if isinstance(value, Media) and value.uri and value.uri.startswith("https://"):
        return value.uri
    if isinstance(value, Media | Path):
        return upload_file(value, account=account)["url"]
    if isinstance(value, dict):
        return {key: _with_addresses(item, account) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_with_addresses(item, account) for item in cast("list[Any]", value)]
    return value
