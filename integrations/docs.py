"""The documentation of the functions, made from the catalogue and the hand-written guides.

The same pages answer `docs.read` in Lua and `kosmo integrations:docs`, and are committed as Markdown under `docs/`.
"""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from prefect_kosmokrator.integrations import accounts
from prefect_kosmokrator.integrations.catalog import Function, Parameter, Provider
from prefect_kosmokrator.integrations.errors import ConfigurationError, InvalidInput
from prefect_kosmokrator.integrations.providers import PROVIDERS

SEARCH_LIMIT = 20


def read(page: str) -> str:
    """The page of a provider (`stability`) or of a function (`stability.get_account`).

    Every spelling that Lua, the guides or other tools use is understood: aliases, full slugs, the prefixes
    `integrations.` and `app.integrations.`, and an account in between.

    Raises:
        InvalidInput: If there is no such page; the message names the closest ones.
    """
    parts = [
        part for part in re.split(r"[.\s]+", page.strip().removeprefix("app.").removeprefix("integrations.")) if part
    ]
    provider = PROVIDERS.get(parts[0]) if parts else None
    if provider is not None:
        if len(parts) == 1:
            return provider_page(provider)
        function = provider.find(parts[-1])  # what stands between is an account
        if function is not None:
            return function_page(function)
        if len(parts) == 2 and accounts.normalise(parts[1]) in {"default", *_account_names(provider)}:
            return provider_page(provider)
    raise InvalidInput(f"There is no page {page!r}. {_closest(page, provider)}", parameter="page")


def _account_names(provider: Provider) -> list[str]:
    try:
        return accounts.names(provider.name, provider.vendor_variable)
    except ConfigurationError:  # a wrong setting is no reason to refuse a page
        return []


def list_pages() -> str:
    """All pages, a line each."""
    lines: list[str] = []
    for provider in PROVIDERS.values():
        lines.append(f"{provider.name} - {provider.title}: {provider.summary}")
        lines += [f"  {provider.name}.{f.name} - {_sentence(f.description)}" for f in provider.functions.values()]
    return "\n".join(lines)


def find(query: str) -> list[Function]:
    """Functions that fit the words of `query`, best first: a name counts more than a title, a title more than text."""
    words = [word for word in re.findall(r"[a-z0-9]+", query.lower()) if word not in _FILLERS]
    ranked: list[tuple[float, str, Function]] = []
    for provider in PROVIDERS.values():
        for function in provider.functions.values():
            score = _score(function, query.strip().lower(), words)
            if score:
                ranked.append((-score, f"{provider.name}.{function.name}", function))
    return [function for _, _, function in sorted(ranked, key=lambda item: item[:2])[:SEARCH_LIMIT]]


def search(query: str) -> str:
    """Functions that fit `query`, a line each."""
    found = find(query)
    if not found:
        return f"Nothing fits {query!r}. docs.list() lists everything."
    return "\n".join(f"{f.provider.name}.{f.name} - {_sentence(f.description)}" for f in found)


def provider_page(provider: Provider) -> str:
    """The guide of a provider and the table of its functions."""
    guide = files(__package__ or "").joinpath("guides", f"{provider.name}.md").read_text(encoding="utf-8")
    return f"{guide.rstrip()}\n\n## Functions\n\n{function_table(provider)}\n"


def function_table(provider: Provider) -> str:
    """One row for each function: name, parameters, what it does, cost."""
    rows = ["| Function | Reads or writes | What it does | Cost |", "| --- | --- | --- | --- |"]
    for f in provider.functions.values():
        given = ", ".join(p.name if p.required else f"{p.name}?" for p in f.parameters if p.name not in _COMMON)
        rows.append(f"| `{f.name}({given})` | {f.operation} | {_sentence(f.description)} | {f.cost or 'free'} |")
    return "\n".join(rows)


def function_page(function: Function) -> str:
    """Everything about one function."""
    lines = [
        f"# {function.provider.name}.{function.name}",
        "",
        function.description,
        "",
        f"- Operation: {function.operation}",
        f"- Cost: {function.cost or 'free'}",
        f"- Names: {', '.join(f'`{alias}`' for alias in function.aliases)}",
        f"- Returns: {function.returns}",
        f"- Errors: {', '.join(errors_of(function))}",
        "",
        "## Parameters",
        "",
        "| Name | Type | Required | Default | Allowed | Description |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_parameter_row(p) for p in function.parameters),
        "",
        "## Examples",
        "",
        *_examples(function),
    ]
    return "\n".join(lines) + "\n"


def errors_of(function: Function) -> list[str]:
    """The errors a call can end in, by class name."""
    names = {p.name for p in function.parameters}
    errors = ["ConfigurationError", "InvalidInput", "Rejected", "Unavailable"]
    if function.operation == "write":
        errors += ["OutOfCredits"]
        if function.is_paid:
            errors += ["Moderated", "BudgetExceeded", "AmbiguousSubmission", "StorageError"]
    if function.name == "get_result":
        errors.append("JobPending")
    if function.provider.name == "fal" and "output" in names:
        errors.append("JobFailed")
    if "timeout" in names:
        errors.append("DeadlineExceeded")
    if "on_filtered" in names:
        errors.append("ContentFiltered")
    if "output" in names:
        errors.append("StorageError")
    if function.name in {"image_to_video", "get_video_result"}:
        errors.append("EndpointDiscontinued")
    return list(dict.fromkeys(errors))


_FILLERS = {"a", "an", "and", "for", "from", "how", "i", "in", "of", "on", "the", "to", "with"}

_COMMON = {"account", "output", "on_filtered"}


def _parameter_row(p: Parameter) -> str:
    default = "" if p.required or p.default is None else f"`{json.dumps(p.default)}`"
    cells = [f"`{p.name}`", p.type, "yes" if p.required else "no", default, p.allowed, p.description]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def example_arguments(function: Function) -> dict[str, Any]:
    """Arguments for an example call: what is required, and what is needed in practice."""
    return {p.name: p.example for p in function.parameters if p.required or (p.example is not None and p.name in _IDS)}


_IDS = {"request_id"}


def _examples(function: Function) -> list[str]:
    given = example_arguments(function)
    provider = function.provider.name
    lua = ", ".join(f"{name} = {lua_literal(value)}" for name, value in given.items())
    python = ", ".join(f"{name}={json.dumps(value)}" for name, value in given.items())
    shell = "".join(
        f" --{name.replace('_', '-')} '{value if isinstance(value, str) else json.dumps(value)}'"
        for name, value in given.items()
    )
    return [
        "```lua",
        f"local result = app.integrations.{provider}.{function.name}({{ {lua} }})" if lua else
        f"local result = app.integrations.{provider}.{function.name}({{}})",
        "dump(result)",
        "```",
        "",
        "```python",
        f"from prefect_kosmokrator.tasks import {provider}",
        "",
        f"result = {provider}.{function.name}({python})",
        "```",
        "",
        "```bash",
        f"kosmo integrations:{provider} {function.name}{shell}",
        "```",
    ]  # fmt: skip


def lua_literal(value: Any) -> str:
    """`value` as Lua source."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {lua_literal(item)}" for key, item in value.items()) + " }"  # pyright: ignore[reportUnknownVariableType]
    return json.dumps(value, ensure_ascii=False)


def _score(function: Function, query: str, words: list[str]) -> float:
    names = {part for alias in function.aliases for part in alias.split("_")} | {function.provider.name}
    full = f"{function.provider.name}.{function.name}"
    score = 100.0 if query and (query in full or query in function.aliases) else 0.0
    title, text = function.title.lower(), function.description.lower()
    for word in words:
        if word in names:
            score += 20
        elif any(word in name or (len(name) > 3 and name in word) for name in names):
            score += 10
        if word in title:
            score += 5
        if re.search(rf"\b{re.escape(word)}", text):
            score += 3
        if any(word in p.name.split("_") for p in function.parameters):
            score += 1
    return score


def _closest(page: str, provider: Provider | None) -> str:
    names = {provider_name: provider_name for provider_name in PROVIDERS}
    for each in PROVIDERS.values():
        for f in each.functions.values():
            full = f"{each.name}.{f.name}"
            names |= {full: full, **dict.fromkeys(f.aliases, full), f"{each.name}.{f.runtime_name}": full}
    tail = page.strip().rpartition(".")[2]
    candidates = [*get_close_matches(page, names, n=3, cutoff=0.5), *get_close_matches(tail, names, n=3, cutoff=0.5)]
    close = list(dict.fromkeys(names[name] for name in candidates))
    if provider is not None:
        close.sort(key=lambda name: not name.startswith(provider.name))
    if close:
        return f"Closest: {', '.join(close[:3])}."
    return f"The providers are {', '.join(PROVIDERS)}."


def write_files(readme: Path, folder: Path) -> list[Path]:
    """Brings the generated documentation up to date and returns the files that changed.

    Args:
        readme: Its part between the marks is replaced by the function tables.
        folder: Gets a page for each provider with all its functions.
    """
    tables = "\n\n".join(f"### {provider.title}\n\n{function_table(provider)}" for provider in PROVIDERS.values())
    head, mark, rest = readme.read_text(encoding="utf-8").partition(TABLE_START)
    _, end, tail = rest.partition(TABLE_END)
    pages = {readme: f"{head}{mark}\n\n{tables}\n\n{end}{tail}"}
    for provider in PROVIDERS.values():
        functions = [function_page(function).replace("\n## ", "\n#### ") for function in provider.functions.values()]
        text = "\n".join(f"##{page}" for page in functions)
        pages[folder / f"{provider.name}.md"] = f"{GENERATED}\n\n{provider_page(provider)}\n{text}"
    changed = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        path.write_text(pages[path], encoding="utf-8")
    return changed


TABLE_START, TABLE_END = "<!-- functions: made by `make docs` -->", "<!-- end of functions -->"
GENERATED = "<!-- Made by `make docs` from the catalogue and integrations/guides; do not edit. -->"


def _sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".") + "."


if __name__ == "__main__":
    for changed_file in write_files(Path("README.md"), Path("docs")):
        print(f"{changed_file} was out of date.")  # noqa: T201 - a command
