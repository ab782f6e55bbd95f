"""What holds for every function of every provider, and how functions are found and documented."""

from __future__ import annotations

import inspect
import re

import pytest

from prefect_kosmokrator.integrations import fal, stability
from prefect_kosmokrator.integrations.catalog import Provider
from prefect_kosmokrator.integrations.errors import InvalidInput
from prefect_kosmokrator.integrations.parameters import AccountName
from prefect_kosmokrator.integrations.providers import PROVIDERS, find_function

FUNCTIONS = [function for provider in PROVIDERS.values() for function in provider.functions.values()]

# Title -> name derived from it at run time -> name in the guide.
DOCUMENTED = {
    "stability": [
        ("Get Account", "get_account", "get_account"),
        ("Get Balance", "get_balance", "get_balance"),
        ("Generate Core Image", "generate_core_image", "generate_core"),
        ("Generate Ultra Image", "generate_ultra_image", "generate_ultra"),
        ("Generate SD3 Image", "generate_sd3_image", "generate_sd3"),
        ("Inpaint Image", "inpaint_image", "inpaint"),
        ("Erase Image Area", "erase_image_area", "erase"),
        ("Remove Background", "remove_background", "remove_background"),
        ("Control Structure", "control_structure", "control_structure"),
        ("Fast Upscale", "fast_upscale", "upscale_fast"),
        ("Creative Upscale", "creative_upscale", "upscale_creative"),
        ("Image To Video", "image_video", "image_to_video"),
        ("Get Video Result", "get_video_result", "get_video_result"),
    ],
    "fal": [
        ("List Models", "list_models", "list_models"),
        ("Submit Request", "submit_request", "submit_request"),
        ("Get Request Status", "get_request_status", "get_request_status"),
        ("Get Result", "get_result", "get_result"),
        ("List Files", "list_files", "list_files"),
        ("Upload File", "upload_file", "upload_file"),
        ("Get Current User", "get_current_user", "get_current_user"),
    ],
}
TABLE = [(provider, *row) for provider, rows in DOCUMENTED.items() for row in rows]
WRITES = {
    "generate_core", "generate_ultra", "generate_sd3", "inpaint", "erase", "remove_background", "control_structure",
    "upscale_fast", "upscale_creative", "image_to_video", "submit_request", "cancel_request", "upload_file",
}  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.slug)
def test_every_function_meets_the_standard(function):
    assert re.fullmatch(r"[a-z][a-z0-9_]*", function.name)
    assert function.operation == ("write" if function.name in WRITES else "read")
    assert function.description.endswith(".") or function.description.endswith(")")
    assert function.schema["type"] == "object"
    assert function.schema["additionalProperties"] is False
    assert set(function.schema["required"]) <= set(function.schema["properties"])
    assert "account" in function.schema["properties"]
    assert "account" not in function.schema["required"]
    for parameter in function.parameters:
        assert parameter.description, f"{parameter.name} is not described"
        assert parameter.description.rstrip("`)").endswith((".", "?"))
        assert parameter.type in {"string", "integer", "number", "boolean", "object", "array", "file"}
        assert parameter.description in inspect.getdoc(function.call)
    assert "Returns:" in inspect.getdoc(function.call)


def test_paid_functions_say_what_they_cost():
    assert [f.slug for f in FUNCTIONS if f.operation == "write" and not f.cost] == ["fal_cancel_request"]
    assert [f.slug for f in FUNCTIONS if f.operation == "read" and f.cost] == []


def test_no_two_functions_of_a_provider_share_a_spelling():
    for provider in PROVIDERS.values():
        spellings = [alias for function in provider.functions.values() for alias in function.aliases]
        assert len(spellings) == len(set(spellings))


def test_every_function_that_makes_files_can_store_them_and_judges_filtered_ones():
    for function in FUNCTIONS:
        names = {parameter.name for parameter in function.parameters}
        assert ("output" in names) == ("on_filtered" in names), function.slug


@pytest.mark.parametrize(("provider", "title", "runtime", "guide"), TABLE, ids=[f"{r[0]}.{r[3]}" for r in TABLE])
def test_all_three_spellings_of_a_documented_function_resolve(provider, title, runtime, guide):
    function = PROVIDERS[provider].functions[guide]
    assert (function.title, function.runtime_name, function.slug) == (title, runtime, f"{provider}_{guide}")
    for spelling in (guide, runtime, f"{provider}_{guide}"):
        assert PROVIDERS[provider].find(spelling) is function
        assert find_function(f"{provider}.{spelling}") is function


@pytest.mark.parametrize("name", ["", "stability", "stability.", "stability.nothing", "nobody.generate_core", ".x"])
def test_unknown_names_find_nothing(name):
    assert find_function(name) is None


def test_a_misspelt_function_name_is_met_with_the_closest_ones():
    assert stability.provider.closest("generate_coer")[0] == "generate_core"
    assert "upscale_fast" in stability.provider.closest("fast_upscal")
    assert stability.provider.closest("zzzzzz") == []


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Image To Video", "image_video"),
        ("List Acme Widgets for the Team", "list_widgets_team"),
        ("Acme", "acme"),
        ("  Do -- it! ", "do_it"),
        ("3D Model", "_3d_model"),
        ("---", "tool"),
        ("Sss Run", "run"),
    ],
)
def test_runtime_names_follow_the_documented_derivation(title, name):
    provider = Provider("acmes", "Acme", "Makes things.")

    @provider.function(title, operation="read")
    def thing(*, account: AccountName = "default") -> None:
        """Does a thing."""

    assert provider.functions["thing"].runtime_name == name


def test_a_parameter_without_a_description_is_refused_when_the_function_is_declared():
    provider = Provider("acme", "Acme", "Makes things.")

    def thing(size: int, *, account: AccountName = "default") -> None:
        """Does a thing."""

    with pytest.raises(TypeError, match="'size' has no description"):
        provider.function("Thing", operation="read")(thing)


def test_schemas_carry_ranges_choices_and_defaults():
    core = stability.provider.functions["generate_core"].schema["properties"]
    assert (core["seed"]["minimum"], core["seed"]["maximum"]) == (0, 4_294_967_294)
    assert core["aspect_ratio"]["enum"] == ["21:9", "16:9", "3:2", "5:4", "1:1", "4:5", "2:3", "9:16", "9:21"]
    assert (core["prompt"]["minLength"], core["prompt"]["maxLength"]) == (1, 10_000)
    assert core["output_format"] == {
        "type": "string",
        "enum": ["png", "jpeg", "webp"],
        "description": "Format of the picture.",
        "default": "png",
    }
    assert fal.provider.functions["submit_request"].schema["properties"]["input"]["type"] == "object"


@pytest.mark.parametrize(
    ("function", "parameter", "kind", "allowed"),
    [
        ("stability.generate_core", "seed", "integer", "0 to 4,294,967,294"),
        ("stability.generate_ultra", "strength", "number", "0 to 1"),
        ("stability.generate_core", "output_format", "string", "png, jpeg, webp"),
        ("stability.erase", "image", "file", ""),
        ("stability.generate_core", "prompt", "string", "1 to 10,000 characters"),
        ("fal.submit_request", "input", "object", ""),
        ("fal.submit_request", "no_retry", "boolean", ""),
        ("fal.list_models", "endpoint_id", "array", ""),
        ("fal.submit_request", "max_queue_length", "integer", "at least 1"),
    ],
)
def test_parameters_say_their_type_and_what_is_allowed(function, parameter, kind, allowed):
    found = next(p for p in find_function(function).parameters if p.name == parameter)
    assert (found.type, found.allowed) == (kind, allowed)


def test_the_function_stays_a_plain_function_with_its_own_signature():
    assert stability.generate_core.__name__ == "generate_core"
    assert list(inspect.signature(stability.generate_core).parameters)[:2] == ["prompt", "aspect_ratio"]
    assert "seed: Repeats a result" in inspect.getdoc(stability.generate_core)


def test_check_fills_in_defaults_and_takes_none_as_not_given():
    arguments = stability.provider.functions["generate_core"].check("a lamp", seed=None, output_format=None)
    assert arguments["prompt"] == "a lamp"
    assert arguments["seed"] is None
    assert arguments["output_format"] == "png"
    assert arguments["account"] == "default"


@pytest.mark.parametrize("seed", ["123", " 123 ", 123.0, 123])
def test_a_seed_may_be_passed_back_in_the_form_in_which_results_show_it(seed):
    assert stability.provider.functions["generate_core"].check("a lamp", seed=seed)["seed"] == 123


@pytest.mark.parametrize(
    ("arguments", "parameters", "message"),
    [
        ((), {}, "prompt is required."),
        (("a",), {"sed": 1}, "there is no parameter 'sed'. Did you mean 'seed'?"),
        (("a",), {"zzz": 1}, "there is no parameter 'zzz'. Its parameters are: prompt, aspect_ratio"),
        (("a",), {"prompt": "b"}, "prompt was given twice."),
        (("a", *range(20)), {}, "takes at most 9 positional arguments, got 21."),
        (("a",), {"aspect_ratio": "4:3"}, "Allowed: 21:9, 16:9, 3:2"),
        (("a",), {"seed": -1}, "seed: must be greater than or equal to 0, got -1. Allowed: 0 to 4,294,967,294."),
        (("a",), {"seed": "many"}, "seed: must be a valid integer, got 'many'."),
        ((7,), {}, "prompt: must be a valid string, got 7."),
    ],
)
def test_wrong_arguments_are_named_with_what_is_allowed(arguments, parameters, message):
    with pytest.raises(InvalidInput) as caught:
        stability.provider.functions["generate_core"].check(*arguments, **parameters)
    assert message in str(caught.value)
    assert str(caught.value).startswith("stability.generate_core: ")


def test_a_long_wrong_value_is_shortened_in_the_message():
    with pytest.raises(InvalidInput) as caught:
        stability.provider.functions["generate_core"].check("x" * 10_001)
    assert len(str(caught.value)) < 300
    assert caught.value.parameter == "prompt"
