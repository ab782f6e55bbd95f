"""The flows against the emulator: what they return, what they store, what the UI gets to show and what is billed."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import boto3
import httpx
import pytest

from prefect_kosmokrator.flows.balance_report import balance_report
from prefect_kosmokrator.flows.edit_image import edit_image
from prefect_kosmokrator.flows.fal_request import fal_request
from prefect_kosmokrator.flows.generate_and_upscale import generate_and_upscale
from prefect_kosmokrator.flows.generate_image import generate_image
from prefect_kosmokrator.flows.image_to_video import image_to_video
from prefect_kosmokrator.integrations.errors import DeadlineExceeded, EndpointDiscontinued, InvalidInput
from prefect_kosmokrator.integrations.gallery import Gallery
from prefect_kosmokrator.integrations.output import file_path
from prefect_kosmokrator.tasks import fal

pytestmark = pytest.mark.usefixtures("prefect_server")

LAMP = "a matte black desk lamp"
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")


def table_of(artifact):
    return json.loads(artifact.data)


def test_generate_image_stores_each_variant_under_the_run(emulator, run_flow, api):
    state = run_flow(generate_image, LAMP, variants=3, seed=7)
    media = state.result()
    run = api.client.read_flow_run(state.state_details.flow_run_id)
    assert [item.seed for item in media] == [7, 8, 9]
    assert len({item.sha256 for item in media}) == 3
    for item in media:
        path = file_path(item.uri)
        assert path.parent.name == run.name
        assert path.name == f"generate_core-{item.sha256[:12]}.png"
        assert path.read_bytes() == item.read()


def test_the_result_of_a_flow_is_small_references(emulator, run_flow):
    media = run_flow(generate_image, LAMP, variants=2).result()
    assert [item.content for item in media] == [None, None]
    assert len(pickle.dumps(media)) < 4000
    assert len(json.dumps([item.to_json() for item in media])) < 4000


def test_each_file_has_its_provenance_beside_it(emulator, run_flow):
    state = run_flow(generate_image, LAMP, seed=7, aspect_ratio="16:9")
    (item,) = state.result()
    told = json.loads(file_path(item.uri).with_suffix(".json").read_text())
    assert (told["parameters"]["prompt"], told["parameters"]["aspect_ratio"]) == (LAMP, "16:9")
    assert (told["provider"], told["function"], told["seed"], told["sha256"]) == (
        "stability", "generate_core", "7", item.sha256,
    )  # fmt: skip
    assert told["run"]["flow"] == "generate-image"
    assert told["run"]["flow_run_id"] == str(state.state_details.flow_run_id)
    assert told["cost"]["amount"] == 3
    assert emulator.state.account().stability_key not in json.dumps(told)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("stability/ultra", "generate/ultra"),
        ("stability/sd3.5-flash", "generate/sd3"),
        ("fal-ai/flux/dev", "submit fal-ai/flux/dev"),
    ],
)
def test_generate_image_runs_each_model(emulator, run_flow, model, path):
    (item,) = run_flow(generate_image, LAMP, model=model, aspect_ratio="16:9", seed=5).result()
    assert len(emulator.state.ledger.select("POST", path)) == 1
    assert item.seed == 5
    assert item.width / item.height == pytest.approx(16 / 9, rel=0.05)
    assert item.cost.amount > 0


def test_generate_image_takes_every_model_of_its_form(emulator, run_flow):
    from typing import get_args

    from prefect_kosmokrator.flows.generate_image import Model

    for model in get_args(Model):
        assert len(run_flow(generate_image, LAMP, model=model).result()) == 1


def test_the_gallery_and_the_table_show_what_was_made(emulator, run_flow, api):
    state = run_flow(generate_image, LAMP, variants=2, seed=7)
    artifacts = api.artifacts(state.state_details.flow_run_id, 3)
    assert set(artifacts) == {"generate-image-gallery", "generate-image-files", "spend"}
    assert artifacts["generate-image-gallery"].data.startswith(f"# {LAMP}\n")
    assert artifacts["generate-image-gallery"].description == "2 files, cost 6 credits."
    rows = table_of(artifacts["generate-image-files"])
    assert [row["uri"] for row in rows] == [item.uri for item in state.result()]
    assert [(row["seed"], row["cost"], row["account"]) for row in rows] == [
        ("7", "3 credits", "default"), ("8", "3 credits", "default"),
    ]  # fmt: skip


def test_a_gallery_of_local_files_says_how_to_see_them(emulator, run_flow, api):
    state = run_flow(generate_image, LAMP)
    text = api.artifacts(state.state_details.flow_run_id, 2)["generate-image-gallery"].data
    assert IMAGE.findall(text) == []
    assert "run `kosmo gallery`" in text
    assert "KOSMO_GALLERY_URL" in text


def test_a_gallery_of_local_files_shows_them_when_they_are_served(emulator, run_flow, api, tmp_path, monkeypatch):
    with Gallery(tmp_path / "outputs") as gallery:
        monkeypatch.setenv("KOSMO_GALLERY_URL", gallery.url)
        state = run_flow(generate_image, LAMP, variants=2)
        text = api.artifacts(state.state_details.flow_run_id, 2)["generate-image-gallery"].data
        pictures = IMAGE.findall(text)
        assert len(pictures) == 2
        assert {httpx.get(url).headers["content-type"] for url in pictures} == {"image/webp"}
        (tmp_path / "outputs" / ".kosmo").mkdir()
        (tmp_path / "outputs" / ".kosmo" / "call.json").write_text("{}")
        assert httpx.get(f"{gallery.url}/.kosmo/call.json").status_code == 404
        assert "kosmo gallery" not in text


def test_a_prompt_cannot_change_the_gallery(emulator, run_flow, api):
    state = run_flow(generate_image, "a lamp\n\n# Free [credits](https://evil.example) | <b>x</b> ![a](http://b/c.png)")
    text = api.artifacts(state.state_details.flow_run_id, 2)["generate-image-gallery"].data
    assert text.splitlines()[0].startswith("# a lamp \\# Free \\[credits\\]")
    assert IMAGE.findall(text.replace("\\!\\[", "")) == []


def test_generate_and_upscale_stores_both_sizes_in_s3(emulator, run_flow, api, bucket):
    state = run_flow(generate_and_upscale, LAMP, variants=2, seed=7, output=f"s3://{bucket.name}/lamps")
    media = state.result()
    name = api.client.read_flow_run(state.state_details.flow_run_id).name
    assert [item.function for item in media] == ["generate_core", "upscale_fast"] * 2
    assert [large.width / small.width for small, large in zip(media[::2], media[1::2], strict=True)] >= [2, 2]
    keys = {item.key for item in bucket.objects.all()}
    for item in media:
        assert item.uri.startswith(f"s3://{bucket.name}/lamps/{name}/{item.function}-{item.sha256[:12]}")
        key = item.uri.removeprefix(f"s3://{bucket.name}/")
        assert {key, key.replace(".png", ".json"), key.replace(".png", "-preview.webp")} <= keys
    assert emulator.state.ledger.billed("credits") == 2 * (3 + 2)


def test_the_pictures_of_an_s3_gallery_load(emulator, run_flow, api, bucket):
    state = run_flow(generate_and_upscale, LAMP, output=f"s3://{bucket.name}/lamps")
    artifacts = api.artifacts(state.state_details.flow_run_id, 2)
    text = artifacts["generate-and-upscale-gallery"].data
    pictures = IMAGE.findall(text)
    assert len(pictures) == 2
    for url in pictures:
        assert httpx.get(url).headers["content-type"] == "image/webp"
    for row in table_of(artifacts["generate-and-upscale-files"]):
        assert httpx.get(row["link"]).headers["content-type"] == "image/png"
    assert "operator-secret" not in text
    assert "seven days" in text


def test_the_content_type_of_a_stored_file_is_its_own(emulator, run_flow, bucket, s3_server):
    (item,) = run_flow(generate_image, LAMP, output=f"s3://{bucket.name}").result()
    key = item.uri.removeprefix(f"s3://{bucket.name}/")
    head = boto3.client("s3", endpoint_url=s3_server).head_object(Bucket=bucket.name, Key=key)
    assert head["ContentType"] == "image/png"


def test_generate_and_upscale_waits_for_creative_upscales(emulator, run_flow):
    media = run_flow(generate_and_upscale, LAMP, upscale="creative", upscale_account="work").result()
    assert [item.function for item in media] == ["generate_core", "upscale_creative"]
    assert media[1].width > media[0].width
    assert emulator.state.ledger.billed("credits", "default") == 3
    assert emulator.state.ledger.billed("credits", "work") == 60


def test_generate_and_upscale_combines_both_providers(emulator, run_flow, api):
    state = run_flow(generate_and_upscale, LAMP, model="fal-ai/flux/schnell", account="work", seed=3)
    small, large = state.result()
    assert (small.provider, large.provider) == ("fal", "stability")
    assert (small.width, large.width) == (1024, 4096)
    gallery = api.artifacts(state.state_details.flow_run_id, 2)["generate-and-upscale-gallery"]
    assert re.fullmatch(r"2 files, cost [\d.]+ USD and 2 credits\.", gallery.description)


@pytest.mark.parametrize("edit", ["inpaint", "erase", "remove_background", "control_structure"])
def test_edit_image_makes_each_edit(emulator, run_flow, picture_file, edit):
    mask = picture_file("mask.png", mode="L") if edit in {"inpaint", "erase"} else ""
    prompt = LAMP if edit in {"inpaint", "control_structure"} else ""
    (item,) = run_flow(edit_image, picture_file(), edit=edit, prompt=prompt, mask=mask).result()
    assert item.function == edit
    assert (item.width, item.height) == (256, 256)
    assert emulator.state.ledger.billed("credits") == 5


@pytest.mark.parametrize("edit", ["inpaint", "control_structure"])
def test_edit_image_asks_for_a_prompt_where_it_needs_one(emulator, run_flow, picture_file, edit):
    error = run_flow(edit_image, picture_file(), edit=edit).result(raise_on_failure=False)
    assert isinstance(error, InvalidInput)
    assert error.parameter == "prompt"
    assert len(emulator.state.ledger) == 0


def test_edit_image_refuses_a_transparent_jpeg(emulator, run_flow, picture_file):
    error = run_flow(edit_image, picture_file(), output_format="jpeg").result(raise_on_failure=False)
    assert error.parameter == "output_format"


def test_edit_image_takes_the_result_of_another_flow(emulator, run_flow, bucket):
    (lamp,) = run_flow(generate_image, LAMP, output=f"s3://{bucket.name}/lamps").result()
    (cut,) = run_flow(edit_image, lamp.uri, output=f"s3://{bucket.name}/cut").result()
    assert (cut.width, cut.height) == (lamp.width, lamp.height)


def test_a_wrong_path_is_refused_before_anything_is_sent(emulator, run_flow):
    error = run_flow(edit_image, "/no/such/lamp.png").result(raise_on_failure=False)
    assert "does not exist" in str(error)
    assert len(emulator.state.ledger) == 0


def test_image_to_video_uses_the_replacement_by_default(emulator, run_flow, api, picture_file):
    state = run_flow(image_to_video, picture_file(), motion_bucket_id=40)
    (video,) = state.result()
    assert (video.content_type, video.model) == ("video/mp4", "fal-ai/stable-video")
    assert video.read()[4:8] == b"ftyp"
    (job,) = emulator.state.jobs.values()
    assert job.arguments["motion_bucket_id"] == 40
    assert "video/mp4" in api.artifacts(state.state_details.flow_run_id, 2)["image-to-video-gallery"].data


def test_image_to_video_at_the_removed_endpoint_says_what_to_use(emulator, run_flow, picture_file):
    picture = picture_file(size=(768, 768))
    error = run_flow(image_to_video, picture, model="stability").result(raise_on_failure=False)
    assert isinstance(error, EndpointDiscontinued)
    assert "fal-ai/stable-video" in str(error)


def test_image_to_video_works_where_the_old_endpoint_still_exists(emulator, run_flow, picture_file):
    emulator.state.settings.legacy_video = True
    (video,) = run_flow(image_to_video, picture_file(size=(768, 768)), model="stability", seed=4).result()
    assert (video.content_type, video.function) == ("video/mp4", "image_to_video")


def test_fal_request_stores_every_file_of_a_model(emulator, run_flow):
    media = run_flow(fal_request, "fal-ai/flux/schnell", {"prompt": LAMP, "num_images": 2}).result()
    assert len({item.sha256 for item in media}) == 2
    assert all(file_path(item.uri).parts[-1].startswith("fal-ai-flux-schnell-") for item in media)
    assert sum(item.cost.amount for item in media) == pytest.approx(emulator.state.ledger.billed("USD"))


def test_fal_request_picks_an_earlier_request_up_without_paying_again(emulator, run_flow):
    emulator.state.settings.run_seconds = 1.5
    data = {"prompt": LAMP}
    error = run_flow(fal_request, "fal-ai/flux/schnell", data, timeout=0.2).result(raise_on_failure=False)
    assert isinstance(error, DeadlineExceeded)
    (item,) = run_flow(fal_request, "fal-ai/flux/schnell", request_id=error.job.id).result()
    assert item.request_id == error.job.id
    assert len(emulator.state.jobs) == len(emulator.state.ledger.select("POST", "submit")) == 1


def test_fal_request_picks_up_what_a_script_has_submitted(emulator, run_flow):
    job = fal.submit_request("fal-ai/flux/schnell", {"prompt": LAMP}, account="work")
    (item,) = run_flow(fal_request, "fal-ai/flux/schnell", request_id=job.id, account="work").result()
    assert item.account == "work"


def test_balance_report_is_a_table_of_all_accounts(emulator, run_flow, api):
    state = run_flow(balance_report, ["default", "work"], ["default"])
    artifact = api.artifacts(state.state_details.flow_run_id)["balance-report"]
    assert [(row["provider"], row["account"], row["balance"], row["unit"]) for row in table_of(artifact)] == [
        ("stability", "default", 1000.0, "credits"),
        ("stability", "work", 1000.0, "credits"),
        ("fal", "default", 50.0, "USD"),
    ]
    assert artifact.description == "3 accounts. None is low."


def events_of(api, flow_run_id):
    wanted = {"filter": {"any_resource": {"id": [f"prefect.flow-run.{flow_run_id}"]}}}

    def read():
        answer = api.client.request("POST", "/events/filter", json=wanted).json()
        return [event for event in answer["events"] if event["event"].startswith("kosmokrator.")]

    return api._until(read, 1)


def test_balance_report_warns_about_a_low_account(emulator, run_flow, api):
    emulator.state.account("work").credits = 12.5
    state = run_flow(balance_report, ["default", "work"], ["default"])
    run_id = state.state_details.flow_run_id
    assert [row["low"] for row in state.result()] == [False, True, False]
    assert "stability account 'work': only 12.5 credits left" in api.logs(run_id, "Finished in state")
    assert api.artifacts(run_id)["balance-report"].description == "3 accounts. Low: stability work."


def test_a_low_account_is_an_event_that_automations_can_act_on(emulator, run_flow, api):
    emulator.state.account("work").balance = 2
    state = run_flow(balance_report, [], ["work"])
    (event,) = events_of(api, state.state_details.flow_run_id)
    assert event["event"] == "kosmokrator.balance.low"
    assert event["resource"]["prefect.resource.id"] == "kosmokrator.account.fal.work"
    assert (event["payload"]["balance"], event["payload"]["unit"]) == (2, "USD")


def test_a_broken_account_does_not_hide_the_others(emulator, run_flow, api):
    emulator.state.account("default").revoked = True
    state = run_flow(balance_report, ["default", "work", "nobody"], [])
    broken, fine, unknown = state.result()
    assert (broken["balance"], fine["balance"]) == (None, 1000.0)
    assert "not accepted" in broken["problem"]
    assert "no stability account 'nobody'" in unknown["problem"]
    events = events_of(api, state.state_details.flow_run_id)
    assert {event["event"] for event in events} == {"kosmokrator.balance.unknown"}


def test_without_a_setting_files_go_to_the_folder_outputs(emulator, run_flow, monkeypatch, tmp_path):
    monkeypatch.delenv("KOSMO_OUTPUT")
    monkeypatch.chdir(tmp_path)
    (item,) = run_flow(generate_image, LAMP).result()
    assert Path(tmp_path, "outputs") in file_path(item.uri).parents


def test_an_empty_account_ends_the_flow_with_what_to_do(emulator, run_flow):
    emulator.state.account().credits = 2
    state = run_flow(generate_image, LAMP)
    assert state.is_failed()
    assert "Buy credits for this account" in state.message


def test_a_failed_upscale_leaves_the_picture_in_the_store(emulator, run_flow, tmp_path):
    emulator.state.inject("POST /stability/v2beta/stable-image/upscale/fast", "reset-after", times=0)
    state = run_flow(generate_and_upscale, LAMP)
    assert state.is_failed()
    assert "may have been accepted and billed" in state.message
    assert len(list((tmp_path / "outputs").rglob("generate_core-*.png"))) == 1
