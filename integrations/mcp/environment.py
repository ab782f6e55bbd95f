"""What a server is given of this process's environment: names the person allowed, and nothing else.

`${VAR}`, `${VAR:-default}` and `${env:VAR}` in `env`, `headers`, `args`, `url` and `cwd` are replaced when the server
starts. Allowed are names that begin with `KOSMO_MCP_` and those listed in `KOSMO_MCP_ALLOWED_ENV`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from prefect_kosmokrator.integrations.errors import ConfigurationError
from prefect_kosmokrator.integrations.mcp.config import SECRET_NAME, Server

PASSED_ON = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "TEMP", "TMP", "TZ")
"""What a server gets besides what the SDK passes on: HOME, LOGNAME, PATH, SHELL, TERM and USER."""

MIN_SECRET = 6
_PLAIN_HEADERS = {"accept", "content-type", "user-agent"}
_REFERENCE = re.compile(r"\$\{(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_OTHER_REFERENCE = re.compile(r"\$\{(\w+:(?!-)[^}]*)\}")


@dataclass
class Secrets:
    """Values that must not show up anywhere, and their removal from whatever goes out."""

    values: set[str] = field(default_factory=set[str])

    def add(self, value: str) -> None:
        """Remembers a value; very short ones would black out innocent text."""
        for one in (value, value.removeprefix("Bearer ").removeprefix("Basic ")):
            if len(one) >= MIN_SECRET:
                self.values.add(one)

    def hide(self, value: Any) -> Any:
        """`value` with every secret in its texts replaced."""
        if isinstance(value, str):
            for secret in sorted(self.values, key=len, reverse=True):
                value = value.replace(secret, "***")
            return value
        if not self.values:
            return value
        if isinstance(value, dict):
            return {self.hide(key): self.hide(item) for key, item in cast("dict[str, Any]", value).items()}
        if isinstance(value, list):
            return [self.hide(item) for item in cast("list[Any]", value)]
        return value


def expanded(server: Server) -> tuple[Server, Secrets]:
    """The server with its references replaced, and the secrets among its values.

    Raises:
        ConfigurationError: If a reference names a variable that is not allowed or not set.
    """
    secrets = Secrets()
    env = {name: _text(server, value, f"env.{name}", secrets) for name, value in server.env.items()}
    made = replace(
        server,
        env={**{name: os.environ[name] for name in PASSED_ON if name in os.environ}, **env},
        headers={name: _text(server, value, f"headers.{name}", secrets) for name, value in server.headers.items()},
        args=tuple(_text(server, value, "args", secrets) for value in server.args),
        url=_text(server, server.url, "url", secrets),
        cwd=_text(server, server.cwd, "cwd", secrets) if server.cwd else server.cwd,
    )
    for value in _secret_values(made):
        secrets.add(value)
    return made, secrets


def _text(server: Server, value: str, where: str, secrets: Secrets) -> str:
    """`value` with its references replaced."""

    def put(found: re.Match[str]) -> str:
        name, default = found[1], found[2]
        if name == "workspaceFolder" and server.root is not None:
            return str(server.root)
        known = os.environ.get(name)
        if known is not None and not _is_allowed(name):
            raise _refused(
                server,
                f"{where} refers to the environment variable {name}, which it may not see. To allow it, set "
                f"KOSMO_MCP_ALLOWED_ENV={name} (names separated by commas), or use a variable whose name begins with "
                "KOSMO_MCP_.",
            )
        if not known and default is None:
            raise _refused(server, f"{where} refers to the environment variable {name}, which is not set.")
        if known and SECRET_NAME.search(name):
            secrets.add(known)
        return known or default or ""

    other = _OTHER_REFERENCE.search(value)
    if other and not other[1].startswith("env:"):
        raise _refused(
            server,
            f"{where} uses ${{{other[1]}}}, which nobody is here to answer; use an environment variable such as "
            "${KOSMO_MCP_TOKEN}.",
        )
    return _REFERENCE.sub(put, value)


def _secret_values(server: Server) -> Iterator[str]:
    """Values that are secret by the name they have, wherever they come from."""
    yield from (value for name, value in server.env.items() if SECRET_NAME.search(name))
    yield from (value for name, value in server.headers.items() if name.lower() not in _PLAIN_HEADERS)
    for option, value in zip(("", *server.args), server.args, strict=False):
        name, equals, assigned = value.partition("=")
        if equals and SECRET_NAME.search(name):
            yield assigned
        elif option.startswith("-") and "=" not in option and SECRET_NAME.search(option):
            yield value
    parts = urlsplit(server.url)
    yield parts.password or ""
    yield from (value for name, value in parse_qsl(parts.query) if SECRET_NAME.search(name))


def _refused(server: Server, message: str) -> ConfigurationError:
    return ConfigurationError(f"MCP server {server.name!r}: {message}", provider="mcp")


def _is_allowed(name: str) -> bool:
    listed = re.split(r"[,\s]+", os.environ.get("KOSMO_MCP_ALLOWED_ENV", ""))
    return (name.startswith("KOSMO_MCP_") and name != "KOSMO_MCP_ALLOWED_ENV") or name in listed
