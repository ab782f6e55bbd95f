"""`kosmo jobs` and `kosmo costs`: what a person sees of paid calls, and what they can do about them."""

from __future__ import annotations

import os
import sys

import pytest

from prefect_kosmokrator.integrations import fal, stability
from prefect_kosmokrator.integrations.errors import AmbiguousSubmission

MODEL = "fal-ai/flux/schnell"


@pytest.fixture(autouse=True)
def working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KOSMO_OUTPUT", (tmp_path / "out").as_uri())
    with open(os.devnull, encoding="utf-8") as nothing:  # noqa: PTH123 - a device
        monkeypatch.setattr(sys, "stdin", nothing)
        yield


def test_an_empty_ledger_says_where_it_is(kosmo, tmp_path):
    code, out, err = kosmo("jobs", "list")
    assert (code, out) == (0, "")
    assert f"Nothing is open. The ledger is {(tmp_path / 'ledger').as_uri()}" in err
    assert "Nothing was paid since" in kosmo("costs")[2]


def test_the_list_shows_what_is_open(emulator, kosmo, kosmo_json):
    stability.generate_core("a lamp")
    job = fal.submit_request(MODEL, {"prompt": "a lamp"}, account="work")
    _, out, _ = kosmo("jobs", "list")
    assert out.splitlines()[0].split()[:4] == ["ID", "STATE", "FUNCTION", "ACCOUNT"]
    assert out.splitlines()[1].split()[:5] == [job.id, "submitted", "fal:", MODEL, "work"]
    assert len(out.splitlines()) == 2
    assert len(kosmo_json("jobs", "list", "--all")["jobs"]) == 2
    assert kosmo_json("jobs", "list", "--all", "--account", "Default")["jobs"][0]["function"] == "generate_core"


def test_a_job_is_shown_waited_for_and_gone_from_the_list(emulator, kosmo, kosmo_json):
    job = fal.submit_request(MODEL, {"prompt": "a lamp"})
    shown = kosmo_json("jobs", "show", job.id[:8])["job"]
    assert (shown["id"], shown["arguments"]["input"], shown["service"]["status"]) == (
        job.id, {"prompt": "a lamp"}, "COMPLETED",
    )  # fmt: skip
    code, out, _ = kosmo("jobs", "wait", job.id)
    assert code == 0
    assert out.startswith("image/jpeg, 1024 x 768")
    assert kosmo_json("jobs", "list")["jobs"] == []
    again = kosmo_json("jobs", "fetch", job.id)
    assert again["result"]["media"][0]["uri"].startswith("file://")


def test_a_job_that_goes_on_is_an_error_with_the_job(emulator, kosmo_json):
    emulator.state.settings.queue_seconds = 3600
    job = fal.submit_request(MODEL, {"prompt": "a lamp"})
    document = kosmo_json("jobs", "wait", job.id, "--timeout", "0.1")
    assert (document["error_kind"], document["error_details"]["job"]["id"]) == ("DeadlineExceeded", job.id)


def test_jobs_are_cancelled_by_their_ids(emulator, kosmo, kosmo_json):
    emulator.state.settings.queue_seconds = 3600
    first, second = (fal.submit_request(MODEL, {"prompt": prompt}) for prompt in ("one", "two"))
    code, out, err = kosmo("jobs", "cancel", first.id, second.id, "none")
    assert code == 1
    assert out == f"{first.id}: CANCELLATION_REQUESTED\n{second.id}: CANCELLATION_REQUESTED\n"
    assert "no call or job 'none'" in err
    assert all(job.cancelled is not None for job in emulator.state.jobs.values())
    assert {row["state"] for row in kosmo_json("jobs", "list", "--all")["jobs"]} == {"cancelled"}


def test_a_lost_answer_is_listed_and_explained(emulator, kosmo, kosmo_json):
    emulator.state.inject("POST /stability/v2beta/", "reset-after")
    with pytest.raises(AmbiguousSubmission):
        stability.generate_core("a lamp")
    (row,) = kosmo_json("jobs", "list")["jobs"]
    assert (row["state"], row["function"]) == ("ambiguous", "generate_core")
    code, _, err = kosmo("jobs", "fetch", row["id"])
    assert code == 1
    assert "the service cannot say whether it accepted it" in err


def test_costs_add_up_by_day_account_and_function(emulator, kosmo, kosmo_json):
    for prompt in ("one", "two"):
        stability.generate_core(prompt)
    stability.generate_ultra("three", account="work")
    fal.submit_request(MODEL, {"prompt": "four"})
    document = kosmo_json("costs", "--days", "2")
    rows = {(row["account"], row["function"]): (row["calls"], row["amount"], row["unit"]) for row in document["costs"]}
    assert rows == {
        ("default", "stability.generate_core"): (2, 6.0, "credits"),
        ("work", "stability.generate_ultra"): (1, 8.0, "credits"),
        ("default", "fal.submit_request"): (1, 0.003, "USD"),
    }
    assert document["usd"] == pytest.approx(0.143)
    by_account = kosmo_json("costs", "--by", "account")["costs"]
    assert [(row["account"], row["unit"]) for row in by_account] == [
        ("default", "USD"), ("default", "credits"), ("work", "credits"),
    ]  # fmt: skip
    assert "~0.0030" in kosmo("costs")[1]


def test_a_misspelt_command_is_a_usage_error(kosmo):
    code, _, err = kosmo("jobs", "lst")
    assert code == 2
    assert 'Did you mean "list"?' in err
