"""The deployments of `prefect.yaml` for real: deployed to a server, run by a process worker, seen in a browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

PREFECT_YAML = Path(__file__).parents[2] / "deployments" / "prefect.yaml"
pytestmark = [pytest.mark.server, pytest.mark.timeout(480)]

NAMES = [deployment["name"] for deployment in yaml.safe_load(PREFECT_YAML.read_text())["deployments"]]


def artifacts_of(deployed, name):
    run = deployed.runs[name].id
    found = deployed.api.post("/artifacts/filter", json={"flow_runs": {"id": {"any_": [run]}}}).json()
    return {artifact["key"]: artifact for artifact in found}


def test_one_command_deploys_everything(deployed):
    assert "successfully" in deployed.said
    assert set(deployed.runs) == set(NAMES)
    for run in deployed.runs.values():
        assert run.deployment["work_pool_name"] == "kosmokrator"
        assert run.deployment["entrypoint"].startswith("prefect_kosmokrator.flows.")
        assert run.deployment["description"]
        assert not run.deployment["pull_steps"]


def test_schedules_and_limits_are_those_of_the_file(deployed):
    by_name = {name: run.deployment for name, run in deployed.runs.items()}
    crons = {name: [item["schedule"]["cron"] for item in one["schedules"]] for name, one in by_name.items()}
    assert {name: cron for name, cron in crons.items() if cron} == {"nightly": ["0 2 * * *"], "hourly": ["0 * * * *"]}
    limits = {name: one["global_concurrency_limit"]["limit"] for name, one in by_name.items()}
    assert (limits["nightly"], limits["hourly"], limits["on-demand"]) == (1, 1, 4)


def test_a_deployment_keeps_the_help_of_its_parameters(deployed):
    for run in deployed.runs.values():
        properties = run.deployment["parameter_openapi_schema"]["properties"]
        assert properties
        assert all(field["description"] for field in properties.values())
        assert run.deployment["enforce_parameter_schema"]


@pytest.mark.parametrize("name", NAMES)
def test_a_worker_completes_the_run(deployed, name):
    assert deployed.runs[name].record["state_type"] == "COMPLETED", deployed.machine.log("worker")


SAVE_CLOCK = """
import sys
from prefect_kosmokrator.blocks import McpServer

McpServer(command=sys.executable, args=["-m", "mcp_server_time", "--local-timezone", "UTC"]).save("clock")
"""


def test_a_deployed_workflow_uses_a_published_mcp_server(deployed):
    (deployed.machine.folder / "save_clock.py").write_text(SAVE_CLOCK)
    deployed.machine.run("save_clock")
    source = """
    local now = app.mcp.clock.get_current_time{ timezone = "Europe/Berlin" }
    assert(now.timezone == "Europe/Berlin", "another time zone")
    """
    record = deployed.start("workflow", {"file": "", "source": source, "inputs": {}, "mcp_servers": ["clock"]})
    assert record["state_type"] == "COMPLETED", deployed.machine.log("worker")


def test_the_nightly_files_are_in_the_bucket(deployed):
    folder = f"nightly/{deployed.runs['nightly'].record['name']}/"
    found = deployed.s3.list_objects_v2(Bucket="renders", Prefix=folder)["Contents"]
    pictures = [item["Key"].removeprefix(folder) for item in found if item["Key"].endswith(".png")]
    assert sorted(name.rpartition("-")[0] for name in pictures) == ["generate_core"] * 2 + ["upscale_fast"] * 2
    for name in pictures:
        told = deployed.s3.get_object(Bucket="renders", Key=folder + name.replace(".png", ".json"))["Body"].read()
        picture = deployed.s3.get_object(Bucket="renders", Key=folder + name)
        assert json.loads(told)["size"] == len(picture["Body"].read())
        assert picture["ContentType"] == "image/png"


def test_the_runs_cost_what_they_say(deployed):
    ledger = deployed.emulator.state.ledger
    assert ledger.violations() == []
    rows = [
        row
        for name in deployed.runs
        for key, artifact in artifacts_of(deployed, name).items()
        if key.endswith("-files")
        for row in json.loads(artifact["data"])
    ]
    for unit in ("credits", "USD"):
        said = sum(float(row["cost"].split()[0]) for row in rows if row["cost"].endswith(unit))
        assert said == pytest.approx(ledger.billed(unit))
    gallery = artifacts_of(deployed, "nightly")["generate-and-upscale-gallery"]
    assert gallery["description"] == "4 files, cost 10 credits."


def test_no_secret_is_stored_at_the_server(deployed):
    account = deployed.emulator.state.account()
    shown = json.dumps([run.deployment | run.record for run in deployed.runs.values()])
    for name in deployed.runs:
        shown += json.dumps(artifacts_of(deployed, name))
    wanted = {"logs": {"flow_run_id": {"any_": [run.id for run in deployed.runs.values()]}}, "limit": 200}
    shown += deployed.api.post("/logs/filter", json=wanted).text
    for secret in (account.stability_key, account.fal_key, "operator-secret"):
        assert secret not in shown


@pytest.mark.parametrize("ui", ["", "/v2"])
def test_every_picture_of_the_gallery_loads(deployed, look, ui):
    gallery = artifacts_of(deployed, "nightly")["generate-and-upscale-gallery"]
    page = look(f"{deployed.ui}{ui}/artifacts/artifact/{gallery['id']}", "4 files", f"gallery{ui.replace('/', '-')}")
    pictures = page.locator("img[src*='renders']")
    pictures.nth(3).wait_for()
    page.wait_for_function("[...document.images].every(image => image.complete)")
    assert pictures.evaluate_all("images => images.map(image => image.naturalWidth > 0)") == [True] * 4
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("ui", ["", "/v2"])
def test_the_table_shows_each_file_with_its_cost(deployed, look, ui):
    table = artifacts_of(deployed, "nightly")["generate-and-upscale-files"]
    url = f"{deployed.ui}{ui}/artifacts/artifact/{table['id']}"
    page = look(url, "upscale_fast-", f"files{ui.replace('/', '-')}")
    cost = page.get_by_text("3 credits", exact=True).first
    edges = "text => [text, text.closest('table').parentElement].map(one => one.getBoundingClientRect().right)"
    right, limit = cost.evaluate(edges)
    assert right <= limit, "the cost is cut off"


@pytest.mark.parametrize("ui", ["", "/v2"])
def test_the_run_is_found_in_the_ui(deployed, look, ui):
    run = deployed.runs["nightly"].record
    page = look(f"{deployed.ui}{ui}/runs/flow-run/{run['id']}", "Beginning flow run", f"run{ui.replace('/', '-')}")
    assert page.get_by_text(run["name"]).first.is_visible()
    assert page.get_by_text("Completed").first.is_visible()


@pytest.mark.parametrize("name", ["nightly", "hourly"])
def test_the_form_of_a_deployment_explains_its_parameters(deployed, look, name):
    deployment = deployed.runs[name].deployment
    fields = deployment["parameter_openapi_schema"]["properties"].values()
    first, *others = [field["description"].strip().splitlines()[0] for field in fields]
    page = look(f"{deployed.ui}/deployments/deployment/{deployment['id']}/run", first, f"form-{name}")
    for help_text in others:
        assert page.get_by_text(help_text).first.is_visible()


@pytest.mark.parametrize("ui", ["", "/v2"])
def test_the_form_shows_the_input_of_a_model_for_editing(deployed, look, ui):
    deployment = deployed.runs["on-demand"].deployment["id"]
    url = f"{deployed.ui}{ui}/deployments/deployment/{deployment}/run"
    look(url, "a lighthouse at dusk, long exposure", f"form-input{ui.replace('/', '-')}")


def test_the_artifacts_page_lists_what_runs_made(deployed, look):
    look(f"{deployed.ui}/artifacts", "generate-and-upscale-gallery", "artifacts")
