"""The commands that show what there is and how it is set up. None of them sends a request."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from prefect_kosmokrator.integrations import accounts, docs
from prefect_kosmokrator.integrations.accounts import Account
from prefect_kosmokrator.integrations.catalog import Function, Provider
from prefect_kosmokrator.integrations.cli_output import FAILURE, SUCCESS, write, write_json
from prefect_kosmokrator.integrations.errors import ConfigurationError, InvalidInput
from prefect_kosmokrator.integrations.permissions import Permissions
from prefect_kosmokrator.integrations.providers import PROVIDERS

COMPATIBILITY = {
    "auth_strategy": "api_key",
    "cli_setup_supported": False,
    "cli_runtime_supported": True,
    "compatibility_summary": "Set up by environment variables; runs from the command line.",
}
"""What other front ends ask of a provider; the same for all of this pack."""

Json = Annotated[bool, Parameter(name="--json", help="Print one JSON document.")]


def list_functions(*, as_json: Json = False) -> int:
    """List providers and their functions."""
    if as_json:
        write_json({"success": True, "providers": {p.name: _provider_row(p, functions=True) for p in _all()}})
    else:
        write(docs.list_pages())
    return SUCCESS


def status(*, as_json: Json = False) -> int:
    """Show the accounts and permissions of each provider."""
    rows = {provider.name: _provider_row(provider, functions=False) for provider in _all()}
    if as_json:
        write_json({"success": True, "providers": rows})
        return SUCCESS
    for name, row in rows.items():
        state = f"accounts: {', '.join(row['accounts'])}" if row["configured"] else "no account"
        allowed = ", ".join(f"{operation} {permission}" for operation, permission in row["permissions"].items())
        write(f"{name:<12} {state}; {allowed}; {row['functions']} functions")
    return SUCCESS


def search(
    word: Annotated[str, Parameter(help="Words: part of a name, or of what it does.")],
    /,
    *more: Annotated[str, Parameter(show=False)],
    as_json: Json = False,
) -> int:
    """Find functions by words."""
    query = " ".join((word, *more))
    if as_json:
        write_json({"success": True, "query": query, "functions": [function_row(f) for f in docs.find(query)]})
    else:
        write(docs.search(query))
    return SUCCESS


def show_docs(
    page: Annotated[str | None, Parameter(help="A provider, or a function such as stability.get_account.")] = None,
    /,
    *,
    style: Annotated[
        Literal["text", "markdown", "json"], Parameter(name="--format", help="Form of the page.")
    ] = "text",
    as_json: Json = False,
) -> int:
    """Show a page of the documentation.

    The same pages as docs.read in Lua; without a name, the list of them.
    """
    return docs_page(page, as_json=as_json or style == "json")


def docs_page(page: str | None, *, as_json: bool) -> int:
    """Prints a page; without a name, the list of pages."""
    text = docs.list_pages() if page is None else docs.read(page)
    if not as_json:
        write(text.rstrip("\n"))
        return SUCCESS
    functions, is_function = _functions_of(page)
    if is_function:
        write_json({"success": True, **function_row(functions[0]), "page": page, "text": text})
    else:
        write_json({"success": True, "page": page, "text": text, "functions": [function_row(f) for f in functions]})
    return SUCCESS


def examples(
    page: Annotated[str, Parameter(help="A provider, or a function such as stability.get_account.")],
    /,
    *,
    as_json: Json = False,
) -> int:
    """Show examples in Lua, Python and shell."""
    docs.read(page)  # says what there is, if this is no page
    functions, _ = _functions_of(page)
    texts = {_name(f): docs.function_page(f).partition("## Examples\n\n")[2].rstrip("\n") for f in functions}
    if as_json:
        write_json({"success": True, "page": page, "examples": texts})
    else:
        write("\n\n".join(f"# {name}\n\n{text}" for name, text in texts.items()))
    return SUCCESS


def schema(
    function: Annotated[str, Parameter(help="A function such as stability.get_account.")], /, *, as_json: Json = False
) -> int:
    """Print the JSON schema of a function's arguments."""
    del as_json  # it is JSON anyway
    write_json(resolve(function)[0].schema)
    return SUCCESS


def fields(
    provider: Annotated[str, Parameter(help="A provider such as stability.")],
    /,
    *,
    account: Annotated[str, Parameter(help="The account to show settings for.")] = "default",
    as_json: Json = False,
) -> int:
    """Show the settings of an account, and which are set."""
    found = _provider(provider)
    prefix = f"KOSMO_{found.name.upper()}__{accounts.normalise(account).upper().replace('-', '_')}__"
    known = _account(found, account)
    rows: list[dict[str, Any]] = []
    for key, field in found.account.model_fields.items():
        if key == "name":
            continue
        also = f" or {found.vendor_variable}" if key == "api_key" and accounts.normalise(account) == "default" else ""
        default = f" {field.default} unless set." if not field.is_required() else ""
        row = {
            "key": key,
            "label": key.replace("_", " ").replace("url", "URL").replace("api", "API"),
            "type": "secret" if key == "api_key" else "url",
            "required": field.is_required(),
            "configured": isinstance(known, Account) and key in known.model_fields_set,
            "variable": f"{prefix}{key.upper()}",
            "description": f"Set by {prefix}{key.upper()}{also}.{default}",
        }
        rows.append(row)
    if as_json:
        names = _account_names(found)
        head = {"success": True, "provider": found.name, "account": account, "accounts": names, **COMPATIBILITY}
        write_json({**head, "fields": rows, "example": f"export {prefix}API_KEY=..."})
        return SUCCESS
    for row in rows:
        state = "set" if row["configured"] else "required" if row["required"] else "default"
        write(f"{row['variable']:<40} {state:<9} {row['description']}")
    return SUCCESS


def doctor(
    provider: Annotated[str | None, Parameter(help="A provider; all without it.")] = None, /, *, as_json: Json = False
) -> int:
    """Check accounts, keys and permissions.

    Nothing is sent. Exit code 1 tells that something has to be set up first.
    """
    checked = _all() if provider is None else [_provider(provider)]
    rows = {found.name: _diagnosis(found) for found in checked}
    # Of several providers, those that nobody set up are no problem.
    relevant = [row for row in rows.values() if provider is not None or row["accounts"] or row["problems"]]
    healthy = bool(relevant) and all(row["active"] for row in relevant)
    if as_json:
        document = next(iter(rows.values())) if provider is not None else {"providers": rows}
        error = None if healthy else "; ".join(problem for row in rows.values() for problem in row["problems"])
        write_json({"success": healthy, **document, "error": error or (None if healthy else "No account is set up.")})
    else:
        write("\n\n".join(_diagnosis_text(row) for row in rows.values()))
    return SUCCESS if healthy else FAILURE


def _diagnosis(provider: Provider) -> dict[str, Any]:
    problems: list[str] = []
    names: list[str] = []
    permissions: dict[str, str] = {}
    try:
        names = _account_names(provider)
    except ConfigurationError as error:
        problems.append(str(error))
    for name in names:
        problem = _account(provider, name)
        if isinstance(problem, ConfigurationError):
            problems.append(str(problem))
    for operation in ("read", "write"):
        try:
            permissions[operation] = Permissions().of(provider.name, operation)
        except ConfigurationError as error:
            permissions[operation] = "?"
            problems.append(str(error))
    variable = provider.vendor_variable or f"KOSMO_{provider.name.upper()}__DEFAULT__API_KEY"
    steps = [f"kosmo integrations:{provider.name} get_balance"] if provider.find("get_balance") and names else []
    if not names:
        steps = [f"export {variable}=...", f"kosmo integrations:fields {provider.name}"]
    return {
        "provider": provider.name,
        "enabled": True,
        "configured": bool(names),
        "active": bool(names) and not problems,
        "missing_credentials": [] if names else ["api_key"],
        "accounts": names,
        "permissions": permissions,
        "problems": problems,
        "function_count": len(provider.functions),
        "example_functions": [_name(f) for f in list(provider.functions.values())[:3]],
        "next_commands": steps,
    }


def _diagnosis_text(row: dict[str, Any]) -> str:
    lines = [f"{row['provider']}: {'ready' if row['active'] else 'not set up' if not row['problems'] else 'problems'}"]
    lines += [f"  account {name}: key set" for name in row["accounts"]]
    lines += [f"  {operation}: {permission}" for operation, permission in row["permissions"].items()]
    lines += [f"  problem: {problem}" for problem in row["problems"]]
    lines += [f"  next: {command}" for command in row["next_commands"]]
    return "\n".join(lines)


def resolve(name: str, provider: str | None = None) -> tuple[Function, str | None]:
    """The function and, if it is part of the name, the account: `stability.work.get_balance`.

    Args:
        name: Any spelling that Lua and the guides use, with or without `app.integrations.` before it.
        provider: The only provider it may belong to.

    Raises:
        InvalidInput: If there is none; the message names the closest.
    """
    parts = name.strip().removeprefix("app.").removeprefix("integrations.").split(".")
    found = PROVIDERS.get(parts[0])
    if found is None and len(parts) == 1:
        for each in _all():
            if (function := each.functions.get(name.removeprefix(f"{each.name}_"))) and function.slug == name:
                return function, None
    if found is None or (provider is not None and found.name != provider):
        raise InvalidInput(f"Unknown function {name!r}. {_suggestion(name, provider)}")
    function = found.find(parts[-1]) if len(parts) in {2, 3} else None
    if function is None:
        raise InvalidInput(f"Unknown function {name!r}. {_suggestion(parts[-1], found.name)}")
    return function, parts[1] if len(parts) == 3 else None


def _suggestion(name: str, provider: str | None) -> str:
    if provider is not None:
        names = [f"{provider}.{close}" for close in PROVIDERS[provider].closest(name)]
        return f"Did you mean: {', '.join(names)}?" if names else f"See: kosmo integrations:docs {provider}"
    known = {_name(f): _name(f) for p in _all() for f in p.functions.values()}
    known |= {alias: _name(f) for p in _all() for f in p.functions.values() for alias in f.aliases}
    close = list(dict.fromkeys(known[match] for match in get_close_matches(name, known, n=3)))
    if close:
        return f"Did you mean: {', '.join(close)}?"
    return f"Functions are named PROVIDER.FUNCTION; the providers are {', '.join(PROVIDERS)}."


def function_row(function: Function) -> dict[str, Any]:
    """A function as JSON."""
    names = _account_names(function.provider, tolerant=True)
    return {
        "provider": function.provider.name,
        "function": function.name,
        "name": _name(function),
        "slug": function.slug,
        "aliases": list(function.aliases),
        "title": function.title,
        "description": function.description,
        "operation": function.operation,
        "cost": function.cost,
        "returns": function.returns,
        "active": bool(names),
        "configured": bool(names),
        "accounts": names,
        **COMPATIBILITY,
        "input_schema": function.schema,
    }


def _provider_row(provider: Provider, *, functions: bool) -> dict[str, Any]:
    names = _account_names(provider, tolerant=True)
    permissions = Permissions()
    listed = provider.functions.values()
    return {
        "title": provider.title,
        "active": bool(names),
        "configured": bool(names),
        "accounts": names,
        "permissions": {operation: permissions.of(provider.name, operation) for operation in ("read", "write")},
        **COMPATIBILITY,
        "functions": [function_row(function) for function in listed] if functions else len(listed),
    }


def _functions_of(page: str | None) -> tuple[list[Function], bool]:
    """The functions a page is about, and whether it is the page of one function."""
    if page is None:
        return [f for provider in _all() for f in provider.functions.values()], False
    parts = page.strip().removeprefix("app.").removeprefix("integrations.").split(".")
    provider = PROVIDERS[parts[0]]
    function = provider.find(parts[-1]) if len(parts) > 1 else None
    return ([function], True) if function else (list(provider.functions.values()), False)


def check_account(provider: Provider, name: str) -> None:
    """Raises unless the account is set up.

    Raises:
        ConfigurationError: If there is no such account, or one of its settings is wrong.
    """
    found = _account(provider, name)
    if isinstance(found, ConfigurationError):
        raise found


def _account(provider: Provider, name: str) -> Account | ConfigurationError:
    try:
        return accounts.find(provider.name, provider.account, name, provider.vendor_variable)
    except ConfigurationError as error:
        return error


def _account_names(provider: Provider, *, tolerant: bool = False) -> list[str]:
    try:
        return accounts.names(provider.name, provider.vendor_variable)
    except ConfigurationError:
        if tolerant:  # the doctor says what is wrong
            return []
        raise


def _all() -> list[Provider]:
    return list(PROVIDERS.values())


def _provider(name: str) -> Provider:
    if name not in PROVIDERS:
        raise InvalidInput(f"Unknown provider {name!r}. The providers are {', '.join(PROVIDERS)}.")
    return PROVIDERS[name]


def _name(function: Function) -> str:
    return f"{function.provider.name}.{function.name}"
