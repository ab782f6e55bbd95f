"""`kosmo webhooks` as a process: what it needs, what it says, how it ends."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def kosmo_webhooks(tmp_path):
    """Starts the command with nothing but these settings."""

    def start(*words, **settings):
        command = [str(Path(sys.executable).with_name("kosmo")), "webhooks", *words]
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path)} | settings
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    return start


def test_the_command_says_what_is_not_set_up(kosmo_webhooks):
    with kosmo_webhooks("--port", "0") as command:
        said = command.stderr.read()
    assert command.returncode == 1
    assert "PREFECT_API_URL is not set" in said
    assert "Traceback" not in said


def test_the_command_needs_no_server_to_start_and_ends_when_it_is_told(kosmo_webhooks, emulator):
    settings = {**emulator.environment(), "PREFECT_API_URL": f"{NOBODY}/api"}
    with kosmo_webhooks("--port", "0", **settings) as command:
        listening = (re.search(r"Listening at http://127.0.0.1:(\d+)", line) for line in command.stderr)
        port = next(filter(None, listening))[1]
        with kosmo_webhooks("--port", port, **settings) as second:
            said = second.stderr.read()
        command.terminate()  # what a service manager does
        command.communicate(timeout=20)
    assert (command.returncode, second.returncode) == (0, 1)
    assert f"Cannot listen on 127.0.0.1:{port}" in said
