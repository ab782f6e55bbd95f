"""The documentation: generated parts are up to date, and what the README shows runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_kosmokrator.integrations import docs
from prefect_kosmokrator.integrations.errors import InvalidInput
from prefect_kosmokrator.integrations.providers import PROVIDERS

ROOT = Path(__file__).parents[1]
FUNCTIONS = [f for provider in PROVIDERS.values() for f in provider.functions.values()]


def test_the_generated_documentation_is_up_to_date(tmp_path):
    shutil.copy(ROOT / "README.md", tmp_path / "README.md")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    assert docs.write_files(tmp_path / "README.md", tmp_path / "docs") == [], "run `make docs`"


def test_the_flow_of_the_readme_runs(emulator, prefect_server, tmp_path):
    code = next(block for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))
    (tmp_path / "lamp.py").write_text(code)
    done = subprocess.run([sys.executable, "lamp.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"file:///", done.stdout)) == 3
    assert emulator.state.ledger.billed("credits") == 5


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.slug)
def test_every_spelling_of_a_function_has_its_page(function):
    provider = function.provider.name
    page = docs.read(f"{provider}.{function.name}")
    for alias in function.aliases:
        for path in (
            f"{provider}.{alias}",
            f"integrations.{provider}.{alias}",
            f"app.integrations.{provider}.work.{alias}",
        ):
            assert docs.read(path) == page
    assert all(f"`{parameter.name}`" in page for parameter in function.parameters)
    assert f"app.integrations.{provider}.{function.name}(" in page


def test_the_page_of_a_provider_is_its_guide_and_its_functions():
    page = docs.read("stability")
    assert "## What to know" in page
    assert all(f"`{name}(" in page for name in PROVIDERS["stability"].functions)


@pytest.mark.parametrize(
    ("page", "closest"),
    [
        ("stability.generate_cor", "stability.generate_core"),
        ("fal.get_resul", "fal.get_result"),
        ("stabilty", "stability"),
        ("upscale_fast", "stability.upscale_fast"),
        ("nonsense", "The providers are stability, fal"),
    ],
)
def test_an_unknown_page_names_the_closest(page, closest):
    with pytest.raises(InvalidInput, match=re.escape(closest)):
        docs.read(page)


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("upscale", "stability.upscale_"),
        ("remove the background", "stability.remove_background"),
        ("balance", "get_balance"),
        ("list models", "fal.list_models"),
        ("generate_core_image", "stability.generate_core"),
        ("video", "_video"),
    ],
)
def test_search_ranks_names_before_words(query, first):
    assert first in docs.search(query).splitlines()[0]


def test_a_search_without_a_hit_says_where_to_look():
    assert "docs.list()" in docs.search("zzzz")
