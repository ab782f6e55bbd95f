"""Starting, stopping, steering and looking at the emulator."""

import os
import signal
import subprocess
import sys
import threading

import httpx
import pytest

from prefect_kosmokrator.integrations.emulator import Emulator, EmulatorState, create_app


def test_it_is_ready_when_entered_and_gone_when_left(tmp_path):
    with Emulator(accounts=("studio",), credits=7) as emulator:
        key = emulator.environment("studio")["KOSMO_STABILITY__STUDIO__API_KEY"]
        url = emulator.environment("studio")["KOSMO_STABILITY__STUDIO__BASE_URL"]
        answer = httpx.get(f"{url}/v1/user/balance", headers={"Authorization": f"Bearer {key}"})
        assert answer.json() == {"credits": 7.0}
        folder = emulator.state.files._folder
        assert folder.is_dir()
    with pytest.raises(httpx.ConnectError):
        httpx.get(emulator.url)
    assert not folder.exists()


def test_it_stops_while_a_request_is_held(emulator):
    with Emulator() as other:
        other.state.inject("GET /stability/", "timeout")
        caller = threading.Thread(target=ask_in_vain, args=(f"{other.url}/stability/v1/user/balance",))
        caller.start()
        while not len(other.state.ledger):
            pass
    caller.join(3)
    assert not caller.is_alive()


def ask_in_vain(url):
    with pytest.raises(httpx.TransportError):
        httpx.get(url, timeout=10)


def test_settings_name_every_address(emulator):
    settings = emulator.environment("work")
    assert set(settings) == {
        "KOSMO_STABILITY__WORK__API_KEY",
        "KOSMO_STABILITY__WORK__BASE_URL",
        *(f"KOSMO_FAL__WORK__{n}" for n in ("API_KEY", "QUEUE_URL", "RUN_URL", "REST_URL", "CDN_URL", "API_URL")),
    }
    assert settings["KOSMO_FAL__WORK__API_URL"] == f"{emulator.url}/fal/api/v1"
    admin = emulator.environment("work", scope="ADMIN")["KOSMO_FAL__WORK__API_KEY"]
    assert admin == emulator.state.account("work").fal_admin_key


def test_unknown_settings_and_accounts_are_refused(emulator):
    with pytest.raises(TypeError):
        Emulator(no_such_setting=1)
    with pytest.raises(KeyError, match="default"):
        emulator.environment("nobody")


def test_the_application_works_under_any_asgi_server():
    state = EmulatorState()
    transport = httpx.ASGITransport(create_app(state))

    async def ask():
        async with httpx.AsyncClient(transport=transport, base_url="http://emulator") as client:
            return await client.get("/fal/api/v1/meta")

    import asyncio

    assert asyncio.run(ask()).json() == {"webhook_ip_ranges": ["127.0.0.1/32"]}
    state.close()


def test_serving_in_the_foreground_ends_with_a_signal():
    code = (
        "from prefect_kosmokrator.integrations.emulator import serve\n"
        "serve(port=0, ready=lambda emulator: print(emulator.url, flush=True))\n"
        "print('returned', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx.get(url).status_code == 200
        os.kill(process.pid, signal.SIGTERM)
        rest, _ = process.communicate(timeout=10)
    assert (rest, process.returncode) == ("returned\n", 0)


def test_the_control_endpoints(emulator, stability):
    post = {"url": emulator.url}

    def control(path, body):
        return httpx.post(f"{post['url']}/emulator/{path}", json=body)

    control("accounts", {"name": "default", "credits": 1})
    assert stability.get("/v1/user/balance").json() == {"credits": 1.0}
    control("accounts", {"name": "studio", "balance": 3})
    assert emulator.state.account("studio").balance == 3
    assert control("accounts", {"name": "default", "colour": 1}).status_code == 422
    assert control("settings", {"legacy_video": True}).json()["legacy_video"] is True
    assert control("settings", {"no_such": True}).status_code == 422
    before = emulator.state.clock.time()
    assert control("clock", {"advance": 500}).json()["time"] >= before + 500
    control("reset", {})
    assert emulator.state.account().credits == 1000
    assert len(emulator.state.ledger) == 0


def test_the_ledger_tells_what_was_paid_twice(emulator, stability):
    for prompt in ("a", "b", "a"):
        stability.post("/v2beta/stable-image/generate/core", files={"prompt": (None, prompt)})
    book = httpx.get(f"{emulator.url}/emulator/ledger").json()
    assert [entry["billed"] for entry in book["entries"]] == [3, 3, 3]
    assert book["billed"] == {"credits": 9, "USD": 0}
    assert book["paid_twice"] == [3]
    assert book["entries"][0]["account"] == "default"


def test_no_key_is_written_to_the_ledger(emulator, stability, fal):
    fal.get("/api/v1/models", params={"q": emulator.state.account().fal_key})
    text = httpx.get(f"{emulator.url}/emulator/ledger").text + httpx.get(emulator.url).text
    assert emulator.state.account().fal_key not in text
    assert "key leak" in text


def test_the_index_shows_what_was_generated(emulator, stability, fal):
    stability.post("/v2beta/stable-image/generate/core", files={"prompt": (None, "a <b>lamp</b>")})
    fal.post("/run/fal-ai/ltx-video", json={"prompt": "a video"})
    page = httpx.get(emulator.url).text
    assert "a &lt;b&gt;lamp&lt;/b&gt;" in page
    assert "<video" in page
    assert "generate/core" in page
    picture = next(f for f in emulator.state.files.files.values() if f.content_type == "image/png")
    small = httpx.get(f"{emulator.url}/emulator/thumbnails/{picture.id}")
    assert small.headers["content-type"] == "image/jpeg"
    assert httpx.get(f"{emulator.url}/emulator/files/{picture.id}/{picture.name}").content == picture.read()
