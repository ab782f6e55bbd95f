"""What can be configured about the emulator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HOUR = 3600.0
DAY = 24 * HOUR


@dataclass
class EmulatorSettings:
    """Knobs of the emulator; every one may be changed while it runs.

    Attributes:
        accounts: Names of the accounts that exist at start.
        credits: Stability credits each account starts with.
        balance: US dollars each fal account starts with.
        concurrency: fal jobs of one account that run at the same time; the others wait in the queue.
        queue_seconds: How long a fal job waits before it runs.
        run_seconds: How long a fal job runs.
        stability_async_seconds: How long an asynchronous Stability generation takes.
        stability_sync_seconds: Extra time every synchronous Stability generation takes.
        legacy_video: Offer Stability's image-to-video, which the vendor removed on 24 July 2025.
        discontinued_status: What the removed endpoint answers otherwise (not documented: 404, 403 or 410).
        rate_limit_requests: Stability requests allowed per account within ``rate_limit_window`` seconds.
        rate_limit_window: Seconds the Stability rate limit looks back.
        rate_limit_penalty: Seconds an account stays locked out after exceeding the limit.
        retry_after_header: Send ``Retry-After`` with 429 (not documented by Stability).
        poll_interval: Seconds that must lie between two polls of one Stability generation.
        enforce_poll_interval: Answer 429 to polls that come too soon, instead of only noting them in the ledger.
        echo_key: How the v1 API repeats a wrong key in its 401 answer; both forms were observed.
        async_json_field: Name of the JSON field that carries an asynchronous picture; clients disagree.
        stability_retention: Seconds an asynchronous Stability result can be fetched.
        validate_on_submit: Answer 422 at once instead of queueing a fal job whose result is the 422.
        status_code_pending: HTTP status of a fal status answer before completion; stubs are known that send 200.
        omit_logs: Leave the ``logs`` field out, instead of null, when a fal status request did not ask for logs.
        cancel_stops_running: A cancelled fal job that already runs ends at once and is not billed.
        fal_retention: Seconds a fal result can be fetched.
        fal_retention_unstored: The same for requests sent with ``X-Fal-Store-IO: 0``.
        media_retention: Seconds generated and uploaded files can be downloaded.
        expired_media_status: Answer for an expired file: 404 or 410.
        cdn_token_seconds: How long an upload token is valid.
        catalogue_size: Number of fal models listed.
        assets_enabled: Whether the account has fal's Assets feature; without it the call answers 403.
        webhook_attempts: Deliveries tried before a webhook is given up.
        webhook_backoff: Seconds before the second delivery; doubled for each one after that.
        webhook_timeout: Seconds a webhook receiver has to answer.
        webhook_copies: How often each webhook is delivered; the service may repeat one that was taken.
        webhook_payload_limit: Larger results are left out of a webhook, which then tells to fetch them.
        plain_pictures: Draw stripes instead of scenes, which costs a tenth of the time; for load tests.
    """

    accounts: tuple[str, ...] = ("default", "work")
    credits: float = 1000.0
    balance: float = 50.0
    concurrency: int = 40
    queue_seconds: float = 0.3
    run_seconds: float = 0.6
    stability_async_seconds: float = 1.0
    stability_sync_seconds: float = 0.0
    legacy_video: bool = False
    discontinued_status: int = 404
    rate_limit_requests: int = 150
    rate_limit_window: float = 10.0
    rate_limit_penalty: float = 60.0
    retry_after_header: bool = True
    poll_interval: float = 10.0
    enforce_poll_interval: bool = False
    echo_key: Literal["masked", "whole"] = "masked"
    async_json_field: Literal["image", "result"] = "image"
    stability_retention: float = DAY
    validate_on_submit: bool = False
    status_code_pending: int = 202
    omit_logs: bool = False
    cancel_stops_running: bool = False
    fal_retention: float = 30 * DAY
    fal_retention_unstored: float = HOUR
    media_retention: float = 7 * DAY
    expired_media_status: int = 404
    cdn_token_seconds: float = HOUR
    catalogue_size: int = 1400
    assets_enabled: bool = False
    webhook_attempts: int = 6
    webhook_backoff: float = 0.2
    webhook_timeout: float = 15.0
    webhook_copies: int = 1
    webhook_payload_limit: int = 1024 * 1024
    plain_pictures: bool = False
