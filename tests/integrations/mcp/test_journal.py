"""Calls that write are journalled: what an earlier attempt finished is not done again."""

from __future__ import annotations

import pytest

from prefect_kosmokrator.integrations.ledger import current_ledger
from prefect_kosmokrator.integrations.run import Run, running


@pytest.fixture
def attempt():
    """Makes an attempt of one and the same run."""
    return lambda: running(Run(id="run", identity="one and the same"))


def notes(traces):
    file = traces / "notes"
    return file.read_text().split() if file.exists() else []


SOURCE = """
  local first = app.mcp.faults.note{words="one"}
  local again = app.mcp.faults.note{words="one"}
  local image = app.mcp.faults.draw{words="picture"}
  local sum = app.mcp.faults.add{a=1, b=2}
  return first, again, image.uri, sum.result
"""


def test_a_second_attempt_repeats_nothing_that_was_finished(faulty, script, traces, tmp_path, attempt):
    store = (tmp_path / "out").as_uri()
    with attempt():
        result = script(faulty(), store=store).run(SOURCE).result
    assert notes(traces) == ["one", "one", "picture"]
    second = script(faulty(), store=store)
    with attempt():
        assert second.run(SOURCE).result == result
    assert notes(traces) == ["one", "one", "picture"]
    assert [call.status for call in second.host.calls] == ["replayed", "replayed", "replayed", "ok"]
    assert second.host.media[0].uri == result[2]
    assert second.host.calls[0].to_json()["function"] == "mcp.faults.note"


def test_a_call_in_flight_when_the_server_died_is_not_repeated_blindly(faulty, script, traces, attempt):
    with attempt():
        assert script(faulty()).error('app.mcp.faults.die{words="x"}')[1] == "AmbiguousSubmission"
    (traces / "died").unlink()
    with attempt():
        message, kind = script(faulty()).error('app.mcp.faults.die{words="x"}')
    assert kind == "AmbiguousSubmission"
    assert "An earlier attempt ended while mcp.faults.die was in flight" in message
    assert not (traces / "died").exists()


def test_a_call_that_was_refused_may_be_made_again(shared, attempt):
    with attempt():
        for call in ('fail{why="rain"}', "note{}", "note{words=1}"):
            shared.error(f"app.mcp.faults.{call}")
    assert current_ledger().all_entries() == []


def test_a_server_that_did_not_start_left_nothing_in_flight(script, faulty, attempt):
    with attempt():
        script(faulty("crash")).error('app.mcp.faults.note{words="x"}')
    assert current_ledger().all_entries() == []
