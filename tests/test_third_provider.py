"""A third provider costs its own modules and one import line: everything else picks it up from the catalogue."""

from __future__ import annotations

import inspect
from typing import Annotated

import pytest
from pydantic import Field

from prefect_kosmokrator.integrations import docs
from prefect_kosmokrator.integrations.catalog import Provider
from prefect_kosmokrator.integrations.confinement import Confinement
from prefect_kosmokrator.integrations.errors import InvalidInput
from prefect_kosmokrator.integrations.host import Host
from prefect_kosmokrator.integrations.lua import run
from prefect_kosmokrator.integrations.parameters import AccountName
from prefect_kosmokrator.integrations.permissions import Permissions
from prefect_kosmokrator.integrations.providers import PROVIDERS
from prefect_kosmokrator.tasks.policy import function_task


@pytest.fixture
def replicate(monkeypatch):
    """What `integrations/replicate.py` and the import line would add."""
    provider = Provider("replicate", "Replicate", "Runs models.")

    @provider.function("Run Model", operation="read")
    def run_model(
        model: Annotated[str, Field(min_length=1, description="Which model.", examples=["acme/lamp"])],
        *,
        steps: Annotated[int, Field(ge=1, le=50, description="How many steps.")] = 20,
        account: AccountName = "default",
    ) -> dict[str, object]:
        """Run a model.

        Returns:
            `model` and `steps`.
        """
        return {"model": model, "steps": steps, "account": account}

    monkeypatch.setitem(PROVIDERS, "replicate", provider)
    return run_model


def test_it_is_validated_and_documented(replicate):
    with pytest.raises(InvalidInput, match=r"replicate\.run_model: steps: .*got 99\. Allowed: 1 to 50"):
        replicate("acme/lamp", steps=99)
    page = docs.read("app.integrations.replicate.run_model")
    assert "| `steps` | integer | no | `20` | 1 to 50 | How many steps. |" in page
    assert "replicate.run_model" in docs.search("run model")


def test_it_answers_to_lua_under_all_its_names(replicate, tmp_path):
    host = Host(Permissions(), Confinement([tmp_path]))
    source = 'return app.integrations.replicate.work.replicate_run_model("acme/lamp", 3)'
    assert run(source, host).result == [{"account": "work", "model": "acme/lamp", "steps": 3}]


def test_it_is_a_task(replicate):
    made = function_task(replicate)
    assert made.name == "replicate.run_model"
    assert made.tags == {"replicate"}
    assert inspect.signature(made.fn) == inspect.signature(replicate)
