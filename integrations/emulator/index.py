"""The index page: what was generated, what it cost, and every request."""

from __future__ import annotations

import time
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from prefect_kosmokrator.integrations.emulator.control import state_of
from prefect_kosmokrator.integrations.emulator.fal_outputs import thumbnail

if TYPE_CHECKING:
    from starlette.requests import Request

    from prefect_kosmokrator.integrations.emulator.files import StoredFile
    from prefect_kosmokrator.integrations.emulator.ledger import LedgerEntry
    from prefect_kosmokrator.integrations.emulator.state import EmulatorState

_PAGE = Template((Path(__file__).parent / "index.html").read_text(encoding="utf-8"))
_SHOWN_FILES, _SHOWN_REQUESTS = 60, 200
_LARGE = 64 * 1024 * 1024


async def page(request: Request) -> Response:
    """``GET /``."""
    state = state_of(request)
    book = state.ledger
    files = sorted(state.files.files.values(), key=lambda file: file.created, reverse=True)[:_SHOWN_FILES]
    accounts = "".join(
        f"<li><b>{escape(a.name)}</b><span>{a.credits:,.1f} <i>credits</i></span>"
        f"<span>${a.balance:,.3f} <i>fal</i></span>{_badge('locked') if a.lock_reason else ''}</li>"
        for a in state.accounts.values()
    )
    violations = "".join(f"<li>{escape(text)}</li>" for text in book.violations()[-20:])
    return HTMLResponse(
        _PAGE.substitute(
            requests=len(book),
            pictures=len(state.files.files),
            credits=f"{book.billed('credits'):g}",
            dollars=f"{book.billed('USD'):.3f}",
            accounts=accounts,
            gallery="".join(_figure(file) for file in files) or "<p class=empty>Nothing has been generated yet.</p>",
            jobs=_jobs(state) or "<tr><td colspan=6 class=empty>No asynchronous work yet.</td></tr>",
            violations=f"<section><h2>Broken rules</h2><ul class=violations>{violations}</ul></section>"
            if violations
            else "",
            entries="".join(_row(entry) for entry in reversed(book.entries[-_SHOWN_REQUESTS:]))
            or "<tr><td colspan=8 class=empty>No requests yet.</td></tr>",
        )
    )


def _badge(text: str) -> str:
    kind = "bad" if text == "locked" or text.startswith("failed") else ""
    return f"<em class='badge {kind}'>{escape(text)}</em>"


def _figure(file: StoredFile) -> str:
    link = f"/emulator/files/{file.id}/{quote(file.name)}"
    if file.content_type.startswith("video/") and file.size < _LARGE:
        shown = f"<video src='{link}' muted loop autoplay playsinline></video>"
    elif file.content_type.startswith("image/"):
        shown = f"<img src='/emulator/thumbnails/{file.id}' loading=lazy alt=''>"
    else:
        shown = f"<span class=file>{escape(file.content_type)}</span>"
    title = escape(file.caption or file.name)
    return (
        f"<figure><a href='{link}'>{shown}</a><figcaption title='{title}'>{title}</figcaption>"
        f"<small>{escape(file.operation or file.origin)} &middot; {escape(file.account)} &middot; "
        f"{file.size / 1024:,.0f} KB</small></figure>"
    )


def _jobs(state: EmulatorState) -> str:
    now = state.clock.time()
    rows: list[str] = []
    for job in reversed(list(state.jobs.values())[-50:]):
        phase = "CANCELLED" if job.cancelled else job.phase(now)
        phase = f"failed {job.failure.status}" if phase == "COMPLETED" and job.failure else phase
        rows.append(
            f"<tr><td>{_clock(job.submitted)}</td><td>{escape(job.operation)}</td><td>{escape(job.account)}</td>"
            f"<td>{_badge(phase)}</td><td class=number>{len(job.polls)}</td><td><code>{job.id[:18]}</code></td></tr>"
        )
    return "".join(rows)


def _row(entry: LedgerEntry) -> str:
    cost = f"{entry.billed:g} {entry.unit}" if entry.billed else ""
    bad = " class=bad" if entry.status is None or entry.status >= 400 or entry.violations else ""
    return (
        f"<tr{bad}><td>{_clock(entry.time)}</td><td>{entry.method}</td><td><code>{escape(entry.path)}</code></td>"
        f"<td>{escape(entry.account or '')}</td><td class=number>{entry.status or '&mdash;'}</td>"
        f"<td>{escape(entry.outcome)}</td><td class=number>{cost}</td>"
        f"<td>{escape('; '.join(entry.violations))}</td></tr>"
    )


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


async def file(request: Request) -> Response:
    """``GET /emulator/files/{id}/{name}``: a file, not recorded in the ledger."""
    found = state_of(request).files.files.get(request.path_params["id"])
    if found is None:
        return Response("Not Found", 404)
    # Uploads may be HTML; opened here, they must not act as a part of this page.
    headers = {"Content-Security-Policy": "sandbox", "X-Content-Type-Options": "nosniff"}
    return StreamingResponse(found.chunks(), headers=headers, media_type=found.content_type)


async def small(request: Request) -> Response:
    """``GET /emulator/thumbnails/{id}``."""
    found = state_of(request).files.files.get(request.path_params["id"])
    if found is None or not found.content_type.startswith("image/") or found.size > _LARGE:
        return Response("Not Found", 404)
    try:
        content = await run_in_threadpool(thumbnail, found.read())
    except OSError:
        return Response("Not a picture", 404)
    return Response(content, media_type="image/jpeg", headers={"Cache-Control": "max-age=3600"})


def routes() -> list[Route]:
    """The index page and the files it shows."""
    return [
        Route("/", page),
        Route("/emulator/files/{id}/{name}", file),
        Route("/emulator/thumbnails/{id}", small),
    ]
