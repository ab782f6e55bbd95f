"""What a run spent and may spend: artifact, event, and a parameter that is the budget."""

from __future__ import annotations

import json
import time

import pytest
from prefect import flow
from prefect.events.filters import EventFilter, EventNameFilter

from prefect_kosmokrator.flows.generate_image import generate_image
from prefect_kosmokrator.flows.lua_workflow import lua_workflow
from prefect_kosmokrator.integrations.errors import BudgetExceeded
from prefect_kosmokrator.integrations.lua import LuaError
from prefect_kosmokrator.tasks import stability
from prefect_kosmokrator.tasks.hooks import HOOKS


@pytest.fixture
def events(api):
    """The events of a name, newest first, once there is one that `wanted` accepts."""

    def read(name, wanted):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found = api.client.request(
                "POST",
                "/events/filter",
                json={"filter": EventFilter(event=EventNameFilter(name=[name])).model_dump(mode="json")},
            ).json()["events"]
            if match := [event for event in found if wanted(event)]:
                return match
            time.sleep(0.2)
        return []

    return read


def test_a_run_tells_what_it_spent(emulator, run_flow, api, events):
    state = run_flow(generate_image, prompt="a lamp", variants=2, max_cost="1 USD")
    run_id = state.state_details.flow_run_id
    spend = api.artifacts(run_id, 3)["spend"]
    assert spend.description == "2 paid calls, $0.0600 of 1 USD."
    assert json.loads(spend.data) == [
        {"function": "stability.generate_core", "account": "default", "calls": 2, "amount": 6.0, "unit": "credits",
         "usd": 0.06, "certain": True},
    ]  # fmt: skip
    (event,) = events(
        "kosmokrator.flow-run.spent", lambda event: str(run_id) in event["resource"]["prefect.resource.id"]
    )
    assert (event["payload"]["usd"], event["payload"]["calls"], event["payload"]["max_cost"]) == (0.06, 2, "1 USD")


def test_a_run_that_paid_for_nothing_tells_nothing(emulator, run_flow, api):
    state = run_flow(flow(**HOOKS)(lambda: stability.get_balance()["credits"]))
    assert api.artifacts(state.state_details.flow_run_id, 0) == {}


def test_a_run_ends_at_its_budget_and_a_retry_does_not_count_twice(emulator, run_flow, api, events, tmp_path):
    @flow(retries=1, **HOOKS)
    def lamps(max_cost: str = ""):
        for prompt in ("one", "two", "three"):
            stability.generate_core(prompt, output=output)

    output = tmp_path.as_uri()
    state = run_flow(lamps, max_cost="7 credits")
    with pytest.raises(BudgetExceeded, match=r"\$0\.06 is spent, and this run may spend 7 credits"):
        state.result()
    assert emulator.state.ledger.billed("credits") == 6
    run_id = str(state.state_details.flow_run_id)
    assert api.artifacts(run_id, 1)["spend"].description == "2 paid calls, $0.0600 of 7 credits."
    found = events(
        "kosmokrator.budget.exceeded",
        lambda event: any(run_id in one["prefect.resource.id"] for one in event["related"]),
    )
    assert found[0]["payload"]["limit_usd"] == 0.07
    assert found[0]["resource"]["prefect.resource.id"] == "kosmokrator.account.stability.default"


def test_the_calls_of_a_script_count(emulator, run_flow):
    source = """
    local core = app.integrations.stability.generate_core
    core{prompt="one"}
    local ok, problem = pcall(core, {prompt="two"})
    print(problem.kind)
    core{prompt="three"}
    """
    with pytest.raises(LuaError, match=r"this run may spend 0\.05"):
        run_flow(lua_workflow, source=source, max_cost="0.05").result()
    assert emulator.state.ledger.billed("credits") == 3


def test_a_budget_may_be_given_as_a_number(emulator, run_flow):
    assert len(run_flow(generate_image, prompt="a lamp", max_cost=1).result()) == 1
