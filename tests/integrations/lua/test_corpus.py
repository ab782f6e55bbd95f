"""Every script of the corpus ends as its header says, within its limits, and leaves a healthy process."""

import json
import time

import pytest
from lua_harness import Host, plain, read_corpus

from prefect_kosmokrator.integrations.lua import Limits, LuaError, run

CASES = list(read_corpus())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_ends_as_expected(case):
    limits = Limits(**{"cpu_seconds": 2, **case.limits})
    started = time.monotonic()
    try:
        result = run(case.source, Host(), inputs=case.inputs, limits=limits)
    except LuaError as error:
        check_error(case, error)
    else:
        assert case.outcome in ("ok", "any"), f"ended well: {result}"
        if case.expected not in ("", "nothing"):
            assert plain(result.result) == json.loads(case.expected)
        if case.outcome == "ok":
            assert result.output == "\n".join(case.output)
    assert time.monotonic() - started < 10


def check_error(case, error):
    assert error.kind != "crash", error
    if case.outcome == "any":
        return
    line, _, text = case.expected.partition(" ")
    assert (case.outcome, text in error.message) == (error.kind, True), repr(error.message)
    if line:
        assert error.line == json.loads(line), repr(error.message)
    if case.output:
        assert error.output == "\n".join(case.output)


def test_there_are_enough_cases():
    assert len(CASES) > 200
    assert len({case.title for case in CASES}) == len(CASES)
