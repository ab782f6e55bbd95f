"""What stands behind `app.integrations.*` and `docs.*` in a script: the catalogue, with permissions and reach."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from prefect_kosmokrator.integrations import accounts, docs
from prefect_kosmokrator.integrations.catalog import Function
from prefect_kosmokrator.integrations.confinement import Confinement
from prefect_kosmokrator.integrations.errors import ConfigurationError, InvalidInput, KosmoError
from prefect_kosmokrator.integrations.lua import EmptyTable, Handle, Positional
from prefect_kosmokrator.integrations.media import Cost, Media
from prefect_kosmokrator.integrations.permissions import Permissions
from prefect_kosmokrator.integrations.providers import PROVIDERS
from prefect_kosmokrator.integrations.records import Result
from prefect_kosmokrator.integrations.run import current_run


@dataclass(frozen=True)
class Call:
    """One call of an integration function by a script.

    Attributes:
        function: `provider.function`.
        account: The account that was used.
        duration: Seconds.
        status: `ok`, `error`, or `replayed` from an earlier attempt without being paid again.
        cost: What it cost, where known.
        error: The message it raised with.
    """

    function: str
    account: str
    duration: float
    status: Literal["ok", "error", "replayed"]
    cost: Cost | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The call as a row of a table."""
        return {
            "function": self.function,
            "account": self.account,
            "duration": round(self.duration, 3),
            "status": self.status,
            "cost": str(self.cost) if self.cost else "",
            "error": self.error or "",
        }


@dataclass
class Host:
    """Answers the calls of one script.

    Attributes:
        permissions: What it may do.
        confinement: Which files and stores it may name.
        account_names: The accounts it may use; None for all.
        store: Where the results of calls that name no `output` are stored; None keeps them in memory.
        mcp: Answers `mcp.*` and `app.mcp.*`.
        calls: The calls so far.
        media: The files made so far.
        forced: Whether `force` was needed for any call.
    """

    permissions: Permissions
    confinement: Confinement
    account_names: Collection[str] | None = None
    store: str | None = None
    mcp: Callable[[tuple[str, ...], Any], Any] | None = None
    calls: list[Call] = field(default_factory=list[Call])
    media: list[Media] = field(default_factory=list[Media])
    forced: bool = False

    def __call__(self, path: tuple[str, ...], arguments: Any) -> Any:
        """Answers the call of `app.<path>` or of a `docs` or `mcp` helper."""
        if path[0] == "docs":
            return _documentation(path, arguments)
        if path[0] == "mcp":
            if self.mcp is None and path == ("mcp", "servers"):
                return {}
            if self.mcp is None:
                raise ConfigurationError(f"{'.'.join(path)}: no MCP servers are available in this run.")
            return self.mcp(path, arguments)
        function, account = _resolve(path)
        given = _named(function, arguments)
        account = self._account(function, account, given)
        started = time.monotonic()
        try:
            result, replayed = self._execute(function, given)
        except KosmoError as error:
            self.calls.append(self._call(function, account, started, "error", error=error.message))
            raise
        self.calls.append(
            self._call(function, account, started, "replayed" if replayed else "ok", cost=getattr(result, "cost", None))
        )
        return self._answer(function, account, result)

    def _execute(self, function: Function, given: dict[str, Any]) -> tuple[Any, bool]:
        """The result of a call, and whether it was replayed."""
        self.forced |= self.permissions.require(function.provider.name, function.operation)
        given = {name: self._argument(function, name, value) for name, value in given.items()}
        takes_output = any(parameter.name == "output" for parameter in function.parameters)
        if takes_output and given.get("output") is None and self.store is not None:
            given["output"] = self.store
        replayed = current_run().replayed
        before = len(replayed)
        result = function.call(**given)
        return result, f"{function.provider.name}.{function.name}" in replayed[before:]

    def _account(self, function: Function, in_path: str | None, given: dict[str, Any]) -> str:
        in_arguments = given.get("account")
        if in_path is not None:
            if isinstance(in_arguments, str) and accounts.normalise(in_arguments) != accounts.normalise(in_path):
                raise InvalidInput(
                    f"account: the path says {in_path!r}, the arguments say {in_arguments!r}.", parameter="account"
                )
            given["account"] = in_path
        account = str(given.get("account", "default"))
        permitted = self.account_names
        if permitted is not None and accounts.normalise(account) not in map(accounts.normalise, permitted):
            raise ConfigurationError(
                f"This run may not use the {function.provider.name} account {account!r}; it may use: "
                f"{', '.join(permitted) or 'none'}.",
                provider=function.provider.name,
                account=account,
            )
        return account

    def _argument(self, function: Function, name: str, value: Any) -> Any:
        """An argument as the function takes it: files within reach, handles as what they stand for."""
        parameter = next((parameter for parameter in function.parameters if parameter.name == name), None)
        if parameter is not None and parameter.type == "file":
            return self._file(name, value)
        if name == "output" and isinstance(value, str):
            return self.confinement.output(value)
        if isinstance(value, EmptyTable) and parameter is not None and parameter.type == "array":
            return []
        return without_handles(value)

    def _file(self, name: str, value: Any) -> Any:
        """A file argument: bytes, a handle, or a path or address within reach, whatever shape it comes in."""
        if isinstance(value, str):
            return self.confinement.file(name, value)
        if not isinstance(value, dict):
            return without_handles(value)
        fields = cast("dict[str, Any]", value)
        for content in ("body_base64", "content"):
            if isinstance(fields.get(content), str | bytes) and fields[content]:
                return {content: fields[content], "content_type": fields.get("content_type")}
        address = fields.get("uri") or fields.get("url")
        if not isinstance(address, str) or not address:
            raise InvalidInput(f"{name}: must be a path, bytes, or a result with body_base64 or uri.", parameter=name)
        inside = self.confinement.file(name, address)
        # The store is only needed, and only trusted, for an address that this run was given.
        return {**fields, "uri": inside, "url": None} if inside == address else inside

    def _answer(self, function: Function, account: str, result: Any) -> Any:
        """A result as the script sees it."""
        if isinstance(result, Media):
            return self._media(result)
        if isinstance(result, Result):
            trusted = _hosts_of(function, account)
            for media in result.media:
                self.confinement.learn(media.uri, trusted)
            known: dict[str, Any] = {
                "request_id": result.request_id,
                "cost": result.cost.to_json() if result.cost else None,
            }
            if any(media.store for media in result.media):
                known["media"] = [self._media(media) for media in result.media]
            return {**known, **result}
        if isinstance(result, dict):
            answer = cast("dict[str, Any]", result)
            if answer.get("url"):
                self.confinement.learn(str(answer["url"]), _hosts_of(function, account))
            return answer
        return result

    def _media(self, media: Media) -> Handle:
        self.media.append(media)
        self.confinement.learn_stored(media.uri)
        return Handle(media, media.to_json(), {"body_base64": lambda: media.body_base64})

    def _call(
        self,
        function: Function,
        account: str,
        started: float,
        status: Literal["ok", "error", "replayed"],
        *,
        cost: Cost | None = None,
        error: str | None = None,
    ) -> Call:
        name = f"{function.provider.name}.{function.name}"
        return Call(name, account, time.monotonic() - started, status, cost, error)


def _hosts_of(function: Function, account: str) -> set[str]:
    """The hosts that the account itself is set up with."""
    provider = function.provider
    found = accounts.find(provider.name, provider.account, account, provider.vendor_variable)
    return {urlsplit(value).hostname or "" for value in found.model_dump().values() if str(value).startswith("http")}


def read_roots(*folders: str | Path) -> list[Path]:
    """The folders that exist among `folders`."""
    return [Path(folder) for folder in folders if Path(folder).is_dir()]


def _resolve(path: tuple[str, ...]) -> tuple[Function, str | None]:
    """The function and the account that a path such as `integrations.fal.work.list_models` means."""
    dotted = ".".join(("app", *path))
    if path[0] != "integrations" or len(path) < 2 or path[1] not in PROVIDERS:
        known = ", ".join(PROVIDERS)
        raise InvalidInput(f"Unknown function: {dotted}. The providers below app.integrations are: {known}.")
    provider = PROVIDERS[path[1]]
    function = provider.find(path[-1]) if len(path) in {3, 4} else None
    if function is None:
        close = provider.closest(path[-1]) if len(path) > 2 else list(provider.functions)
        hint = f" Did you mean: {', '.join(close)}?" if close else f" docs.read({provider.name!r}) lists the functions."
        raise InvalidInput(f"Unknown function: {dotted}.{hint}")
    return function, path[2] if len(path) == 4 else None


def _named(function: Function, arguments: Any) -> dict[str, Any]:
    """Arguments by name; those given by position are named in the order of the parameters."""
    if isinstance(arguments, dict):
        return dict(cast("dict[str, Any]", arguments))
    values = cast("list[Any]", arguments)
    names = [parameter.name for parameter in function.parameters]
    if len(values) > len(names):
        raise InvalidInput(
            f"takes at most {len(names)} arguments, got {len(values)}.",
            provider=function.provider.name,
            function=function.name,
        )
    return {name: value for name, value in zip(names, values, strict=False) if value is not None}


def without_handles(value: Any) -> Any:
    """`value` with every handle in it replaced by what it stands for."""
    if isinstance(value, Handle):
        return value.target
    if isinstance(value, dict):
        return {key: without_handles(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [without_handles(item) for item in cast("list[Any]", value)]
    return value


def _documentation(path: tuple[str, ...], arguments: Any) -> str:
    values = list(cast("list[Any]", arguments)) if isinstance(arguments, Positional | list) else []
    name = ".".join(path)
    if name == "docs.list":
        return docs.list_pages()
    if name in {"docs.read", "docs.search"}:
        if not values or not isinstance(values[0], str):
            what = "a page such as 'stability'" if name == "docs.read" else "words to search for"
            raise InvalidInput(f"{name}: expected {what}, got {type(values[0]).__name__ if values else 'nothing'}.")
        return docs.read(values[0]) if name == "docs.read" else docs.search(values[0])
    raise InvalidInput(f"Unknown function: {name}. There are docs.list, docs.search and docs.read.")
