"""A host for the corpus, and the reader of the corpus files.

A case begins with `--## title`. Before its script come `--= expectation`, `--> line of output` and `--! option`. The
expectation is `ok RESULT` (JSON, `nothing` to leave it open), `KIND LINE TEXT` of the error (`null` for no line), or
`any`: it ends within its limits and not with a crash.
"""

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep

from prefect_kosmokrator.integrations.lua import EmptyTable, Handle, Positional

FOLDER = Path(__file__).parent / "corpus"


@dataclass
class Case:
    title: str
    source: bytes = b""
    outcome: str = ""
    expected: str = ""
    output: list[str] = field(default_factory=list)
    limits: dict = field(default_factory=dict)
    inputs: dict | None = None


def read_corpus():
    for path in sorted(FOLDER.glob("*.lua")):
        for block in path.read_text().split("--## ")[1:]:
            yield _read_case(path.stem, block)


def _read_case(group, block):
    title, _, rest = block.partition("\n")
    case = Case(f"{group}: {title}")
    lines = rest.split("\n")
    while lines and lines[0][:3] in ("--=", "-->", "--!"):
        mark, text = lines[0][:3], lines.pop(0)[4:]
        if mark == "--=":
            case.outcome, _, case.expected = text.partition(" ")
        elif mark == "-->":
            case.output.append(text)
        else:
            _read_option(case, text)
    case.source = case.source or "\n".join(lines).encode().removesuffix(b"\n")
    return case


def _read_option(case, text):
    name, _, value = text.partition("=")
    if name == "source":
        case.source = bytes.fromhex(value)
    elif name == "source_repeat":
        before, unit, times, after = json.loads(value)
        case.source = (before + unit * times + after).encode()
    elif name == "inputs":
        case.inputs = json.loads(value)
    else:
        case.limits[name] = json.loads(value)


class OutOfCredits(Exception):
    retryable = False
    status = 402
    request_id = "req-1"


class BrokenError(Exception):
    def __str__(self):
        raise RuntimeError


class LiarError(Exception):
    kind = "liar"
    retryable = "certainly"
    status = object()
    request_id = None


def raising(error):
    def fail(_):
        raise error

    return fail


def deep(_):
    value = []
    for _ in range(200):
        value = [value]
    return value


def cycle(_):
    value = {}
    value["value"] = value
    return value


class Host:
    """Answers by the last name of the path; unknown paths answer what they were asked."""

    def __init__(self):
        self.fetches = 0
        self.handles = []
        self.answers = {
            "echo": lambda a: a,
            "kind": lambda a: {Positional: "positional", list: "list", dict: "dict"}[type(a)],
            "types": lambda a: [type(item).__name__ for item in a],
            "keys": list,
            "is_null": lambda a: a["x"] is None and "x" in a,
            "same_bytes": lambda a: a["data"] == b"\x89PNG",
            "fail": raising(OutOfCredits("no credits")),
            "value_error": raising(ValueError("bad")),
            "surrogate": raising(RuntimeError("odd \ud800 text")),
            "silent": raising(RuntimeError()),
            "huge_error": raising(RuntimeError("x" * 10**6)),
            "broken_str": raising(BrokenError()),
            "liar": raising(LiarError()),
            "none": lambda _: None,
            "yes": lambda _: True,
            "float": lambda _: 1.5,
            "text": lambda _: "x",
            "list": lambda _: [1, 2],
            "dict": lambda _: {"a": None},
            "holes": lambda _: [1, None, 3],
            "bytes": lambda _: b"\x89PNG",
            "nul": lambda _: "a\0",
            "text_surrogate": lambda _: "\ud800",
            "numbers": lambda _: {"exact": 2**53 + 1, "beyond": 2**64, "max": 2**63 - 1, "min": -(2**63)},
            "object": lambda _: object(),
            "nan": lambda _: float("nan"),
            "inf": lambda _: [float("inf")],
            "set": lambda _: {"x": {1}},
            "int_keys": lambda _: {1: 1},
            "deep": deep,
            "cycle": cycle,
            "huge_int": lambda _: 10**5000,
            "many": lambda _: [None] * 500_001,
            "too_big": lambda _: ["x" * 2**20 for _ in range(33)],
            "tuple": lambda _: (1, 2),
            "mapping": lambda _: OrderedDict(a=1),
            "five_megabytes": lambda _: "x" * 5 * 2**20,
            "four_megabytes": lambda _: "x" * (4 * 2**20 - 100),
            "rows": lambda _: [{"id": i, "name": f"row {i}", "ok": True} for i in range(1, 10_001)],
            "slow": lambda _: sleep(0.1),
            "make": lambda _: self.media("aGVsbG8="),
            "many_media": lambda _: None,
            "fetches": lambda _: self.fetches,
            "is_handle": self.is_handle,
            "large": lambda _: self.media("A" * 4_000_000),
            "raw": lambda _: self.handle({}, {"body": lambda: b"\x89PNG"}),
            "broken": lambda _: self.handle({}, {"body_base64": raising_now(RuntimeError("gone"))}),
            "absent": lambda _: self.handle({}, {"body": lambda: None}),
        }

    def __call__(self, path, arguments):
        if path == ("media", "many"):
            return [{"media": self.media("eA==")}, {"media": self.media("eQ==")}]
        answer = self.answers.get(path[-1]) if path[0] == "media" or path[:2] == ("integrations", "test") else None
        if answer is not None:
            return answer(arguments)
        return {"path": list(path), "arguments": arguments}

    def handle(self, fields, lazy):
        handle = Handle(object(), fields, lazy)
        self.handles.append(handle)
        return handle

    def media(self, body):
        def fetch():
            self.fetches += 1
            return body

        return self.handle({"content_type": "image/png", "finish_reason": "", "seed": 42}, {"body_base64": fetch})

    def is_handle(self, arguments):
        value = arguments[0] if isinstance(arguments, Positional) else arguments["image"]
        return any(value is handle for handle in self.handles)


def raising_now(error):
    def fail():
        raise error

    return fail


def plain(value):
    """What JSON would say of a value."""
    if isinstance(value, EmptyTable):
        return {}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value
