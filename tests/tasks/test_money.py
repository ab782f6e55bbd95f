"""What is paid once stays paid: retried, nested, mapped and crashed runs; and what Prefect keeps of a result."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys

import pytest
from prefect import flow, task
from prefect.settings import PREFECT_API_URL
from prefect.states import AwaitingRetry

from prefect_kosmokrator.tasks import fal, stability
from prefect_kosmokrator.tasks.media import save_media

pytestmark = pytest.mark.usefixtures("prefect_server")

PNG = b"\x89PNG\r\n\x1a\n"
PNG_BASE64 = base64.b64encode(PNG)[:10]


class Trouble(Exception):
    """Something after the paid calls goes wrong."""


class FailsOnce:
    """Goes wrong the first time it is called."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.calls == 1:
            raise Trouble


def posts(emulator):
    return [entry for entry in emulator.state.ledger.select("POST") if entry.billed]


def test_a_retried_flow_pays_nothing_again(emulator, tmp_path):
    trouble, store = FailsOnce(), tmp_path.as_uri()

    @flow(retries=1)
    def lamps():
        image = stability.generate_core("a lamp", output=store)
        large = stability.upscale_fast(image, output=store)
        job = fal.submit_request("fal-ai/flux/schnell", {"prompt": "a lamp"})
        result = fal.wait_for_request(job, output=store)
        trouble()
        return [image, large, *result.media]

    media = lamps()
    assert trouble.calls == 2
    assert [entry.operation for entry in posts(emulator)] == [
        "generate/core", "upscale/fast", "submit fal-ai/flux/schnell",
    ]  # fmt: skip
    assert all(item.read() for item in media)


def test_a_retried_flow_waits_for_the_same_jobs(emulator, tmp_path, picture_file):
    trouble, image = FailsOnce(), picture_file()

    @flow(retries=1)
    def creative():
        job = stability.upscale_creative(image, "a lamp")
        trouble()
        return stability.get_result(job.id, timeout=30, output=tmp_path.as_uri())

    assert creative().width > 256
    assert len(posts(emulator)) == len(emulator.state.jobs) == 1


def test_a_retried_flow_with_submitted_tasks_pays_nothing_again(emulator, tmp_path):
    trouble, store = FailsOnce(), tmp_path.as_uri()

    @flow(retries=1)
    def lamps():
        futures = stability.generate_core.map(["one", "two", "three"], output=store)
        seeds = [media.seed for media in futures.result()]
        trouble()
        return seeds

    assert len(set(lamps())) == 3
    assert len(posts(emulator)) == 3


def test_a_retried_async_flow_pays_nothing_again(emulator, tmp_path):
    trouble, store = FailsOnce(), tmp_path.as_uri()

    @flow(retries=1)
    async def lamp():
        media = stability.generate_core("a lamp", output=store)
        trouble()
        return media

    assert asyncio.run(lamp()).size > 0
    assert len(posts(emulator)) == 1


def test_a_failed_parent_task_pays_nothing_again(emulator, tmp_path):
    trouble, store = FailsOnce(), tmp_path.as_uri()

    @task(persist_result=True)
    def parent():
        media = stability.generate_core("a lamp", output=store)
        job = fal.submit_request("fal-ai/flux/schnell", {"prompt": "a lamp"})
        trouble()
        return [media, *fal.wait_for_request(job, output=store).media]

    @flow(retries=1)
    def lamps():
        return parent()

    assert len(lamps()) == 2
    assert len(posts(emulator)) == 2


def test_a_retried_parent_task_pays_nothing_again(emulator, tmp_path):
    trouble, store = FailsOnce(), tmp_path.as_uri()

    @task(retries=1)
    def parent():
        media = stability.generate_core("a lamp", output=store)
        trouble()
        return media

    @flow
    def lamps():
        return parent()

    assert lamps().size > 0
    assert len(posts(emulator)) == 1


def test_a_retried_grandparent_task_pays_nothing_again(emulator, tmp_path):
    trouble, store = FailsOnce(), tmp_path.as_uri()

    @task
    def parent(prompt):
        return [stability.generate_core(prompt, output=store).seed for _ in range(2)]

    @task(retries=1)
    def grandparent():
        seeds = [*parent("a lamp"), *parent("a lamp"), *parent("a chair")]
        trouble()
        return seeds

    @flow
    def lamps():
        return grandparent()

    assert len(set(lamps())) == 6
    assert len(posts(emulator)) == 6


def test_a_picture_in_memory_is_not_kept_so_a_retry_makes_it_again(emulator, stored):
    trouble = FailsOnce()

    @flow(retries=1)
    def lamp():
        media = stability.generate_core("a lamp only in memory")
        trouble()
        return media.size

    assert lamp() > 0
    assert len(posts(emulator)) == 2
    assert PNG not in stored()


def test_four_equal_prompts_are_four_pictures(emulator, tmp_path):
    store = tmp_path.as_uri()

    @flow
    def lamps():
        return [media.seed for media in stability.generate_core.map(["a lamp"] * 4, output=store).result()]

    assert len(set(lamps())) == 4
    assert len(posts(emulator)) == 4


def test_four_equal_prompts_are_not_paid_again_by_a_retry(emulator, tmp_path):
    trouble, store, seeds = FailsOnce(), tmp_path.as_uri(), []

    @flow(retries=1)
    def lamps():
        one_by_one = [stability.generate_core("a lamp", output=store) for _ in range(2)]
        mapped = stability.generate_core.map(["a lamp"] * 2, output=store).result()
        seeds.append(sorted(media.seed for media in [*one_by_one, *mapped]))
        trouble()

    lamps()
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 4
    assert len(posts(emulator)) == 4


def test_two_runs_of_a_flow_make_two_pictures(emulator, tmp_path):
    store = tmp_path.as_uri()

    @flow
    def lamp():
        return stability.generate_core("a lamp", output=store).seed

    assert lamp() != lamp()


def test_two_accounts_never_share_a_picture(emulator, tmp_path):
    store = tmp_path.as_uri()

    @flow
    def lamps():
        return [stability.generate_core("a lamp", account=name, output=store).account for name in ("default", "work")]

    assert lamps() == ["default", "work"]
    assert [entry.account for entry in posts(emulator)] == ["default", "work"]


def test_a_wait_that_ran_out_of_time_goes_on_in_the_retry(emulator, tmp_path):
    emulator.state.settings.run_seconds = 2

    @flow(retries=4)
    def lamp():
        job = fal.submit_request("fal-ai/flux/schnell", {"prompt": "a lamp"})
        return fal.wait_for_request(job, timeout=0.7, output=tmp_path.as_uri()).media

    assert len(lamp()) == 1
    assert len(emulator.state.jobs) == 1


def test_a_status_is_never_remembered(emulator):
    @flow
    def balances():
        before = stability.get_balance()["credits"]
        emulator.state.account().credits -= 100
        return before - stability.get_balance()["credits"]

    assert balances() == 100


def test_results_hold_references_and_never_bytes(emulator, tmp_path, stored):
    @flow(persist_result=True)
    def lamps():
        kept = stability.generate_core("a kept lamp", output=tmp_path.as_uri())
        memory = stability.generate_core("a lamp in memory")
        saved = save_media(memory, tmp_path.as_uri(), name="saved")
        job = fal.submit_request("fal-ai/flux/schnell", {"prompt": "a lamp"})
        fal.wait_for_request(job)
        return kept, saved, job

    kept, saved, job = lamps()
    results = stored()
    assert kept.sha256.encode() in base64_decoded(results)
    assert saved.sha256.encode() in base64_decoded(results)
    assert job.id.encode() in base64_decoded(results)
    assert PNG not in base64_decoded(results)
    assert PNG_BASE64 not in results


def test_results_hold_no_key(emulator, tmp_path, stored):
    @flow(persist_result=True)
    def lamps():
        return stability.generate_core("a lamp", output=tmp_path.as_uri()), stability.get_account()

    lamps()
    account = emulator.state.account()
    for key in (account.stability_key, account.fal_key, account.fal_key.partition(":")[2]):
        assert key.encode() not in base64_decoded(stored())


def base64_decoded(results):
    """The results as they are stored, and again with the pickles in them decoded."""
    texts = [results]
    for line in results.split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("result"), str):
            texts.append(base64.b64decode(record["result"] + "==", validate=False))
    return b"\n".join(texts)


CRASHING = """
import os, sys
from pathlib import Path
from prefect import flow
from prefect_kosmokrator.tasks import fal, stability

@flow
def lamps():
    store = os.environ["STORE"]
    image = stability.generate_core("a lamp", output=store)
    large = stability.upscale_fast(image, output=store)
    job = fal.submit_request("fal-ai/flux/schnell", {"prompt": "a lamp"})
    if not Path(os.environ["MARK"]).exists():
        Path(os.environ["MARK"]).write_text("crashed")
        os.kill(os.getpid(), 9)
    return [image, large, *fal.wait_for_request(job, output=store).media]

if __name__ == "__main__":
    from uuid import UUID
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(sys.argv[1])) if len(sys.argv) > 1 else client.create_flow_run(lamps)
    print(run.id, flush=True)
    print(len(run_flow(lamps, flow_run=run)))
"""


def test_a_killed_run_that_is_run_again_pays_nothing_again(emulator, tmp_path, api):
    script = tmp_path / "crashing.py"
    script.write_text(CRASHING)
    settings = {"STORE": tmp_path.as_uri(), "MARK": str(tmp_path / "mark"), "PREFECT_API_URL": PREFECT_API_URL.value()}
    command, options = [sys.executable, str(script)], {"env": {**os.environ, **settings}, "capture_output": True}
    killed = subprocess.run(command, check=False, text=True, timeout=100, **options)
    assert killed.returncode == -9, killed.stderr
    assert len(posts(emulator)) == 3
    run_id = killed.stdout.strip()
    api.client.set_flow_run_state(run_id, AwaitingRetry(), force=True)
    again = subprocess.run([*command, run_id], check=False, text=True, timeout=100, **options)
    assert again.stdout.split() == [run_id, "3"], again.stderr
    assert len(posts(emulator)) == 3
