"""Turn a picture into a short video."""

from __future__ import annotations

from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from prefect_kosmokrator.integrations.errors import DeadlineExceeded
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.output import default_output
from prefect_kosmokrator.tasks import fal, stability
from prefect_kosmokrator.tasks.artifacts import publish
from prefect_kosmokrator.tasks.hooks import HOOKS
from prefect_kosmokrator.tasks.spending import MaxCost


@flow(**HOOKS)
def image_to_video(
    image: Annotated[str, Field(min_length=1)],
    model: Literal["fal-ai/stable-video", "stability"] = "fal-ai/stable-video",
    motion_bucket_id: Annotated[int, Field(ge=1, le=255)] = 127,
    seed: Annotated[int, Field(ge=0, le=4_294_967_294)] = 0,
    timeout: Annotated[float, Field(gt=0, le=86_400)] = 1800.0,
    account: str = "default",
    output: str = "",
    max_cost: MaxCost = "",  # noqa: ARG001 - read by every call of the run
) -> list[Media]:
    """Turn one picture into a short video and store it.

    Args:
        image: The first frame: a path on the worker, or an s3://, file:// or https:// address.
        model: The same model at fal.ai; or Stability AI's own endpoint, which the vendor removed in July 2025.
        motion_bucket_id: How much motion, 1 to 255.
        seed: Repeats an earlier result; 0 picks one at random.
        timeout: Seconds after which waiting is given up. The job goes on and can be fetched later with fal_request.
        account: Name of the account: a credentials block or KOSMO_* variables.
        output: Output store's name or URL prefix such as s3://bucket/folder. Empty: the setting KOSMO_OUTPUT.
        max_cost: Budget of the run such as "5 USD" or "300 credits". Empty: none.

    Returns:
        A reference to the stored video.
    """
    store = output or default_output()
    if model == "stability":
        job = stability.image_to_video(image, motion_bucket_id=motion_bucket_id, seed=seed, account=account)
        video = stability.get_video_result(job.id, timeout=timeout, account=account, output=store)
        if not isinstance(video, Media):
            raise DeadlineExceeded(f"Job {job.id} was not ready after {timeout:.0f} s.", job=job)
        media = [video]
    else:
        address = fal.upload_file(image, account=account)["url"]
        data = {"image_url": address, "motion_bucket_id": motion_bucket_id} | ({"seed": seed} if seed else {})
        request = fal.submit_request(model, data, account=account)
        media = fal.wait_for_request(request, timeout=timeout, account=account, output=store).media
    publish(media, key="image-to-video", title=f"Video of {image}")
    return media
