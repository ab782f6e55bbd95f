"""Which files, addresses and stores a script may name. The host acts with its own rights, so it has to look.

A path reaches the host as text: without a check, `upload_file{file_path = "/proc/self/environ"}` would hand out every
secret of the process.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from prefect_kosmokrator.integrations import output
from prefect_kosmokrator.integrations.download import is_public
from prefect_kosmokrator.integrations.errors import InvalidInput


class Confinement:
    """The reach of one script.

    Args:
        roots: Folders from which files may be read; relative paths start at the first.
        store: The run's own output store; files in it may be read and written.
    """

    def __init__(self, roots: Iterable[Path], store: str | None = None) -> None:
        self._roots = [root.resolve() for root in roots]
        self._store = store
        self._addresses: set[str] = set()

    def learn(self, address: str | None, trusted_hosts: Collection[str] = ()) -> None:
        """Permits a web address that a service returned, so that results may be passed on.

        Not one inside this network, unless the account itself is set up there: what a model answers is its author's.
        """
        if not address or not address.startswith(("http://", "https://")):
            return
        host = urlsplit(address).hostname or ""
        if host in trusted_hosts or is_public(host):
            self._addresses.add(address)

    def learn_stored(self, address: str | None) -> None:
        """Permits the address of a file that this run stored."""
        if address:
            self._addresses.add(address)

    def file(self, parameter: str, value: str) -> str | Path:
        """The file that `value` names, if the script may read it.

        Raises:
            InvalidInput: If it is outside the permitted folders, hidden, no regular file, or a foreign address.
        """
        if value in self._addresses:
            return value
        if "://" in value:
            scheme = urlsplit(value).scheme
            if scheme == "file":
                return self._path(parameter, output.file_path(value))
            if self._in_store(value):
                return value
            raise InvalidInput(
                f"{parameter}: a script may only name addresses that a function returned in this run, "
                f"and files of its own output store; {value.partition('?')[0]!r} is neither.",
                parameter=parameter,
            )
        return self._path(parameter, Path(value))

    def output(self, value: str) -> str:
        """The output store that `value` names, if the script may write to it: a saved one, or one inside its reach.

        Raises:
            InvalidInput: If it is outside.
        """
        if "://" not in value or self._in_store(value):
            return value
        if value.startswith("file://") and "\0" not in value:
            folder = output.file_path(value).resolve()
            inside = next((root for root in self._roots if folder.is_relative_to(root)), None)
            if inside and not any(part.startswith(".") for part in folder.relative_to(inside).parts):
                return value
        raise InvalidInput(
            f"output: a script may only store files in saved output stores, below the run's own output and below the "
            f"folders it may read; {value!r} is outside.",
            parameter="output",
        )

    def _in_store(self, value: str) -> bool:
        if self._store is None or "://" not in self._store or ".." in value.split("/"):
            return False
        if self._store.startswith("file://") and value.startswith("file://"):
            return output.file_path(value).resolve().is_relative_to(output.file_path(self._store).resolve())
        return value == self._store or value.startswith(self._store.rstrip("/") + "/")

    def _path(self, parameter: str, path: Path) -> Path:
        try:
            absolute = path if path.is_absolute() else (self._roots or [Path.cwd()])[0] / path
            resolved = absolute.resolve()
            found = resolved.stat()
        except (OSError, ValueError, RuntimeError):
            raise InvalidInput(
                f"{parameter}: the file {str(path)[:200]!r} does not exist.", parameter=parameter
            ) from None
        inside = next((root for root in self._roots if resolved.is_relative_to(root)), None)
        if inside is None and self._in_store(resolved.as_uri()):
            return resolved
        if inside is None:
            allowed = ", ".join(str(root) for root in self._roots) or "none"
            raise InvalidInput(
                f"{parameter}: {str(path)!r} is outside the folders a script may read ({allowed}).", parameter=parameter
            )
        if any(part.startswith(".") for part in resolved.relative_to(inside).parts):
            raise InvalidInput(f"{parameter}: {str(path)!r} is hidden; a script may not read it.", parameter=parameter)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidInput(f"{parameter}: {str(path)!r} is not a regular file.", parameter=parameter)
        return resolved
