"""The jobs that `fault_mix.py` runs, and the process they run in.

    python benchmarks/mixed_jobs.py PLAN OUTCOMES

reads JSON: a list of chunks of jobs, and appends one line for each job and attempt. The accounts whose keys are saved
as Prefect blocks come from standard input, so that they are in no file and in no list of processes.
"""

from __future__ import annotations

import io
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image
from prefect import flow
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from prefect_kosmokrator.blocks import FalCredentials, StabilityCredentials
from prefect_kosmokrator.integrations.errors import KosmoError
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.tasks import fal, stability
from prefect_kosmokrator.tasks.lua import run_lua

MODEL = "fal-ai/flux/schnell"
SMALL = {"width": 256, "height": 256}
DELAYS = [1.0, 2.0, 4.0]
"""Seconds between the attempts of a task. The pack's own are for outages of minutes; here, waiting changes nothing."""
FLOWS = 4
TASKS = 4
ATTEMPTS = 3

SCRIPT = f"""
local account, prompt = inputs.account, inputs.prompt
app.integrations.stability.generate_sd3{{prompt = prompt, output_format = "jpeg", account = account}}
local job = app.integrations.fal.submit_request{{
  model_id = "{MODEL}", input = {{prompt = prompt, image_size = {{width = 256, height = 256}}}}, account = account
}}
app.integrations.fal.wait_for_request{{
  model_id = "{MODEL}", request_id = job.request_id, account = account, timeout = 120
}}
"""

generate_core, generate_ultra, upscale_fast, upscale_creative, get_result, submit_request, wait_for_request, lua = (
    task.with_options(retry_delay_seconds=DELAYS)
    for task in (
        stability.generate_core,
        stability.generate_ultra,
        stability.upscale_fast,
        stability.upscale_creative,
        stability.get_result,
        fal.submit_request,
        fal.wait_for_request,
        run_lua,
    )
)


class Unfinished(Exception):
    """Some jobs of a chunk failed, so that Prefect runs the flow again."""


def _picture(job: dict[str, str]) -> Path:
    """A small picture that no other job has, in a file named like the job."""
    path = Path(job["folder"], f"{job['id']}.png")
    if not path.exists():
        content = io.BytesIO()
        number = int(job["id"].rpartition("-")[2])
        Image.new("RGB", (64, 64), (number % 256, number // 256, 99)).save(content, "PNG")
        path.write_bytes(content.getvalue())
    return path


def _input(job: dict[str, str]) -> dict[str, Any]:
    images = 3 if job["kind"] == "fal, several files" else 1
    return {"prompt": f"{job['id']} lamp", "image_size": SMALL, "num_images": images}


def _called(job: dict[str, str], output: str) -> list[Media]:
    """The files of a job whose tasks are called."""
    prompt = f"{job['id']} lamp"
    common: dict[str, Any] = {"account": job["account"], "output": output}
    match job["kind"]:
        case "generate_core":
            return [generate_core(prompt, output_format="jpeg", **common)]
        case "generate_ultra":
            return [generate_ultra(prompt, output_format="jpeg", **common)]
        case "upscale_fast":
            return [upscale_fast(_picture(job), **common)]
        case "upscale_creative":
            started = upscale_creative(_picture(job), prompt, output_format="jpeg", account=job["account"])
            return [get_result(started.id, timeout=120, **common)]
        case _:
            request = submit_request(MODEL, _input(job), account=job["account"])
            return wait_for_request(request, timeout=120, output=output).media


def _submitted(job: dict[str, str], output: str) -> list[PrefectFuture[Any]]:
    """The futures of a job whose tasks are submitted; the last one has its files."""
    prompt = f"{job['id']} lamp"
    common: dict[str, Any] = {"account": job["account"], "output": output}
    match job["kind"]:
        case "generate_core":
            return list(generate_core.map([prompt], output_format="jpeg", **common))
        case "generate_ultra":
            return list(generate_ultra.map([prompt], output_format="jpeg", **common))
        case "upscale_fast":
            return [upscale_fast.submit(_picture(job), **common)]
        case "Lua":
            inputs = {"prompt": prompt, "account": job["account"]}
            return [lua.submit(SCRIPT, inputs=inputs, output=output)]
        case _:
            request = submit_request.submit(MODEL, _input(job), account=job["account"])
            return [request, wait_for_request.submit(request, timeout=120, output=output)]


def _files(futures: list[PrefectFuture[Any]]) -> list[Media]:
    """The files that the last of the futures made; raises what the first that failed raised."""
    made = [future.result() for future in futures][-1]
    return [made] if isinstance(made, Media) else list(made.media)


class Outcomes:
    """How each job ended, one line for each attempt."""

    def __init__(self, path: str) -> None:
        self._path, self._lock = Path(path), threading.Lock()

    def note(self, job: dict[str, str], files: list[Media] | BaseException) -> bool:
        """Whether the job has its files."""
        line: dict[str, Any] = {"id": job["id"], "attempt": flow_run.run_count}
        if isinstance(files, BaseException):
            chain = [files]
            while (cause := chain[-1].__cause__) is not None:
                chain.append(cause)
            kinds = [type(error).__name__ for error in chain]
            line |= {"kinds": kinds, "message": str(files), "meant": isinstance(files, KosmoError)}
        else:
            line["files"] = [media.sha256 for media in files]
        with self._lock, self._path.open("a") as lines:
            lines.write(json.dumps(line) + "\n")
        return "files" in line


def main() -> None:
    """Run all chunks, four at a time."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    outcomes = Outcomes(sys.argv[2])
    for name, fields in json.load(sys.stdin).items():
        StabilityCredentials(**fields["stability"]).save(name, overwrite=True)
        FalCredentials(**fields["fal"]).save(name, overwrite=True)

    @flow(name="mixed", retries=ATTEMPTS - 1, task_runner=ThreadPoolTaskRunner(max_workers=TASKS))
    def mixed(jobs: list[dict[str, str]], output: str) -> None:
        futures = {job["id"]: _submitted(job, output) for job in jobs if job["style"] == "submitted"}
        done: list[bool] = []
        for job in jobs:
            try:
                files = _files(futures[job["id"]]) if job["id"] in futures else _called(job, output)
            except Exception as error:  # noqa: BLE001 - whatever it is, the verdict is about it
                done.append(outcomes.note(job, error))
            else:
                done.append(outcomes.note(job, files))
        if not all(done):
            raise Unfinished

    def run(chunk: list[dict[str, str]]) -> None:
        mixed(chunk, plan["output"], return_state=True)

    with ThreadPoolExecutor(FLOWS) as pool:
        list(pool.map(run, plan["chunks"]))


if __name__ == "__main__":
    main()
