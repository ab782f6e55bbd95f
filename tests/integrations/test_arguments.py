"""What a command line means as arguments: by the function's own schema."""

from __future__ import annotations

import os
import sys

import pytest

from prefect_kosmokrator.integrations import arguments
from prefect_kosmokrator.integrations.cli_output import UsageError
from prefect_kosmokrator.integrations.errors import InvalidInput
from prefect_kosmokrator.integrations.providers import find_function


def parse(function, *words, stdin=""):
    return arguments.parse(find_function(function), words, options=("json", "force"), read_stdin=lambda _seconds: stdin)


GOOD = [
    # text stays as it was typed
    ("stability.get_result", ["--id=123"], {"id": "123"}),
    ("stability.get_result", ["--id", "007"], {"id": "007"}),
    ("stability.get_result", ["--id", "true"], {"id": "true"}),
    ("stability.get_result", ["--id", "null"], {"id": "null"}),
    ("stability.get_result", ["--id", "1e3"], {"id": "1e3"}),
    ("stability.generate_core", ["--prompt", " a  lamp "], {"prompt": " a  lamp "}),
    ("stability.generate_core", ["--prompt", ""], {"prompt": ""}),
    ("stability.generate_core", ["--prompt=--bold=yes"], {"prompt": "--bold=yes"}),
    ("stability.generate_core", ["--prompt", "-a lamp"], {"prompt": "-a lamp"}),
    ("stability.generate_core", ["--prompt", '{"a": 1}'], {"prompt": '{"a": 1}'}),
    # numbers
    ("stability.generate_core", ["--seed", "007"], {"seed": 7}),
    ("stability.generate_core", ["--seed=-5"], {"seed": -5}),
    ("stability.generate_core", ["--seed", "-5"], {"seed": -5}),
    ("stability.generate_core", ["--seed", "null"], {"seed": None}),
    ("stability.get_result", ["--timeout", "10"], {"timeout": 10}),
    ("stability.get_result", ["--timeout", "1e1"], {"timeout": 10.0}),
    ("stability.get_result", ["--timeout", ".5"], {"timeout": 0.5}),
    # booleans
    ("fal.list_models", ["--all-pages"], {"all_pages": True}),
    ("fal.list_models", ["--all_pages", "FALSE"], {"all_pages": False}),
    ("fal.list_models", ["--all-pages=no"], {"all_pages": False}),
    ("fal.list_models", ["--all-pages", "--limit", "3"], {"all_pages": True, "limit": 3}),
    ("fal.list_models", ["--all-pages", '{"limit": 3}'], {"all_pages": True, "limit": 3}),
    # objects and lists
    ("fal.submit_request", ["--input", '{"a": [1, {"b": null}]}'], {"input": {"a": [1, {"b": None}]}}),
    ("fal.submit_request", ["--input={}"], {"input": {}}),
    ("fal.list_models", ["--endpoint-id", '["a", "b"]'], {"endpoint_id": ["a", "b"]}),
    ("fal.list_models", ["--endpoint-id", "a"], {"endpoint_id": ["a"]}),
    ("fal.list_models", ["--endpoint-id", "a", "--endpoint-id=7"], {"endpoint_id": ["a", "7"]}),
    # files are paths
    ("stability.upscale_fast", ["--image", "123"], {"image": "123"}),
    # --arg
    ("stability.generate_core", ["--arg", "prompt=a=b", "--arg=seed=3"], {"prompt": "a=b", "seed": 3}),
    ("stability.generate_core", ["--arg", "aspect-ratio=1:1"], {"aspect_ratio": "1:1"}),
    # payload, and flags over it; the last one counts
    ("stability.generate_core", ['{"prompt": "a", "seed": 1}'], {"prompt": "a", "seed": 1}),
    ("stability.generate_core", ['{"prompt": "a", "seed": 1}', "--seed", "2"], {"prompt": "a", "seed": 2}),
    ("stability.generate_core", ["--seed=2", '{"prompt": "a", "seed": 1}', "--seed=3"], {"prompt": "a", "seed": 3}),
    ("stability.generate_core", ['["a", "16:9"]'], {"prompt": "a", "aspect_ratio": "16:9"}),
    ("fal.list_models", ['{"endpoint_id": ["a"]}', "--endpoint-id", "b"], {"endpoint_id": ["b"]}),
    ("fal.list_models", ["  "], {}),
    ("fal.list_models", [], {}),
]


@pytest.mark.parametrize(("function", "words", "expected"), GOOD, ids=[" ".join(words) for _, words, _ in GOOD])
def test_words_become_arguments(function, words, expected):
    given = parse(function, *words)
    assert given == expected
    assert {name: type(value) for name, value in given.items()} == {n: type(value) for n, value in expected.items()}


WRONG = [
    ("stability.generate_core", ["--seed", "ten"], "seed", "must be a whole number, got 'ten'"),
    ("stability.generate_core", ["--seed", "1.0"], "seed", "must be a whole number"),
    ("stability.generate_core", ["--seed", "9" * 5000], "seed", "must be a whole number"),
    ("stability.get_result", ["--timeout", "nan"], "timeout", "must be a number"),
    ("stability.get_result", ["--timeout", "1e999"], "timeout", "must be a number"),
    ("stability.get_result", ["--timeout", "1_0"], "timeout", "must be a number"),
    ("fal.list_models", ["--all-pages=maybe"], "all_pages", "must be true or false"),
    ("fal.submit_request", ["--input", "x"], "input", "must be a JSON object"),
    ("fal.submit_request", ["--input", "[1]"], "input", "must be a JSON object"),
    ("fal.submit_request", ["--input", '{"a": NaN}'], "input", "must be a JSON object"),
    ("fal.list_models", ["--endpoint-id", "[1"], "endpoint_id", "must be a JSON list"),
    ("stability.generate_core", ["--prompt"], "prompt", "--prompt needs a value"),
    ("stability.generate_core", ["--prompt", "--seed=1"], "prompt", "--prompt needs a value"),
    ("stability.generate_core", ["--promt", "a"], "promt", "Did you mean --prompt?"),
    ("stability.generate_core", ["--jsn"], "jsn", "Did you mean --json?"),
    ("stability.generate_core", ["--arg", "aspect=1:1"], "aspect", "Did you mean --aspect-ratio?"),
    ("fal.get_balance", ['["work", 1]'], None, "takes at most 1 arguments"),
]


@pytest.mark.parametrize(
    ("function", "words", "parameter", "message"), WRONG, ids=[" ".join(w)[:30] for _, w, _, _ in WRONG]
)
def test_a_wrong_value_names_the_parameter(function, words, parameter, message):
    with pytest.raises(InvalidInput) as raised:
        parse(function, *words)
    assert raised.value.parameter == parameter
    assert message in raised.value.message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lamp"], "Unexpected 'lamp'"),
        (["-p", "lamp"], "Unexpected '-p'"),
        (['{"a": 1}', '{"b": 1}'], "Unexpected"),
        (["5"], "Unexpected '5'"),
        (['{"prompt": '], "must decode to an object"),
        (['{"prompt": NaN}'], "must decode to an object"),
        (["[" * 100_000], "must decode to an object"),
        (["--arg", "prompt"], "--arg values must use key=value syntax."),
        (["--arg"], "--arg values must use key=value syntax."),
        (["--arg", "=a"], "--arg values must use key=value syntax."),
        (["--", "a"], "names no parameter"),
        (["--=a"], "names no parameter"),
    ],
)
def test_a_word_that_is_no_argument_is_refused(words, message):
    with pytest.raises(UsageError) as raised:
        parse("stability.generate_core", *words)
    assert message in raised.value.message


def test_stdin_is_read_when_nothing_else_is_given():
    assert parse("stability.generate_core", stdin='{"prompt": "a"}') == {"prompt": "a"}


def test_a_dash_reads_stdin_beside_flags():
    assert parse("stability.generate_core", "-", "--seed=1", stdin='{"prompt": "a"}') == {"prompt": "a", "seed": 1}


def test_flags_alone_leave_stdin_unread():
    assert parse("stability.generate_core", "--prompt=a", stdin='{"seed": 1}') == {"prompt": "a"}


@pytest.mark.parametrize("payload", ["5", '"text"', "null", "not json"])
def test_stdin_must_hold_an_object(payload):
    with pytest.raises(UsageError):
        parse("stability.generate_core", stdin=payload)


@pytest.fixture
def pipe(monkeypatch):
    """Stdin as an open pipe, and its other end."""
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as stdin, os.fdopen(writing, "wb", buffering=0) as other_end:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield other_end


def test_an_open_pipe_without_data_does_not_block(pipe, monkeypatch):
    monkeypatch.setattr(arguments, "STDIN_SECONDS", 0.05)
    assert arguments.parse(find_function("fal.list_models"), []) == {}
    assert arguments.parse(find_function("stability.generate_core"), []) == {}


def test_a_pipe_with_data_is_read_to_its_end(pipe):
    pipe.write(b'{"prompt": "\xc3\xa9"}')
    pipe.close()
    assert arguments.parse(find_function("stability.generate_core"), []) == {"prompt": "é"}


def test_stdin_that_is_not_text_is_refused(pipe):
    pipe.write(b"\xff\xfe")
    pipe.close()
    with pytest.raises(UsageError, match="not UTF-8"):
        arguments.parse(find_function("stability.generate_core"), ["-"])
