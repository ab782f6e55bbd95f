"""The search for secrets at the end of the runs in `benchmarks/` notices what it looks for."""

from __future__ import annotations

import base64
import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
KEY = "sk-emulator-lamp1a2b"


@pytest.fixture
def secrets(monkeypatch):
    """A search for one key."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    search = importlib.import_module("proof").Secrets()
    search.add(KEY)
    yield search
    for name in ("proof", "loopback"):
        del sys.modules[name]


@pytest.mark.parametrize(
    "content",
    [KEY, f"Bearer {KEY}\n", KEY[1:], KEY[:-1], KEY[8:], f"x{KEY[3:15]}x"],
)
def test_a_part_of_a_key_is_found(secrets, content):
    secrets.look("a log", content.encode())
    assert len(secrets.found) == 1


@pytest.mark.parametrize("shift", range(3))
def test_a_key_in_a_pickled_result_is_found(secrets, shift):
    pickled = base64.b64encode(b"." * (40 + shift) + KEY.encode() + b"." * 40)
    secrets.look("a result", b'{"result": "' + pickled + b'"}')
    assert len(secrets.found) == 1


@pytest.mark.parametrize("content", ["", "sk-emulator-", "the account lamp1a2b", KEY[9:]])
def test_a_name_and_a_common_beginning_are_no_secret(secrets, content):
    secrets.look("a log", content.encode())
    assert secrets.found == set()
