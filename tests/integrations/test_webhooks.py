"""The receiver of fal's webhooks: which deliveries it takes, and what it answers. The emulator signs as fal does."""

from __future__ import annotations

import json
import time
from uuid import uuid4

import httpx
import pytest

from prefect_kosmokrator.integrations import webhooks
from prefect_kosmokrator.integrations.errors import KosmoError, Rejected, Unavailable
from prefect_kosmokrator.integrations.serving import Server
from prefect_kosmokrator.integrations.webhooks import Delivery, Outcome, Verifier, create_app

RUN = "6f3b1f52-8a5c-4a53-9d0e-0f6f9f0c2b11"
REQUEST = "0f5a5e07-request"
BODY = json.dumps({"request_id": REQUEST, "gateway_request_id": "second-name", "status": "OK", "payload": {}}).encode()
JWKS = "jwks.json"


class Now:
    """The time, which tests move."""

    def __init__(self):
        self.seconds = time.time()

    def __call__(self):
        return self.seconds


@pytest.fixture
def now():
    return Now()


@pytest.fixture
def sign(emulator, now):
    """Signs a delivery: its headers as a server sees them."""

    def headers(body=BODY, account="default", age=0):
        user = emulator.state.account(account).user_id
        made = emulator.state.signer.headers(REQUEST, user, int(now()) - age, body)
        return {name.lower(): value for name, value in made.items()}

    return headers


@pytest.fixture
def verifier(emulator, now):
    return Verifier(now)


def fetched(emulator, path=JWKS):
    return len(emulator.state.ledger.select("GET", path))


def refused(verifier, headers, body=BODY):
    with pytest.raises(KosmoError) as caught:
        verifier.check(headers, body)
    return caught.value


def test_a_genuine_delivery_tells_which_request_has_ended(verifier, sign):
    assert verifier.check(sign(), BODY) == Delivery(frozenset({REQUEST, "second-name"}), "OK")


def test_each_account_of_this_machine_gets_its_deliveries(verifier, sign, emulator):
    for account in ("default", "work", "default"):
        assert verifier.check(sign(account=account), BODY).status == "OK"
    assert (fetched(emulator), fetched(emulator, "users/current")) == (1, 2)


@pytest.mark.parametrize("name", ["request-id", "user-id", "timestamp", "signature"])
def test_every_header_is_needed(verifier, sign, name):
    headers = sign()
    for left in ("", None):
        if left is None:
            del headers[f"x-fal-webhook-{name}"]
        else:
            headers[f"x-fal-webhook-{name}"] = left
        assert "header" in refused(verifier, headers).message


@pytest.mark.parametrize("name", ["request-id", "user-id", "timestamp"])
def test_every_header_is_signed(verifier, sign, name):
    headers = sign()
    headers[f"x-fal-webhook-{name}"] += "1" if name != "timestamp" else ""
    if name == "timestamp":
        headers["x-fal-webhook-timestamp"] = str(int(headers["x-fal-webhook-timestamp"]) - 1)
    assert "no key of fal fits" in refused(verifier, headers).message


def test_the_body_is_signed_to_the_byte(verifier, sign):
    assert isinstance(refused(verifier, sign(), BODY + b" "), Rejected)
    assert isinstance(refused(verifier, sign(), BODY.replace(b"OK", b"KO")), Rejected)


@pytest.mark.parametrize("signature", ["00", "zz", "é", "00" * 64, "ab" * 65])
def test_what_is_no_signature_is_refused(verifier, sign, signature):
    assert isinstance(refused(verifier, sign() | {"x-fal-webhook-signature": signature}), Rejected)


@pytest.mark.parametrize("moment", ["now", "-5", "1e9", "9" * 5000, "١٢٣"])
def test_what_is_no_time_is_refused(verifier, sign, moment):
    assert "not a number" in refused(verifier, sign() | {"x-fal-webhook-timestamp": moment}).message


@pytest.mark.parametrize(("age", "taken"), [(295, True), (-295, True), (305, False), (-305, False)])
def test_a_delivery_is_taken_within_five_minutes(verifier, sign, age, taken):
    headers = sign(age=age)
    if taken:
        assert verifier.check(headers, BODY)
    else:
        assert "300 s" in refused(verifier, headers).message


def test_a_genuine_delivery_to_somebody_else_is_refused(verifier, sign, emulator):
    emulator.state.add_account("stranger")
    error = refused(verifier, sign(account="stranger"))
    assert isinstance(error, Rejected)
    assert emulator.state.account("stranger").user_id in error.message


def test_without_a_user_id_from_fal_any_user_is_taken_and_that_is_said(verifier, sign, emulator, caplog):
    emulator.state.inject("GET /fal/rest/users/current", "404", times=0)
    emulator.state.add_account("stranger")
    assert verifier.check(sign(account="stranger"), BODY)
    assert "deliveries to any fal user are taken" in caplog.text


@pytest.mark.parametrize("fault", ["503", "reset", "401"])
def test_nobody_is_taken_while_fal_does_not_say_who_we_are(verifier, sign, emulator, now, fault):
    emulator.state.inject("GET /fal/rest/users/current", fault, times=2)
    assert isinstance(refused(verifier, sign()), Unavailable)
    emulator.state.clear_faults()
    assert isinstance(refused(verifier, sign()), Unavailable), "fal was asked again too soon"
    now.seconds += webhooks.PAUSE_SECONDS
    assert verifier.check(sign(), BODY)


def test_a_new_key_of_fal_is_fetched_when_it_is_needed(verifier, sign, emulator, now):
    assert verifier.check(sign(), BODY)
    emulator.state.signer.rotate()
    now.seconds += webhooks.PAUSE_SECONDS
    assert verifier.check(sign(), BODY)
    assert verifier.check(sign(), BODY)
    assert fetched(emulator) == 2


def test_forged_deliveries_do_not_make_us_call_fal(verifier, sign, emulator, now):
    forged = sign() | {"x-fal-webhook-signature": "00" * 64}
    for _ in range(20):
        assert isinstance(refused(verifier, forged), Rejected)
    assert fetched(emulator) == 1
    now.seconds += webhooks.PAUSE_SECONDS
    forged = sign() | {"x-fal-webhook-signature": "00" * 64}
    for _ in range(20):
        assert isinstance(refused(verifier, forged), Rejected)
    assert fetched(emulator) == 2
    assert fetched(emulator, "users/current") == 0


def test_a_withdrawn_key_is_believed_for_a_day_at_most(verifier, sign, emulator, now):
    signer = emulator.state.signer
    before = sign()
    assert verifier.check(before, BODY)
    old = signer._published[0]
    signer.rotate()
    signer.rotate()
    now.seconds += webhooks.KEEP_SECONDS - 60
    signer._published.insert(0, old)
    still = sign()
    assert verifier.check(still, BODY)
    now.seconds += 120
    late = sign()
    signer._published.remove(old)
    assert "no key of fal fits" in refused(verifier, late).message


@pytest.mark.parametrize("fault", ["503", "404", "reset", "malformed"])
def test_without_the_keys_of_fal_nothing_can_be_said(verifier, sign, emulator, now, fault):
    emulator.state.inject("GET /fal/rest/.well-known/", fault, times=0)
    assert isinstance(refused(verifier, sign()), Unavailable)
    assert isinstance(refused(verifier, sign()), Unavailable)
    emulator.state.clear_faults()
    now.seconds += webhooks.PAUSE_SECONDS
    assert verifier.check(sign(), BODY)


def test_known_keys_serve_while_fal_is_away(verifier, sign, emulator, now):
    assert verifier.check(sign(), BODY)
    emulator.state.inject("GET /fal/rest/", "503", times=0)
    now.seconds += 3600
    assert verifier.check(sign(), BODY)
    now.seconds += webhooks.KEEP_SECONDS
    assert isinstance(refused(verifier, sign()), Unavailable)


@pytest.mark.parametrize("keys", [[], [{}], [None], "x", [{"x": 5}], [{"x": "AAAA"}, {"kty": "RSA", "n": "AQAB"}]])
def test_a_key_set_without_a_usable_key_is_no_key_set(verifier, sign, emulator, keys):
    body = json.dumps({"keys": keys})
    emulator.state.inject("GET /fal/rest/.well-known/", "respond", status=200, body=body)
    assert "ED25519" in refused(verifier, sign()).message


def test_keys_of_other_kinds_beside_the_right_one_do_not_matter(verifier, sign, emulator):
    body = json.dumps({"keys": [{"kty": "RSA", "n": "AQAB"}, *emulator.state.signer.key_set()["keys"]]})
    emulator.state.inject("GET /fal/rest/.well-known/", "respond", status=200, body=body)
    assert verifier.check(sign(), BODY)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"null"])
def test_a_signed_body_must_be_an_object(verifier, sign, body):
    assert "JSON object" in refused(verifier, sign(body), body).message


def test_the_keys_are_fetched_without_our_key(verifier, sign, emulator):
    verifier.check(sign(), BODY)
    (entry,) = emulator.state.ledger.select("GET", JWKS)
    assert entry.account is None


class Receiver:
    """The application, served, with a list of what it acted on."""

    def __init__(self, check):
        self.acted = []
        self.outcome = Outcome.RESUMED
        self.app = create_app(check, self._act)

    def _act(self, run_id, delivery):
        self.acted.append((run_id, delivery))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.fixture
def receiver(emulator):
    made = Receiver(Verifier().check)
    with Server(made.app) as server:
        made.url = server.url
        yield made


def until(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def submit(emulator, url, account="default", **data):
    answer = httpx.post(
        f"{emulator.url}/fal/queue/fal-ai/flux/schnell",
        params={"fal_webhook": url},
        json={"prompt": "a lamp", **data},
        headers={"Authorization": f"Key {emulator.state.account(account).fal_key}"},
    )
    return answer.json()["request_id"]


def statuses(emulator):
    return [delivery["status"] for delivery in emulator.state.deliveries]


def test_what_fal_delivers_is_acted_on(emulator, receiver):
    run = uuid4()
    request = submit(emulator, f"{receiver.url}/fal/{run}")
    until(lambda: statuses(emulator) == [200])
    assert receiver.acted == [(run, Delivery(frozenset({request}), "OK"))]


def test_a_failed_request_is_delivered_as_well(emulator, receiver):
    submit(emulator, f"{receiver.url}/fal/{uuid4()}", prompt=5)
    until(lambda: statuses(emulator) == [200])
    assert receiver.acted[0][1].status == "ERROR"


def test_a_repeated_delivery_is_passed_on_and_answered(emulator, receiver):
    emulator.state.settings.webhook_copies = 3
    submit(emulator, f"{receiver.url}/fal/{uuid4()}")
    until(lambda: statuses(emulator) == [200] * 3)
    assert len(set(receiver.acted)) == 1


@pytest.mark.parametrize("trouble", [RuntimeError("the server is away"), Outcome.NOT_YET])
def test_fal_delivers_again_after_trouble(emulator, receiver, trouble):
    emulator.state.settings.webhook_backoff = 0.3
    receiver.outcome = trouble
    submit(emulator, f"{receiver.url}/fal/{uuid4()}")
    until(lambda: statuses(emulator) == [503])
    receiver.outcome = Outcome.RESUMED
    until(lambda: statuses(emulator) == [503, 200])


@pytest.mark.parametrize(("outcome", "status"), [(Outcome.NOTHING_TO_DO, 200), (Outcome.UNKNOWN, 404)])
def test_each_outcome_has_its_status(emulator, receiver, outcome, status):
    emulator.state.settings.webhook_attempts = 1
    receiver.outcome = outcome
    submit(emulator, f"{receiver.url}/fal/{uuid4()}")
    until(lambda: statuses(emulator) == [status])


def deliver(receiver, emulator, body=BODY, path=None, **changes):
    headers = emulator.state.signer.headers(REQUEST, emulator.state.account().user_id, int(time.time()), body)
    return httpx.post(receiver.url + (path or f"/fal/{uuid4()}"), content=body, headers=headers | changes)


def test_a_forged_delivery_is_answered_401_and_not_acted_on(emulator, receiver):
    assert deliver(receiver, emulator).status_code == 200
    for changes in ({"X-Fal-Webhook-Signature": "00" * 64}, {"X-Fal-Webhook-Timestamp": "1700000000"}):
        assert deliver(receiver, emulator, **changes).status_code == 401
    assert httpx.post(f"{receiver.url}/fal/{uuid4()}", json={"request_id": REQUEST}).status_code == 401
    assert len(receiver.acted) == 1


def test_when_it_cannot_be_checked_fal_shall_deliver_again(emulator, receiver):
    emulator.state.inject("GET /fal/rest/", "503", times=0)
    assert deliver(receiver, emulator).status_code == 503
    assert receiver.acted == []


@pytest.mark.parametrize("path", ["/", "/fal", "/fal/", "/fal/lamp", "/fal/1", f"/{RUN}", f"/fal/{RUN}/x"])
def test_any_other_path_is_unknown(emulator, receiver, path):
    assert deliver(receiver, emulator, path=path).status_code == 404
    assert receiver.acted == []


def test_a_large_body_is_refused_while_it_is_read(emulator, receiver):
    body = b" " * (webhooks.MAX_BODY_BYTES - len(BODY)) + BODY
    assert deliver(receiver, emulator, body).status_code == 200
    assert deliver(receiver, emulator, body + b" ").status_code == 413
    assert len(receiver.acted) == 1


def test_a_body_that_does_not_arrive_is_given_up(emulator, receiver, monkeypatch):
    monkeypatch.setattr(webhooks, "BODY_SECONDS", 0.2)

    def drip():
        yield b"{"
        time.sleep(1)
        yield b"}"

    assert httpx.post(f"{receiver.url}/fal/{uuid4()}", content=drip()).status_code == 408


def test_health_and_methods(receiver):
    assert httpx.get(f"{receiver.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{receiver.url}/fal/{uuid4()}").status_code == 405


def test_no_answer_holds_a_secret(emulator, receiver, caplog):
    emulator.state.account().revoked = True
    said = deliver(receiver, emulator).text + caplog.text
    assert emulator.state.account().fal_key.partition(":")[2] not in said
