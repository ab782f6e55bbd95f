"""The flow run that `kill_points.py` kills and resumes, and the process it runs in."""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

MODEL = "fal-ai/flux/schnell"
SMALL = {"width": 256, "height": 256}
FILES = 8
"""One generated, one of each twin, two of the other request, one upscaled, two of the script."""

SCRIPT = f"""
local account, prompt = inputs.account, inputs.prompt .. " by script"
local drawn = app.integrations.stability.generate_ultra{{prompt = prompt, output_format = "jpeg", account = account}}
local input = {{prompt = prompt, image_size = {{width = 256, height = 256}}}}
local job = app.integrations.fal.submit_request{{model_id = "{MODEL}", input = input, account = account}}
local done = app.integrations.fal.wait_for_request{{
  model_id = "{MODEL}", request_id = job.request_id, account = account, timeout = 60
}}
return drawn.sha256, done.media[1].sha256
"""


def run(
    settings: dict[str, str], log: str, run_id: str, answer: str, writes: tuple[list[str], int, bool] | None
) -> None:
    """Run a flow run in this process, which was forked from one that has imported Prefect and so starts at once.

    Args:
        settings: Environment: accounts and addresses.
        log: File that takes what the process says.
        run_id: The flow run.
        answer: File that takes how it ended, as JSON.
        writes: See `die_at_write`; None to live.
    """
    os.environ.update(settings)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if writes is not None:
        die_at_write(*writes)
    Path(answer).write_text(json.dumps(_ended(run_id)))
    atexit._run_exitfuncs()  # noqa: SLF001 - a process of `multiprocessing` leaves them out, and Prefect needs them


def die_at_write(folders: list[str], number: int, torn: bool) -> None:
    """Kill this process when it opens a file for writing, or renames one, in one of the folders.

    Args:
        folders: Absolute paths.
        number: The how-manieth time.
        torn: Leave the file open and empty, as if the process were killed before it wrote; else leave it untouched.
    """
    count = 0

    def watch(event: str, values: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in {"open", "os.rename"} or isinstance(values[0], int):
            return
        path = os.path.realpath(os.fsdecode(values[0]))
        writes = event == "os.rename" or bool(values[2] & (os.O_WRONLY | os.O_RDWR))
        if not writes or not path.startswith(tuple(folders)):
            return
        count += 1
        if count == number:
            if torn and event == "open":
                Path(path).write_bytes(b"")
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def _ended(run_id: str) -> dict[str, Any]:
    """Run the flow run, and tell how it ended."""
    from prefect import flow  # noqa: PLC0415 - the parent of this process needs no Prefect
    from prefect.client.orchestration import get_client  # noqa: PLC0415
    from prefect.flow_engine import run_flow  # noqa: PLC0415
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings  # noqa: PLC0415

    from prefect_kosmokrator.tasks import fal, stability  # noqa: PLC0415
    from prefect_kosmokrator.tasks.lua import run_lua  # noqa: PLC0415

    @flow(name="kill-points")
    def lamps(prompt: str, account: str, output: str) -> list[str]:
        drawn = stability.generate_core(f"{prompt} drawn", output_format="jpeg", account=account, output=output)
        twin = {"prompt": f"{prompt} twin", "image_size": SMALL}
        other = {"prompt": f"{prompt} other", "image_size": SMALL, "num_images": 2}
        jobs = [fal.submit_request(MODEL, wanted, account=account) for wanted in (twin, twin, other)]
        files = [media for job in jobs for media in fal.wait_for_request(job, output=output).media]
        large = stability.upscale_fast(files[0], output_format="jpeg", account=account, output=output)
        script = run_lua(SCRIPT, inputs={"prompt": prompt, "account": account}, output=output)
        return [*(media.sha256 for media in (drawn, *files, large)), *script.result]

    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(UUID(run_id))
    # A flow joins its heartbeat thread when it ends, which takes a second.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        state: Any = run_flow(lamps, flow_run=flow_run, parameters=flow_run.parameters, return_type="state")
    if state.is_completed():
        return {"state": state.name, "files": state.result()}
    error = state.result(raise_on_failure=False)
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return {"state": state.name, "kinds": [type(link).__name__ for link in chain], "message": str(error)}
