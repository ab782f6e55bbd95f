"""Calls that write are journalled: what an earlier attempt finished is not done again."""

from __future__ import annotations

import json

from prefect_kosmokrator.integrations.errors import AmbiguousSubmission


class Journal:
    """What a task keeps across its attempts."""

    def __init__(self, entries):
        self.entries = entries
        self.counts = {}
        self.key = ""

    def replay(self, function, arguments, *, paid):
        key = json.dumps([function, arguments, paid], sort_keys=True)
        self.counts[key] = self.counts.get(key, 0) + 1
        self.key = f"{key}-{self.counts[key]}"
        state, result = self.entries.get(self.key, ("", None))
        if state == "finished":
            return True, result
        if state == "started":
            raise AmbiguousSubmission("in flight when an earlier attempt ended")
        self.entries[self.key] = ("started", None)
        return False, None

    def record(self, result):
        self.entries[self.key] = ("finished", result)

    def abandon(self):
        self.entries[self.key] = ("refused", None)


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


def test_a_second_attempt_repeats_nothing_that_was_finished(faulty, script, traces, tmp_path):
    entries, store = {}, (tmp_path / "out").as_uri()
    first = script(faulty(), journal=Journal(entries), store=store)
    result = first.run(SOURCE).result
    assert notes(traces) == ["one", "one", "picture"]
    second = script(faulty(), journal=Journal(entries), store=store)
    assert second.run(SOURCE).result == result
    assert notes(traces) == ["one", "one", "picture"]
    assert [call.status for call in second.host.calls] == ["replayed", "replayed", "replayed", "ok"]
    assert second.host.media[0].uri == result[2]
    assert second.host.calls[0].to_json()["function"] == "mcp.faults.note"
    recorded = [value for _, value in entries.values()]
    assert recorded[2].content is None  # a reference, small enough to keep


def test_a_call_in_flight_when_the_server_died_is_not_repeated_blindly(faulty, script, traces):
    entries = {}
    runner = script(faulty(), journal=Journal(entries))
    assert runner.error('app.mcp.faults.die{words="x"}')[1] == "AmbiguousSubmission"
    (traces / "died").unlink()
    again = script(faulty(), journal=Journal(entries))
    message, kind = again.error('app.mcp.faults.die{words="x"}')
    assert (message, kind) == ("in flight when an earlier attempt ended", "AmbiguousSubmission")
    assert not (traces / "died").exists()


def test_a_call_that_was_refused_may_be_made_again(shared):
    entries = {}
    shared.host.journal = Journal(entries)
    for call in ('fail{why="rain"}', "note{}", "note{words=1}"):
        shared.error(f"app.mcp.faults.{call}")
    assert [state for state, _ in entries.values()] == ["refused"]  # the others were not even noted down


def test_a_server_that_did_not_start_left_nothing_in_flight(script, faulty):
    entries = {}
    runner = script(faulty("crash"), journal=Journal(entries))
    runner.error('app.mcp.faults.note{words="x"}')
    assert entries == {}
