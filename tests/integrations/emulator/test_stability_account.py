"""Keys, rate limit, asynchronous results and the removed video endpoint of Stability."""

import base64
import io
import time

import httpx
import pytest
from PIL import Image

IMAGE = "/v2beta/stable-image"


def start_upscale(stability, picture, **fields):
    files = {"image": picture(), **{name: (None, value) for name, value in {"prompt": "sea", **fields}.items()}}
    return stability.post(f"{IMAGE}/upscale/creative", files=files)


def fetch(stability, identifier, accept="*/*"):
    return stability.get(f"/v2beta/results/{identifier}", headers={"Accept": accept})


def test_account_and_balance(stability, state):
    account = stability.get("/v1/user/account").json()
    assert account["email"] == "default@emulator.example"
    assert account["organizations"][0]["is_default"] is True
    assert stability.get("/v1/user/balance").json() == {"credits": 1000.0}
    organization = {"Organization": account["organizations"][0]["id"]}
    assert stability.get("/v1/user/balance", headers=organization).status_code == 200
    assert stability.get("/v1/user/balance", headers={"Organization": "org-other"}).status_code == 403


def test_accounts_have_their_own_credits(stability, state):
    stability.post(f"{IMAGE}/generate/core", files={"prompt": (None, "x")})
    assert (state.account("default").credits, state.account("work").credits) == (997, 1000)


def test_a_wrong_key_is_refused_in_two_envelopes(emulator):
    headers = {"Authorization": "Bearer sk-notavalidkeyzzzz"}
    v1 = httpx.get(f"{emulator.url}/stability/v1/user/balance", headers=headers)
    assert (v1.status_code, v1.json()["name"]) == (401, "unauthorized")
    assert "sk-nota****zzzz" in v1.json()["message"]
    v2 = httpx.post(f"{emulator.url}/stability{IMAGE}/generate/core", headers=headers, files={"prompt": (None, "x")})
    assert (v2.status_code, v2.json()["errors"]) == (401, ["authorization: invalid or missing header value"])


def test_v1_can_repeat_the_whole_key(emulator, state):
    state.settings.echo_key = "whole"
    answer = httpx.get(f"{emulator.url}/stability/v1/user/balance", headers={"Authorization": "Bearer sk-secret-key"})
    assert "sk-secret-key" in answer.json()["message"]


def test_v1_checks_the_key_before_the_path(emulator, stability):
    assert httpx.get(f"{emulator.url}/stability/v1/nothing").status_code == 401
    assert stability.get("/v1/nothing").json()["name"] == "not_found"


def test_a_revoked_key_is_refused(stability, state):
    state.account().revoked = True
    assert stability.get("/v1/user/balance").status_code == 401


def test_too_many_requests_lock_the_account_out_for_a_minute(stability, state):
    state.settings.rate_limit_requests = 3
    assert [stability.get("/v1/user/balance").status_code for _ in range(4)] == [200, 200, 200, 429]
    answer = stability.post(f"{IMAGE}/generate/core", files={"prompt": (None, "x")})
    assert answer.status_code == 429
    assert answer.json()["name"] == answer.json()["id"] == "rate_limit_exceeded"
    assert 55 <= int(answer.headers["retry-after"]) <= 60
    state.clock.advance(61)
    assert stability.get("/v1/user/balance").status_code == 200


def test_the_retry_after_header_can_be_left_out(stability, state):
    state.settings.rate_limit_requests, state.settings.retry_after_header = 0, False
    assert "retry-after" not in stability.get("/v1/user/balance").headers


def test_an_asynchronous_result_is_pending_and_then_a_picture(stability, state, picture):
    state.settings.stability_async_seconds = 30
    accepted = start_upscale(stability, picture, seed="9")
    assert accepted.status_code == 200
    identifier = accepted.json()["id"]
    pending = fetch(stability, identifier)
    assert pending.status_code == 202
    assert pending.json() == {"id": identifier, "status": "in-progress"}
    assert state.ledger.billed("credits") == 0
    state.clock.advance(30)
    done = fetch(stability, identifier)
    assert (done.status_code, done.headers["seed"], done.headers["finish-reason"]) == (200, "9", "SUCCESS")
    width, height = Image.open(io.BytesIO(done.content)).size
    assert width * height == pytest.approx(4e6, rel=0.02)
    assert state.ledger.billed("credits") == 60


@pytest.mark.parametrize("field", ["image", "result"])
def test_an_asynchronous_result_as_json(stability, state, picture, field):
    state.settings.async_json_field = field
    identifier = start_upscale(stability, picture).json()["id"]
    state.clock.advance(1)
    answer = fetch(stability, identifier, "application/json")
    assert set(answer.json()) == {field, "seed", "finish_reason"}
    assert base64.b64decode(answer.json()[field]).startswith(b"\x89PNG")


def test_results_belong_to_the_key_and_end_after_a_day(stability, state, picture, emulator):
    identifier = start_upscale(stability, picture).json()["id"]
    state.clock.advance(1)
    other = {"Authorization": f"Bearer {state.account('work').stability_key}"}
    assert httpx.get(f"{emulator.url}/stability/v2beta/results/{identifier}", headers=other).status_code == 404
    assert fetch(stability, identifier).status_code == 200
    state.clock.advance(24 * 3600 + 1)
    expired = fetch(stability, identifier)
    assert (expired.status_code, expired.json()["name"]) == (404, "generation_not_found")
    assert expired.json()["id"] != identifier
    assert fetch(stability, "0" * 64).status_code == 404


def test_a_generation_that_fails_costs_nothing(stability, state, picture):
    state.inject("POST /stability/v2beta/stable-image/upscale/creative", "job-error")
    identifier = start_upscale(stability, picture).json()["id"]
    time.sleep(0.03)
    assert fetch(stability, identifier).status_code == 500
    assert state.ledger.billed("credits") == 0


def test_polling_too_often_is_noted_or_refused(stability, state, picture):
    state.settings.stability_async_seconds = 60
    identifier = start_upscale(stability, picture).json()["id"]
    fetch(stability, identifier)
    assert state.ledger.violations() == []
    fetch(stability, identifier)
    assert "more often" in state.ledger.violations()[0]
    state.settings.enforce_poll_interval = True
    assert fetch(stability, identifier).status_code == 429
    state.clock.advance(11)
    assert fetch(stability, identifier).status_code == 202


def test_running_generations_reserve_their_price(stability, state, picture):
    state.account().credits, state.settings.stability_async_seconds = 100, 60
    assert start_upscale(stability, picture).status_code == 200
    assert start_upscale(stability, picture).status_code == 402


def test_the_video_endpoint_is_gone(stability, picture, state):
    answer = stability.post("/v2beta/image-to-video", files={"image": picture(768, 768)})
    assert answer.status_code == 404
    state.settings.discontinued_status = 410
    assert stability.get("/v2beta/image-to-video/result/abc", headers={"Accept": "video/*"}).status_code == 410


def test_the_video_endpoint_in_legacy_mode(stability, picture, state):
    state.settings.legacy_video = True
    wrong = stability.post("/v2beta/image-to-video", files={"image": picture(640, 480)})
    assert "1024x576, 576x1024, 768x768" in wrong.text
    started = stability.post("/v2beta/image-to-video", files={"image": picture(768, 768), "seed": (None, "4")})
    state.clock.advance(1)
    path = f"/v2beta/image-to-video/result/{started.json()['id']}"
    done = stability.get(path, headers={"Accept": "video/*"})
    assert done.headers["content-type"] == "video/mp4"
    assert done.content[4:8] == b"ftyp"
    as_json = stability.get(path, headers={"Accept": "application/json"}).json()
    assert (set(as_json), as_json["seed"]) == ({"video", "seed", "finish_reason"}, 4)
    assert state.ledger.billed("credits") == 20
    assert fetch(stability, started.json()["id"]).status_code == 404
