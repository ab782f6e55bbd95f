"""Files the emulator holds: uploads and generated media, on disk so that large ones cost no memory."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from prefect_kosmokrator.integrations.emulator.clock import Clock

CHUNK = 256 * 1024
_FILLER = bytes(range(256)) * (CHUNK // 256)


@dataclass
class StoredFile:
    """One file.

    Attributes:
        id: Identifier, part of its address.
        name: File name, the last segment of its address.
        content_type: As uploaded or generated.
        size: Bytes.
        sha256: Hash of the content; empty for synthetic files.
        origin: ``upload`` or ``output``.
        account: Who owns it.
        created: When, in seconds since the epoch.
        expires: When it can no longer be downloaded; ``None`` for never.
        path: Where it lies; ``None`` for a synthetic file, whose bytes are made while they are sent.
        caption: Prompt or description, for the index page.
        operation: What made it, such as ``generate/core``.
    """

    id: str
    name: str
    content_type: str
    size: int
    sha256: str
    origin: str
    account: str
    created: float
    expires: float | None
    path: Path | None
    caption: str = ""
    operation: str = ""

    def read(self) -> bytes:
        """The whole content."""
        return self.path.read_bytes() if self.path else b"".join(self.chunks())

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The content, or the bytes from ``start`` to before ``stop``, piece by piece."""
        end = self.size if stop is None else min(stop, self.size)
        if self.path is None:
            # The filler repeats every 256 bytes, so that a range starts inside one repetition.
            for place in range(start, end, CHUNK):
                yield (_FILLER[place % 256 :] + _FILLER[: place % 256])[: min(CHUNK, end - place)]
            return
        with self.path.open("rb") as file:
            file.seek(start)
            while (left := end - file.tell()) > 0 and (piece := file.read(min(CHUNK, left))):
                yield piece


@dataclass
class MultipartUpload:
    """A large upload in progress.

    Attributes:
        id: Identifier the service calls ``uploadId``.
        file: The file it becomes.
        parts: Size and entity tag of each part received, by its number.
    """

    id: str
    file: StoredFile
    parts: dict[int, str] = field(default_factory=dict[int, str])


class FileStore:
    """All files, in a temporary folder that disappears with the store."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._folder = Path(tempfile.mkdtemp(prefix="kosmo-emulator-"))
        self._cleanup = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self.files: dict[str, StoredFile] = {}
        self.uploads: dict[str, MultipartUpload] = {}

    def close(self) -> None:
        """Remove every file."""
        self._cleanup()

    def reserve(self, name: str, content_type: str, *, account: str, origin: str, lifetime: float | None) -> StoredFile:
        """Make an empty file that is not listed yet; ``commit`` lists it once it is written."""
        now = self._clock.time()
        identifier = uuid4().hex
        return StoredFile(
            id=identifier,
            name=Path(name).name.strip(".") or "upload.bin",
            content_type=content_type,
            size=0,
            sha256="",
            origin=origin,
            account=account,
            created=now,
            expires=None if lifetime is None else now + lifetime,
            path=self._folder / identifier,
        )

    def commit(self, file: StoredFile) -> StoredFile:
        """Measure, hash and list a written file."""
        if file.path is not None:
            digest = hashlib.sha256()
            with file.path.open("rb") as content:
                while piece := content.read(CHUNK):
                    digest.update(piece)
            file.size, file.sha256 = file.path.stat().st_size, digest.hexdigest()
        self.files[file.id] = file
        return file

    def add(
        self,
        content: bytes,
        name: str,
        content_type: str,
        *,
        account: str,
        origin: str = "output",
        lifetime: float | None = None,
        caption: str = "",
        operation: str = "",
    ) -> StoredFile:
        """Store bytes."""
        file = self.reserve(name, content_type, account=account, origin=origin, lifetime=lifetime)
        file.caption, file.operation = caption, operation
        if file.path is not None:
            file.path.write_bytes(content)
        return self.commit(file)

    def add_synthetic(self, size: int, name: str, content_type: str, *, account: str) -> StoredFile:
        """List a file of any size whose content is made while it is downloaded."""
        file = self.reserve(name, content_type, account=account, origin="output", lifetime=None)
        file.path, file.size = None, size
        return self.commit(file)

    def find(self, identifier: str) -> StoredFile | None:
        """A file by its identifier, unless it has expired."""
        file = self.files.get(identifier)
        expired = file is not None and file.expires is not None and file.expires <= self._clock.time()
        return None if expired else file

    def part_path(self, upload: MultipartUpload, number: int) -> Path:
        """Where one part of a multipart upload lies."""
        return self._folder / f"{upload.id}.{number}"

    def assemble(self, upload: MultipartUpload, numbers: list[int]) -> StoredFile:
        """Join parts into the file and forget the upload."""
        if upload.file.path is None:
            raise ValueError("a synthetic file has no parts")
        with upload.file.path.open("wb") as whole:
            for number in numbers:
                part = self.part_path(upload, number)
                with part.open("rb") as piece:
                    shutil.copyfileobj(piece, whole, CHUNK)
        for number in upload.parts:
            self.part_path(upload, number).unlink(missing_ok=True)
        del self.uploads[upload.id]
        return self.commit(upload.file)


async def receive_into(path: Path, stream: AsyncIterator[bytes]) -> str:
    """Write a request body to disk piece by piece and return its MD5, which serves as entity tag."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("wb") as file:  # the pieces are small and the folder is local
        async for piece in stream:
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()
