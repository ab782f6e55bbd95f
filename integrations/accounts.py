"""Named accounts: who pays, with which key, at which addresses.

`KOSMO_<PROVIDER>__<ACCOUNT>__<FIELD>` in the environment comes first, then the vendor's own variable for the account
`default`, then whatever `finders` know (`prefect_kosmokrator.blocks` adds the Prefect block of that name). An unknown
account is an error: nothing ever falls back to `default`, which would bill somebody else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    create_model,
)
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from prefect_kosmokrator.integrations.errors import ConfigurationError
from prefect_kosmokrator.integrations.redaction import redact

MAX_COST = r"^\s*(\d+(?:\.\d+)?)\s*(credits?|USD|usd|\$)?\s*$"
"""A budget: `5 USD`, `300 credits` (one is 0.01 US$), or a number of US dollars."""


def _stripped(value: object) -> object:
    # A newline at the end of a key read from a file is the most common reason for a 401.
    if isinstance(value, SecretStr):
        return SecretStr(value.get_secret_value().strip())
    return value.strip() if isinstance(value, str) else value


def _http_url(value: str) -> str:
    parts = urlsplit(value.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an address such as https://host")
    return value.strip().rstrip("/")


def _sendable(value: SecretStr) -> SecretStr:
    key = value.get_secret_value()
    if not key.isascii() or not key.isprintable():
        raise ValueError("has characters that no key has; was it copied completely and without formatting?")
    return value


def _budget(value: str) -> str:
    if value.strip() and not re.match(MAX_COST, value):
        raise ValueError("must read like '5 USD' or '300 credits'")
    return value.strip()


ApiKey = Annotated[SecretStr, BeforeValidator(_stripped), Field(min_length=1), AfterValidator(_sendable)]
Url = Annotated[str, AfterValidator(_http_url)]
MaxCost = Annotated[str, AfterValidator(_budget)]


class Account(BaseModel, frozen=True, extra="forbid"):
    """One account of a provider; each provider adds its addresses.

    Attributes:
        name: Normalised: lower case, with `-` for `_`.
        api_key: The secret.
        max_cost: What its calls may cost in one day (UTC): `20 USD` or `300 credits`; empty for any amount.
    """

    name: str = "default"
    api_key: ApiKey
    max_cost: MaxCost = ""


AccountT = TypeVar("AccountT", bound=Account)


class Finder:
    """A further place where accounts are kept, asked after the environment.

    Args:
        find: Takes a provider and a normalised account name; returns the account's fields or None.
        names: Takes a provider; returns the names it knows, for error messages and listings.
    """

    def __init__(self, find: Callable[[str, str], dict[str, Any] | None], names: Callable[[str], list[str]]) -> None:
        self.find = find
        self.names = names


finders: list[Finder] = []
"""Where accounts are looked up after the environment, in order."""


def normalise(name: str) -> str:
    """The form in which account names are compared: Work, WORK and work are one, as are my_team and my-team."""
    return name.strip().casefold().replace("_", "-")


def find(provider: str, model: type[AccountT], name: str, vendor_variable: str) -> AccountT:
    """The account `name` of `provider`.

    Args:
        provider: For example `"fal"`.
        model: The provider's account model.
        name: The account's name, any case.
        vendor_variable: The vendor's own environment variable for the key of `default`, for example `"FAL_KEY"`.

    Raises:
        ConfigurationError: If no such account exists (the message lists those that do) or a setting is wrong.
    """
    wanted = normalise(name)
    fields = _from_environment(provider, vendor_variable).get(wanted)
    if fields is None or "api_key" not in fields:
        found = next((found for finder in finders if (found := finder.find(provider, wanted)) is not None), None)
        fields = None if found is None else {**found, **(fields or {})}
    if fields is None:
        known = ", ".join(names(provider, vendor_variable)) or "none"
        shown = redact(name)
        variable = f"KOSMO_{provider.upper()}__{normalise(shown).upper().replace('-', '_')}__API_KEY"
        also = f" (or {vendor_variable})" if wanted == "default" else ""
        raise ConfigurationError(
            f"There is no {provider} account {shown!r}. Known accounts: {known}. Set {variable}{also}"
            + (f", or save a Prefect block {provider}-credentials/{normalise(shown)}." if finders else "."),
            provider=provider,
            account=shown,
        )
    try:
        return model.model_validate({**fields, "name": wanted})
    except ValidationError as error:
        raise _invalid(provider, wanted, error) from None  # the cause would print the values, keys among them


def names(provider: str, vendor_variable: str) -> list[str]:
    """The names of all accounts of `provider`, `default` first."""
    known = {name for name, fields in _from_environment(provider, vendor_variable).items() if "api_key" in fields}
    for finder in finders:
        known.update(finder.names(provider))
    return sorted(known, key=lambda name: (name != "default", name))


def _from_environment(provider: str, vendor_variable: str) -> dict[str, dict[str, Any]]:
    """The accounts in the environment as plain fields, by normalised name."""
    settings: Any = create_model(
        "AccountsFromEnvironment",
        __base__=_Environment,
        **cast("Any", {provider: (dict[str, dict[str, str]], Field(default_factory=dict))}),
    )
    try:
        raw: dict[str, dict[str, str]] = getattr(settings(), provider)
    except (ValidationError, SettingsError):
        raise ConfigurationError(
            f"The environment variables KOSMO_{provider.upper()}__* must read "
            f"KOSMO_{provider.upper()}__<ACCOUNT>__<FIELD>, for example KOSMO_{provider.upper()}__WORK__API_KEY.",
            provider=provider,
        ) from None
    accounts = {
        normalise(name): {key: value for key, value in fields.items() if value.strip()} for name, fields in raw.items()
    }
    vendor_key = os.environ.get(vendor_variable, "").strip()
    if vendor_key:
        accounts.setdefault("default", {}).setdefault("api_key", vendor_key)
    return accounts


class _Environment(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="KOSMO_", env_nested_delimiter="__", extra="ignore")


def _invalid(provider: str, account: str, error: ValidationError) -> ConfigurationError:
    problems = "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}"
        for problem in error.errors(include_input=False, include_url=False)
    )
    return ConfigurationError(
        f"The {provider} account {account!r} is not set up correctly: {problems}.", provider=provider, account=account
    )
