"""The ledger of paid calls: durable before the request and after the answer, and what a later attempt makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_kosmokrator.integrations import fal, journal, stability
from prefect_kosmokrator.integrations.encoding import decode, decode_error, encode, encode_error
from prefect_kosmokrator.integrations.errors import (
    AmbiguousSubmission,
    ContentFiltered,
    InvalidInput,
    JobFailed,
    Moderated,
    StorageError,
)
from prefect_kosmokrator.integrations.http import Client
from prefect_kosmokrator.integrations.ledger import Ledger, current_ledger, ledger_store
from prefect_kosmokrator.integrations.media import Cost, Media
from prefect_kosmokrator.integrations.output import OutputStore, file_path
from prefect_kosmokrator.integrations.records import Job, Record, Result
from prefect_kosmokrator.integrations.run import Run, running

CORE = "POST /stability/v2beta/stable-image/generate/core"
SUBMIT = "POST /fal/queue/fal-ai"
MODEL = "fal-ai/flux/schnell"


@pytest.fixture
def attempt():
    """Makes an attempt of one and the same run."""
    return lambda **choices: running(Run(id="run", identity="one and the same", **choices))


def submissions(emulator):
    return emulator.state.ledger.select(method="POST", path=f"/fal/queue/{MODEL}")


# ------------------------------------------------------------------ its files


def test_a_damaged_entry_stops_its_own_call_only(emulator, attempt, tmp_path, caplog):
    with attempt():
        fal.submit_request(MODEL, {"prompt": "a lamp"})
    (file,) = (tmp_path / "ledger" / "open").rglob("*.json")
    file.write_bytes(b"")
    with attempt(), pytest.raises(StorageError, match=r"json, an entry of the ledger of paid calls, cannot be read"):
        fal.submit_request(MODEL, {"prompt": "a lamp"})
    with attempt():
        fal.submit_request(MODEL, {"prompt": "another lamp"})
    assert [entry.arguments["input"]["prompt"] for entry in current_ledger().open_entries()] == ["another lamp"]
    assert "cannot be read" in caplog.text


def test_the_ledger_lies_beside_the_outputs_unless_it_has_a_place_of_its_own(monkeypatch, tmp_path):
    assert ledger_store().url == (tmp_path / "ledger").as_uri()
    monkeypatch.delenv("KOSMO_LEDGER")
    monkeypatch.setenv("KOSMO_OUTPUT", "s3://bucket/lamps/")
    assert ledger_store().url == "s3://bucket/lamps/.kosmo"
    monkeypatch.delenv("KOSMO_OUTPUT")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert ledger_store().url == (tmp_path / "prefect-kosmokrator" / "ledger").as_uri()


def test_results_and_errors_survive_being_written_down(tmp_path):
    media = Media("image/png", 3, "ab", uri="s3://b/k", seed=7, cost=Cost(3, "credits", certain=True))
    job = Job(id="1", request_id="1", provider="fal", function="submit_request", account="default", status="IN_QUEUE")
    result = Result({"images": [{"$type": "of theirs"}]}, media=[media], cost=media.cost, request_id="1")
    for value in (media, job, result, Record(a=1), [1, None, "x", {"b": b"bytes"}]):
        back = decode(encode(value))
        assert back == value
        assert type(back) is type(value)
    assert decode(encode(result)).media[0].cost == media.cost
    for error in (
        ContentFiltered("blurred", media=[media], account="work", request_id="r"),
        JobFailed("no", job=job, status=500),
        StorageError("full", spool=tmp_path / "x.png"),
    ):
        back = decode_error(encode_error(error))
        assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


# ------------------------------------------------------------------ calls


def test_every_paid_call_is_written_down_also_outside_of_a_run(emulator, tmp_path):
    stability.generate_core("a lamp", output=tmp_path.as_uri())
    job = fal.submit_request(MODEL, {"prompt": "a lamp"})
    stability.get_balance()
    request, picture = sorted(current_ledger().all_entries(), key=lambda entry: entry.provider)
    assert (picture.state, picture.function, picture.price.amount) == ("finished", "generate_core", 3)
    assert picture.arguments["prompt"] == "a lamp"
    assert (request.state, request.job.id) == ("submitted", job.id)
    fal.wait_for_request(job, output=tmp_path.as_uri())
    (settled,) = [entry for entry in current_ledger().all_entries() if entry.job]
    assert (settled.state, settled.price.certain, settled.note.startswith("file://")) == ("finished", True, True)
    assert current_ledger().open_entries() == []


def test_the_intent_is_there_before_the_request(emulator, tmp_path, monkeypatch):
    seen = []
    before = Client._exchange

    def exchange(self, request, headers):
        seen.append((request.method, [entry.state for entry in current_ledger().open_entries()]))
        return before(self, request, headers)

    monkeypatch.setattr(Client, "_exchange", exchange)
    fal.submit_request(MODEL, {"prompt": "a lamp"})
    assert seen == [("GET", []), ("POST", ["started"])]


def test_a_refused_call_leaves_nothing(emulator):
    emulator.state.inject(CORE, "403")
    with pytest.raises(Moderated):
        stability.generate_core("a lamp")
    with pytest.raises(InvalidInput):
        stability.remove_background("no-such-file.png")
    assert current_ledger().all_entries() == []
    assert current_ledger().store.keys("spend") == []


def test_a_later_attempt_gets_back_what_was_paid(emulator, tmp_path, attempt):
    def script():
        media = [stability.generate_core("a lamp", output=tmp_path.as_uri()) for _ in range(2)]
        return media, fal.submit_request(MODEL, {"prompt": "a lamp"})

    with attempt():
        first = script()
    with attempt() as run:
        assert script() == first
    assert run.replayed == ["stability.generate_core"] * 2 + ["fal.submit_request"]
    assert first[0][0].seed != first[0][1].seed
    assert emulator.state.ledger.billed("credits") == 6
    assert len(submissions(emulator)) == 1
    emulator.state.reset()  # two equal calls were wanted


def test_another_account_or_input_is_another_call(emulator, tmp_path, attempt):
    for account, prompt in (("default", "a lamp"), ("work", "a lamp"), ("default", "a chair")):
        with attempt():
            stability.generate_core(prompt, account=account, output=tmp_path.as_uri())
    assert emulator.state.ledger.billed("credits") == 9


class KilledError(BaseException):
    """Stands for a process that ends here."""


def killed(*_, **__):
    raise KilledError


@pytest.mark.parametrize("copies", [1, 4])
def test_submissions_that_were_in_flight_are_adopted_one_for_one(emulator, attempt, monkeypatch, copies):
    def submit():
        return [fal.submit_request(MODEL, {"prompt": "a lamp", "seed": 1}) for _ in range(copies)]

    with attempt(), monkeypatch.context() as patch:
        patch.setattr(Ledger, "claim", killed)
        patch.setattr(Ledger, "save", killed)
        for _ in range(copies):
            with pytest.raises(KilledError):
                fal.submit_request(MODEL, {"prompt": "a lamp", "seed": 1})
    assert [entry.state for entry in current_ledger().open_entries()] == ["started"] * copies
    with attempt():
        found = {job.id for job in submit()}
    assert found == set(emulator.state.jobs)
    assert len(submissions(emulator)) == copies
    emulator.state.reset()  # equal calls were wanted


def test_a_submission_with_a_file_in_its_input_is_found_by_what_was_sent(
    emulator, attempt, monkeypatch, picture, tmp_path
):
    path = tmp_path / "lamp.png"
    path.write_bytes(picture())
    with attempt(), monkeypatch.context() as patch:
        patch.setattr(Ledger, "save", lambda _self, entry: killed() if entry.function == "submit_request" else None)
        with pytest.raises(KilledError):
            fal.submit_request(MODEL, {"prompt": "a lamp", "image_url": path})
    with attempt():
        job = fal.submit_request(MODEL, {"prompt": "a lamp", "image_url": path})
    assert [job.id] == list(emulator.state.jobs)


def test_a_submission_that_never_arrived_is_made_again(emulator, attempt, monkeypatch):
    with attempt(), monkeypatch.context() as patch:
        exchange = Client._exchange
        patch.setattr(Client, "_exchange", lambda *args: killed() if args[1].paid else exchange(*args))
        with pytest.raises(KilledError):
            fal.submit_request(MODEL, {"prompt": "a lamp"})
    with attempt():
        fal.submit_request(MODEL, {"prompt": "a lamp"})
    assert len(submissions(emulator)) == len(emulator.state.jobs) == 1


def test_a_lost_answer_of_fal_is_adopted_within_the_attempt(emulator, attempt):
    emulator.state.inject(SUBMIT, "reset-after")
    with attempt():
        job = fal.submit_request(MODEL, {"prompt": "a lamp"})
    assert [job.id] == list(emulator.state.jobs)


def test_a_lost_answer_of_stability_is_left_to_the_operator(emulator, attempt, tmp_path):
    emulator.state.inject(CORE, "reset-after")
    for _ in range(2):
        with attempt(), pytest.raises(AmbiguousSubmission) as caught:
            stability.generate_core("a lamp", output=tmp_path.as_uri())
        assert not caught.value.retryable
    (entry,) = current_ledger().open_entries()
    assert entry.state == "ambiguous"
    assert emulator.state.ledger.billed("credits") == 3
    with attempt(on_ambiguous="resubmit"):
        stability.generate_core("a lamp", output=tmp_path.as_uri())
    assert emulator.state.ledger.billed("credits") == 6
    assert current_ledger().open_entries() == []
    emulator.state.reset()  # the operator chose to pay twice


def test_a_filtered_picture_stays_filtered(emulator, attempt, tmp_path):
    for _ in range(2):
        with attempt(), pytest.raises(ContentFiltered) as caught:
            stability.generate_core("filter-me", output=tmp_path.as_uri())
    assert caught.value.media.uri.startswith("file://")
    assert emulator.state.ledger.billed("credits") == 3


def test_what_was_spooled_is_stored_by_the_next_attempt(emulator, attempt, tmp_path):
    (tmp_path / "out").write_text("no folder")
    with attempt(), pytest.raises(StorageError) as caught:
        stability.generate_core("a lamp", output=(tmp_path / "out").as_uri())
    assert caught.value.spool.exists()
    (tmp_path / "out").unlink()
    with attempt():
        media = stability.generate_core("a lamp", output=(tmp_path / "out").as_uri())
    assert file_path(media.uri).read_bytes() == caught.value.spool.read_bytes()
    assert emulator.state.ledger.billed("credits") == 3


@pytest.mark.parametrize("prompt", ["a lamp", "filter-me"])
def test_a_picture_whose_process_was_killed_while_it_was_stored_is_stored_by_the_next(
    emulator, attempt, tmp_path, monkeypatch, prompt
):
    store = (tmp_path / "out").as_uri()
    with attempt(), monkeypatch.context() as patch:
        patch.setattr(Media, "save", killed)
        with pytest.raises(KilledError):
            stability.generate_core(prompt, output=store)
    assert len(list((tmp_path / "spool" / "held").iterdir())) == 2
    for _ in range(2):
        with attempt():
            if prompt == "a lamp":
                media = stability.generate_core(prompt, output=store)
            else:
                with pytest.raises(ContentFiltered) as caught:
                    stability.generate_core(prompt, output=store)
                media = caught.value.media
    assert (media.cost.amount, media.seed is None, len(media.read())) == (3, False, media.size)
    assert emulator.state.ledger.billed("credits") == 3
    assert list((tmp_path / "spool" / "held").iterdir()) == []


def test_one_file_that_cannot_be_stored_does_not_keep_the_others_from_it(emulator, tmp_path, monkeypatch):
    put, failed = OutputStore.put, []

    def failing(self, source, key, content_type):
        if key.endswith(".jpg") and not failed and "spool" not in self.url:
            failed.append(key)
            raise StorageError("the store is down", transient=True)
        return put(self, source, key, content_type)

    job = fal.submit_request(MODEL, {"prompt": "lamps", "num_images": 3})
    with monkeypatch.context() as patch:
        patch.setattr(OutputStore, "put", failing)
        with pytest.raises(StorageError) as caught:
            fal.wait_for_request(job, output=(tmp_path / "out").as_uri())
    assert caught.value.spool.exists()
    assert caught.value.retryable  # fetching the result again is free
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 2
    assert [entry.state for entry in current_ledger().open_entries()] == ["submitted"]
    assert len(fal.wait_for_request(job, output=(tmp_path / "out").as_uri()).media) == 3


def test_without_a_ledger_nothing_is_sent(emulator, monkeypatch, tmp_path):
    (tmp_path / "full").write_text("no folder")
    monkeypatch.setenv("KOSMO_LEDGER", (tmp_path / "full").as_uri())
    with pytest.raises(StorageError, match="nothing was sent"):
        stability.generate_core("a lamp")
    assert emulator.state.ledger.billed("credits") == 0


def test_a_ledger_that_fails_after_the_call_keeps_the_answer_on_this_machine(emulator, attempt, monkeypatch, tmp_path):
    put = OutputStore.put

    def failing(self, source, key, content_type):
        if key.startswith("closed/") and "spool" not in self.url:
            raise StorageError("the disk is full")
        return put(self, source, key, content_type)

    with attempt(), monkeypatch.context() as patch:
        patch.setattr(OutputStore, "put", failing)
        first = stability.generate_core("a lamp", output=tmp_path.as_uri())
    with attempt():
        assert stability.generate_core("a lamp", output=tmp_path.as_uri()) == first
    assert emulator.state.ledger.billed("credits") == 3
    assert list((tmp_path / "ledger" / "closed").rglob("*.json")) == []
    assert current_ledger().open_entries() == []
    assert len(list((tmp_path / "ledger" / "closed").rglob("*.json"))) == 1


@pytest.mark.parametrize("state", ["ambiguous", "started"])
def test_a_refusal_does_not_hide_that_an_earlier_attempt_may_have_paid(emulator, attempt, tmp_path, monkeypatch, state):
    emulator.state.inject(CORE, "reset-after")
    with attempt(), monkeypatch.context() as patch:
        if state == "started":
            patch.setattr(Ledger, "save", killed)
        with pytest.raises(KilledError if state == "started" else AmbiguousSubmission):
            stability.generate_core("a lamp", output=tmp_path.as_uri())
    assert [entry.state for entry in current_ledger().open_entries()] == [state]
    emulator.state.inject(CORE, "403")
    with attempt(on_ambiguous="resubmit"), pytest.raises(Moderated):
        stability.generate_core("a lamp", output=tmp_path.as_uri())
    with attempt(), pytest.raises(AmbiguousSubmission):
        stability.generate_core("a lamp", output=tmp_path.as_uri())
    assert emulator.state.ledger.billed("credits") == 3


@pytest.mark.parametrize(("fault", "retryable"), [("403", False), ("503", True)])
def test_an_operator_decides_only_what_fal_will_not_tell_later(emulator, attempt, fault, retryable):
    emulator.state.inject(SUBMIT, "reset-before")
    emulator.state.inject("GET /fal/api/v1/models/requests", fault, times=0)
    with attempt(), pytest.raises(AmbiguousSubmission):
        fal.submit_request(MODEL, {"prompt": "a lamp"})
    with attempt(), pytest.raises(AmbiguousSubmission, match="may have been accepted") as caught:
        fal.submit_request(MODEL, {"prompt": "a lamp"})
    assert caught.value.retryable == retryable
    with attempt(on_ambiguous="resubmit"):
        if retryable:
            with pytest.raises(AmbiguousSubmission):
                fal.submit_request(MODEL, {"prompt": "a lamp"})
        else:
            fal.submit_request(MODEL, {"prompt": "a lamp"})
    assert len(submissions(emulator)) == (1 if retryable else 2)


def test_two_processes_in_the_same_call_do_not_both_pay(emulator, attempt, monkeypatch, tmp_path):
    with attempt(), monkeypatch.context() as patch:
        patch.setattr(Ledger, "save", killed)
        with pytest.raises(KilledError):
            stability.generate_core("a lamp", output=tmp_path.as_uri())
    with attempt(), monkeypatch.context() as patch:
        patch.setattr(Ledger, "find", lambda *_: None)  # it looked a moment before the other wrote
        with pytest.raises(AmbiguousSubmission, match="at this moment"):
            stability.generate_core("a lamp", output=tmp_path.as_uri())
    assert emulator.state.ledger.billed("credits") == 3


def test_nothing_of_a_key_is_in_the_ledger(emulator, tmp_path):
    stability.generate_core("a lamp", output=tmp_path.as_uri())
    fal.submit_request(MODEL, {"prompt": "a lamp"})
    account = emulator.state.account()
    kept = b"".join(path.read_bytes() for path in Path(tmp_path / "ledger").rglob("*") if path.is_file())
    for key in (account.stability_key, account.fal_key, *account.fal_key.split(":")):
        assert key.encode() not in kept


def test_the_digest_of_an_input_does_not_depend_on_how_a_number_is_written():
    assert journal.digest_of({"a": 1.0, "b": [2]}) == journal.digest_of({"b": [2.0], "a": 1})
    assert journal.digest_of({"a": 1.5}) != journal.digest_of({"a": 1})
