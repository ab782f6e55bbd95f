"""The flows that the proofs deploy: paid calls to both providers in every way the pack offers them."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow, unmapped

from prefect_kosmokrator.integrations.output import default_output
from prefect_kosmokrator.tasks import fal, stability
from prefect_kosmokrator.tasks.cancellation import cancel_open_jobs
from prefect_kosmokrator.tasks.lua import run_lua

MODEL = "fal-ai/flux/schnell"
PAID_CALLS = 5
"""What `both_providers` pays for; each call makes one picture."""

WORKFLOW = """
local account = inputs.account
local made = app.integrations.stability[account].generate_core{ prompt = account .. ", core in Lua" }
local input = { prompt = account .. ", fal in Lua", num_images = 1, _emulator = { run_seconds = inputs.seconds } }
local fal = app.integrations.fal[account]
local job = fal.submit_request{ model_id = inputs.model, input = input }
local done = fal.wait_for_request{ model_id = inputs.model, request_id = job.request_id, timeout = 120 }
return { made.uri, done.media[1].uri }
"""


def asked(prompt: str, seconds: float) -> dict[str, Any]:
    """The input of one picture whose job runs for so many seconds at the emulator."""
    return {"prompt": prompt, "num_images": 1, "_emulator": {"run_seconds": seconds}}


@flow(flow_run_name="{account}", on_cancellation=[cancel_open_jobs])
def both_providers(account: str, seconds: float = 1.0, lua_seconds: float = 1.0) -> list[str]:
    """A picture, the same one enlarged, a fal job that is submitted and waited for, and two pictures by a workflow.

    Args:
        account: Which account pays; also names the run.
        seconds: How long the fal job runs.
        lua_seconds: How long the fal job of the workflow runs.
    """
    store = default_output()
    picture = stability.generate_core(f"{account}, core", account=account, output=store)
    enlarged = stability.upscale_fast(picture, account=account, output=store)
    job = fal.submit_request(MODEL, asked(f"{account}, fal", seconds), account=account)
    done = fal.wait_for_request(job, timeout=120, account=account, output=store)
    inputs = {"account": account, "model": MODEL, "seconds": lua_seconds}
    made = run_lua(WORKFLOW, inputs=inputs, output=store)
    return [str(media.uri) for media in (picture, enlarged, *done.media, *made.media)]


@flow(on_cancellation=[cancel_open_jobs])
def many_jobs(accounts: list[str], how: Literal["direct", "submit", "map"], count: int = 2, finished: int = 0) -> None:
    """Submits fal jobs for each account, and waits for them.

    Args:
        accounts: Which accounts pay.
        how: Whether the tasks are called, submitted or mapped.
        count: How many jobs for each account.
        finished: How many of them are completed at once; the others stay in the queue.
    """
    jobs: list[Any] = []
    for account in accounts:
        inputs: list[dict[str, Any]] = [{"prompt": f"{account}, {number}", "num_images": 1} for number in range(count)]
        for one in inputs[:finished]:
            one["_emulator"] = {"queue_seconds": 0, "run_seconds": 0}
        if how == "map":
            jobs += fal.submit_request.map(unmapped(MODEL), inputs, account=unmapped(account))
        elif how == "submit":
            jobs += [fal.submit_request.submit(MODEL, one, account=account) for one in inputs]
        else:
            jobs += [fal.submit_request(MODEL, one, account=account) for one in inputs]
    if how == "direct":
        fal.wait_for_request(jobs[-1], timeout=7200)
    for wait in [fal.wait_for_request.submit(job, timeout=7200) for job in jobs]:
        wait.result()
