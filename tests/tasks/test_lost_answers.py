"""Paid calls whose answer was lost: what the next attempt of the flow run does."""

from __future__ import annotations

import pytest
from prefect import flow

from prefect_kosmokrator.integrations.errors import AmbiguousSubmission, ContentFiltered
from prefect_kosmokrator.tasks import fal, stability


def test_a_lost_submission_to_fal_is_found_and_gone_on_with(emulator, run_flow, api):
    emulator.state.inject("POST /fal/queue/", "reset-after", times=1)

    @flow
    def lighthouse():
        job = fal.submit_request("fal-ai/flux/schnell", {"prompt": "a lighthouse"})
        return fal.wait_for_request(job).media

    state = run_flow(lighthouse)
    assert len(state.result()) == 1
    assert "the answer was lost after job" in api.logs(state.state_details.flow_run_id, "the answer was lost")
    assert len(emulator.state.ledger.select(method="POST", path="/fal/queue/fal-ai/flux/schnell")) == 1
    assert emulator.state.ledger.paid_twice() == []


def test_a_lost_call_to_stability_is_not_made_again(emulator, run_flow, monkeypatch):
    emulator.state.inject("POST /stability/v2beta/", "reset-after", times=1)

    @flow(retries=2)
    def lamp():
        return stability.generate_core("a lamp", output="file://./unused").uri

    with pytest.raises(AmbiguousSubmission, match="may have been accepted and billed"):
        run_flow(lamp).result()
    assert emulator.state.ledger.billed("credits") == 3


def test_a_filtered_picture_is_paid_once_and_stays_filtered(emulator, run_flow, tmp_path):
    @flow(retries=1)
    def lamp():
        return stability.generate_core("filter-me", output=tmp_path.as_uri())

    with pytest.raises(ContentFiltered, match="blurred") as caught:
        run_flow(lamp).result()
    assert caught.value.media.uri.startswith(tmp_path.as_uri())
    assert emulator.state.ledger.billed("credits") == 3


def test_the_operator_may_choose_to_make_a_lost_call_again(emulator, run_flow, monkeypatch, tmp_path):
    monkeypatch.setenv("KOSMO_ON_AMBIGUOUS", "resubmit")
    emulator.state.inject("POST /stability/v2beta/", "reset-after", times=1)

    @flow(retries=1)
    def lamp():
        return stability.generate_core("a lamp", output=tmp_path.as_uri()).width

    assert run_flow(lamp).result() == 1216
    assert emulator.state.ledger.billed("credits") == 6
