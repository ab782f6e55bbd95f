"""fal.ai's platform API: models, files and billing."""

from __future__ import annotations

from typing import Any, cast

from prefect_kosmokrator.integrations import fal_api as api
from prefect_kosmokrator.integrations.errors import OutOfCredits, Rejected, Unavailable
from prefect_kosmokrator.integrations.messages import Request
from prefect_kosmokrator.integrations.records import Record

PAGE = 50


def get(account: str, path: str, params: dict[str, Any]) -> Any:
    """The JSON answer of the platform API at `path`."""
    settings = api.account_for(account)
    return api.client_of(settings).json(Request("GET", f"{settings.api_url}{path}", params=params))


def get_object(account: str, path: str, params: dict[str, Any]) -> dict[str, Any]:
    """The JSON object that the platform API answers at `path`."""
    settings = api.account_for(account)
    return api.client_of(settings).json_object(Request("GET", f"{settings.api_url}{path}", params=params))


def balance(account: str) -> tuple[float | None, str]:
    """What is left on the account, None if fal does not say, and the currency."""
    settings = api.account_for(account)
    try:
        answer = api.client_of(settings).json(Request("GET", f"{settings.rest_url}/billing/user_balance"))
        if isinstance(answer, int | float):
            return float(answer), "USD"
    except Rejected as error:
        if error.status not in {403, 404} or isinstance(error, OutOfCredits):
            raise
    known = json_object(get_object(account, "/account/billing", {"expand": "credits"}).get("credits"))
    return known.get("current_balance"), str(known.get("currency") or "USD")


def balance_in_usd(account: str) -> float | None:
    """What is left on the account, in US dollars; None if fal does not tell this key."""
    try:
        amount, currency = balance(account)
    except Rejected:
        return None
    return amount if currency == "USD" else None


def list_assets(account: str, q: str | None, limit: int) -> list[Record]:
    """Up to `limit` entries of the Assets feature, page by page."""
    files: list[Record] = []
    cursor: str | None = None
    while len(files) < limit:
        params: dict[str, Any] = {"limit": min(PAGE, limit - len(files))}
        params |= {name: value for name, value in {"q": q, "cursor": cursor}.items() if value}
        answer = get_object(account, "/assets", params)
        files += [file_record(entry, "title") for entry in json_objects(answer.get("assets"))]
        cursor = answer.get("next_cursor")
        if not cursor or not answer.get("assets"):
            break
    return files


def model_record(entry: dict[str, Any]) -> Record:
    """A model with the documented fields beside the service's own; empty texts for what it does not give."""
    metadata = json_object(entry.get("metadata"))
    named = {key: str(metadata.get(key) or "") for key in ("description", "display_name", "category", "status")}
    return Record({**entry, "id": str(entry.get("endpoint_id", "")), **named})


def file_record(entry: dict[str, Any], name: str) -> Record:
    """A file with the documented fields beside the service's own; empty texts for what it does not give."""
    address = str(entry.get("url") or "")
    file_name = str(entry.get(name) or "") or address.rpartition("/")[2] or str(entry.get("path") or "")
    return Record({**entry, "file_name": file_name, "url": address})


def json_objects(value: Any) -> list[dict[str, Any]]:
    """The JSON objects in `value`, which should be a list of them.

    Raises:
        Unavailable: If it is something else.
    """
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in cast("list[Any]", value)):
        raise Unavailable("fal answered with something else than a list of entries.")
    return cast("list[dict[str, Any]]", value)


def json_object(value: Any) -> dict[str, Any]:
    """`value` if it is a JSON object, else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
