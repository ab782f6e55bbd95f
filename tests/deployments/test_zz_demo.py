"""The demo: one command, everything for real on this machine, and nothing left behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from PIL import Image

pytestmark = [pytest.mark.server, pytest.mark.timeout(400)]


ROW = re.compile(
    r"(?P<file>\S+)\W+(?P<pixels>\d+x\d+)\W+(?P<seed>\d+)\W+(?P<cost>[\d.]+ (credits|USD))\W+(?P<sha256>[0-9a-f]{12})"
)
"""A file in the table of the demo."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo, run in an empty folder, with its output."""
    folder = tmp_path_factory.mktemp("demo")
    # As on a fresh machine: no settings, and the width of a usual terminal.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "KOSMO_", "AWS_"))}
    shown = subprocess.run(
        [sys.executable, "-m", "prefect_kosmokrator.deployments.demo"],
        cwd=folder, env={**kept, "DEMO_MARK": str(folder), "COLUMNS": "80"}, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=380, check=False,
    )  # fmt: skip
    return folder, shown


def test_it_ends_by_itself_with_a_table_of_what_was_made(demo):
    folder, shown = demo
    assert shown.returncode == 0, shown.stdout
    assert len(ROW.findall(shown.stdout)) == 8, shown.stdout
    assert str(folder / "demo-output") in shown.stdout.replace("\n", "")
    assert "make demo KEEP=1" in shown.stdout


def test_its_output_is_free_of_warnings_and_traces(demo):
    assert not re.search(r"Traceback|WARNING|ERROR|Warning:", demo[1].stdout), demo[1].stdout


def test_its_pictures_are_worth_opening(demo):
    folder, _ = demo
    files = {path for path in (folder / "demo-output").rglob("*") if path.suffix in {".png", ".jpg"}}
    sizes = {}
    for path in files:
        with Image.open(path) as picture:
            picture.load()
            sizes[path.name] = picture.size
            assert len(picture.convert("RGB").resize((64, 64)).getcolors(4096)) > 100, path
    small = [size for name, size in sizes.items() if not name.startswith("upscale")]
    large = [size for name, size in sizes.items() if name.startswith("upscale")]
    assert (len(small), len(large)) == (4, 4)
    assert min(large) > max(small)
    assert len({path.read_bytes() for path in files}) == 8


def test_it_leaves_nothing_running_and_nothing_else_in_the_folder(demo, processes):
    folder, _ = demo
    assert processes(folder) == []
    assert [path.name for path in folder.iterdir()] == ["demo-output"]
