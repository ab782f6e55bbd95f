"""Nothing is paid twice, and nothing that was paid for is lost: both services with their bad days."""

from __future__ import annotations

import json
import time

import pytest

from prefect_kosmokrator.integrations import fal, stability, stability_api
from prefect_kosmokrator.integrations.errors import (
    AmbiguousSubmission,
    ConfigurationError,
    ContentFiltered,
    KosmoError,
    Moderated,
    OutOfCredits,
    Rejected,
    StorageError,
    Unavailable,
)

CORE = "POST /stability/v2beta/stable-image/generate/core"
SUBMIT = "POST /fal/queue/fal-ai"
MODEL = "fal-ai/flux/schnell"


def generate(**options):
    return stability.generate_core("a matte black desk lamp", **options)


def submit(**options):
    return fal.submit_request(MODEL, {"prompt": "a matte black desk lamp"}, **options)


PAID = {"stability": (generate, CORE), "fal": (submit, SUBMIT)}


def posts(emulator, fault):
    return [entry for entry in emulator.state.ledger.select("POST") if entry.path.startswith(fault.split()[1])]


@pytest.fixture(params=PAID)
def paid(request):
    """A call that costs, and the requests it makes."""
    return PAID[request.param]


@pytest.mark.parametrize("fault", ["reset-after", "close-after", "502-html-after", "malformed-after", "truncate"])
def test_a_paid_request_is_not_repeated_when_it_may_have_been_accepted(emulator, paid, fault):
    call, path = paid
    emulator.state.inject(path, fault, headers={"content-type": "text/plain"} if fault == "malformed-after" else {})
    with pytest.raises(AmbiguousSubmission, match="billed") as caught:
        call()
    assert caught.value.retryable is False
    (entry,) = posts(emulator, path)
    assert entry.billed > 0


@pytest.mark.parametrize("fault", ["reset", "close", "502-html"])
def test_nor_when_it_was_lost_before_the_service_saw_it(emulator, paid, fault):
    # From outside this looks the same as above.
    call, path = paid
    emulator.state.inject(path, fault)
    with pytest.raises(AmbiguousSubmission):
        call()
    assert [entry.billed for entry in posts(emulator, path)] == [0]


def test_a_paid_request_is_repeated_after_the_rate_limit(emulator, paid):
    call, path = paid
    emulator.state.inject(path, "429", times=2, retry_after=1)
    call()
    assert [entry.status for entry in posts(emulator, path)] == [429, 429, 200]
    assert sum(1 for entry in posts(emulator, path) if entry.billed) == 1


@pytest.mark.parametrize("status", ["500", "503"])
def test_a_failure_of_the_service_itself_is_left_to_the_caller(emulator, paid, status):
    call, path = paid
    emulator.state.inject(path, status)
    with pytest.raises(Unavailable) as caught:
        call()
    assert (caught.value.retryable, caught.value.status) == (True, int(status))
    assert len(posts(emulator, path)) == 1


def test_a_host_that_cannot_be_reached_may_be_asked_again(monkeypatch, emulator):
    monkeypatch.setenv("KOSMO_STABILITY__DEFAULT__BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        generate()
    assert caught.value.retryable is True


def test_a_redirect_takes_no_key_along(emulator, paid):
    call, path = paid
    emulator.state.inject(path, "redirect", status=307)
    with pytest.raises(ConfigurationError, match="Redirects are not followed"):
        call()
    assert len(emulator.state.ledger.select(path="redirected")) == 0


def test_an_answer_that_never_comes_ends_at_the_deadline(emulator, monkeypatch):
    monkeypatch.setattr(stability_api, "GENERATION_SECONDS", 0.2)
    emulator.state.inject(CORE, "timeout-after")
    started = time.monotonic()
    with pytest.raises(AmbiguousSubmission):
        generate()
    assert time.monotonic() - started < 1
    assert [entry.billed for entry in posts(emulator, CORE)] == [3]


def test_a_picture_that_drips_in_time_is_returned(emulator):
    emulator.state.inject(CORE, "drip", seconds=0.3)
    assert generate().width


def test_reads_recover_from_a_bad_minute(emulator):
    for fault in ("502-html", "reset", "429"):
        emulator.state.inject("GET /stability/v1/user/balance", fault)
    assert stability.get_balance()["credits"] == 1000
    assert len(emulator.state.ledger.select("GET", "/v1/user/balance")) == 4


def test_a_picture_is_billed_once_and_says_what_it_cost(emulator):
    media = generate(seed=11, output_format="webp")
    assert (media.content_type, media.seed, media.finish_reason) == ("image/webp", 11, "SUCCESS")
    assert emulator.state.ledger.billed("credits") == media.cost.amount == 3
    assert emulator.state.account().credits == 997
    assert media.request_id == posts(emulator, CORE)[0].request_id


def test_every_stability_function_satisfies_the_service(emulator, picture):
    square, mask = picture(256, 256), picture(256, 256, mode="L")
    made = [
        stability.generate_core("a lamp", aspect_ratio="16:9", style_preset="cinematic", negative_prompt="fog"),
        stability.generate_ultra("a lamp", image=square, strength=0.5, output_format="jpeg"),
        stability.generate_sd3("a lamp", model="sd3.5-flash", cfg_scale=2),
        stability.generate_sd3("a lamp", image=square, strength=0.5, mode="image-to-image"),
        stability.inpaint(square, "a cat", mask=mask, grow_mask=100),
        stability.erase(square, mask=mask, grow_mask=20),
        stability.remove_background(square, output_format="webp"),
        stability.control_structure(square, "a castle", control_strength=0),
        stability.upscale_fast(square),
        stability.get_result(stability.upscale_creative(square, "a castle", creativity=0.5).id),
    ]
    assert all(media.width and media.sha256 for media in made)
    assert sum(media.cost.amount for media in made) == emulator.state.ledger.billed("credits")


def test_the_old_video_endpoint_works_where_it_is_still_offered(emulator, picture):
    emulator.state.settings.legacy_video = True
    job = stability.image_to_video(picture(768, 768), motion_bucket_id=40)
    video = stability.get_video_result(job.id)
    assert (video.content_type, video.cost.amount) == ("video/mp4", 20)


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("moderate-me", Moderated),
        ("public-figure", Moderated),
        ("картина старого дома", Rejected),
        ("filter-me", ContentFiltered),
    ],
)
def test_a_prompt_that_is_refused_says_so(emulator, prompt, kind):
    with pytest.raises(kind) as caught:
        stability.generate_core(prompt)
    assert type(caught.value) is kind
    assert emulator.state.ledger.billed("credits") == (3 if kind is ContentFiltered else 0)


def test_an_empty_account_is_out_of_credits(emulator):
    emulator.state.account().credits = 1
    emulator.state.account().balance = 0
    with pytest.raises(OutOfCredits, match="sufficient credits"):
        generate()
    with pytest.raises(OutOfCredits, match="Exhausted balance"):
        submit()


@pytest.mark.parametrize("echo", ["masked", "whole"])
def test_a_wrong_key_is_not_shown_even_if_the_service_repeats_it(emulator, monkeypatch, echo):
    emulator.state.settings.echo_key = echo
    monkeypatch.setenv("KOSMO_STABILITY__DEFAULT__API_KEY", "sk-wrongkey-0123456789abcd")
    for call in (stability.get_balance, generate):
        with pytest.raises(Rejected, match="was not accepted") as caught:
            call()
        for part in ("sk-wron", "wrongkey", "abcd", "0123"):
            assert part not in f"{caught.value} {vars(caught.value)}"


def test_two_accounts_pay_for_themselves(emulator):
    generate(account="work")
    generate()
    assert [emulator.state.ledger.billed("credits", name) for name in ("work", "default")] == [3, 3]


def test_the_job_of_an_account_is_not_found_with_another(emulator, picture):
    job = stability.upscale_creative(picture(), "a castle", account="work")
    with pytest.raises(Rejected, match="only for the account that started them"):
        stability.get_result(job.id)
    assert stability.get_result(job.id, account="work").account == "work"


def test_a_paid_picture_is_kept_when_it_cannot_be_stored(emulator, tmp_path):
    (tmp_path / "outputs").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="kept at") as caught:
        generate(output=(tmp_path / "outputs").as_uri())
    error = caught.value
    assert error.spool.read_bytes().startswith(b"\x89PNG")
    assert (error.provider, error.function, error.account) == ("stability", "generate_core", "default")
    assert error.request_id == posts(emulator, CORE)[0].request_id


def test_a_filtered_picture_is_stored_before_it_raises(emulator, tmp_path):
    with pytest.raises(ContentFiltered) as caught:
        stability.generate_core("filter-me", output=tmp_path.as_uri())
    assert caught.value.media.uri.startswith(tmp_path.as_uri())
    assert caught.value.media.content is None


def test_a_job_of_fal_is_billed_what_its_result_says(emulator):
    data = {"prompt": "a lamp", "image_size": "square_hd", "num_images": 2}
    found = fal.wait_for_request(fal.submit_request("fal-ai/flux/dev", data))
    assert found.cost.certain is True
    assert found.cost.amount == emulator.state.ledger.billed("USD")
    assert round(sum(media.cost.amount for media in found.media), 6) == found.cost.amount


def test_results_are_stored_with_what_the_service_said(emulator, tmp_path):
    found = fal.wait_for_request(submit(), output=tmp_path.as_uri())
    media = found.media[0]
    sidecar = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert media.read()[:3] == b"\xff\xd8\xff"
    assert (media.width, media.height, media.cost) == (1024, 768, found.cost)
    assert sidecar["model"] == MODEL
    assert sidecar["result"]["seed"] == found["seed"]
    assert sidecar["sha256"] == media.sha256


def test_a_queue_that_is_full_is_tried_again_and_then_reported(emulator):
    emulator.state.settings.queue_seconds = 60
    submit()
    for prompt in ("b", "c"):
        fal.submit_request(MODEL, {"prompt": prompt})
    with pytest.raises(Unavailable) as caught:
        fal.submit_request(MODEL, {"prompt": "d"}, max_queue_length=1)
    assert (caught.value.status, caught.value.retryable) == (429, True)


def test_no_call_of_a_bad_day_raises_anything_but_our_errors(emulator):
    for fault in ("reset", "close", "truncate", "malformed", "502-html", "404", "418", "redirect"):
        emulator.state.inject("/fal/queue", fault, headers={"x": "y"})
        with pytest.raises(KosmoError):
            submit()
