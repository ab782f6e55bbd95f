"""What can be done about a call in the ledger: find it, fetch its files, cancel it."""

from __future__ import annotations

import pytest

from prefect_kosmokrator.integrations import fal, jobs, stability
from prefect_kosmokrator.integrations.errors import AmbiguousSubmission, InvalidInput
from prefect_kosmokrator.integrations.ledger import current_ledger

SUBMIT = "POST /fal/queue/fal-ai"
MODEL = "fal-ai/flux/schnell"


def test_a_job_is_found_by_the_beginning_of_its_id(emulator):
    job = fal.submit_request(MODEL, {"prompt": "a lamp"})
    assert jobs.find(job.id[:6]).job == job
    with pytest.raises(InvalidInput, match="no call or job 'nothing'"):
        jobs.find("nothing")


def test_a_job_is_cancelled_or_said_to_be_completed(emulator):
    emulator.state.settings.queue_seconds = 3600
    job = fal.submit_request(MODEL, {"prompt": "a lamp"})
    assert jobs.cancel(jobs.find(job.id)) == "CANCELLATION_REQUESTED"
    assert jobs.find(job.id).state == "cancelled"
    emulator.state.settings.queue_seconds = 0
    job = fal.submit_request(MODEL, {"prompt": "another lamp"})
    assert jobs.cancel(jobs.find(job.id)) == "ALREADY_COMPLETED"
    assert "fetch it" in jobs.find(job.id).note


def test_a_lost_submission_can_be_fetched(emulator, tmp_path):
    emulator.state.inject(SUBMIT, "reset-after")
    with pytest.raises(AmbiguousSubmission):
        fal.submit_request(MODEL, {"prompt": "a lamp"})
    (entry,) = current_ledger().open_entries()
    result = jobs.fetch(entry, timeout=10, output=tmp_path.as_uri())
    assert result.media[0].uri.startswith(tmp_path.as_uri())
    assert jobs.fetch(jobs.find(result.request_id), timeout=1, output=None).media == result.media
    assert current_ledger().open_entries() == []


def test_a_stability_job_is_fetched_with_its_own_account(emulator, tmp_path, picture):
    job = stability.upscale_creative(picture(), "a lamp", account="work")
    media = jobs.fetch(jobs.find(job.id), timeout=30, output=tmp_path.as_uri())
    assert (media.account, media.cost.amount) == ("work", 60)
    with pytest.raises(InvalidInput, match="cannot cancel jobs"):
        jobs.cancel(jobs.find(job.id))
