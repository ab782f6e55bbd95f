"""Rules of the house that no linter knows: size, direction of imports, names, and what no file may say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("integrations", "blocks", "tasks", "flows", "deployments")
MAX_LINES = 400

MODULES = sorted(path for folder in (*ORDER, "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
BINARY = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".mp4", ".pyc", ".whl"}
HIDDEN = {".git", ".venv", ".links", ".mypy_cache", ".ruff_cache", ".pytest_cache", "build", "dist", "outputs"}


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def imports_of(path):
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively"
            yield node.module or ""


def texts():
    """The files of the repository that hold text, except this one, which names what it forbids."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False
    )
    names = listed.stdout.decode().split("\n")[:-1]
    if not names:  # an unpacked archive has no history
        names = [name_of(path) for path in ROOT.rglob("*") if not HIDDEN & set(path.relative_to(ROOT).parts)]
    for name in names:
        path = ROOT / name
        if path.is_file() and path.suffix not in BINARY and path != Path(__file__):
            yield name, path.read_text(errors="replace")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_small(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("folder", ORDER)
def test_imports_point_one_way(folder):
    later = {f"prefect_kosmokrator.{name}" for name in ORDER[ORDER.index(folder) + 1 :]}
    for path in (ROOT / folder).rglob("*.py"):
        wrong = [name for name in imports_of(path) if ".".join(name.split(".")[:2]) in later]
        assert wrong == [], name_of(path)


def test_the_integrations_import_no_prefect():
    for path in (ROOT / "integrations").rglob("*.py"):
        assert not [name for name in imports_of(path) if name.partition(".")[0] == "prefect"], name_of(path)


def test_no_flow_is_named_like_another_module():
    # Prefect puts the folder of a flow that is given as a file in front of everything else.
    names = {path.stem for path in (ROOT / "flows").glob("*.py")} - {"__init__"}
    assert names & set(sys.stdlib_module_names) == set()
    assert names & {"prefect", "httpx", "boto3", "lupa", "regex", "rich"} == set()


FORBIDDEN = {
    "the host of a package index": re.compile(r"py[p]i\.org|python[h]osted\.org|--(extra-)?index-[u]rl|arti[f]actory"),
    "a path of one machine": re.compile(r"(?<![\w.])/(?:work/|root/|home/(?!user\b)\w+/|Users/\w+/)"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what):
    found = {name: match[0] for name, text in texts() if (match := FORBIDDEN[what].search(text))}
    assert found == {}


@pytest.mark.parametrize(
    "command", [["--help"], ["--version"], ["emulator", "--help"], ["gallery", "--help"], ["webhooks", "--help"]]
)
def test_the_command_starts_without_prefect(command):
    code = (
        "import sys\n"
        "from prefect_kosmokrator.integrations import cli\n"
        f"sys.argv = ['kosmo', *{command!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'prefect', 'boto3'} & set(sys.modules)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout
