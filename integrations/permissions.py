"""What scripts and commands may do: read and write, each `allow`, `ask` or `deny`, for each provider."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from prefect_kosmokrator.integrations.catalog import Operation
from prefect_kosmokrator.integrations.errors import ConfigurationError

Permission = Literal["allow", "ask", "deny"]


@dataclass(frozen=True)
class Permissions:
    """What is permitted where nobody is there to be asked.

    `KOSMO_PERMISSIONS__<PROVIDER>__READ` and `__WRITE` come first, then `rules`, then the defaults.

    Attributes:
        read: For providers without a rule.
        write: For providers without a rule.
        rules: By provider and operation: `{"fal": {"write": "allow"}}`.
        force: Whether `ask` means yes; `deny` stays final.
    """

    read: Permission = "allow"
    write: Permission = "ask"
    rules: Mapping[str, Mapping[str, Permission]] = field(default_factory=dict[str, Mapping[str, Permission]])
    force: bool = False

    def of(self, provider: str, operation: Operation) -> Permission:
        """The permission for an operation of a provider.

        Raises:
            ConfigurationError: If the setting is none of allow, ask, deny.
        """
        variable = f"KOSMO_PERMISSIONS__{provider.upper()}__{operation.upper()}"
        value = os.environ.get(variable, "").strip().lower()
        source = variable
        if not value:
            source = f"permissions[{provider!r}][{operation!r}]"
            value = self.rules.get(provider, {}).get(operation, self.read if operation == "read" else self.write)
        if value not in get_args(Permission):
            raise ConfigurationError(f"{source} is {value!r}; it must be allow, ask or deny.", provider=provider)
        return cast("Permission", value)

    def require(self, provider: str, operation: Operation) -> bool:
        """Raises unless the operation is permitted; returns whether `force` was what permitted it.

        Raises:
            ConfigurationError: If it is denied, or would have to be asked for.
        """
        permission = self.of(provider, operation)
        variable = f"KOSMO_PERMISSIONS__{provider.upper()}__{operation.upper()}"
        if permission == "deny":
            raise ConfigurationError(f"Integration '{provider}' {operation} access denied ({variable}).")
        if permission == "ask" and not self.force:
            raise ConfigurationError(
                f"Integration '{provider}' {operation} requires approval. Use --force for this run, or set "
                f"{variable}=allow."
            )
        return permission == "ask"
