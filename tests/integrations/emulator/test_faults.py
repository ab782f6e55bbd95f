"""Injected faults, as the network and the client's own library see them."""

import httpx
import pytest

BALANCE = "/v1/user/balance"
CORE = "/v2beta/stable-image/generate/core"


def generate(stability):
    return stability.post(CORE, files={"prompt": (None, "x")})


@pytest.mark.parametrize(("fault", "billed"), [("reset-before", 0), ("reset-after", 3), ("close-after", 3)])
def test_a_broken_connection_does_not_tell_whether_it_was_paid(stability, state, fault, billed):
    state.inject("POST /stability/", fault)
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        generate(stability)
    assert state.ledger.billed("credits") == billed
    entry = state.ledger.select(path="generate/core")[0]
    assert (entry.status, entry.fault) == (None, fault)
    assert generate(stability).status_code == 200


def test_no_answer_at_all(stability, state):
    state.inject("POST /stability/", "timeout-after")
    with pytest.raises(httpx.ReadTimeout):
        stability.post(CORE, files={"prompt": (None, "x")}, timeout=0.3)
    assert state.ledger.billed("credits") == 3


@pytest.mark.parametrize("status", [429, 500, 503, 504])
def test_errors_come_in_the_envelope_of_the_service(stability, fal, state, status):
    for path in ("/stability/v2beta", "/stability/v1", "/fal/queue", "/fal/api"):
        state.inject(f"* {path}", str(status), retry_after=7)
    v2, v1 = generate(stability), stability.get(BALANCE)
    queue, platform = fal.post("/queue/fal-ai/flux/dev", json={"prompt": "x"}), fal.get("/api/v1/models")
    assert {a.status_code for a in (v2, v1, queue, platform)} == {status}
    assert {a.headers["retry-after"] for a in (v2, v1, queue, platform)} == {"7"}
    assert set(v2.json()) == {"id", "name", "errors"}
    assert set(v1.json()) == {"id", "name", "message"}
    assert set(queue.json()) == {"detail", "error_type"}
    assert queue.headers["x-fal-error-type"] == queue.json()["error_type"]
    assert set(platform.json()["error"]) == {"type", "message"}


def test_a_failure_after_the_work_was_done_is_billed(stability, state):
    state.inject("POST /stability/", "500-after")
    assert generate(stability).status_code == 500
    assert state.ledger.billed("credits") == 3


def test_a_proxys_error_page(fal, state):
    state.inject("GET /fal/queue/*/status", "502-html")
    job = fal.post("/queue/fal-ai/flux/dev", json={"prompt": "x"}).json()
    answer = fal.get(job["status_url"])
    assert (answer.status_code, answer.headers["content-type"]) == (502, "text/html; charset=utf-8")
    assert "nginx" in answer.text
    assert fal.get(job["status_url"]).json()["request_id"] == job["request_id"]


def test_an_answer_that_ends_too_early(stability, state):
    state.inject("POST /stability/", "truncate")
    with pytest.raises(httpx.RemoteProtocolError):
        generate(stability)


def test_slow_and_dripping_answers_are_whole(stability, state):
    state.inject("GET /stability/", "slow", seconds=0.05)
    state.inject("GET /stability/", "drip", seconds=0.05)
    for _ in range(2):
        answer = stability.get(BALANCE)
        assert answer.json() == {"credits": 1000.0}
        assert answer.elapsed.total_seconds() > 0.04


def test_redirects_lead_to_another_origin_where_a_key_is_noticed(stability, state):
    state.inject("GET /stability/", "redirect", times=2)
    answer = stability.get(BALANCE)
    assert answer.status_code == 307
    stability.get(answer.headers["location"])
    assert "key leak" in state.ledger.violations()[0]
    state.reset()
    state.inject("GET /stability/", "redirect")
    # The library drops the header when the origin changes; nothing is noted.
    stability.get(BALANCE, follow_redirects=True)
    assert state.ledger.violations() == []


def test_a_free_answer(fal, state):
    state.inject("GET /fal/api", "respond", status=418, body={"tea": True}, headers={"x-pot": "1"})
    answer = fal.get("/api/v1/models")
    assert (answer.status_code, answer.json(), answer.headers["x-pot"]) == (418, {"tea": True}, "1")
    state.inject("GET /fal/api", "malformed")
    assert fal.get("/api/v1/models").text == '{"status": "IN_'


def test_rules_strike_as_often_as_told(stability, state):
    state.inject("GET /stability/", "503", times=2, after=1)
    assert [stability.get(BALANCE).status_code for _ in range(4)] == [200, 503, 503, 200]
    state.inject("GET /stability/", "503", times=0)
    assert [stability.get(BALANCE).status_code for _ in range(3)] == [503] * 3
    state.clear_faults()
    state.inject("GET /stability/", "503", account="work")
    assert stability.get(BALANCE).status_code == 200


def test_faults_that_a_job_carries(fal, state):
    for fault in ("job-hang", "job-unknown-status", "job-no-logs", "job-filtered"):
        state.inject("POST /fal/queue/", fault)
    state.settings.run_seconds = 10
    jobs = [fal.post("/queue/fal-ai/flux/dev", json={"prompt": "x"}).json() for _ in range(4)]
    state.clock.advance(1)
    running = [fal.get(job["status_url"], params={"logs": 1}).json() for job in jobs]
    assert running[1]["status"] == "PAUSED"
    assert "logs" not in running[2]
    state.clock.advance(100_000)
    assert fal.get(jobs[0]["status_url"]).json()["status"] == "IN_PROGRESS"
    assert fal.get(jobs[3]["response_url"]).json()["has_nsfw_concepts"] == [True]


def test_another_process_can_inject(emulator, stability):
    rule = {"match": "GET /stability/", "fault": "429", "retry_after": 2}
    assert httpx.post(f"{emulator.url}/emulator/faults", json=rule).status_code == 201
    assert len(httpx.get(f"{emulator.url}/emulator/faults").json()["faults"]) == 1
    assert stability.get(BALANCE).status_code == 429
    assert httpx.post(f"{emulator.url}/emulator/faults", json={**rule, "fault": "rest"}).status_code == 422
    httpx.post(f"{emulator.url}/emulator/faults", json=rule)
    assert httpx.delete(f"{emulator.url}/emulator/faults").json() == {"faults": []}


def test_a_rule_without_a_path_is_refused(state, emulator):
    with pytest.raises(ValueError, match="must name a path"):
        state.inject("POST", "429")
    assert httpx.post(f"{emulator.url}/emulator/faults", json=["429"]).status_code == 422


def test_a_misspelt_fault_is_refused(state):
    with pytest.raises(ValueError, match="unknown fault 'rset'"):
        state.inject("GET /", "rset")
