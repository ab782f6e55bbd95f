"""Rate limits for all processes: set up by one command, kept by every request, closed for everybody by a refusal."""

from __future__ import annotations

import contextvars
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import stamina
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_kosmokrator.blocks import StabilityCredentials, saved
from prefect_kosmokrator.integrations import fal as fal_functions
from prefect_kosmokrator.integrations import stability as functions
from prefect_kosmokrator.integrations.accounts import Account
from prefect_kosmokrator.integrations.catalog import Provider
from prefect_kosmokrator.integrations.errors import ConfigurationError, DeadlineExceeded, Unavailable
from prefect_kosmokrator.integrations.governor import RateLimit
from prefect_kosmokrator.integrations.providers import PROVIDERS
from prefect_kosmokrator.tasks import limits, stability, turns
from prefect_kosmokrator.tasks.lua import run_lua

pytestmark = pytest.mark.usefixtures("prefect_server", "emulator")

KOSMO = str(Path(sys.executable).with_name("kosmo"))
NAME = "kosmokrator-stability-default"
RESULT = "GET /stability/v2beta/results"


class Limits:
    """The limits of the Prefect server."""

    def __init__(self, client):
        self.client = client

    def read(self, name=NAME):
        return self.client.read_global_concurrency_limit_by_name(name)

    def change(self, name=NAME, **values):
        self.client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(**values))

    def names(self):
        found = self.client.read_global_concurrency_limits(limit=200)
        return [one.name for one in found if one.name.startswith("kosmokrator-")]

    def clear(self):
        for name in self.names():
            self.client.delete_global_concurrency_limit_by_name(name)
        turns.forget()


@pytest.fixture
def server(monkeypatch):
    """The Prefect server without limits; pauses last as long as they say."""
    monkeypatch.delenv("KOSMO_LIMITS", raising=False)
    with get_client(sync_client=True) as client:
        found = Limits(client)
        found.clear()
        stamina.set_testing(False)
        yield found
        found.clear()


@pytest.fixture
def limited(server):
    """The Prefect server after the set-up."""
    limits.set_up()
    return server


def seconds_of(call):
    started = time.monotonic()
    call()
    return time.monotonic() - started


def came(emulator, path="/stability/"):
    """When requests reached the service, and what it answered."""
    return [(entry.time, entry.status) for entry in emulator.state.ledger.select(path=path)]


def other_process(code):
    """Another process of the same account, with the same Prefect server, waiting for a line on stdin."""
    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


ONE_BALANCE = """
from prefect_kosmokrator.tasks import policy
from prefect_kosmokrator.integrations import stability
print("ready", flush=True)
input()
print(stability.get_balance()["credits"])
"""


# What the command does


def test_one_command_limits_every_account_of_every_provider(server, emulator, monkeypatch):
    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()}
    shown = subprocess.run([KOSMO, "limits"], env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert shown.returncode == 0, shown.stderr
    expected = [
        f"kosmokrator-{provider}-{account}" for provider in ("fal", "stability") for account in ("default", "work")
    ]
    assert set(expected) <= set(server.names())  # other tests have saved accounts as blocks
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith(f"{NAME} ")]
    assert line.split() == [NAME, "200", "110", "created"]
    assert "A request takes 10 slots." in shown.stdout


def test_running_it_again_changes_nothing(limited, capsys):
    limited.change(active_slots=50, slot_decay_per_second=0.01)
    assert limits.main(["--json"]) == 0
    found = {limit["name"]: limit for limit in json.loads(capsys.readouterr().out)["limits"]}
    assert found[NAME]["state"] == "kept"
    assert {limit["state"] for name, limit in found.items() if name != NAME} == {"unchanged"}
    assert limited.read().active_slots == 50


def test_what_an_operator_changed_stays_until_it_is_reset(limited, capsys):
    limited.change(limit=900, slot_decay_per_second=300.0)
    assert limits.main([]) == 0
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if line.startswith(f"{NAME} ")]
    assert line.split() == [NAME, "900", "300", "kept"]
    assert "`kosmo limits --reset` undoes that" in shown
    assert limited.read().limit == 900
    assert limits.main(["--reset"]) == 0
    assert "reset" in capsys.readouterr().out
    assert (limited.read().limit, limited.read().slot_decay_per_second) == (200, 110.0)


def test_a_limit_that_is_switched_off_is_shown_and_stays_off(limited, capsys):
    limited.change(active=False, active_slots=100_000)
    limits.main([])
    assert "kept, switched off" in capsys.readouterr().out
    assert functions.get_balance()["credits"] == 1000
    assert limited.read().active is False


def test_saved_accounts_are_limited_too(server, without_accounts):
    StabilityCredentials(api_key="sk-a-saved-key").save("from-a-block", overwrite=True)
    saved.forget()
    assert [limit.name for limit in limits.set_up() if limit.account == "from-a-block"] == [
        "kosmokrator-stability-from-a-block"
    ]


def test_a_third_provider_is_limited_by_what_it_declares(server, monkeypatch):
    monkeypatch.setenv("KOSMO_REPLICATE__TEAM__API_KEY", "a-key")
    provider = Provider("replicate", "Replicate", "Runs models.", account=Account, rate_limit=RateLimit(60, 10.0))
    monkeypatch.setitem(PROVIDERS, "replicate", provider)
    limits.set_up()
    made = server.read("kosmokrator-replicate-team")
    assert (made.limit, made.slot_decay_per_second) == (600, 100.0)


def test_without_accounts_there_is_nothing_to_set_up(server, without_accounts, monkeypatch, capsys):
    monkeypatch.setattr(limits.accounts, "finders", [])
    assert limits.main([]) == 1
    assert "set up accounts first" in capsys.readouterr().err


def test_a_server_that_cannot_be_reached_is_one_sentence(server, capsys):
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert limits.main(["--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert "The Prefect API of http://127.0.0.1:9/api cannot be asked" in document["error"]
    assert document["error_kind"] == "Unavailable"


# What requests do


def test_every_request_takes_slots_from_tasks_threads_and_scripts(limited):
    limited.change(slot_decay_per_second=0.001)

    @flow
    def work():
        stability.get_balance()
        stability.get_balance.submit().result()
        stability.generate_core("a lamp")
        run_lua("return app.integrations.stability.get_balance{}")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(contextvars.copy_context().run, functions.get_account).result()

    work()
    assert limited.read().active_slots == 5 * limits.SLOTS


def test_an_async_flow_takes_slots(limited):
    limited.change(slot_decay_per_second=0.001)

    @flow
    async def work():
        stability.get_balance()
        stability.get_balance.submit().result()

    import asyncio

    asyncio.run(work())
    assert limited.read().active_slots == 2 * limits.SLOTS


def test_only_submissions_of_fal_take_slots(limited):
    name = "kosmokrator-fal-default"
    limited.change(name, slot_decay_per_second=0.001)
    job = fal_functions.submit_request("fal-ai/flux/schnell", {"prompt": "a lamp"})
    fal_functions.wait_for_request(job, timeout=10)
    assert limited.read(name).active_slots == limits.SLOTS


def test_requests_keep_to_the_limit(limited, emulator):
    limited.change(limit=20, slot_decay_per_second=20.0)
    context = [contextvars.copy_context() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda one: one.run(functions.get_balance), context))
    times = [moment for moment, _ in came(emulator)]
    assert len(times) == 6
    assert times[5] - times[0] > 1.2


def test_a_task_says_what_it_waits_for(limited, run_flow, api):
    def after_a_refusal():
        limited.change(active_slots=200 + 110 * 8)
        stability.get_balance()

    state = run_flow(after_a_refusal)
    log = api.logs(state.state_details.flow_run_id, "pauses it for all processes")
    assert re.search(r"stability, account 'default': waiting \d s, because the service refused the account", log)


def _balance_flow():
    stability.get_balance()


def test_a_refusal_in_one_process_pauses_the_others(limited, emulator):
    with other_process(ONE_BALANCE) as process:
        emulator.state.inject(RESULT, "429", retry_after=4)
        with pytest.raises(DeadlineExceeded):
            functions.get_result("a" * 64, timeout=1)
        told, _ = process.communicate("go\n", timeout=30)
    assert told == "1000.0\n"
    (refused, status), (answered, then) = came(emulator)
    assert (status, then) == (429, 200)
    assert answered - refused > 3.9


def test_without_the_limit_only_the_own_process_pauses(server, emulator):
    with other_process(ONE_BALANCE) as process:
        emulator.state.inject(RESULT, "429", retry_after=30)
        with pytest.raises(DeadlineExceeded):
            functions.get_result("a" * 64, timeout=1)
        assert process.communicate("go\n", timeout=15)[0] == "1000.0\n"


def test_a_pause_can_be_ended_by_an_operator(limited, monkeypatch):
    monkeypatch.setattr(turns, "LOOK_SECONDS", 0.2)
    limited.change(active_slots=200 + 110 * 60)
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(context.run, functions.get_balance)
        time.sleep(0.6)
        assert not waiting.done()
        limited.change(active_slots=0)
        assert waiting.result(5)["credits"] == 1000


def test_a_look_at_a_job_keeps_its_promised_time(limited, emulator):
    limited.change(active_slots=200 + 110 * 60)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="fetch it again"):
        functions.get_result("a" * 64, timeout=2)
    assert time.monotonic() - started < 8
    assert came(emulator) == []


# Without a limit, without a server


def test_without_a_limit_requests_go_on_and_it_is_said_once(server, emulator, caplog):
    caplog.set_level("INFO")
    for _ in range(3):
        functions.get_balance()
    assert len(came(emulator)) == 3
    assert caplog.text.count("There is no limit 'kosmokrator-stability-default' for all processes; `kosmo limits`") == 1


def test_a_strict_run_needs_a_limit(server, emulator, monkeypatch, run_flow):
    monkeypatch.setenv("KOSMO_LIMITS", "strict")
    state = run_flow(_balance_flow)
    error = state.result(raise_on_failure=False)
    assert isinstance(error, ConfigurationError)
    assert "There is no global concurrency limit 'kosmokrator-stability-default'" in str(error)
    assert "`kosmo limits`" in str(error)
    assert came(emulator) == []
    limits.set_up()
    assert run_flow(_balance_flow).is_completed()


@pytest.mark.parametrize("change", [{"slot_decay_per_second": 0.0}, {"limit": 5}])
def test_a_limit_that_admits_nothing_is_an_error(limited, emulator, change):
    limited.change(**change)
    with pytest.raises(ConfigurationError, match=r"admits nothing: .*kosmo limits --reset"):
        functions.get_balance()
    assert came(emulator) == []


def test_a_limit_can_be_ignored(limited, emulator, monkeypatch):
    monkeypatch.setenv("KOSMO_LIMITS", "off")
    limited.change(active_slots=10_000)
    assert functions.get_balance()["credits"] == 1000


def test_a_server_that_is_down_does_not_end_a_run(limited, emulator, caplog, monkeypatch):
    monkeypatch.setattr(turns, "OUTAGE_SECONDS", 0.1)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        took = seconds_of(lambda: [functions.get_balance() for _ in range(3)])
    assert len(came(emulator)) == 3
    assert caplog.text.count("cannot be asked ([Errno 111] Connection refused); going on without it.") == 1
    assert took < 15


def test_a_server_that_is_down_ends_a_strict_run(limited, emulator, monkeypatch):
    monkeypatch.setenv("KOSMO_LIMITS", "strict")
    monkeypatch.setattr(turns, "STRICT_OUTAGE_SECONDS", 0.1)
    nobody = temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"})
    with nobody, pytest.raises(Unavailable, match="the Prefect API cannot be asked") as caught:
        functions.get_balance()
    assert caught.value.retryable is True
    assert came(emulator) == []


def test_without_any_server_none_is_started(server, emulator, monkeypatch):
    with temporary_settings({PREFECT_API_URL: None}):
        assert seconds_of(functions.get_balance) < 2
        monkeypatch.setenv("KOSMO_LIMITS", "strict")
        with pytest.raises(ConfigurationError, match="set PREFECT_API_URL"):
            functions.get_balance()


def test_all_accounts_keep_their_limits_apart(limited):
    limited.change(active_slots=10_000)
    assert functions.get_balance(account="work")["credits"] == 1000
    with pytest.raises(ObjectNotFound):
        limited.read("kosmokrator-stability-nobody")
