"""Saved blocks as the place where the integrations find accounts and output stores by name."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar, cast

from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from pydantic import SecretStr

from prefect_kosmokrator.blocks.output_store import OutputStore
from prefect_kosmokrator.integrations import accounts, output

T = TypeVar("T")

CACHE_SECONDS = 60.0
"""How long a loaded block is used before it is read again; a changed key takes effect within this time."""

_cache: dict[tuple[str, ...], tuple[float, Any]] = {}
_lock = Lock()


def find_saved_accounts() -> None:
    """Adds saved credential blocks to the places where accounts are found."""
    if not any(finder.find is _account for finder in accounts.finders):
        accounts.finders.append(accounts.Finder(_account, _account_names))


def find_saved_stores() -> None:
    """Adds saved output stores to the places where stores are found."""
    if _store not in output.finders:
        output.finders.append(_store)


def forget() -> None:
    """Reads every block again when it is next needed."""
    with _lock:
        _cache.clear()


def _account(provider: str, account: str) -> dict[str, Any] | None:
    block = _load(f"{provider}-credentials", account)
    if block is None:
        return None
    fields = {name: getattr(block, name) for name in type(block).model_fields}
    return {name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in fields.items()}


def _account_names(provider: str) -> list[str]:
    def read() -> list[str]:
        try:
            with get_client(sync_client=True) as client:
                documents = client.read_block_documents_by_type(f"{provider}-credentials")
        except PrefectHTTPStatusError as error:
            if error.response.status_code == 404:  # nobody has registered this type of block
                return []
            raise
        return [document.name for document in documents if document.name]

    return _cached(("names", provider), read)


def _store(name: str) -> output.OutputStore | None:
    block = _load("output-store", name)
    return block.get_store() if isinstance(block, OutputStore) else None


def _load(slug: str, name: str) -> Block | None:
    def read() -> Block | None:
        try:
            # Without `_sync` this would be a coroutine when a task is called from an async flow.
            load: Any = Block.load  # pyright: ignore[reportUnknownMemberType]
            return cast("Block", load(f"{slug}/{name}", _sync=True))
        except ValueError:  # Prefect's word for "no such block"
            return None

    return _cached((slug, name), read)


def _cached(key: tuple[str, ...], read: Callable[[], T]) -> T:
    """One API call a minute for each block, not one for each request a task sends."""
    key = (str(PREFECT_API_URL.value()), *key)
    with _lock:
        kept = _cache.get(key)
        if kept is None or time.monotonic() - kept[0] > CACHE_SECONDS:
            kept = (time.monotonic(), read())
            if kept[1] is not None:  # somebody who just saved the block must not wait
                _cache[key] = kept
        return cast("T", kept[1])
