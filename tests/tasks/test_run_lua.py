"""A Lua workflow as a task: one task run, a journal of paid calls, output in the run log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from prefect import flow
from prefect.flow_engine import run_flow as engine
from prefect.settings import PREFECT_API_URL
from prefect.states import AwaitingRetry

from prefect_kosmokrator.flows.lua_workflow import lua_workflow
from prefect_kosmokrator.integrations.http import Client
from prefect_kosmokrator.integrations.lua import Limits, LuaError
from prefect_kosmokrator.tasks.lua import run_lua

TWO = """
local stability = app.integrations.stability
local one = stability.generate_core{ prompt = "one" }
print("made " .. one.uri)
local two = stability.generate_core{ prompt = "two" }
"""
PENDING = 'app.integrations.fal.get_request_status{ model_id = "fal-ai/flux/dev", request_id = "unknown" }'


KILLED = f"""
import logging, os, signal, sys
from uuid import UUID
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect_kosmokrator.tasks import lua

class Kill(logging.Filter):
    def filter(self, record):
        if "made " in record.getMessage():
            os.kill(os.getpid(), signal.SIGKILL)
        return True

if len(sys.argv) == 1:
    logging.getLogger("prefect_kosmokrator").filters.insert(0, Kill())

@flow
def once():
    return lua.run_lua({TWO!r} + "return two.uri").result

with get_client(sync_client=True) as client:
    run = client.read_flow_run(UUID(sys.argv[1])) if len(sys.argv) > 1 else client.create_flow_run(once)
print(run.id, flush=True)
print(run_flow(once, flow_run=run))
"""


def workflow(name):
    return f"package://prefect_kosmokrator.deployments/workflows/{name}.lua"


def test_a_workflow_is_one_task_run_and_returns_what_it_made(emulator, run_flow, api):
    state = run_flow(lua_workflow, file=workflow("hero_image"), inputs={"prompt": "a red chair"})
    done = state.result()
    assert [media.width for media in done.media] == [1216, 4096]
    assert done.result == [{"image": done.media[0].uri, "upscaled": done.media[1].uri}]
    assert [call.function for call in done.calls] == ["stability.generate_core", "stability.upscale_fast"]
    run_id = state.state_details.flow_run_id
    assert len(api.task_runs(run_id, 1)) == 1
    assert {"lua-calls", "lua-workflow-gallery", "lua-workflow-files"} <= set(api.artifacts(run_id, 3))
    assert "Upscaled to 4096x4096" in api.logs(run_id, "Upscaled to 4096x4096")


@pytest.mark.parametrize("name", ["fal_batch", "account_report"])
def test_the_shipped_workflows_run(emulator, run_flow, name):
    done = run_flow(lua_workflow, file=workflow(name)).result()
    assert done.result[0]
    assert done.output


def test_a_retry_replays_what_was_paid_and_says_so(emulator, run_flow, api):
    emulator.state.inject("GET /fal/queue/", "503", times=4)

    @flow(retries=1)
    def twice():
        return run_lua.with_options(retries=0)(TWO + PENDING + "\n" + "return 1")

    state = run_flow(twice)
    text = api.logs(state.state_details.flow_run_id, "replayed from an earlier attempt")
    assert text.count("replayed from an earlier attempt; not called and not paid again") == 2
    assert state.is_failed()
    assert emulator.state.ledger.billed("credits") == 6


def test_equal_calls_stay_different_and_another_path_pays_only_for_what_is_new(emulator, run_flow):
    emulator.state.inject("GET /fal/rest/", "503", times=8)
    source = """
    local stability = app.integrations.stability
    stability.generate_core{ prompt = "same" }
    stability.generate_core{ prompt = "same" }
    local ok = pcall(app.integrations.fal.get_current_user, {})
    if ok then stability.generate_core{ prompt = "other path" } return "done" end
    app.integrations.fal.get_balance{}
    """

    @flow(retries=1)
    def twice():
        return run_lua.with_options(retries=0)(source).result

    assert run_flow(twice).result() == ["done"]
    assert emulator.state.ledger.billed("credits") == 9


def test_a_run_killed_between_two_paid_calls_pays_only_what_was_not_paid(emulator, api, tmp_path):
    """The first attempt is killed without warning after its first picture; the second is a new process."""
    program = tmp_path / "killed.py"
    program.write_text(KILLED)
    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    first = subprocess.run([sys.executable, program], env=environment, capture_output=True, check=False, text=True)
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert emulator.state.ledger.billed("credits") == 3
    run_id = first.stdout.strip()
    api.client.set_flow_run_state(run_id, AwaitingRetry(), force=True)
    command = [sys.executable, program, run_id]
    again = subprocess.run(command, env=environment, capture_output=True, check=False, text=True)
    assert again.returncode == 0, again.stderr
    assert emulator.state.ledger.billed("credits") == 6
    assert emulator.state.ledger.paid_twice() == []


def test_a_call_that_was_in_flight_is_left_to_the_operator(emulator, api, monkeypatch):
    @flow
    def in_flight(choice="fail"):
        source = 'return app.integrations.stability.generate_core{ prompt = "in flight" }.width'
        return run_lua(source, on_ambiguous=choice).result

    def attempt(**parameters):
        api.client.set_flow_run_state(run.id, AwaitingRetry(), force=True)
        return engine(in_flight, flow_run=api.client.read_flow_run(run.id), parameters=parameters)

    class KilledError(BaseException):
        """Stands for a process that ends before the answer is noted down."""

    def cut_off(self, request, headers):
        answer = exchange(self, request, headers)
        if request.paid:
            raise KilledError
        return answer

    exchange = Client._exchange
    run = api.client.create_flow_run(in_flight)
    with monkeypatch.context() as patch:
        patch.setattr(Client, "_exchange", cut_off)
        with pytest.raises(KilledError):
            attempt()
    with pytest.raises(LuaError, match="may have been accepted and billed") as caught:
        attempt()
    assert not caught.value.retryable
    assert emulator.state.ledger.billed("credits") == 3
    assert attempt(choice="resubmit") == [1216]
    assert emulator.state.ledger.billed("credits") == 6


def test_a_script_error_names_the_file_and_its_line(emulator, run_flow, tmp_path):
    path = tmp_path / "broken.lua"
    path.write_text("local x = 1\nerror('no such thing')\n")
    with pytest.raises(LuaError, match=r"broken\.lua:2: no such thing") as caught:
        run_flow(lua_workflow, file=str(path)).result()
    assert caught.value.line == 2


def test_a_limit_ends_the_run_with_its_kind(emulator, run_flow):
    with pytest.raises(LuaError) as caught:
        run_flow(lambda: run_lua("while true do end", limits=Limits(cpu_seconds=0.2))).result()
    assert caught.value.kind == "cpu"


def test_a_workflow_may_be_kept_from_writing_and_to_some_accounts(emulator, run_flow):
    source = 'app.integrations.stability.generate_core{ prompt = "x" }'
    with pytest.raises(LuaError, match="access denied"):
        run_flow(lua_workflow, source=source, write="deny").result()
    with pytest.raises(LuaError, match="may not use the stability account 'default'"):
        run_flow(lua_workflow, source=source, accounts=["work"]).result()
    assert emulator.state.ledger.billed("credits") == 0


def test_files_of_a_workflow_lie_beside_it(emulator, run_flow, tmp_path, picture_file):
    picture_file("product.png")
    script = tmp_path / "cut.lua"
    script.write_text('return app.integrations.stability.remove_background{ image = "product.png" }.content_type')
    assert run_flow(lua_workflow, file=str(script)).result().result == ["image/png"]


def test_nothing_of_a_file_is_in_the_result_storage(emulator, run_flow, stored):
    run_flow(lua_workflow, source='return app.integrations.stability.generate_core{ prompt = "x" }').result()
    assert b"\x89PNG" not in stored()
