"""Each parameter of a flow makes a good form in the UI: help, choices, ranges; a wrong value is refused."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import jsonschema
import pytest
from prefect import Flow
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema

from prefect_kosmokrator import flows

NAMES = [
    "balance_report",
    "edit_image",
    "fal_request",
    "generate_and_upscale",
    "generate_image",
    "image_to_video",
]
each_flow = pytest.mark.parametrize("name", NAMES)


def flow_of(name):
    return getattr(import_module(f"prefect_kosmokrator.flows.{name}"), name)


def schema_of(name):
    return parameter_schema(flow_of(name)).model_dump()


def property_of(name, parameter):
    return schema_of(name)["properties"][parameter]


def test_each_file_is_a_flow_of_its_name():
    files = {path.stem for path in Path(flows.__file__).parent.glob("*.py")} - {"__init__"}
    assert files >= set(NAMES)
    for name in files:
        flow = flow_of(name)
        assert isinstance(flow, Flow)
        assert flow.name == name.replace("_", "-")
        assert flow.description


@each_flow
def test_every_parameter_has_a_help_text(name):
    for parameter, field in schema_of(name)["properties"].items():
        assert field.get("description", "").rstrip().endswith("."), parameter


@each_flow
def test_the_schema_is_valid(name):
    schema = schema_of(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema


@each_flow
def test_the_defaults_are_valid(name):
    schema = schema_of(name)
    for parameter, field in schema["properties"].items():
        if "default" in field:
            jsonschema.Draft202012Validator({**field, "definitions": schema["definitions"]}).validate(field["default"])
        else:
            assert parameter in schema["required"]


@each_flow
def test_a_parameter_is_plain_and_never_a_secret(name):
    for parameter, field in schema_of(name)["properties"].items():
        types = {field.get("type"), *(choice.get("type") for choice in field.get("anyOf", []))} - {None}
        assert types <= {"string", "integer", "number", "array", "object", "null"}, parameter
        assert "block_type_slug" not in field
        assert "password" not in str(field)


def test_a_choice_is_a_list_in_the_form():
    assert property_of("generate_and_upscale", "upscale")["enum"] == ["fast", "creative"]
    assert property_of("generate_image", "model")["enum"][0] == "stability/core"
    assert "fal-ai/flux/schnell" in property_of("generate_image", "model")["enum"]
    assert "16:9" in property_of("generate_image", "aspect_ratio")["enum"]
    assert len(property_of("edit_image", "edit")["enum"]) == 4
    assert property_of("image_to_video", "model")["default"] == "fal-ai/stable-video"


def test_a_range_is_part_of_the_form():
    variants = property_of("generate_and_upscale", "variants")
    assert (variants["minimum"], variants["maximum"]) == (1, 16)
    seed = property_of("generate_image", "seed")
    assert (seed["minimum"], seed["maximum"]) == (0, 4_294_967_294)
    strength = property_of("edit_image", "control_strength")
    assert (strength["minimum"], strength["maximum"]) == (0, 1)
    assert property_of("generate_image", "prompt")["minLength"] == 1


def test_the_form_shows_the_parameters_in_their_order():
    positions = [field["position"] for field in schema_of("generate_and_upscale")["properties"].values()]
    assert positions == list(range(len(positions)))
    assert next(iter(schema_of("generate_and_upscale")["properties"])) == "prompt"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("generate_image", {"prompt": ""}),
        ("generate_image", {"prompt": "a lamp", "variants": 17}),
        ("generate_image", {"prompt": "a lamp", "model": "sd1"}),
        ("generate_and_upscale", {"prompt": "a lamp", "upscale": "slow"}),
        ("edit_image", {"image": "x.png", "control_strength": 1.5}),
        ("edit_image", {"image": "x.png", "edit": "paint"}),
        ("image_to_video", {"image": "x.png", "motion_bucket_id": 0}),
        ("fal_request", {"model_id": "fal-ai/flux/dev", "timeout": 0}),
        ("balance_report", {"minimum_usd": -1}),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_is_paid(emulator, prefect_server, name, parameters):
    with pytest.raises(ParameterTypeError):
        flow_of(name)(**parameters)
    assert len(emulator.state.ledger) == 0
