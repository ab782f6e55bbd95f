"""Values cross unchanged both ways, and nothing a child could send breaks the parent."""

import math
from contextlib import suppress
from string import printable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefect_kosmokrator.integrations.lua import EmptyTable, Handle, run
from prefect_kosmokrator.integrations.lua.values import (
    CorruptFrameError,
    Encoder,
    RefusedValueError,
    decode,
)

BOUNDED = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
FAST = settings(max_examples=300, deadline=None, derandomize=True, database=None)

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
scalars = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.binary(max_size=20)
)
# None in a list keeps its place, None in a dict is an absent key; so only lists may hold it here.
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner | st.none(), max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)


def expected(value):
    """What a value is after it went into a script and out again."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, list):
        return [expected(item) for item in value]
    if isinstance(value, dict):
        return {key: expected(item) for key, item in value.items()}
    return value


def same(a, b):
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=0, abs_tol=0)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


@BOUNDED
@given(st.lists(values, min_size=1, max_size=30))
def test_host_answers_come_back_as_arguments_and_results(answers):
    received = []

    def host(path, arguments):
        if path[-1] == "give":
            return answers
        received.append(arguments)
        return None

    result = run("local v = app.x.give() app.x.take({v = v}) return v", host).result
    assert same(received[0]["v"], expected(answers))
    assert same(result[0], expected(answers))


@BOUNDED
@given(st.dictionaries(texts, values, max_size=10))
def test_inputs_come_back(inputs):
    assert same(run("return inputs", None, inputs=inputs).result[0], expected(inputs))


@BOUNDED
@given(st.lists(values.filter(lambda v: not has_bytes(v)), min_size=1, max_size=20))
def test_json_in_lua_and_back(answers):
    source = "local v = app.x.give() return json.decode(json.encode(v)), json.decode(json.encode(v, {pretty = false}))"
    result = run(source, lambda _p, _a: answers).result
    assert same(result[0], expected(answers))
    assert same(result[1], expected(answers))


def has_bytes(value):
    if isinstance(value, bytes):
        return not same(type(expected(value)), str) and isinstance(expected(value), bytes)
    if isinstance(value, list):
        return any(map(has_bytes, value))
    return isinstance(value, dict) and any(map(has_bytes, value.values()))


@BOUNDED
@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=50))
def test_printed_numbers_read_back_as_the_same(numbers):
    source = "for _, n in ipairs(inputs.n) do print(n) end"
    finite = [n for n in numbers if math.isfinite(n)] or [0.5]
    printed = run(source, None, inputs={"n": finite}).output.split("\n")
    assert [float(text) for text in printed] == finite
    for text, n in zip(printed, finite, strict=True):
        assert ("." in text or "e" in text) == (not n.is_integer() or abs(n) >= 1e21)
        assert len(text.replace("-", "").replace(".", "")) <= max(len(repr(abs(n)).replace(".", "")), 21) + 1


@FAST
@given(st.binary(max_size=60))
def test_a_hostile_frame_is_refused_or_read(frame):
    with suppress(CorruptFrameError):
        decode(frame, [], EmptyTable)


@FAST
@given(
    st.lists(
        st.sampled_from(
            [b"l\xff\xff\xff\xff", b"l\1\0\0\0", b"m\1\0\0\0", b"s\xff\xff\xff\x7f", b"h\0\0\0\0", b"e", b"n"]
        )
    )
)
def test_a_frame_of_plausible_pieces_is_refused_or_read(pieces):
    with suppress(CorruptFrameError):
        decode(b"".join(pieces), [], EmptyTable)


def test_a_frame_of_brackets_does_not_exhaust_the_stack():
    with pytest.raises(CorruptFrameError):
        decode(b"l\1\0\0\0" * 10**6, [], EmptyTable)


def test_a_forged_handle_is_refused():
    with pytest.raises(CorruptFrameError):
        decode(b"h\1\0\0\0", [Handle(1)], EmptyTable)


@pytest.mark.parametrize(
    "value",
    [object(), {1}, math.nan, math.inf, {1: 2}, {b"a": 1}, 1 << 5000, [complex(1)], range],
    ids=lambda v: type(v).__name__,
)
def test_values_that_are_not_json_like_are_refused(value):
    with pytest.raises(RefusedValueError):
        Encoder([], 10**6).put(value)


def test_a_refused_value_inside_a_large_one_leaves_no_handle_behind():
    received = []

    def host(path, arguments):
        if path[-1] == "bad":
            return [Handle("lost"), object()]
        if path[-1] == "good":
            return Handle("kept")
        received.append(arguments["h"].target)
        return None

    run("pcall(app.x.bad) app.x.take({h = app.x.good()})", host)
    assert received == ["kept"]


@BOUNDED
@given(st.lists(st.text(printable, max_size=30), min_size=1, max_size=30))
def test_random_text_is_no_danger_to_the_decoders(texts):
    source = """
    for _, s in ipairs(inputs.s) do
      pcall(json.decode, s)
      pcall(regex.match, "some text 123", s)
      pcall(regex.gsub, "some text 123", s, s)
      pcall(tostring, s)
    end
    return 1
    """
    assert run(source, None, inputs={"s": texts}).result == [1]
