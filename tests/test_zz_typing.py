"""Type checkers see through the tasks: the example file is right for mypy and pyright, and so are its mistakes."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = "tests/typing_api.py"

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


def check(*command):
    if find_spec(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed.")
    if not (ROOT / ".links" / "prefect_kosmokrator" / "tasks").exists():
        pytest.skip("The links for type checkers are made by `make dev`.")
    shown = subprocess.run(
        [sys.executable, "-m", *command, EXAMPLE], cwd=ROOT, capture_output=True, text=True, check=False, timeout=280
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr


def test_mypy_knows_the_types_of_tasks_and_flows():
    check("mypy", "--warn-unused-ignores")


def test_pyright_knows_the_types_of_tasks_and_flows():
    check("pyright", "--pythonpath", sys.executable)
