"""The catalogue: providers and their functions, each derived from one typed Python function.

A provider module makes one `Provider` and decorates its functions. The decorator returns a function of the same type
that checks its arguments first; signature and docstring become the JSON schema, the documentation and, elsewhere, the
Prefect task, the Lua function and the command. Nothing about a function is written twice.
"""

from __future__ import annotations

import functools
import inspect
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, ParamSpec, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

from prefect_kosmokrator.integrations.accounts import Account
from prefect_kosmokrator.integrations.errors import InvalidInput, KosmoError
from prefect_kosmokrator.integrations.execution import execute
from prefect_kosmokrator.integrations.governor import RateLimit
from prefect_kosmokrator.integrations.media import Cost
from prefect_kosmokrator.integrations.records import Job
from prefect_kosmokrator.integrations.redaction import redact
from prefect_kosmokrator.integrations.run import Call, calling

P = ParamSpec("P")
R = TypeVar("R")

Operation = Literal["read", "write"]
Recover = Callable[[Mapping[str, Any], str, float], Iterable[Job]]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a function.

    Attributes:
        name: As in Python, Lua and on the command line.
        required: Whether it must be given.
        default: Used when it is not given.
        description: One or two sentences.
        schema: Its JSON schema, with type, range and choices.
        example: A value for examples.
    """

    name: str
    required: bool
    default: Any
    description: str
    schema: dict[str, Any]
    example: Any = None

    @property
    def type(self) -> str:
        """The JSON type in one word: string, integer, number, boolean, object, array or file."""
        return _type_of(self.schema)

    @property
    def allowed(self) -> str:
        """Range or choices in words; empty when anything of the type goes."""
        return _allowed(self.schema)


@dataclass(frozen=True)
class Function:
    """One function of a provider.

    Attributes:
        provider: Its provider.
        name: The Python name, which is also the name in the provider's guide.
        title: Display title.
        operation: `"read"` or `"write"`: what permissions are asked for.
        cost: What a call costs, in words; empty when it is free.
        call: The checked function.
        recover: Finds the jobs that a lost submission may have made, see `journal.Step`. None where the service cannot
            say.
        result: The name of the function that waits for the job which this one starts; empty if it starts none.
        ends: What the function does to a job it is given: fetches its result, or cancels it.
        description: First paragraph of the docstring.
        returns: What the docstring says about the result.
        parameters: In positional order.
    """

    provider: Provider
    name: str
    title: str
    operation: Operation
    cost: str
    call: Callable[..., Any]
    recover: Recover | None
    result: str
    ends: Literal["", "fetch", "cancel"]
    description: str
    returns: str
    parameters: tuple[Parameter, ...]
    _model: type[BaseModel] = field(repr=False)

    @property
    def slug(self) -> str:
        """Full name: `stability_generate_core`."""
        return f"{self.provider.name}_{self.name}"

    @property
    def runtime_name(self) -> str:
        """The name derived from the title: `generate_core_image`."""
        return _runtime_name(self.title, self.provider.name)

    @property
    def aliases(self) -> tuple[str, ...]:
        """All spellings under which the function is found, the Python name first."""
        return tuple(dict.fromkeys((self.name, self.runtime_name, self.slug)))

    @property
    def schema(self) -> dict[str, Any]:
        """The closed JSON schema of the arguments."""
        return {
            "type": "object",
            "properties": {
                p.name: {**p.schema, "description": p.description}
                | ({} if p.required or p.default is None else {"default": p.default})
                for p in self.parameters
            },
            "required": [p.name for p in self.parameters if p.required],
            "additionalProperties": False,
        }

    @property
    def is_paid(self) -> bool:
        """Whether a call costs money."""
        return self.cost not in {"", "free"}

    def check(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """All arguments by name with defaults filled in; None counts as not given.

        Raises:
            InvalidInput: Naming the function, the parameter, the problem and what is allowed.
        """
        names = [p.name for p in self.parameters]
        if len(args) > len(names):
            raise self._invalid(f"takes at most {len(names)} positional arguments, got {len(args)}.", None)
        given = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name in given:
                raise self._invalid(f"{name} was given twice.", name)
            if name not in names:
                close = get_close_matches(name, names, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else f" Its parameters are: {', '.join(names)}."
                raise self._invalid(f"there is no parameter {name!r}.{hint}", name)
            given[name] = value
        try:
            checked = self._model.model_validate({name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            raise self._from_validation(error) from None
        return {name: getattr(checked, name) for name in names}

    def _from_validation(self, error: ValidationError) -> InvalidInput:
        problem = error.errors(include_url=False)[0]
        name = str(problem["loc"][0])
        parameter = next(p for p in self.parameters if p.name == name)
        if problem["type"] == "missing":
            return self._invalid(f"{name} is required.", name)
        message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        if not message.startswith("must"):
            message = f"must be {message}" if problem["msg"].startswith("Input should be ") else message
        within = "".join(f"[{part!r}]" for part in problem["loc"][1:] if isinstance(part, int))
        value = problem.get("input")
        shown = "" if isinstance(value, bytes | dict | list) else f", got {_short(value)}"
        allowed = parameter.allowed
        return self._invalid(f"{name}{within}: {message}{shown}.{f' Allowed: {allowed}.' if allowed else ''}", name)

    def _invalid(self, message: str, parameter: str | None) -> InvalidInput:
        return InvalidInput(message, parameter=parameter, provider=self.provider.name, function=self.name)


@dataclass(frozen=True)
class Provider:
    """A service and its functions.

    Attributes:
        name: Short name, used in every path: `"stability"`.
        title: Display name.
        summary: One sentence.
        account: How an account is set up.
        vendor_variable: The vendor's own environment variable for the key of `default`; empty if there is none.
        price: What a paid call will cost, as far as it is known: takes the function's name and its arguments.
        balance: What is left on an account, in US dollars; None if the service does not say.
        clock: The service's time for an account, in seconds since 1970.
        rate_limit: How often the service may be asked for one account, where that is known.
        functions: By Python name, in the order of definition.
    """

    name: str
    title: str
    summary: str
    account: type[Account] = Account
    vendor_variable: str = ""
    price: Callable[[str, Mapping[str, Any]], Cost | None] = lambda _function, _arguments: None
    balance: Callable[[str], float | None] = lambda _account: None
    clock: Callable[[str], float] = lambda _account: time.time()
    rate_limit: RateLimit | None = None
    functions: dict[str, Function] = field(default_factory=dict[str, Function], repr=False)

    def function(
        self,
        title: str,
        *,
        operation: Operation,
        cost: str = "",
        recover: Recover | None = None,
        result: str = "",
        ends: Literal["", "fetch", "cancel"] = "",
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Adds the decorated function to the catalogue.

        Args:
            title: Display title; the runtime name is derived from it.
            operation: Whether it only reads or creates something (and costs).
            cost: What a call costs, in words.
            recover: See `Function.recover`.
            result: See `Function.result`.
            ends: See `Function.ends`.
        """

        def register(call: Callable[P, R]) -> Callable[P, R]:
            name = call.__name__
            signature = inspect.signature(call)

            @functools.wraps(call)
            def checked(*args: P.args, **kwargs: P.kwargs) -> R:
                account: str | None = None
                try:
                    arguments = self.functions[name].check(*args, **kwargs)
                    account = _account_of(arguments)
                    with calling(Call(self.name, name, account, arguments)):
                        return execute(self.functions[name], account, arguments, lambda: call(**arguments))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
                except KosmoError as error:
                    error.provider = error.provider or self.name
                    error.function = error.function or name
                    error.account = error.account or account
                    raise

            model = _model_of(call, signature)
            parameters = _parameters_of(call, signature, model)
            doc = inspect.cleandoc(call.__doc__ or "")
            summary, _, returns = doc.partition("\n\nReturns:")
            checked.__doc__ = _with_arguments(call, parameters)
            self.functions[name] = Function(
                self,
                name,
                title,
                operation,
                cost,
                checked,
                recover,
                result,
                ends,
                " ".join(summary.split()),
                " ".join(returns.split()),
                parameters,
                model,
            )
            return checked

        return register

    def find(self, name: str) -> Function | None:
        """The function with this name in any of its spellings, None if there is none."""
        wanted = name.removeprefix(f"{self.name}.")
        if wanted in self.functions:
            return self.functions[wanted]
        return next((function for function in self.functions.values() if wanted in function.aliases), None)

    def closest(self, name: str, count: int = 3) -> list[str]:
        """The names most like `name`, for error messages."""
        names = {alias: function.name for function in self.functions.values() for alias in function.aliases}
        return list(dict.fromkeys(names[match] for match in get_close_matches(name, names, n=count * 2, cutoff=0.4)))[
            :count
        ]


def _account_of(arguments: dict[str, Any]) -> str:
    """Whose account a call uses: the one of the job it is about, or the one that is named."""
    job = next((value for value in arguments.values() if isinstance(value, Job)), None)
    return redact(job.account if job is not None else str(arguments["account"]))


def _model_of(call: Callable[..., Any], signature: inspect.Signature) -> type[BaseModel]:
    hints = get_type_hints(call, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in signature.parameters.items()
    }
    config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
    return create_model(f"{call.__name__}_arguments", __config__=config, **fields)


def _parameters_of(
    call: Callable[..., Any], signature: inspect.Signature, model: type[BaseModel]
) -> tuple[Parameter, ...]:
    properties: dict[str, Any] = model.model_json_schema()["properties"]
    hints = get_type_hints(call, include_extras=True)
    return tuple(
        Parameter(
            name,
            required=parameter.default is parameter.empty,
            default=None if parameter.default is parameter.empty else parameter.default,
            description=str(_note(name, hints[name]).description),
            schema=_simplified(properties[name]),
            example=next(iter(_note(name, hints[name]).examples or ()), None),
        )
        for name, parameter in signature.parameters.items()
    )


def _note(name: str, hint: Any) -> FieldInfo:
    """The `Field` in the annotation of a parameter, which is the only place where it is described."""
    for part in (hint, *get_args(hint)):
        for note in getattr(part, "__metadata__", ()):
            if isinstance(note, FieldInfo) and note.description:
                return note
    raise TypeError(f"the parameter {name!r} has no description")


def _simplified(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of one parameter without titles and without the null that `X | None = None` adds."""
    schema = {key: value for key, value in schema.items() if key not in {"title", "default", "description", "examples"}}
    choices = [_simplified(choice) for choice in schema.pop("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1:
        return {**choices[0], **schema}
    return {**schema, "anyOf": choices} if choices else schema


def _type_of(schema: dict[str, Any]) -> str:
    if schema.get("format") == "file":
        return "file"
    for choice in schema.get("anyOf", [schema]):
        if "type" in choice:
            return str(choice["type"])
    return "string" if "enum" in schema else "any"


def _allowed(schema: dict[str, Any]) -> str:
    for choice in (schema, *schema.get("anyOf", [])):
        if "enum" in choice:
            return ", ".join(str(value) for value in choice["enum"])
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{low:,} to {high:,}"
    if low is not None:
        return f"at least {low:,}"
    if schema.get("maxLength"):
        return f"{schema.get('minLength', 0):,} to {schema['maxLength']:,} characters"
    return ""


def _with_arguments(call: Callable[..., Any], parameters: tuple[Parameter, ...]) -> str:
    """The docstring with an `Args:` section made from the annotations, where each parameter is described once."""
    doc = inspect.cleandoc(call.__doc__ or "")
    lines = [
        f"    {p.name}: {p.description}" + (f" Allowed: {p.allowed}." if p.allowed not in p.description else "")
        for p in parameters
    ]
    head, separator, tail = doc.partition("\n\nReturns:")
    return "\n".join([head, "", "Args:", *lines]) + separator + tail


def _runtime_name(title: str, provider: str) -> str:
    """KosmoKrator's derivation of a name from a display title (its filler words and the provider's name dropped)."""
    identifier = re.sub(r"[^a-z0-9]+", "_", title.strip().lower()).strip("_") or "tool"
    base = provider.rstrip("s")
    kept: list[str] = []
    for word in identifier.split("_"):
        stem = word.rstrip("s")
        if word in {"on", "of", "for", "in", "to", "the", "a", "an"} or not stem or stem in base or base in stem:
            continue
        kept.append(word)
    name = "_".join(kept) or identifier
    return f"_{name}" if name[0].isdigit() else name


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."  # one line of a terminal
