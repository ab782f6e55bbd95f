"""One emulator for all tests of this folder, emptied before each."""

import io
from dataclasses import fields

import httpx
import pytest
from PIL import Image

from prefect_kosmokrator.integrations.emulator import Emulator, EmulatorSettings


@pytest.fixture(scope="session")
def running():
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def emulator(running):
    quick = EmulatorSettings(queue_seconds=0, run_seconds=0.02, stability_async_seconds=0.02, plain_pictures=True)
    for field in fields(quick):
        setattr(running.state.settings, field.name, getattr(quick, field.name))
    running.state.reset()
    return running


@pytest.fixture
def state(emulator):
    return emulator.state


@pytest.fixture(scope="session")
def stability_session(running):
    headers = {"Authorization": f"Bearer {running.state.account().stability_key}", "Accept": "image/*"}
    with httpx.Client(base_url=f"{running.url}/stability", headers=headers, timeout=5) as client:
        yield client


@pytest.fixture
def stability(emulator, stability_session):
    return stability_session


@pytest.fixture(scope="session")
def fal_session(running):
    headers = {"Authorization": f"Key {running.state.account().fal_key}"}
    with httpx.Client(base_url=f"{running.url}/fal", headers=headers, timeout=5) as client:
        yield client


@pytest.fixture
def fal(emulator, fal_session):
    return fal_session


@pytest.fixture
def picture():
    def make(width=128, height=96, kind="PNG", mode="RGB"):
        buffer = io.BytesIO()
        image = Image.linear_gradient("L").resize((width, height)).convert(mode)
        image.save(buffer, kind)
        return buffer.getvalue()

    return make
