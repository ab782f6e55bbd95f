"""Each function of the catalogue is a task: same name, parameters, help and types, however Prefect calls it."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest
from prefect import Task, flow
from prefect.utilities.callables import parameter_schema

from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.providers import PROVIDERS
from prefect_kosmokrator.tasks import fal, stability
from prefect_kosmokrator.tasks.media import save_media

FUNCTIONS = [function for provider in PROVIDERS.values() for function in provider.functions.values()]
each_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.slug)


def task_of(function):
    return getattr(import_module(f"prefect_kosmokrator.tasks.{function.provider.name}"), function.name)


@each_function
def test_a_function_is_a_task_of_its_name(function):
    task = task_of(function)
    assert isinstance(task, Task)
    assert task.name == f"{function.provider.name}.{function.name}"
    assert task.description == function.description


@each_function
def test_a_task_is_tagged_with_its_provider(function):
    assert function.provider.name in task_of(function).tags


@each_function
def test_a_task_has_the_signature_of_its_function(function):
    assert inspect.signature(task_of(function).fn) == inspect.signature(function.call)
    assert inspect.signature(task_of(function)) == inspect.signature(function.call)


@each_function
def test_a_task_says_how_it_is_called(function):
    for parameter in function.parameters:
        assert f"{parameter.name}: " in task_of(function).__doc__


@each_function
def test_a_task_takes_the_name_of_an_account_and_no_secret(function):
    properties = parameter_schema(task_of(function).fn).properties
    assert properties["account"]["default"] == "default"
    assert not {"api_key", "key", "token", "credentials", "client"} & set(properties)


def test_no_two_tasks_have_the_same_key():
    keys = [task_of(function).task_key for function in FUNCTIONS] + [save_media.task_key]
    assert len(keys) == len(set(keys))


def test_every_provider_module_has_a_task_for_each_function_and_no_other():
    for provider in PROVIDERS.values():
        module = import_module(f"prefect_kosmokrator.tasks.{provider.name}")
        assert {name for name, value in vars(module).items() if isinstance(value, Task)} == set(provider.functions)


def test_a_task_called_without_a_flow_returns_the_picture(emulator, prefect_server):
    media = stability.generate_core("a lamp", seed=7)
    assert (media.content_type, media.seed, media.account) == ("image/png", 7, "default")
    assert media.read()[:4] == b"\x89PNG"


def test_tasks_are_submitted_mapped_and_changed(emulator, prefect_server, tmp_path):
    store = tmp_path.as_uri()
    quick = stability.generate_core.with_options(name="lamp", tags=["mine"], retries=0)

    @flow
    def lamps():
        one = stability.generate_core.submit("one", output=store)
        many = stability.generate_core.map(["two", "three"], account="work")
        return [one.result(), *many.result(), quick("four")]

    assert [type(media) for media in lamps()] == [Media] * 4
    assert quick.name == "lamp"
    assert emulator.state.ledger.billed("credits", "work") == 6


def test_a_future_is_passed_on_as_the_picture_of_another_task(emulator, prefect_server):
    @flow
    def large():
        return stability.upscale_fast.submit(stability.generate_core.submit("a lamp", aspect_ratio="1:1")).result()

    assert large().width == 4096


@pytest.mark.parametrize(
    ("task", "arguments", "name"),
    [
        (stability.generate_core, {"prompt": "a matte black desk lamp"}, "generate_core: a matte black desk lamp"),
        (stability.generate_core, {"prompt": "x" * 90}, f"generate_core: {'x' * 47}…"),
        (stability.upscale_fast, {"image": "s3://b/a.png?X-Amz-Signature=abc"}, "upscale_fast: s3://b/a.png"),
        (stability.upscale_fast, {"image": Media("image/png", uri="s3://b/lamp-1.png")}, "upscale_fast: lamp-1.png"),
        (stability.upscale_fast, {"image": b"\x89PNG", "account": "work"}, "upscale_fast: work"),
        (stability.get_balance, {"account": "work"}, "get_balance: work"),
        (fal.submit_request, {"model_id": "fal-ai/flux/dev", "input": {}}, "submit_request: fal-ai/flux/dev"),
        (fal.wait_for_request, {"model_id": {"model_id": "fal-ai/flux/dev"}}, "wait_for_request: fal-ai/flux/dev"),
        (fal.upload_file, {"file_path": "lamp.png"}, "upload_file: lamp.png"),
    ],
)
def test_a_task_run_is_named_by_what_it_makes(task, arguments, name):
    assert task.task_run_name(arguments) == name


def test_the_ui_shows_these_names(emulator, api, run_flow):
    state = run_flow(lambda: stability.generate_core("a lamp at night"))
    (run,) = api.task_runs(state.state_details.flow_run_id, 1)
    assert run.name == "generate_core: a lamp at night"
    assert "stability" in run.tags


def test_saving_is_a_task_too(emulator, prefect_server, tmp_path):
    media = save_media(stability.generate_core("a lamp"), tmp_path.as_uri(), name="first")
    assert media.content is None
    assert media.uri.startswith(f"{tmp_path.as_uri()}/first-")
