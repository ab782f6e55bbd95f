"""What goes over the wire for every fal.ai function."""

from __future__ import annotations

import pytest

from prefect_kosmokrator.integrations import fal
from prefect_kosmokrator.integrations.errors import InvalidInput
from prefect_kosmokrator.integrations.media import Media

QUEUE = "https://queue.fal.run"
API = "https://api.fal.ai/v1"
REST = "https://rest.fal.ai"
ID = "764cabcf-b745-4b3e-ae38-1200304cf45b"


def accepted(**more):
    return {"status": "IN_QUEUE", "request_id": ID, "queue_position": 0, **more}


def submit(fake, model_id="fal-ai/flux/dev", data=None, webhook_url=None, **options):
    fake.answer(accepted())
    job = fal.submit_request(model_id, {"prompt": "a lamp"} if data is None else data, webhook_url, **options)
    return job, fake.sent[0]


def test_a_submit_posts_the_input_itself_to_the_whole_model_id(fake):
    data = {"prompt": "a lamp", "loras": [], "size": {}, "seed": None, "nested": {"list": [1, 2.5, True]}}
    job, sent = submit(fake, "fal-ai/flux-pro/v1.1", data)
    assert (sent.method, sent.url, sent.query) == ("POST", f"{QUEUE}/fal-ai/flux-pro/v1.1", [])
    assert sent.json == data
    assert sent.headers["authorization"] == "Key 0f8fad5b-d9cb-469f-a165-70867728950e:9c5d4f3e2b1a0c5d4f3e2b1a0c5d4f3e"
    assert [name for name in sent.headers if name.startswith("x-")] == []
    assert (job.id, job.status, job.model_id, job.account) == (ID, "IN_QUEUE", "fal-ai/flux-pro/v1.1", "default")


def test_an_empty_input_stays_an_object(fake):
    assert submit(fake, data={})[1].body == b"{}"


@pytest.mark.parametrize(
    ("options", "headers"),
    [
        ({"priority": "low"}, {"x-fal-queue-priority": "low"}),
        ({"start_timeout": 90.5}, {"x-fal-request-start-timeout": "90.5", "x-fal-request-timeout": "90.5"}),
        ({"start_timeout": 30}, {"x-fal-request-start-timeout": "30", "x-fal-request-timeout": "30"}),
        ({"start_timeout": 1234567}, {"x-fal-request-start-timeout": "1234567", "x-fal-request-timeout": "1234567"}),
        ({"runner_hint": "warm"}, {"x-fal-runner-hint": "warm"}),
        ({"no_retry": True}, {"x-fal-no-retry": "1"}),
        ({"no_fallback": True}, {"x-app-fal-disable-fallback": "1"}),
        (
            {"media_expires_after": 3600},
            {"x-fal-object-lifecycle-preference": '{"expiration_duration_seconds": 3600}'},
        ),
        ({"store_payloads": False}, {"x-fal-store-io": "0"}),
        ({"tags": {"team": "shop", "step": "1"}}, {"x-fal-tags": "team=shop,step=1"}),
    ],
)
def test_options_of_a_submit_are_headers(fake, options, headers):
    sent = submit(fake, **options)[1]
    assert {name: value for name, value in sent.headers.items() if name.startswith("x-")} == headers


def test_webhook_and_queue_length_are_query_parameters(fake):
    webhook = "https://hooks.example/fal?job=1&step=2"
    sent = submit(fake, webhook_url=webhook, max_queue_length=3)[1]
    assert sent.query == [("fal_webhook", webhook), ("fal_max_queue_length", "3")]


def test_a_webhook_address_is_passed_on_as_it_is_written(fake):
    # Frameworks redirect when the last slash is missing, and fal gives up on a redirect.
    sent = submit(fake, webhook_url="https://hooks.example/fal/")[1]
    assert sent.query == [("fal_webhook", "https://hooks.example/fal/")]


@pytest.mark.parametrize(
    ("model_id", "root"),
    [
        ("fal-ai/flux/dev/image-to-image", "fal-ai/flux"),
        ("fal-ai/flux-pro/v1.1", "fal-ai/flux-pro"),
        ("fal-ai/fast-sdxl", "fal-ai/fast-sdxl"),
        ("workflows/acme/poster", "workflows/acme/poster"),
        ("workflows/acme/poster/extra", "workflows/acme/poster"),
        ("comfy/acme/portrait", "comfy/acme/portrait"),
        ("110602490-lora", "110602490/lora"),
    ],
)
def test_requests_of_a_model_live_under_its_first_segments(fake, model_id, root):
    fake.answer({"status": "COMPLETED"}, {"images": []}, {"status": "CANCELLATION_REQUESTED"})
    fal.get_request_status(model_id, ID)
    fal.get_result(model_id, ID)
    fal.cancel_request(model_id, ID)
    status, result, cancel = fake.sent
    assert (status.method, status.url, status.query) == (
        "GET",
        f"{QUEUE}/{root}/requests/{ID}/status",
        [("logs", "1")],
    )
    assert (result.method, result.url) == ("GET", f"{QUEUE}/{root}/requests/{ID}")
    assert (cancel.method, cancel.url) == ("PUT", f"{QUEUE}/{root}/requests/{ID}/cancel")


@pytest.mark.parametrize("given", ["job", "ids", "json"])
def test_the_addresses_that_fal_returned_are_preferred(fake, given):
    urls = {"status_url": f"{QUEUE}/x/s", "response_url": f"{QUEUE}/x/r/response", "cancel_url": f"{QUEUE}/x/c"}
    fake.answer(accepted(**urls), {"status": "COMPLETED"}, {"images": []}, {"status": "ALREADY"})
    job = fal.submit_request("fal-ai/flux/dev", {"prompt": "a lamp"})
    which = {"job": (job,), "ids": (job.model_id, job.request_id), "json": (dict(job),)}[given]
    fal.get_request_status(*which, logs=False)
    fal.get_result(*which)
    fal.cancel_request(*which)
    assert [s.url for s in fake.sent if "/x/" in s.url] == [f"{QUEUE}/x/s", f"{QUEUE}/x/r/response", f"{QUEUE}/x/c"]
    assert fake.sent[2].query == []


def test_a_returned_address_on_a_foreign_host_is_not_followed(fake):
    fake.answer(accepted(status_url="https://queue.fal.run.evil.example/steal"), {"status": "IN_QUEUE"})
    job = fal.submit_request("fal-ai/flux/dev", {"prompt": "a lamp"})
    fal.get_request_status(job)
    assert fake.sent[1].url == f"{QUEUE}/fal-ai/flux/requests/{ID}/status"


@pytest.mark.parametrize(
    "model_id",
    [
        "",
        "flux",
        "/flux",
        "fal-ai/",
        "fal-ai//flux",
        "fal-ai/flux/",
        "fal-ai/../users/current",
        "fal-ai/flux?x=1",
        "fal-ai/flux#x",
        "fal-ai/fl ux",
        "fal-ai/%2e%2e/x",
        "https://evil.example/a/b",
        "workflows/acme",
        "fal-ai/flux\n",
        ".fal-ai/flux",
    ],
)
def test_a_wrong_model_id_is_refused_before_a_request(fake, model_id):
    for call in (
        lambda: fal.submit_request(model_id, {"prompt": "a"}),
        lambda: fal.get_request_status(model_id, ID),
        lambda: fal.wait_for_request(model_id, ID),
        lambda: fal.cancel_request(model_id, ID),
    ):
        with pytest.raises(InvalidInput) as caught:
            call()
        assert caught.value.parameter == "model_id"


@pytest.mark.parametrize("request_id", ["", "../../x", "a/b", "a?b", "a b", "x" * 129, "a\n"])
def test_a_wrong_request_id_is_refused_before_a_request(fake, request_id):
    with pytest.raises(InvalidInput) as caught:
        fal.get_result("fal-ai/flux/dev", request_id)
    assert caught.value.parameter == "request_id"


def test_a_model_id_alone_asks_for_the_request_id(fake):
    with pytest.raises(InvalidInput, match="request_id is required"):
        fal.wait_for_request("fal-ai/flux/dev")


def test_a_job_of_another_provider_is_refused(fake):
    with pytest.raises(InvalidInput, match="must be a model identifier"):
        fal.wait_for_request({"id": "a", "request_id": "a", "provider": "stability"})


@pytest.mark.parametrize("tags", [{"a,b": "c"}, {"a=b": "c"}, {"a": "b,c=d"}])
def test_a_tag_cannot_become_two(fake, tags):
    with pytest.raises(InvalidInput) as caught:
        fal.submit_request("fal-ai/flux/dev", {"prompt": "a lamp"}, tags=tags)
    assert caught.value.parameter == "tags"


@pytest.mark.parametrize(
    "option", [{"tags": {"customer": "Müller"}}, {"tags": {"a": "b\nX-Evil: 1"}}, {"runner_hint": "a\r\nX-Evil: 1"}]
)
def test_an_option_that_no_header_can_carry_is_refused_before_a_request(fake, option):
    with pytest.raises(InvalidInput):
        fal.submit_request("fal-ai/flux/dev", {"prompt": "a lamp"}, **option)


def test_models_are_listed_by_search_words_and_state(fake):
    entry = {"endpoint_id": "fal-ai/flux/dev", "metadata": {"display_name": "FLUX", "category": "text-to-image"}}
    fake.answer({"models": [entry], "next_cursor": None, "has_more": False})
    (model,) = fal.list_models(q="flux", category="text-to-image", status="active", endpoint_id=["a/b", "c/d"], limit=9)
    assert fake.sent[0].url == f"{API}/models"
    assert fake.sent[0].query == [
        ("limit", "9"),
        ("q", "flux"),
        ("category", "text-to-image"),
        ("status", "active"),
        ("endpoint_id", "a/b"),
        ("endpoint_id", "c/d"),
    ]
    assert (model["id"], model["display_name"], model["description"]) == ("fal-ai/flux/dev", "FLUX", "")


def test_models_come_page_by_page_and_say_where_to_go_on(fake):
    page = [{"endpoint_id": f"fal-ai/m{n}"} for n in range(50)]
    fake.answer(
        {"models": page, "next_cursor": "two", "has_more": True},
        {"models": page[:25], "next_cursor": "three", "has_more": True},
    )
    models = fal.list_models(limit=75)
    assert [s.query for s in fake.sent] == [[("limit", "50")], [("limit", "25"), ("cursor", "two")]]
    assert (len(models), models[-1]["next_cursor"], models[0].get("next_cursor")) == (75, "three", None)


def test_the_whole_catalogue_is_fetched_on_request_only(fake):
    page = [{"endpoint_id": "fal-ai/m"}] * 50
    fake.answer({"models": page, "next_cursor": "two"}, {"models": page, "next_cursor": None})
    assert len(fal.list_models(all_pages=True)) == 100


def test_files_of_the_volume_and_assets_are_listed(fake):
    fake.answer([{"name": "notes.txt", "path": "models/notes.txt", "size": 3}])
    assert fal.list_files(directory="/models/my files/") == [
        {"name": "notes.txt", "path": "models/notes.txt", "size": 3, "file_name": "notes.txt", "url": ""}
    ]
    fake.answer({"assets": [{"title": "", "url": "https://v3.fal.media/files/a/b.png"}], "next_cursor": None})
    (asset,) = fal.list_files(source="assets", q="lamp", limit=5)
    assert asset["file_name"] == "b.png"
    assert [s.url for s in fake.sent] == [f"{API}/serverless/files/list/models/my%20files", f"{API}/assets"]
    assert fake.sent[1].query == [("limit", "5"), ("q", "lamp")]


def test_user_and_balance_are_read_from_rest(fake):
    fake.answer({"full_name": "", "nickname": "ada", "user_id": "u1"}, 12.5)
    assert fal.get_current_user() == {"full_name": "", "nickname": "ada", "user_id": "u1", "name": "ada", "email": ""}
    assert fal.get_balance() == {"balance": 12.5, "currency": "USD"}
    assert [s.url for s in fake.sent] == [f"{REST}/users/current", f"{REST}/billing/user_balance"]


def test_a_media_that_is_on_the_web_already_is_sent_by_address(fake):
    media = Media("image/png", uri="https://v3.fal.media/files/a/b.png")
    sent = submit(fake, data={"image_url": media, "others": [media, {"deep": media}]})[1]
    assert sent.json["image_url"] == "https://v3.fal.media/files/a/b.png"
    assert sent.json["others"] == [media.uri, {"deep": media.uri}]


def test_a_file_in_the_input_is_uploaded_and_sent_by_address(fake, picture, tmp_path):
    path = tmp_path / "lamp.png"
    path.write_bytes(picture())
    token = {"token": "t", "token_type": "Bearer", "base_url": "https://v3.fal.media", "expires_at": 1}
    fake.answer(token, {"access_url": "https://v3.fal.media/files/x/lamp.png"}, accepted())
    fal.submit_request("fal-ai/flux/dev", {"image_url": path})
    assert fake.sent[1].body == picture()
    assert fake.sent[2].json == {"image_url": "https://v3.fal.media/files/x/lamp.png"}


def test_a_text_that_looks_like_a_path_is_sent_as_text(fake):
    assert submit(fake, data={"prompt": "/etc/hostname"})[1].json == {"prompt": "/etc/hostname"}


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ({"a": {1: "x"}}, "not a string"),
        ({"a": [float("nan")]}, r"input.a\[0\] is nan"),
        ({"a": {"b": b"bytes"}}, "input.a.b is a bytes"),
        ({"a": object()}, "input.a is a object"),
        ({"prompt": "half a pair \ud800"}, "input.prompt"),
        ([1], "input"),
        ("prompt", "input"),
        (None, "input is required"),
    ],
)
def test_an_input_that_json_cannot_hold_is_refused(fake, data, where):
    with pytest.raises(InvalidInput, match=where):
        fal.submit_request("fal-ai/flux/dev", data)


def test_an_input_that_contains_itself_is_refused(fake):
    data = {"prompt": "a lamp"}
    data["again"] = data
    with pytest.raises(InvalidInput, match="nested too deeply"):
        fal.submit_request("fal-ai/flux/dev", data)
