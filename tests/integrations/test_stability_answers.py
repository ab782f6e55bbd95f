"""How Stability AI's answers are read: pictures, costs, jobs and errors."""

from __future__ import annotations

import base64

import httpx
import pytest

from prefect_kosmokrator.integrations import stability
from prefect_kosmokrator.integrations.errors import (
    AmbiguousSubmission,
    ConfigurationError,
    ContentFiltered,
    EndpointDiscontinued,
    JobPending,
    Moderated,
    OutOfCredits,
    Rejected,
    Unavailable,
)


def in_json(content: bytes, field: str = "image", content_type: str = "application/json; type=image/png", **more):
    body = {field: base64.b64encode(content).decode(), **more}
    return httpx.Response(200, json=body, headers={"content-type": content_type})


def refusal(status: int, name: str, *errors: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"id": "err-1", "name": name, "errors": list(errors)}, headers=headers)


def test_a_picture_in_bytes_becomes_media(fake, picture):
    fake.answer(fake.media(picture(200, 100), finish_reason="SUCCESS", seed="4294967294", x_request_id="req-1"))
    media = stability.generate_core("a lamp")
    assert media.read() == picture(200, 100)
    assert (media.content_type, media.width, media.height) == ("image/png", 200, 100)
    assert (media.seed, media.finish_reason, media.request_id) == (4294967294, "SUCCESS", "req-1")
    assert (media.provider, media.function, media.account) == ("stability", "generate_core", "default")
    assert media.to_json()["seed"] == "4294967294"


@pytest.mark.parametrize("content_type", ["image/png", "image/png; charset=binary", "IMAGE/PNG;q=1"])
def test_a_content_type_may_carry_parameters(fake, content_type):
    fake.answer(fake.media(content_type=content_type))
    assert stability.generate_core("a lamp").content_type == "image/png"


def test_headers_that_describe_the_picture_are_optional(fake):
    fake.answer(fake.media())
    media = stability.generate_core("a lamp")
    assert (media.seed, media.finish_reason, media.request_id) == (None, "SUCCESS", "")


@pytest.mark.parametrize("field", ["image", "result"])
def test_a_picture_in_json_is_read_from_either_field(fake, picture, field):
    fake.answer(in_json(picture(), field, seed=5, finish_reason="SUCCESS"))
    media = stability.get_result("a" * 64)
    assert (media.read(), media.seed, media.content_type) == (picture(), 5, "image/png")


@pytest.mark.parametrize(
    ("content_type", "read_as"),
    [
        ("application/json; type=image/jpeg", "image/jpeg"),
        ("application/json;type=image/webp; charset=utf-8", "image/webp"),
        ("application/json", "image/png"),
    ],
)
def test_the_type_of_a_picture_in_json_is_a_parameter(fake, picture, content_type, read_as):
    fake.answer(in_json(picture(), content_type=content_type))
    assert stability.generate_core("a lamp").content_type == read_as


def test_a_video_in_json_is_a_video(fake):
    fake.answer(in_json(b"\x00\x00\x00 ftypisom", "video", "application/json"))
    assert stability.get_video_result("vid1").content_type == "video/mp4"


@pytest.mark.parametrize("form", ["bytes", "json"])
def test_a_filtered_picture_raises_and_is_kept_in_the_error(fake, picture, form):
    filtered = {"finish_reason": "CONTENT_FILTERED"}
    fake.answer(fake.media(picture(), **filtered) if form == "bytes" else in_json(picture(), **filtered))
    with pytest.raises(ContentFiltered) as caught:
        stability.generate_core("a lamp")
    assert caught.value.media.read() == picture()
    assert caught.value.retryable is False
    assert str(caught.value.media.cost) == "~3 credits"


def test_a_filtered_picture_is_returned_on_request(fake):
    fake.answer(fake.media(finish_reason="CONTENT_FILTERED"))
    media = stability.generate_core("a lamp", on_filtered="return")
    assert media.finish_reason == "CONTENT_FILTERED"
    assert "probably charged" in media.cost.source


@pytest.mark.parametrize(
    ("name", "arguments", "credits_"),
    [
        ("generate_core", {"prompt": "a"}, 3),
        ("generate_ultra", {"prompt": "a"}, 8),
        ("generate_sd3", {"prompt": "a"}, 6.5),
        ("generate_sd3", {"prompt": "a", "model": "sd3.5-large-turbo"}, 4),
        ("generate_sd3", {"prompt": "a", "model": "sd3.5-medium"}, 3.5),
        ("generate_sd3", {"prompt": "a", "model": "sd3.5-flash"}, 2.5),
        ("generate_sd3", {"prompt": "a", "model": "sd3-medium"}, 3.5),
        ("inpaint", {"prompt": "a", "image": "P"}, 5),
        ("erase", {"image": "P"}, 5),
        ("remove_background", {"image": "P"}, 5),
        ("control_structure", {"prompt": "a", "image": "P"}, 5),
        ("upscale_fast", {"image": "P"}, 2),
    ],
)
def test_a_picture_knows_its_list_price(fake, picture, name, arguments, credits_):
    fake.answer(fake.media())
    call = stability.provider.functions[name].call
    media = call(**{key: picture() if value == "P" else value for key, value in arguments.items()})
    assert (media.cost.amount, media.cost.unit, media.cost.certain) == (credits_, "credits", True)
    assert media.cost.usd == credits_ / 100


def test_the_price_of_an_unknown_model_is_unknown(fake):
    fake.answer(fake.media())
    media = stability.generate_sd3("a lamp", model="sd4-huge")
    assert (media.cost.amount, media.cost.usd, media.cost.certain, str(media.cost)) == (None, None, False, "unknown")
    assert fake.sent[0].form["model"] == "sd4-huge"


def test_prices_can_be_corrected_without_a_new_version(fake, monkeypatch):
    monkeypatch.setenv("KOSMO_STABILITY_PRICES", '{"generate_core": 4.25}')
    fake.answer(fake.media())
    assert stability.generate_core("a lamp").cost.amount == 4.25


@pytest.mark.parametrize("prices", ["generate_core=3", "[1]", '{"generate_core": "dear"}'])
def test_a_wrong_price_list_is_found_before_anything_is_paid(fake, monkeypatch, prices):
    monkeypatch.setenv("KOSMO_STABILITY_PRICES", prices)
    fake.always = lambda _request: fake.media()
    with pytest.raises(ConfigurationError, match="KOSMO_STABILITY_PRICES"):
        stability.generate_core("a lamp")
    assert fake.sent == []


def test_a_started_job_names_all_that_is_needed_to_fetch_it(fake, picture):
    fake.answer({"id": "b" * 64})
    job = stability.upscale_creative(picture(), "a castle")
    assert (job.id, job.request_id, job.status) == ("b" * 64, "b" * 64, "in-progress")
    assert (job.provider, job.function, job.account) == ("stability", "upscale_creative", "default")
    assert (job.cost.amount, job.cost.unit) == (60, "credits")


def test_a_job_that_runs_is_pending(fake):
    fake.answer(httpx.Response(202, json={"id": "job1", "status": "in-progress"}))
    with pytest.raises(JobPending) as caught:
        stability.get_result("job1")
    assert caught.value.job.id == "job1"
    assert (caught.value.retryable, caught.value.retry_after) == (True, 10)


def test_a_video_that_runs_is_returned_as_the_job(fake):
    fake.answer(httpx.Response(202, json={"id": "vid1", "status": "in-progress"}))
    job = stability.get_video_result("vid1")
    assert (job.id, job["status"]) == ("vid1", "in-progress")


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (refusal(400, "bad_request", "some-field: is required", "b: no"), Rejected, "some-field: is required; b: no"),
        (refusal(401, "unauthorized", "authorization: invalid"), Rejected, "KOSMO_STABILITY__DEFAULT__API_KEY"),
        (refusal(402, "payment_required", "You lack sufficient credits."), OutOfCredits, "sufficient credits"),
        (refusal(403, "content_moderation", "flagged."), Moderated, "Nothing was charged"),
        (refusal(403, "permission_denied", "You lack permissions."), Rejected, "permissions"),
        (refusal(413, "payload_too_large", "body: payloads cannot be larger"), Rejected, "larger"),
        (refusal(422, "public_figure", "likeness of a public figure"), Moderated, "public figure"),
        (refusal(422, "invalid_language", "English is the only"), Rejected, "Prompts must be in English"),
        (refusal(422, "copyrighted_content", "matched"), Rejected, "matched"),
        (httpx.Response(400, json={"id": "err-1", "name": "bad_request", "message": "v1 words"}), Rejected, "v1 words"),
        (httpx.Response(418, text="teapot"), Rejected, "answered 418: teapot"),
        (httpx.Response(403, text="<html>no</html>", headers={"content-type": "text/html"}), Rejected, "answered 403"),
    ],
)
def test_a_refusal_becomes_an_exact_error_that_is_not_repeated(fake, answer, kind, words):
    fake.answer(answer)
    with pytest.raises(Rejected) as caught:
        stability.generate_core("a lamp")
    error = caught.value
    assert type(error) is kind
    assert words in str(error)
    assert (error.status, error.retryable, error.account) == (answer.status_code, False, "default")
    assert (error.provider, error.function) == ("stability", "generate_core")


def test_an_error_quotes_the_id_that_support_asks_for(fake):
    fake.answer(refusal(403, "content_moderation", "flagged."))
    with pytest.raises(Moderated, match=r"\[request err-1\]") as caught:
        stability.generate_core("a lamp")
    assert (caught.value.request_id, caught.value.code) == ("err-1", "content_moderation")


@pytest.mark.parametrize(("headers", "seconds"), [({}, 60), ({"retry-after": "7"}, 7)])
def test_a_lock_out_lasts_a_minute_unless_the_service_says_otherwise(fake, waits, headers, seconds):
    fake.always = lambda _request: refusal(429, "rate_limit_exceeded", "150 requests", **headers)
    with pytest.raises(Unavailable, match="150 requests") as caught:
        stability.generate_core("a lamp")
    assert (caught.value.retry_after, caught.value.retryable) == (seconds, True)
    assert set(waits) == {seconds}
    assert sum(waits) <= 180


def test_an_unknown_job_says_how_long_results_are_kept(fake):
    fake.answer(refusal(404, "generation_not_found", "id: does not exist or has expired"))
    with pytest.raises(Rejected, match="24 hours and only for the account that started them"):
        stability.get_result("job1")


@pytest.mark.parametrize("status", [404, 410])
def test_the_removed_video_endpoint_names_its_replacement(fake, picture, status):
    fake.always = lambda _request: httpx.Response(status, json={"id": "e", "name": "not_found", "errors": ["no"]})
    for call in (lambda: stability.image_to_video(picture(768, 768)), lambda: stability.get_video_result("vid1")):
        with pytest.raises(EndpointDiscontinued, match="fal-ai/stable-video") as caught:
            call()
        assert (caught.value.status, caught.value.account) == (status, "default")
        assert caught.value.function in {"image_to_video", "get_video_result"}


def test_an_expired_video_is_not_taken_for_a_removed_endpoint(fake):
    fake.answer(refusal(404, "generation_not_found", "gone"))
    with pytest.raises(Rejected, match="24 hours") as caught:
        stability.get_video_result("vid1")
    assert not isinstance(caught.value, EndpointDiscontinued)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, content=b"", headers={"content-type": "image/png"}),
        httpx.Response(200, content=b"not a picture", headers={"content-type": "image/png"}),
        httpx.Response(200, text="<html></html>", headers={"content-type": "text/html"}),
        httpx.Response(200, json=["image"]),
        httpx.Response(200, json={"seed": 1}),
        httpx.Response(200, json={"image": "%%%"}),
        httpx.Response(200, text="{", headers={"content-type": "application/json"}),
    ],
)
def test_an_unreadable_picture_that_was_paid_for_is_ambiguous(fake, answer):
    fake.answer(answer)
    with pytest.raises(AmbiguousSubmission, match="billed") as caught:
        stability.generate_core("a lamp")
    assert (caught.value.retryable, caught.value.provider, caught.value.account) == (False, "stability", "default")


def test_an_unreadable_result_can_be_fetched_again(fake):
    fake.answer(httpx.Response(200, json={"image": "%%%"}))
    with pytest.raises(Unavailable) as caught:
        stability.get_result("job1")
    assert caught.value.retryable is True


@pytest.mark.parametrize("answer", [{}, {"id": ""}, {"id": 7}, []])
def test_a_started_job_without_an_id_is_ambiguous(fake, picture, answer):
    fake.answer(httpx.Response(200, json=answer))
    with pytest.raises(AmbiguousSubmission, match="names no id"):
        stability.upscale_creative(picture(), "a castle")


@pytest.mark.parametrize("call", [stability.get_account, stability.get_balance])
def test_an_account_answer_of_another_shape_is_a_typed_error(fake, call):
    fake.always = lambda _request: httpx.Response(200, json=["surprise"])
    with pytest.raises(Unavailable):
        call()
