"""What type checkers must know about the tasks and flows. It is checked by `test_zz_typing.py` and never run."""

from typing import Any, assert_type

from prefect import Task
from prefect.futures import PrefectFuture, PrefectFutureList

from prefect_kosmokrator.flows.balance_report import balance_report
from prefect_kosmokrator.flows.generate_and_upscale import generate_and_upscale
from prefect_kosmokrator.flows.generate_image import generate_image
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.records import Job, Record, Result
from prefect_kosmokrator.tasks import fal, stability
from prefect_kosmokrator.tasks.media import save_media

image = stability.generate_core("a lamp", aspect_ratio="1:1", account="work", output="s3://bucket/lamps")
assert_type(image, Media)
assert_type(stability.upscale_fast(image), Media)
assert_type(stability.upscale_creative(image, "a lamp"), Job)
assert_type(stability.get_result("id", timeout=60), Media)
assert_type(stability.get_video_result("id"), Media | Job)
assert_type(stability.get_balance(), Record)
assert_type(fal.list_models(q="flux"), list[Record])

job = fal.submit_request("fal-ai/flux/schnell", {"prompt": "a lamp"})
assert_type(job, Job)
assert_type(fal.wait_for_request(job), Result)
assert_type(fal.wait_for_request(job).media, list[Media])
assert_type(fal.cancel_request(job), Record)
assert_type(fal.upload_file(b"...")["url"], Any)

assert_type(stability.generate_core.submit("a lamp"), PrefectFuture[Media])
assert_type(stability.generate_core.submit("a lamp").result(), Media)
assert_type(stability.generate_core.map(["a lamp", "a vase"]), PrefectFutureList[Media])
assert_type(stability.generate_core.with_options(retries=0)("a lamp"), Media)
assert_type(save_media(image, "s3://bucket"), Media)
assert_type(generate_image("a lamp"), list[Media])
assert_type(generate_and_upscale("a lamp", upscale="creative"), list[Media])
assert_type(balance_report(), list[dict[str, Any]])


def _takes_any_task(task: Task[..., Media]) -> None:
    assert_type(task("a lamp"), Media)


_takes_any_task(stability.generate_core)

# Each of these lines is a mistake that a checker must find; one that it does not find is an unused comment.
stability.generate_core()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
stability.generate_core(7)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
stability.generate_core("a lamp", aspect_ratio="7:3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
stability.generate_core("a lamp", acount="work")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
fal.wait_for_request(image)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
generate_image("a lamp", model="sd1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
