"""Run any fal.ai model."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.output import default_output
from prefect_kosmokrator.tasks import fal
from prefect_kosmokrator.tasks.artifacts import publish
from prefect_kosmokrator.tasks.hooks import HOOKS
from prefect_kosmokrator.tasks.spending import MaxCost
from prefect_kosmokrator.tasks.suspension import callback_address, submitted_job, suspend_until_completed


@flow(**HOOKS)
def fal_request(
    model_id: Annotated[str, Field(min_length=1)],
    input: dict[str, Any] = {},  # noqa: A002, B006 - the documented name; a form edits a dict, not a choice of types
    request_id: str = "",
    timeout: Annotated[float, Field(gt=0, le=604_800)] = 1800.0,
    account: str = "default",
    output: str = "",
    webhook_url: Annotated[str, Field(pattern=r"^(https?://[^?#\s]+)?$")] = "",
    max_cost: MaxCost = "",  # noqa: ARG001 - read by every call of the run
) -> list[Media]:
    """Run any fal.ai model and store the files it makes; or pick up a request that was submitted earlier.

    Args:
        model_id: Model identifier such as fal-ai/flux/schnell; the model's page lists its input.
        input: The model's own input as JSON, for example {"prompt": "a lighthouse at dusk"}.
        request_id: An earlier request of this model to wait for, instead of submitting (and paying) again.
        timeout: Seconds after which waiting is given up; the request goes on and can be picked up by its id.
        account: Name of the fal.ai account: a credentials block or KOSMO_* variables.
        output: Output store's name or URL prefix such as s3://bucket/folder. Empty: the setting KOSMO_OUTPUT.
        webhook_url: Public address of `kosmo webhooks`. While fal works, the run is then suspended and holds no worker
            slot. Needs a deployment; an earlier request is waited for without it.
        max_cost: Budget of the run such as "5 USD" or "300 credits". Empty: none.

    Returns:
        References to the stored files.
    """
    store = output or default_output()
    if request_id:
        result = fal.wait_for_request(model_id, request_id, timeout=timeout, account=account, output=store)
    elif webhook_url:
        address = callback_address(webhook_url)
        job = submitted_job(input=input) or fal.submit_request(model_id, input, address, account=account)
        left = suspend_until_completed(job, timeout)
        result = fal.wait_for_request(job, timeout=left, account=account, output=store)
    else:
        job = fal.submit_request(model_id, input, account=account)
        result = fal.wait_for_request(job, timeout=timeout, account=account, output=store)
    publish(result.media, key="fal-request", title=f"{model_id}: {input.get('prompt', request_id)}")
    return result.media
