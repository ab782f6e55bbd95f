"""The providers of this pack. A new one is added to the import line, and nowhere else."""

from __future__ import annotations

from prefect_kosmokrator.integrations import fal, stability
from prefect_kosmokrator.integrations.catalog import Function, Provider

PROVIDERS: dict[str, Provider] = {module.provider.name: module.provider for module in (stability, fal)}


def find_function(name: str) -> Function | None:
    """The function that `provider.function` names, in any of its spellings."""
    provider, _, function = name.partition(".")
    return PROVIDERS[provider].find(function) if provider in PROVIDERS and function else None
