"""How fal.ai's answers are read: jobs, results, costs and errors."""

from __future__ import annotations

import base64
import copy
import pickle

import httpx
import pytest

from prefect_kosmokrator.integrations import fal
from prefect_kosmokrator.integrations.errors import (
    AmbiguousSubmission,
    ContentFiltered,
    JobFailed,
    JobPending,
    KosmoError,
    Moderated,
    OutOfCredits,
    Rejected,
    Unavailable,
)

ID = "764cabcf-b745-4b3e-ae38-1200304cf45b"
MODEL = "fal-ai/flux/dev"
PRICE = {"prices": [{"endpoint_id": MODEL, "unit_price": 0.025, "unit": "megapixels", "currency": "USD"}]}
NO_PRICE = {"prices": []}


def image(name: str, **more):
    return {"url": f"https://v3.fal.media/files/{name}", "width": 64, "height": 32, "content_type": "image/png", **more}


def result(fake, body, *, price=NO_PRICE, headers=None, **options):
    fake.price = price
    fake.answer(httpx.Response(200, json=body, headers=headers))
    return fal.get_result(MODEL, ID, **options)


def refusal(status, detail, **headers):
    return httpx.Response(status, json={"detail": detail}, headers={k.replace("_", "-"): v for k, v in headers.items()})


def test_a_result_is_the_models_own_json_with_its_files_beside_it(fake):
    body = {"images": [image("a.png", file_size=99), image("b.png")], "seed": 5, "has_nsfw_concepts": [False, False]}
    found = result(fake, body)
    assert found == body
    assert [m.uri for m in found.media] == ["https://v3.fal.media/files/a.png", "https://v3.fal.media/files/b.png"]
    first = found.media[0]
    assert (first.width, first.height, first.size, first.seed) == (64, 32, 99, 5)
    assert (first.provider, first.model, first.account, first.request_id) == ("fal", MODEL, "default", ID)
    assert first.finish_reason == "SUCCESS"


@pytest.mark.parametrize(
    ("body", "types"),
    [
        ({"video": {"url": "https://v3.fal.media/files/a.mp4"}}, ["video/mp4"]),
        (
            {"audio_file": {"url": "https://v3.fal.media/files/a.mp3", "content_type": "audio/mpeg; x=1"}},
            ["audio/mpeg"],
        ),
        ({"outputs": {"1": {"images": [{"url": "https://x.example/a.webp"}]}}}, ["image/webp"]),
        ({"file": {"url": "https://x.example/a"}}, ["application/octet-stream"]),
        ({"text": "https://x.example/a.png", "url": 7}, []),
    ],
)
def test_files_are_found_wherever_a_model_puts_them(fake, body, types):
    assert [m.content_type for m in result(fake, body).media] == types


def test_a_data_uri_is_media_with_its_bytes(fake, picture):
    uri = f"data:image/png;base64,{base64.b64encode(picture(40, 30)).decode()}"
    (media,) = result(fake, {"images": [{"url": uri}]}).media
    assert media.read() == picture(40, 30)
    assert (media.content_type, media.width, media.height, media.model) == ("image/png", 40, 30, MODEL)


def test_the_cost_is_units_times_price_shared_by_the_files(fake):
    body = {"images": [image("a.png"), image("b.png"), image("c.png"), image("d.png")]}
    found = result(fake, body, price=PRICE, headers={"X-Fal-Billable-Units": "8"})
    assert (found.cost.amount, found.cost.unit, found.cost.certain) == (0.2, "USD", True)
    assert [m.cost.amount for m in found.media] == [0.05] * 4
    assert "8 megapixels at 0.025 USD" in found.cost.source


def test_without_billable_units_the_cost_is_an_estimate(fake):
    found = result(fake, {"images": []}, price=PRICE)
    assert (found.cost.amount, found.cost.certain, str(found.cost)) == (0.025, False, "~0.025 USD")


@pytest.mark.parametrize(
    "price",
    [
        NO_PRICE,
        httpx.Response(404, json={"error": {"type": "not_found", "message": "no"}}),
        httpx.Response(200, json={"prices": None}),
        httpx.Response(200, json={"prices": ["x"]}),
        httpx.Response(200, json=[]),
    ],
)
def test_a_submitted_job_is_not_lost_to_a_price_that_cannot_be_read(fake, price):
    fake.price = price
    fake.answer({"status": "IN_QUEUE", "request_id": ID})
    job = fal.submit_request(MODEL, {"prompt": "a lamp"})
    assert job.id == ID
    assert (job.cost.amount, job.cost.certain) == (None, False)


def test_a_price_is_asked_for_once(fake):
    result(fake, {"images": []}, price=PRICE)
    fake.answer({"images": []})
    assert fal.get_result(MODEL, ID).cost.amount == 0.025
    assert [sent.query for sent in fake.priced] == [[("endpoint_id", MODEL)]]


def test_a_result_survives_pickling_and_copying_with_all_it_carries(fake):
    found = result(fake, {"images": [image("a.png")]}, price=PRICE, headers={"X-Fal-Billable-Units": "2"})
    for again in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):  # noqa: S301
        assert again == found
        assert (again.media, again.cost, again.request_id) == (found.media, found.cost, found.request_id)


@pytest.mark.parametrize("flags", [[False, True], True, [True]])
def test_a_blacked_out_picture_raises_and_carries_the_files(fake, flags):
    with pytest.raises(ContentFiltered) as caught:
        result(fake, {"images": [image("a.png")], "has_nsfw_concepts": flags})
    assert caught.value.media[0].finish_reason == "CONTENT_FILTERED"
    assert caught.value.request_id == ID


def test_a_blacked_out_picture_is_returned_on_request(fake):
    found = result(fake, {"images": [image("a.png")], "has_nsfw_concepts": [True]}, on_filtered="return")
    assert found.media[0].finish_reason == "CONTENT_FILTERED"


@pytest.mark.parametrize("flags", [None, [], [False], False])
def test_a_picture_that_is_not_flagged_is_not_filtered(fake, flags):
    assert result(fake, {"images": [image("a.png")], "has_nsfw_concepts": flags}).media


@pytest.mark.parametrize("status", [200, 202])
def test_a_status_is_read_with_either_http_status(fake, status):
    fake.answer(httpx.Response(status, json={"status": "IN_PROGRESS", "logs": None}))
    assert fal.get_request_status(MODEL, ID) == {"status": "IN_PROGRESS", "logs": []}


def test_a_result_that_is_not_ready_is_pending(fake):
    fake.answer(refusal(400, "Request is still in progress"))
    with pytest.raises(JobPending) as caught:
        fal.get_result(MODEL, ID)
    assert (caught.value.job.id, caught.value.retryable, caught.value.status) == (ID, True, 400)


@pytest.mark.parametrize(
    ("answer", "kind", "words", "code"),
    [
        (
            refusal(422, [{"loc": ["body", "prompt"], "msg": "Field required", "type": "missing"}]),
            JobFailed,
            "body.prompt: Field required",
            "missing",
        ),
        (
            refusal(422, [{"loc": ["body"], "msg": "flagged", "type": "content_policy_violation"}]),
            Moderated,
            "Change the prompt",
            "content_policy_violation",
        ),
        (refusal(500, "out of memory", X_Fal_Error_Type="runner_server_error"), JobFailed, "out of memory", None),
        (refusal(404, "not found"), Rejected, "not found", None),
        (refusal(401, "No user found for Key ID and Secret"), Rejected, "KOSMO_FAL__DEFAULT__API_KEY", None),
    ],
)
def test_a_failed_result_becomes_an_exact_error(fake, answer, kind, words, code):
    fake.always = lambda _request: httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)
    with pytest.raises(KosmoError, match=words) as caught:
        fal.get_result(MODEL, ID)
    assert type(caught.value) is kind
    assert (caught.value.retryable, caught.value.status) == (False, answer.status_code)
    assert code is None or caught.value.code == code
    assert kind is not JobFailed or caught.value.job.id == ID


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (
            refusal(403, "User is locked. Reason: Exhausted balance. Top up."),
            OutOfCredits,
            "Exhausted balance",
        ),
        (refusal(402, "Payment required"), OutOfCredits, "Payment required"),
        (refusal(403, "No access"), Rejected, "No access"),
        (refusal(404, 'Application "x" not found'), Rejected, "not found"),
        (refusal(422, [{"loc": ["body", "seed"], "msg": "bad", "type": "int"}]), Rejected, "body.seed: bad"),
        (refusal(422, {"message": "wrong", "type": "value_error"}), Rejected, "wrong"),
        (httpx.Response(400, json={"error": {"type": "validation_error", "message": "no"}}), Rejected, "no"),
        (httpx.Response(405, text="<html/>", headers={"content-type": "text/html"}), Rejected, "405: no explanation"),
        (httpx.Response(400, text="plain words"), Rejected, "plain words"),
        (refusal(500, "oops", X_Fal_Error_Type="internal_error"), Unavailable, "oops"),
    ],
)
def test_a_refused_submit_becomes_an_exact_error(fake, answer, kind, words):
    fake.answer(answer)
    with pytest.raises(KosmoError, match=words) as caught:
        fal.submit_request(MODEL, {"prompt": "a lamp"})
    assert type(caught.value) is kind
    assert (caught.value.provider, caught.value.function) == ("fal", "submit_request")


@pytest.mark.parametrize("header", ["X-Fal-Retryable", "X-Fal-Needs-Retry"])
@pytest.mark.parametrize(("value", "retryable"), [("0", False), ("false", False), ("1", True), ("true", True)])
def test_fal_says_whether_a_failure_may_be_repeated(fake, header, value, retryable):
    fake.answer(httpx.Response(503, json={"detail": "no runner"}, headers={header: value}))
    with pytest.raises(Unavailable) as caught:
        fal.submit_request(MODEL, {"prompt": "a lamp"})
    assert caught.value.retryable is retryable


@pytest.mark.parametrize("answer", [{}, {"status": "IN_QUEUE"}, {"request_id": ""}, [], "ok"])
def test_an_accepted_request_without_an_id_is_ambiguous(fake, answer):
    fake.answer(httpx.Response(200, json=answer))
    with pytest.raises(AmbiguousSubmission, match="names no request_id"):
        fal.submit_request(MODEL, {"prompt": "a lamp"})


@pytest.mark.parametrize("text", ["", "{", "<html></html>"])
def test_an_accepted_request_with_an_unreadable_answer_is_ambiguous(fake, text):
    fake.answer(httpx.Response(200, text=text))
    with pytest.raises(AmbiguousSubmission, match="may have been accepted and billed"):
        fal.submit_request(MODEL, {"prompt": "a lamp"})
    assert len(fake.sent) == 1


@pytest.mark.parametrize(("status", "said"), [(202, "CANCELLATION_REQUESTED"), (400, "ALREADY_COMPLETED")])
def test_a_cancel_says_what_became_of_it(fake, status, said):
    fake.answer(httpx.Response(status, json={"status": said}))
    assert fal.cancel_request(MODEL, ID) == {"status": said, "request_id": ID}


def test_cancelling_an_unknown_request_is_rejected(fake):
    fake.answer(httpx.Response(404, json={"status": "NOT_FOUND"}))
    with pytest.raises(Rejected, match="NOT_FOUND"):
        fal.cancel_request(MODEL, ID)


@pytest.mark.parametrize("status", [403, 404])
def test_a_user_is_found_through_billing_when_the_profile_is_not_available(fake, status):
    fake.answer(refusal(status, "no"), {"username": "ada"})
    assert fal.get_current_user()["name"] == "ada"


def test_a_key_that_may_not_see_its_user_says_what_it_lacks(fake):
    fake.answer(
        refusal(404, "no"), httpx.Response(403, json={"error": {"type": "authorization_error", "message": "x"}})
    )
    with pytest.raises(Rejected, match="ADMIN scope"):
        fal.get_current_user()


def test_a_locked_user_is_out_of_credits(fake):
    fake.answer(refusal(403, "User is locked. Reason: TOP_UP."))
    with pytest.raises(OutOfCredits):
        fal.get_current_user()


def test_a_balance_is_found_through_billing_when_rest_does_not_say(fake):
    fake.answer(refusal(404, "no"), {"username": "ada", "credits": {"current_balance": 7.5, "currency": "USD"}})
    assert fal.get_balance() == {"balance": 7.5, "currency": "USD"}


def test_files_that_cannot_be_listed_name_the_other_source(fake):
    fake.answer(httpx.Response(403, json={"error": {"type": "authorization_error", "message": "Assets are off."}}))
    with pytest.raises(Rejected, match="try source='serverless'") as caught:
        fal.list_files(source="assets")
    assert "Assets are off." in str(caught.value)


@pytest.mark.parametrize(
    ("function", "arguments", "answer"),
    [
        ("list_models", {}, ["surprise"]),
        ("list_models", {}, {"models": ["surprise"]}),
        ("list_files", {}, {"files": []}),
        ("list_files", {"source": "assets"}, {"assets": ["surprise"]}),
    ],
)
def test_a_listing_of_another_shape_is_a_typed_error(fake, function, arguments, answer):
    fake.always = lambda _request: httpx.Response(200, json=answer)
    with pytest.raises(Unavailable):
        fal.provider.functions[function].call(**arguments)
