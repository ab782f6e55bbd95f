"""Serves a local output folder to browsers, which do not open local files from a web page such as the Prefect UI."""

from __future__ import annotations

import html
import os
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from prefect_kosmokrator.integrations.serving import Server

NEWEST = 200
"""Pictures on the index page."""


class Gallery:
    """Serves `folder` read-only while the `with` block runs.

    Args:
        folder: The folder; made if it does not exist.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
    """

    def __init__(self, folder: Path, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        files = _Files(directory=self.folder)
        routes = [Route("/", self._index), Mount("/", files)]
        self._server = Server(Starlette(routes=routes), host=host, port=port)
        self.url = self._server.url

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)

    def _index(self, request: Request) -> HTMLResponse:  # noqa: ARG002 - the protocol of routes
        previews = sorted(self.folder.rglob("*-preview.webp"), key=lambda path: path.stat().st_mtime, reverse=True)
        cells = [self._cell(path) for path in previews[:NEWEST]]
        return HTMLResponse(_PAGE.format(title=html.escape(str(self.folder)), cells="\n".join(cells)))

    def _cell(self, preview: Path) -> str:
        stem = preview.name.removesuffix("-preview.webp")
        full = next(
            (path for path in preview.parent.glob(f"{stem}.*") if path.suffix != ".json"),
            preview,
        )
        made = datetime.fromtimestamp(full.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M")
        small, large = (html.escape(path.relative_to(self.folder).as_posix()) for path in (preview, full))
        picture = f'<a href="{large}"><img src="{small}" alt=""></a>'
        return f"<figure>{picture}<figcaption>{large}<br>{made}</figcaption></figure>"


class _Files(StaticFiles):
    """The folder without what begins with a dot, such as the ledger."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        hidden = any(part.startswith(".") for part in Path(path).parts)
        return ("", None) if hidden else super().lookup_path(path)


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Gallery</title>
<style>
body{{font:15px system-ui,sans-serif;margin:2rem;background:#111;color:#ddd}} h1{{font-size:1.2rem;font-weight:500}}
main{{display:grid;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));gap:1.5rem}} figure{{margin:0}}
img{{width:100%;border-radius:8px}} figcaption{{font-size:.75rem;color:#999;overflow-wrap:anywhere}}
</style><h1>{title}</h1><main>{cells}</main></html>
"""
