"""Output stores: where generated files go. `s3://` through boto3 (any endpoint) and `file://` for local folders.

A store is addressed by a URL prefix (`s3://bucket/lamps`, `file://./outputs`) or by the name of a saved one.
Names are resolved by `finders`; `prefect_kosmokrator.blocks` adds the one that loads the Prefect block of that name.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from pydantic import SecretStr

from prefect_kosmokrator.integrations.errors import ConfigurationError, InvalidInput, StorageError

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

DEFAULT_OUTPUT = "file://./outputs"


@dataclass(frozen=True)
class OutputStore:
    """One place for files: a URL prefix and, for S3, how to reach it.

    Attributes:
        url: `s3://bucket/prefix` or `file:///folder` (relative folders as `file://./folder`).
        endpoint_url: S3 endpoint for stores other than AWS; None for AWS.
        access_key_id: With `secret_access_key`, explicit credentials; otherwise boto3's own chain.
        secret_access_key: See `access_key_id`.
        region: S3 region; None for boto3's own choice.
    """

    url: str
    endpoint_url: str | None = None
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    region: str | None = None

    def __post_init__(self) -> None:
        if "\0" in self.url or (
            not (self.url.startswith("s3://") and split_s3(self.url)[0]) and not _is_file_url(self.url)
        ):
            raise InvalidInput(
                f"output {self.url!r} is neither the name of a saved output store nor a URL prefix "
                "such as 's3://bucket/folder' or 'file://./outputs'.",
                parameter="output",
            )

    @property
    def is_s3(self) -> bool:
        """Whether files go to S3."""
        return self.url.startswith("s3://")

    @cached_property
    def s3(self) -> S3Client:
        """The boto3 client of this store."""
        return _s3_client(
            self.endpoint_url or os.environ.get("KOSMO_OUTPUT_ENDPOINT_URL") or None,
            self.access_key_id,
            self.secret_access_key.get_secret_value() if self.secret_access_key else None,
            self.region,
        )

    def put(self, source: bytes | Path, key: str, content_type: str) -> str:
        """Stores `source` (bytes, or the file at a path) under `key` and returns its address.

        Keys are content-addressed by the caller, so writing one twice is harmless. Files above 8 MiB go to S3 in
        parts through boto3's transfer manager, with flat memory.

        Raises:
            StorageError: After boto3's own retries, naming the bucket or folder and the reason.
        """
        uri = f"{self.url.rstrip('/')}/{key}"
        try:
            if self.is_s3:
                bucket, name = split_s3(uri)
                extra = {"ContentType": content_type}
                if isinstance(source, bytes):
                    self.s3.upload_fileobj(BytesIO(source), bucket, name, ExtraArgs=extra)
                else:
                    self.s3.upload_file(str(source), bucket, name, ExtraArgs=extra)
                return uri
            target = file_path(uri)
            write_file(source, target)
            return target.as_uri()
        except Exception as error:
            raise _storage_error("store", uri, error) from error

    def fetch(self, uri: str, target: Path) -> None:
        """Copies the stored file `uri` to the local path `target`.

        Raises:
            StorageError: If it is missing or cannot be read.
        """
        try:
            if uri.startswith("s3://"):
                self.s3.download_file(*split_s3(uri), str(target))
            else:
                shutil.copyfile(file_path(uri), target)
        except Exception as error:
            raise _storage_error("read", uri, error) from error

    def get(self, key: str) -> bytes | None:
        """The small file under `key`, None if there is none.

        Raises:
            StorageError: If the store does not answer.
        """
        uri = f"{self.url.rstrip('/')}/{key}"
        try:
            if self.is_s3:
                bucket, name = split_s3(uri)
                return self.s3.get_object(Bucket=bucket, Key=name)["Body"].read()
            return file_path(uri).read_bytes()
        except FileNotFoundError:
            return None
        except Exception as error:
            if _code(error) in {"NoSuchKey", "404"}:
                return None
            raise _storage_error("read", uri, error) from error

    def put_new(self, key: str, content: bytes) -> bool:
        """Stores `content` under `key` unless something is there: of several at a time, exactly one gets True.

        An S3 store without conditional writes is asked first, which leaves a moment in which two may get True.

        Raises:
            StorageError: If the store does not answer.
        """
        uri = f"{self.url.rstrip('/')}/{key}"
        try:
            if not self.is_s3:
                return _write_new(content, file_path(uri))
            bucket, name = split_s3(uri)
            try:
                self.s3.put_object(Bucket=bucket, Key=name, Body=content, IfNoneMatch="*")
            except Exception as error:
                if _code(error) in {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}:
                    return self.get(key) == content  # a repetition by boto3, whose first answer was lost
                if _code(error) not in {"NotImplemented", "501"}:
                    raise
                if (found := self.get(key)) is not None:
                    return found == content
                self.s3.put_object(Bucket=bucket, Key=name, Body=content)
        except StorageError:
            raise
        except Exception as error:
            raise _storage_error("store", uri, error) from error
        return True

    def remove(self, key: str) -> None:
        """Removes the file under `key`, if there is one.

        Raises:
            StorageError: If the store does not answer.
        """
        uri = f"{self.url.rstrip('/')}/{key}"
        try:
            if self.is_s3:
                bucket, name = split_s3(uri)
                self.s3.delete_object(Bucket=bucket, Key=name)
            else:
                file_path(uri).unlink(missing_ok=True)
        except Exception as error:
            raise _storage_error("remove", uri, error) from error

    def keys(self, prefix: str) -> list[str]:
        """The keys of all files below the folder `prefix`, sorted.

        Raises:
            StorageError: If the store does not answer.
        """
        uri = f"{self.url.rstrip('/')}/{prefix}"
        try:
            if self.is_s3:
                bucket, name = split_s3(uri)
                pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{name.rstrip('/')}/")
                found = [entry.get("Key", "") for page in pages for entry in page.get("Contents", [])]
                return sorted(key[len(split_s3(self.url.rstrip("/") + "/")[1]) :] for key in found)
            root = file_path(self.url)
            paths = (path for path in file_path(uri).rglob("*") if path.is_file() and path.name[0] != ".")
            return sorted(path.relative_to(root).as_posix() for path in paths)
        except Exception as error:
            raise _storage_error("list", uri, error) from error

    def link(self, uri: str, expires: int = 7 * 24 * 3600) -> str | None:
        """An address at which a browser can open the stored file `uri`.

        S3 addresses are presigned for `expires` seconds, at most seven days. A browser does not open local files from a
        web page: for those below the default output folder, `KOSMO_GALLERY_URL` names the address at which
        `kosmo gallery` serves that folder. None when there is no such address.
        """
        if uri.startswith("s3://"):
            bucket, key = split_s3(uri)
            return self.s3.generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=min(expires, 7 * 24 * 3600)
            )
        gallery, root = os.environ.get("KOSMO_GALLERY_URL", "").rstrip("/"), default_output()
        if gallery and root.startswith("file://") and file_path(uri).is_relative_to(file_path(root)):
            return f"{gallery}/{quote(file_path(uri).relative_to(file_path(root)).as_posix())}"
        return None

    def check(self) -> None:
        """Writes, reads back and removes a small file.

        Raises:
            StorageError: If any of that fails.
        """
        with tempfile.TemporaryDirectory() as folder:
            uri = self.put(b"kosmo", ".kosmo-check", "text/plain")
            self.fetch(uri, Path(folder, "back"))
        self.remove(".kosmo-check")


finders: list[Callable[[str], OutputStore | None]] = []
"""Look-ups of saved output stores by name, asked in order."""


def resolve(output: str) -> OutputStore:
    """The store that `output` means: a URL prefix, or the name of a saved store.

    Raises:
        InvalidInput: If it is neither.
    """
    if "://" not in output:
        for find in finders:
            store = find(output)
            if store is not None:
                return store
    return OutputStore(output)


def default_output() -> str:
    """`KOSMO_OUTPUT`, or the folder `outputs` under the working directory."""
    return os.environ.get("KOSMO_OUTPUT") or DEFAULT_OUTPUT


def split_s3(uri: str) -> tuple[str, str]:
    """Bucket and key of an `s3://` address."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def file_path(uri: str) -> Path:
    """The local path of a `file://` address; `file://./x` and `file://~/x` are relative to the folder and home.

    Everything after the host belongs to the path: `#` and `?` are ordinary characters of file names.

    Raises:
        ConfigurationError: If the address names another machine.
    """
    host, slash, rest = uri.removeprefix("file://").partition("/")
    if host in {"", "localhost"} and slash:
        return Path(unquote("/" + rest))
    if host in {".", "..", "~"}:
        return Path(host + unquote(slash + rest)).expanduser().resolve()
    raise ConfigurationError(
        f"{uri!r} names the host {host!r}. Write file:///folder for an absolute folder "
        "or file://./folder for one under the working directory."
    )


def _is_file_url(url: str) -> bool:
    try:
        return url.startswith("file://") and bool(file_path(url))
    except ConfigurationError:
        return False


def write_file(source: bytes | Path, target: Path) -> None:
    """Writes `target` so that no reader ever sees half a file, also after a crash: beside it first, then renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".partial-", delete=False) as partial:
        try:
            with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
                shutil.copyfileobj(stream, partial, 1024 * 1024)
            _flush(partial)
            partial.close()
            Path(partial.name).chmod(0o644)
            Path(partial.name).replace(target)
        except BaseException:
            Path(partial.name).unlink(missing_ok=True)
            raise


def _write_new(content: bytes, target: Path) -> bool:
    """Writes `target` as `write_file` does, unless it exists."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".partial-", delete=False) as partial:
        try:
            partial.write(content)
            _flush(partial)
            partial.close()
            try:
                os.link(partial.name, target)  # unlike a rename, a link never replaces what is there
            except FileExistsError:
                raise
            except OSError:  # no hard links here
                target.touch(exist_ok=False)
                Path(partial.name).replace(target)
        except FileExistsError:
            return False
        finally:
            Path(partial.name).unlink(missing_ok=True)
    return True


def _flush(file: IO[bytes]) -> None:
    """Makes what was written survive a crash of the machine."""
    file.flush()
    os.fsync(file.fileno())


def spool_folder() -> Path:
    """Where paid bytes wait that could not be stored: `KOSMO_SPOOL`, or a folder under the user's cache."""
    configured = os.environ.get("KOSMO_SPOOL")
    return Path(configured) if configured else Path.home() / ".cache" / "prefect-kosmokrator" / "spool"


_client_lock = threading.Lock()


def _s3_client(endpoint_url: str | None, key_id: str | None, secret: str | None, region: str | None) -> S3Client:
    # boto3's default session must not be used from two threads while it builds a client.
    with _client_lock:
        return _cached_s3_client(endpoint_url, key_id, secret, region)


@lru_cache(maxsize=32)
def _cached_s3_client(endpoint_url: str | None, key_id: str | None, secret: str | None, region: str | None) -> S3Client:
    import boto3  # noqa: PLC0415 - a third of a second that calls without S3 need not pay
    from botocore.config import Config  # noqa: PLC0415

    # Path-style addresses: stores other than AWS rarely answer on bucket sub-domains.
    style: Any = {"addressing_style": "path"} if endpoint_url else {}
    # An overload for each of 400 services, of which only S3 has types here.
    connect: Any = boto3.client  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    client: S3Client = connect(
        "s3",
        endpoint_url=endpoint_url,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        region_name=region,
        config=Config(
            signature_version="s3v4",
            s3=style,
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 4},
        ),
    )
    return client


def _code(error: BaseException) -> str:
    """The code of an error that boto3 raised for an S3 answer; empty for other errors."""
    response: Any = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _is_transient(error: BaseException | None) -> bool:
    """Whether the store may work again by itself: it failed, was overloaded or did not answer."""
    if error is None or isinstance(error, OSError):
        return False
    from botocore.exceptions import ConnectionError, HTTPClientError, IncompleteReadError  # noqa: A004, PLC0415 - by now loaded

    response: Any = getattr(error, "response", None)
    if response:
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500 or _code(error) == "SlowDown"
    # The transfer manager wraps what went wrong.
    return isinstance(error, ConnectionError | HTTPClientError | IncompleteReadError) or _is_transient(
        error.__context__
    )


_ADVICE = " Check that the bucket or folder exists and that the credentials of this machine may write to it."


def _storage_error(verb: str, uri: str, error: Exception) -> StorageError:
    is_transient, is_full = _is_transient(error), getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT}
    reason = (str(error) or type(error).__name__).rstrip(".")
    return StorageError(
        f"Could not {verb} {uri}: {reason}." + ("" if is_transient or is_full else _ADVICE),
        uri=uri,
        transient=is_transient,
    )
