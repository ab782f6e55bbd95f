"""What a client of fal's queue and synchronous endpoint sees."""

import base64
import io
import json
import time

import httpx
import pytest
from PIL import Image


def submit(fal, model="fal-ai/flux/dev", arguments=None, **options):
    return fal.post(f"/queue/{model}", json={"prompt": "a lamp"} if arguments is None else arguments, **options)


def wait(fal, job, logs=""):
    for _ in range(200):
        answer = fal.get(job["status_url"] + logs)
        if answer.json()["status"] == "COMPLETED":
            return answer
        time.sleep(0.01)
    raise AssertionError("the job did not complete")


def result(fal, model="fal-ai/flux/dev", arguments=None, **options):
    job = submit(fal, model, arguments, **options).json()
    wait(fal, job)
    return fal.get(job["response_url"])


def test_a_submit_answers_addresses_with_owner_and_application_only(fal, emulator):
    job = submit(fal).json()
    base = f"{emulator.url}/fal/queue/fal-ai/flux/requests/{job['request_id']}"
    assert job["status"] == "IN_QUEUE"
    assert job["queue_position"] == 0
    assert (job["response_url"], job["status_url"], job["cancel_url"]) == (base, f"{base}/status", f"{base}/cancel")


def test_status_goes_from_queue_to_progress_to_completed(fal, state):
    state.settings.queue_seconds, state.settings.run_seconds = 10, 10
    job = submit(fal).json()
    waiting = fal.get(job["status_url"])
    assert (waiting.status_code, waiting.json()["status"], waiting.json()["queue_position"]) == (202, "IN_QUEUE", 0)
    state.clock.advance(10.5)
    running = fal.get(job["status_url"], params={"logs": 1})
    assert (running.status_code, running.json()["status"], running.json()["logs"]) == (202, "IN_PROGRESS", None)
    state.clock.advance(5)
    logs = fal.get(job["status_url"], params={"logs": "true"}).json()["logs"]
    assert {"message", "timestamp", "level", "source"} == set(logs[0])
    assert fal.get(job["response_url"]).json() == {"detail": "Request is still in progress"}
    assert fal.get(job["response_url"]).status_code == 400
    state.clock.advance(5)
    done = fal.get(job["status_url"])
    assert (done.status_code, done.json()["status"]) == (200, "COMPLETED")
    assert done.json()["metrics"]["inference_time"] == 10


def test_logs_can_be_left_out_and_pending_can_be_200(fal, state):
    state.settings.omit_logs, state.settings.status_code_pending, state.settings.run_seconds = True, 200, 60
    answer = fal.get(submit(fal).json()["status_url"])
    assert answer.status_code == 200
    assert "logs" not in answer.json()


def test_the_result_names_a_public_picture_and_its_billable_units(fal, state):
    answer = result(fal, arguments={"prompt": "tokyo", "image_size": {"width": 1200, "height": 1000}, "num_images": 2})
    assert answer.headers["x-fal-billable-units"] == "4"
    assert answer.headers["x-fal-request-id"]
    body = answer.json()
    assert body["has_nsfw_concepts"] == [False, False]
    assert (body["images"][0]["width"], body["images"][0]["height"]) == (1200, 1000)
    file = httpx.get(body["images"][0]["url"])
    assert file.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(file.content)).size == (1200, 1000)
    assert state.ledger.billed("USD") == pytest.approx(0.1)
    assert state.account().balance == pytest.approx(49.9)
    assert state.ledger.violations() == []


def test_a_seed_repeats_the_picture(fal):
    first, again, other = (
        httpx.get(result(fal, arguments={"prompt": "sea", "seed": seed}).json()["images"][0]["url"]).content
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_the_wrapper_of_other_clients_is_refused_by_the_model(fal, state):
    answer = result(fal, arguments={"input": {"prompt": "a lamp"}})
    assert answer.status_code == 422
    problem = answer.json()["detail"][0]
    assert (problem["loc"], problem["type"]) == (["body", "prompt"], "missing")
    assert state.ledger.billed("USD") == 0


def test_validation_can_happen_at_submit(fal, state):
    state.settings.validate_on_submit = True
    assert submit(fal, arguments={"num_images": 9}).status_code == 422


@pytest.mark.parametrize(
    ("model", "arguments", "field"),
    [
        ("fal-ai/flux/schnell", {"prompt": "x", "num_inference_steps": 13}, "num_inference_steps"),
        ("fal-ai/flux/dev", {"prompt": "x", "image_size": "huge"}, "image_size"),
        ("fal-ai/stable-video", {"motion_bucket_id": 127}, "image_url"),
        ("fal-ai/stable-video", {"image_url": "x", "motion_bucket_id": 256}, "motion_bucket_id"),
        ("fal-ai/esrgan", {"image_url": "x", "scale": 9}, "scale"),
        ("fal-ai/ltx-video", {"prompt": "x", "num_frames": 1}, "num_frames"),
    ],
)
def test_each_model_checks_its_input(fal, model, arguments, field):
    answer = fal.post(f"/run/{model}", json=arguments)
    assert answer.status_code == 422
    assert field in answer.json()["detail"][0]["loc"]


@pytest.mark.parametrize(
    "body", [b"{", b"\xff", b'{"prompt": NaN}', b'{"prompt": "\\ud800"}', b'["x"]', b'{"_emulator": 1}']
)
def test_bodies_that_are_no_input_are_refused(fal, body):
    assert fal.post("/run/fal-ai/flux/dev", content=body).status_code == 422


@pytest.mark.parametrize("url", ["ftp://x/y.png", "http://[", "http://127.0.0.1:1/x.png", "data:;base64,AAAA", ""])
def test_addresses_without_a_picture_are_refused(fal, url):
    answer = fal.post("/run/fal-ai/esrgan", json={"image_url": url})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["type"] in ("file_download_error", "image_load_error")


def test_pictures_are_fetched_from_data_addresses_uploads_and_results(fal, picture):
    data = "data:image/png;base64," + base64.b64encode(picture(64, 48)).decode()
    big = fal.post("/run/fal-ai/clarity-upscaler", json={"image_url": data, "upscale_factor": 3}).json()
    assert (big["image"]["width"], big["image"]["height"]) == (192, 144)
    again = fal.post("/run/fal-ai/esrgan", json={"image_url": big["image"]["url"]}).json()
    assert again["image"]["width"] == 384
    video = fal.post("/run/fal-ai/stable-video", json={"image_url": again["image"]["url"]}).json()
    assert httpx.get(video["video"]["url"]).content[4:8] == b"ftyp"


def test_a_picture_that_cannot_be_fetched_fails_the_job_without_a_bill(fal, state, emulator):
    missing = f"{emulator.url}/fal/media/files/{'0' * 32}/x.png"
    answer = result(fal, "fal-ai/esrgan", {"image_url": missing})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["type"] == "file_download_error"
    assert state.ledger.billed("USD") == 0
    assert state.account().balance == 50


def test_flagged_prompts_give_black_pictures_with_status_200(fal):
    answer = fal.post("/run/fal-ai/flux/schnell", json={"prompt": "filter-me"})
    assert answer.status_code == 200
    assert answer.json()["has_nsfw_concepts"] == [True]
    content = httpx.get(answer.json()["images"][0]["url"]).content
    assert Image.open(io.BytesIO(content)).convert("L").getextrema() == (0, 0)
    refused = fal.post("/run/fal-ai/flux/schnell", json={"prompt": "moderate-me"})
    assert refused.json()["detail"][0]["type"] == "content_policy_violation"


def test_sub_paths_of_the_model_do_not_belong_into_a_status_address(fal):
    job = submit(fal).json()
    assert fal.get(f"/queue/fal-ai/flux/dev/requests/{job['request_id']}/status").status_code == 405


def test_workflows_have_three_segments(fal):
    job = submit(fal, "workflows/emulator/poster").json()
    assert "/fal/queue/workflows/emulator/poster/requests/" in job["status_url"]
    assert wait(fal, job).status_code == 200


def test_unknown_ids_and_other_peoples_jobs_are_not_found(fal, emulator):
    job = submit(fal).json()
    assert fal.get("/queue/fal-ai/flux/requests/none/status").json() == {"status": "NOT_FOUND"}
    assert fal.get(f"/queue/fal-ai/esrgan/requests/{job['request_id']}").status_code == 404
    other = {"Authorization": f"Key {emulator.state.account('work').fal_key}"}
    assert httpx.get(job["status_url"], headers=other).status_code == 404
    assert submit(fal, "fal-ai/no-such-model").status_code == 404


def test_keys(fal, emulator, state):
    url, key = f"{emulator.url}/fal/queue/fal-ai/flux/dev", state.account().fal_key
    answers = [
        httpx.post(url, json={}, headers={"Authorization": value})
        for value in (f"Bearer {key}", "Key nonsense", f"Key {'0' * 36}:{'0' * 32}")
    ]
    answers.append(httpx.post(url, json={}))
    assert [a.status_code for a in answers] == [401] * 4
    assert answers[0].json() == answers[2].json() == {"detail": "No user found for Key ID and Secret"}
    assert "Invalid Key Authorization header format" in answers[1].text
    assert "Authentication is required" in answers[3].text
    assert len(key) == 69


def test_a_locked_account_is_refused_before_the_model_is_looked_at(fal, state):
    state.account().balance = 0
    answer = submit(fal, "fal-ai/no-such-model")
    assert answer.status_code == 403
    assert answer.json()["detail"].startswith("User is locked. Reason: Exhausted balance.")
    state.account().balance, state.account().locked = 5, "TOP_UP."
    assert submit(fal).json()["detail"] == "User is locked. Reason: TOP_UP."


def test_cancel(fal, state):
    state.settings.queue_seconds = 60
    job = submit(fal).json()
    answer = fal.put(job["cancel_url"])
    assert (answer.status_code, answer.json()) == (202, {"status": "CANCELLATION_REQUESTED"})
    assert fal.get(job["status_url"]).json()["error_type"] == "client_cancelled"
    assert fal.get(job["response_url"]).status_code == 499
    again = fal.put(job["cancel_url"])
    assert (again.status_code, again.json()) == (400, {"status": "ALREADY_COMPLETED"})
    assert fal.put("/queue/fal-ai/flux/requests/none/cancel").status_code == 404
    assert fal.delete(job["cancel_url"]).status_code == 405
    assert state.ledger.billed("USD") == 0


def test_a_cancelled_job_that_runs_already_is_completed_and_billed(fal, state):
    state.settings.run_seconds = 60
    job = submit(fal).json()
    fal.put(job["cancel_url"])
    state.clock.advance(60)
    assert fal.get(job["response_url"]).status_code == 200
    assert state.ledger.billed("USD") > 0


def test_jobs_above_the_concurrency_wait_in_order(fal, state):
    state.account().concurrency, state.settings.run_seconds = 1, 10
    jobs = [submit(fal, arguments={"prompt": str(n)}).json() for n in range(3)]
    statuses = [fal.get(job["status_url"]).json() for job in jobs]
    assert [s["status"] for s in statuses] == ["IN_PROGRESS", "IN_QUEUE", "IN_QUEUE"]
    assert statuses[2]["queue_position"] == 1
    assert fal.post("/run/fal-ai/flux/dev", json={"prompt": "x"}).json()["error_type"] == "concurrent_requests_limit"
    fal.put(jobs[1]["cancel_url"])
    state.clock.advance(11)
    assert fal.get(jobs[2]["status_url"]).json()["status"] == "IN_PROGRESS"


def test_a_full_queue_refuses_when_asked_to(fal, state):
    state.settings.queue_seconds = 60
    submit(fal)
    assert submit(fal, params={"fal_max_queue_length": 5}).status_code == 200
    assert submit(fal, params={"fal_max_queue_length": 1}).status_code == 429


def test_a_start_deadline_ends_a_waiting_job(fal, state):
    state.settings.queue_seconds = 60
    job = submit(fal, headers={"X-Fal-Request-Timeout": "2"}).json()
    state.clock.advance(3)
    assert fal.get(job["status_url"]).json()["error_type"] == "request_timeout"
    answer = fal.get(job["response_url"])
    assert (answer.status_code, answer.headers["x-fal-request-timeout-type"]) == (504, "user")


def test_completed_with_an_error(fal, state):
    state.inject("POST /fal/queue/", "job-error", status=503, error_type="runner_connection_refused")
    job = submit(fal).json()
    status = wait(fal, job).json()
    assert (status["error"], status["error_type"]) == ("The runner failed.", "runner_connection_refused")
    answer = fal.get(job["response_url"])
    assert (answer.status_code, answer.headers["x-fal-error-type"]) == (503, "runner_connection_refused")
    assert fal.get(job["response_url"]).json() == answer.json()


def test_results_and_files_end(fal, state):
    job = submit(fal, headers={"X-Fal-Store-IO": "0"}).json()
    state.clock.advance(1)
    body = fal.get(job["response_url"]).json()
    state.clock.advance(3601)
    assert fal.get(job["response_url"]).json() == {"status": "NOT_FOUND"}
    state.clock.advance(7 * 24 * 3600)
    assert httpx.get(body["images"][0]["url"]).status_code == 404


def test_the_caller_decides_how_long_files_live(fal, state):
    preference = {"X-Fal-Object-Lifecycle-Preference": json.dumps({"expiration_duration_seconds": 60})}
    url = result(fal, headers=preference).json()["images"][0]["url"]
    assert httpx.get(url).status_code == 200
    state.settings.expired_media_status = 410
    state.clock.advance(61)
    assert httpx.get(url).status_code == 410


def test_the_status_stream_ends_with_completed(fal):
    job = submit(fal).json()
    with fal.stream("GET", job["status_url"] + "/stream") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line]
    assert events[-1]["status"] == "COMPLETED"


def test_a_synchronous_run_answers_the_result(fal, state):
    answer = fal.post("/run/fal-ai/flux/schnell", json={"prompt": "x", "sync_mode": True})
    assert answer.headers["x-fal-billable-units"] == "1"
    assert answer.json()["images"][0]["url"].startswith("data:image/jpeg;base64,")
    assert state.ledger.billed("USD") == 0.003


def test_every_catalogue_model_can_be_run(fal):
    for category in ("text-to-image", "text-to-video"):
        found = fal.get("/api/v1/models", params={"category": category, "q": "-v2", "limit": 1}).json()["models"][0]
        assert fal.post(f"/run/{found['endpoint_id']}", json={"prompt": "x"}).status_code == 200
