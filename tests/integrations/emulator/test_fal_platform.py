"""fal's platform API, the account part of rest, and webhooks."""

import hashlib
import http.server
import json
import threading

import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from prefect_kosmokrator.integrations.emulator import webhooks

API = "/api/v1"


def test_the_catalogue_is_paged(fal):
    seen, cursor = [], None
    for _ in range(30):
        page = fal.get(f"{API}/models", params={"limit": 100} | ({"cursor": cursor} if cursor else {})).json()
        seen += [model["endpoint_id"] for model in page["models"]]
        cursor = page["next_cursor"]
        if not page["has_more"]:
            break
    assert len(seen) == len(set(seen)) == 1400
    assert "fal-ai/flux/dev" in seen


def test_the_catalogue_needs_no_key_but_refuses_a_wrong_one(emulator):
    url = f"{emulator.url}/fal{API}/models"
    assert httpx.get(url).status_code == 200
    refused = httpx.get(url, headers={"Authorization": "Key a:b"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authorization_error")


def test_the_catalogue_is_filtered(fal):
    found = fal.get(f"{API}/models", params={"q": "flux", "category": "text-to-image", "status": "active"}).json()
    assert {m["metadata"]["category"] for m in found["models"]} == {"text-to-image"}
    one = fal.get(f"{API}/models", params={"endpoint_id": "fal-ai/stable-video", "expand": "openapi-3.0"}).json()
    assert "image_url" in json.dumps(one["models"][0]["openapi"])
    assert fal.get(f"{API}/models", params={"endpoint_id": "fal-ai/none"}).json()["error"]["type"] == "not_found"
    assert fal.get(f"{API}/models", params={"status": "old"}).json()["error"]["type"] == "validation_error"


def test_prices_and_estimates(fal):
    price = fal.get(f"{API}/models/pricing", params={"endpoint_id": "fal-ai/stable-video"}).json()["prices"][0]
    assert price == {"endpoint_id": "fal-ai/stable-video", "unit_price": 0.075, "unit": "videos", "currency": "USD"}
    wish = {"estimate_type": "unit_price", "endpoints": {"fal-ai/flux/dev": {"unit_quantity": 4}}}
    assert fal.post(f"{API}/models/pricing/estimate", json=wish).json()["total_cost"] == 0.1
    assert fal.post(f"{API}/models/pricing/estimate", json={"estimate_type": "guess"}).status_code == 400


def test_a_lost_request_id_is_found_again(fal, state):
    state.inject("POST /fal/queue/", "reset-after")
    with pytest.raises(httpx.TransportError):
        fal.post("/queue/fal-ai/flux/dev", json={"prompt": "lost"})
    query = {"endpoint_id": "fal-ai/flux/dev", "expand": "payloads"}
    items = fal.get(f"{API}/models/requests/by-endpoint", params=query).json()["items"]
    assert items[0]["json_input"] == {"prompt": "lost"}
    job = fal.get(f"/queue/fal-ai/flux/requests/{items[0]['request_id']}/status")
    assert job.status_code in (200, 202)


def test_billing_needs_the_admin_scope(fal, state):
    refused = fal.get(f"{API}/account/billing", params={"expand": "credits"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "authorization_error")
    admin = {"Authorization": f"Key {state.account().fal_admin_key}"}
    body = fal.get(f"{API}/account/billing", params={"expand": "credits"}, headers=admin).json()
    assert body == {"username": "default", "credits": {"current_balance": 50.0, "currency": "USD"}}


def test_the_current_user_and_the_balance(fal, state):
    state.account().locked = "TOP_UP."
    user = fal.get("/rest/users/current").json()
    assert (user["nickname"], user["is_locked"], user["lock_reason"]) == ("default", True, "TOP_UP.")
    assert fal.get("/rest/billing/user_balance").json() == 50.0


def test_files_and_assets(fal, state):
    listed = fal.get(f"{API}/serverless/files/list").json()
    assert {"path", "name", "is_file", "size"} <= set(listed[0])
    assert fal.get(f"{API}/serverless/files/list/models").json()[0]["path"] == "models/lora.safetensors"
    assert fal.get(f"{API}/assets").status_code == 403
    state.settings.assets_enabled = True
    fal.post("/run/fal-ai/flux/schnell", json={"prompt": "a lamp"})
    found = fal.get(f"{API}/assets", params={"q": "lamp"}).json()
    assert found["total_count"] == 1
    assert httpx.get(found["assets"][0]["url"]).status_code == 200


@pytest.fixture
def receiver():
    received, answers = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((dict(self.headers), body))
            arrived.release()
            self.send_response(answers.pop(0) if answers else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    arrived = threading.Semaphore(0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook", received, arrived, answers
        server.shutdown()
        thread.join()


def verify(fal, headers, body):
    lowered = {name.lower(): value for name, value in headers.items()}
    names = ("request-id", "user-id", "timestamp")
    lines = [*(lowered[f"x-fal-webhook-{name}"] for name in names), hashlib.sha256(body).hexdigest()]
    signature = bytes.fromhex(lowered["x-fal-webhook-signature"])
    for key in fal.get("/rest/.well-known/jwks.json").json()["keys"]:
        raw = webhooks.base64.urlsafe_b64decode(key["x"] + "=")
        try:
            Ed25519PublicKey.from_public_bytes(raw).verify(signature, "\n".join(lines).encode())
        except InvalidSignature:
            continue
        return True
    return False


def test_a_webhook_is_signed_and_repeated_until_taken(fal, state, receiver):
    url, received, arrived, answers = receiver
    answers.append(500)
    state.settings.webhook_backoff = 0.01
    job = fal.post("/queue/fal-ai/flux/dev", params={"fal_webhook": url}, json={"prompt": "x"}).json()
    assert arrived.acquire(timeout=5)
    assert arrived.acquire(timeout=5)
    headers, body = received[1]
    assert json.loads(body)["request_id"] == job["request_id"]
    assert json.loads(body)["status"] == "OK"
    assert json.loads(body)["payload"]["images"]
    assert verify(fal, headers, body)
    assert not verify(fal, headers, body + b" ")
    state.signer.rotate()
    assert verify(fal, headers, body)
    state.signer.rotate()
    assert not verify(fal, headers, body)


def test_a_webhook_tells_failures_and_leaves_out_large_results(fal, state, receiver):
    url, received, arrived, _ = receiver
    fal.post("/queue/fal-ai/flux/dev", params={"fal_webhook": url}, json={})
    assert arrived.acquire(timeout=5)
    failed = json.loads(received[0][1])
    assert (failed["status"], failed["payload"]["detail"][0]["type"]) == ("ERROR", "missing")
    state.settings.webhook_payload_limit = 10
    fal.post("/queue/fal-ai/flux/dev", params={"fal_webhook": url}, json={"prompt": "x"})
    assert arrived.acquire(timeout=5)
    large = json.loads(received[1][1])
    assert (large["status"], large["payload"]) == ("OK", None)
    assert large["payload_error"]


def test_a_redirected_webhook_is_given_up(fal, state, receiver):
    url, received, arrived, answers = receiver
    answers.append(302)
    state.settings.webhook_backoff = 0.01
    fal.post("/queue/fal-ai/flux/dev", params={"fal_webhook": url}, json={"prompt": "x"})
    assert arrived.acquire(timeout=5)
    assert not arrived.acquire(timeout=0.1)
    assert len(received) == 1
