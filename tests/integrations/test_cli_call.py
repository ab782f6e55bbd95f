"""Single calls and the commands that show what there is."""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path

import pytest

from prefect_kosmokrator.integrations import docs
from prefect_kosmokrator.integrations.providers import PROVIDERS

PROMPT = ["--prompt", "a lamp", "--force"]


@pytest.fixture(autouse=True)
def working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with open(os.devnull, encoding="utf-8") as nothing:  # noqa: PTH123 - a device
        monkeypatch.setattr(sys, "stdin", nothing)
        yield


@pytest.mark.parametrize(
    "name",
    [
        "stability.generate_core",
        "stability.generate_core_image",
        "stability_generate_core",
        "stability.stability_generate_core",
        "app.integrations.stability.generate_core",
    ],
)
def test_every_spelling_of_a_function_is_called(emulator, kosmo_json, name):
    document = kosmo_json("integrations:call", name, *PROMPT)
    assert document["function"] == "stability.generate_core"
    assert document["meta"] == {
        "dry_run": False,
        "operation": "write",
        "permission_bypassed": True,
        "account": "default",
    }
    data = document["data"]
    assert list(data)[:4] == ["content_type", "body_base64", "finish_reason", "seed"]
    assert base64.b64decode(data["body_base64"]).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "words",
    [
        ["fal.work.get_balance"],
        ["fal.get_balance", "--account", "work"],
        ["fal.get_balance", "--account=WORK"],
        ["fal.get_balance", '{"account": "work"}'],
    ],
)
def test_the_account_is_chosen_by_path_option_or_payload(emulator, kosmo_json, words):
    assert kosmo_json("integrations:call", *words)["meta"]["account"].lower() == "work"


def test_text_mode_prints_the_data(emulator, kosmo):
    assert json.loads(kosmo("integrations:stability", "get_balance")[1]).keys() == {"credits"}


def test_a_picture_without_output_is_described_and_kept(emulator, kosmo):
    code, out, err = kosmo("integrations:stability", "generate_core", *PROMPT)
    assert code == 0
    what, where = out.splitlines()
    assert what.startswith("image/png, ")
    assert "cost 3 credits" in what
    assert Path(where).read_bytes().startswith(b"\x89PNG")
    assert where in err
    assert "--output" in err


@pytest.mark.parametrize("output", ["./out", "out/deep", "file://./out"])
def test_a_picture_is_stored_where_output_says(emulator, kosmo, output):
    code, out, err = kosmo("integrations:stability", "generate_core", *PROMPT, "--output", output)
    assert (code, err) == (0, "")
    stored = Path(out.splitlines()[1])
    assert stored.is_relative_to(Path("out").resolve())
    assert stored.is_file()


@pytest.mark.parametrize(
    ("output", "message"),
    [("renders", "Write ./renders to make it"), ("ftp://host/x", "neither the name"), ("s3://", "neither the name")],
)
def test_a_wrong_output_is_refused_before_anything_is_paid(emulator, kosmo, output, message):
    code, _, err = kosmo("integrations:stability", "generate_core", *PROMPT, "--output", output)
    assert code == 1
    assert message in err
    assert emulator.state.ledger.entries == []


def test_output_of_a_function_without_files_is_an_error(emulator, kosmo):
    assert "makes no file" in kosmo("integrations:fal", "get_balance", "--output", "./out")[2]


def test_a_dry_run_checks_everything_and_sends_nothing(emulator, kosmo_json, tmp_path):
    dry = [*PROMPT, "--dry-run"]
    document = kosmo_json("integrations:stability", "generate_core", *dry, "--seed", "7")
    assert document["success"] is True
    assert document["data"] == {"arguments": {"prompt": "a lamp", "seed": 7}}
    assert document["meta"]["dry_run"] is True
    for words, message in (
        (["generate_core", *dry, "--account", "nobody"], "no stability account 'nobody'"),
        (["generate_core", *dry, "--aspect-ratio", "7:1"], "aspect_ratio"),
        (["generate_core", "--prompt", "x", "--dry-run"], "requires approval"),
        (["upscale_fast", "--image", "no.png", "--dry-run", "--force"], "does not exist"),
        (["generate_core", "--dry-run", "--force"], "prompt is required"),
    ):
        document = kosmo_json("integrations:stability", *words)
        assert document["success"] is False
        assert message in document["error"]
    assert emulator.state.ledger.entries == []


def test_paths_typed_by_a_person_are_not_confined(emulator, kosmo, picture, tmp_path_factory):
    path = tmp_path_factory.mktemp("elsewhere") / ".hidden.png"
    path.write_bytes(picture())
    assert kosmo("integrations:stability", "upscale_fast", "--image", path, "--force", "--output", "./out")[0] == 0


def test_a_request_from_start_to_end(emulator, kosmo_json, kosmo):
    job = kosmo_json("integrations:fal", "submit_request", "--model-id", "fal-ai/flux/schnell", "--input",
                     '{"prompt": "a lamp"}', "--force")["data"]  # fmt: skip
    words = ["--model-id", job["model_id"], "--request-id", job["request_id"]]
    result = kosmo_json("integrations:fal", "wait_for_request", *words, "--output", "./out")["data"]
    assert result["request_id"] == job["request_id"]
    assert result["images"][0]["url"]
    assert result["media"][0]["uri"].startswith("file://")


def test_a_wait_that_took_too_long_says_how_to_go_on(emulator, kosmo, kosmo_json):
    emulator.state.inject("/fal/", "job-hang", times=0)
    job = kosmo_json("integrations:fal", "submit_request", "--model-id", "fal-ai/flux/schnell", "--input",
                     '{"prompt": "a lamp"}', "--force")["data"]  # fmt: skip
    words = ["integrations:fal", "wait_for_request", "--model-id", job["model_id"], "--request-id", job["request_id"],
             "--timeout", "0.1"]  # fmt: skip
    document = kosmo_json(*words)
    assert document["error_kind"] == "DeadlineExceeded"
    assert document["error_details"]["job"]["request_id"] == job["request_id"]
    code, _, err = kosmo(*words)
    assert code == 1
    last = err.splitlines()[-1]
    assert last == f"Go on with: kosmo {words[0]} {' '.join(words[1:-2])}"


def test_a_filtered_picture_is_kept(emulator, kosmo):
    code, out, err = kosmo("integrations:stability", "generate_core", "--prompt", "filter-me", "--force")
    assert (code, out) == (1, "")
    assert err.startswith("Kept: ")
    assert len(list(Path("spool").glob("*.png"))) == 1


def test_a_filtered_picture_is_named_in_the_document(emulator, kosmo_json):
    document = kosmo_json("integrations:stability", "generate_core", "--prompt", "filter-me", "--force")
    assert document["error_kind"] == "ContentFiltered"
    (kept,) = document["error_details"]["kept"]
    assert kept.startswith("file://")


def test_a_failed_store_names_the_spool_file(emulator, kosmo_json):
    Path("file").write_text("in the way")
    document = kosmo_json("integrations:stability", "generate_core", *PROMPT, "--output", "file/x")
    assert document["error_kind"] == "StorageError"
    assert Path(document["error_details"]["spool"]).is_file()


def test_no_command_shows_a_key(emulator, kosmo):
    keys = [value for name, value in os.environ.items() if name.endswith("API_KEY")]
    assert len(keys) == 4
    for words in (["doctor"], ["status"], ["fields", "fal"], ["list"], ["call", "fal.get_balance", "--dry-run"]):
        for mode in ([], ["--json"]):
            code, out, err = kosmo(f"integrations:{words[0]}", *words[1:], *mode)
            assert code == 0
            assert not [key for key in keys if key in out + err]


@pytest.mark.parametrize("page", ["stability", "fal", "fal.list_models", "stability.work.fast_upscale"])
def test_docs_prints_what_docs_read_returns(kosmo, kosmo_json, page):
    assert kosmo("integrations:docs", page)[1].rstrip("\n") == docs.read(page).rstrip("\n")
    assert kosmo("integrations:docs", page, "--format", "markdown")[1] == kosmo("integrations:docs", page)[1]
    document = kosmo_json("integrations:docs", page)
    assert document["text"] == docs.read(page)
    assert json.loads(kosmo("integrations:docs", page, "--format", "json")[1]) == document


def test_docs_of_a_function_are_its_object(kosmo_json):
    document = kosmo_json("integrations:docs", "stability.generate_core")
    assert (document["name"], document["operation"]) == ("stability.generate_core", "write")
    assert document["input_schema"]["required"] == ["prompt"]


def test_the_schema_is_bare(kosmo):
    code, out, _ = kosmo("integrations:schema", "stability.generate_core")
    assert code == 0
    assert json.loads(out) == PROVIDERS["stability"].functions["generate_core"].schema


def test_examples_are_those_of_the_page(kosmo):
    out = kosmo("integrations:examples", "stability.upscale_fast")[1]
    assert "app.integrations.stability.upscale_fast" in out
    assert "kosmo integrations:stability upscale_fast" in out
    assert "Parameters" not in out


def test_list_and_status_know_who_is_set_up(emulator, kosmo_json):
    listed = kosmo_json("integrations:list")["providers"]
    assert set(listed) == set(PROVIDERS)
    assert listed["fal"]["accounts"] == ["default", "work"]
    assert listed["fal"]["functions"][0]["name"] == "fal.list_models"
    assert kosmo_json("integrations:status")["providers"]["fal"]["functions"] == len(PROVIDERS["fal"].functions)


def test_search_ranks_names_first(kosmo_json):
    found = kosmo_json("integrations:search", "upscale")
    assert found["query"] == "upscale"
    assert {f["name"] for f in found["functions"][:2]} == {"stability.upscale_fast", "stability.upscale_creative"}


def test_the_doctor_finds_what_is_missing_or_wrong(emulator, kosmo, kosmo_json, monkeypatch):
    assert kosmo_json("integrations:doctor")["success"] is True
    monkeypatch.setenv("KOSMO_FAL__WORK__QUEUE_URL", "queue.fal.run")
    monkeypatch.setenv("KOSMO_PERMISSIONS__STABILITY__WRITE", "maybe")
    code, out, _ = kosmo("integrations:doctor")
    assert code == 1
    assert "QUEUE_URL" in out
    assert "must be allow, ask or deny" in out
    for name in [name for name in os.environ if name.startswith("KOSMO_FAL__")]:
        monkeypatch.delenv(name)
    row = kosmo_json("integrations:doctor", "fal")
    assert (row["success"], row["configured"], row["missing_credentials"]) == (False, False, ["api_key"])
    assert row["next_commands"][0] == "export FAL_KEY=..."


def test_fields_name_the_variables_and_what_is_set(kosmo_json, monkeypatch):
    monkeypatch.setenv("FAL_KEY", "id:secret")
    monkeypatch.setenv("KOSMO_FAL__MY_TEAM__API_KEY", "id:secret")
    first, *rest = kosmo_json("integrations:fields", "fal")["fields"]
    assert (first["key"], first["configured"], first["variable"]) == ("api_key", True, "KOSMO_FAL__DEFAULT__API_KEY")
    assert not any(field["configured"] for field in rest)
    document = kosmo_json("integrations:fields", "fal", "--account", "my-team")
    assert document["fields"][0]["configured"] is True
    assert document["accounts"] == ["default", "my-team"]
