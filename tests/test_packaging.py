"""What is installed: every package, its data, and nothing that depends on the checkout."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDERS = ("integrations", "blocks", "tasks", "flows", "deployments")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = PROJECT["project"]["version"]


def packages():
    """The packages that the folders make."""
    found = [path.parent for folder in FOLDERS for path in (ROOT / folder).rglob("__init__.py")]
    return {"prefect_kosmokrator." + ".".join(path.relative_to(ROOT).parts) for path in found}


def test_the_list_of_packages_is_complete():
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages()


def test_every_folder_with_modules_is_a_package():
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


@pytest.mark.parametrize("folder", FOLDERS)
def test_type_checkers_find_the_marker(folder):
    assert (ROOT / folder / "py.typed").exists()


def test_the_package_is_a_namespace_for_its_folders():
    assert not (ROOT / "__init__.py").exists()
    mapped = PROJECT["tool"]["setuptools"]["package-dir"]
    assert mapped == {f"prefect_kosmokrator.{folder}": folder for folder in FOLDERS}


def test_the_pinned_versions_fit_the_declared_ones():
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all("==" in line and "@" not in line for line in pinned)
    names = {line.partition("==")[0].lower().replace("_", "-") for line in pinned}
    for dependency in PROJECT["project"]["dependencies"]:
        name = dependency.partition(">=")[0].partition("[")[0]
        assert name.lower() in names, name


def test_deployments_name_functions_of_the_installed_package():
    document = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())
    assert document["pull"] == []
    for deployment in document["deployments"]:
        assert deployment["entrypoint"].startswith("prefect_kosmokrator.flows.")
        assert "/" not in deployment["entrypoint"]
        assert "env" not in deployment["work_pool"].get("job_variables", {})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", str(ROOT), "--no-deps", "-w", "."]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=280)
    if built.returncode and "setuptools>=77" in built.stdout + built.stderr:
        pytest.skip("The build needs setuptools >= 77 and no package index can be reached.")
    assert built.returncode == 0, built.stdout + built.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.mark.server
@pytest.mark.timeout(300)
def test_the_wheel_holds_every_module_and_its_data(wheel):
    installed = wheel / "prefect_kosmokrator"
    inside = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    wanted = {
        path.relative_to(ROOT)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".lua", ".md", ".yaml", ".html", ".typed"}
    }
    assert {Path("deployments", "prefect.yaml"), Path("tasks", "py.typed")} <= wanted
    assert wanted - inside == set()
    assert {path.parts[0] for path in inside} == set(FOLDERS)
    assert {path.name for path in wheel.iterdir()} == {
        "prefect_kosmokrator",
        f"prefect_kosmokrator-{VERSION}.dist-info",
    }


WITHOUT_CHECKOUT = """
import sys
sys.path_importer_cache.clear()
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
sys.path.insert(0, sys.argv[1])
sys.modules.pop("prefect_kosmokrator", None)
import prefect_kosmokrator.flows.generate_and_upscale as flow
from prefect_kosmokrator.integrations.cli import app
from prefect_kosmokrator.integrations.emulator import Emulator
import prefect_kosmokrator.blocks, prefect_kosmokrator.deployments.demo, prefect_kosmokrator.tasks.fal
import httpx
with Emulator() as emulator:
    assert httpx.get(emulator.url).status_code == 200
print(flow.__file__)
"""


@pytest.mark.server
@pytest.mark.timeout(120)
def test_the_wheel_alone_is_enough(wheel, tmp_path):
    command = [sys.executable, "-c", WITHOUT_CHECKOUT, str(wheel)]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=110)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.strip().startswith(str(wheel))
