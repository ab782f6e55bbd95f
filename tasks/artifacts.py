"""What a run made, shown in the Prefect UI: a gallery of pictures and a table of files with their cost."""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import Any

import httpx
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.exceptions import PrefectHTTPStatusError

from prefect_kosmokrator.integrations.media import Cost, Media

logger = logging.getLogger("prefect_kosmokrator")

GALLERY_LIMIT = 48
"""Pictures in one gallery; the table lists every file."""

COLUMNS = 2

LOCAL_FILES = (
    "A web page cannot show local files by itself: run `kosmo gallery` on the machine that has them, and set "
    "`KOSMO_GALLERY_URL` to the address it names wherever flows run."
)


def publish(media: list[Media], *, key: str, title: str) -> None:
    """Creates the artifacts `<key>-gallery` and `<key>-files` for the current run.

    Args:
        media: Stored files, in the order in which they are shown.
        key: Lower-case letters, digits and dashes; runs with the same key form a history in the UI.
        title: Heading of the gallery.
    """
    try:
        create_markdown_artifact(gallery(media, title), key=f"{key}-gallery", description=_summary(media), _sync=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        rows = [_row(item) for item in media]
        create_table_artifact(rows, key=f"{key}-files", description=_summary(media), _sync=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        # The files are stored and the run is good; a server that is down only keeps them from being shown.
        logger.warning("What was made cannot be shown: Prefect's API does not answer (%s).", error)


def gallery(media: list[Media], title: str) -> str:
    """The gallery as Markdown: previews that link to the full files, then what each one is and cost."""
    lines = [f"# {_plain(title)}", "", *_grid(media[:GALLERY_LIMIT])]
    lines += ["", "| | File | Made by | Pixels | Seed | Cost |", "|---|---|---|---|---|---|"]
    for number, item in enumerate(media, 1):
        link = item.link()
        name = f"[{_name(item)}]({link})" if link else f"`{item.uri}`"
        lines.append(
            f"| {number} | {name} | {_made_by(item)} | {_pixels(item)} | {'' if item.seed is None else item.seed} "
            f"| {item.cost or 'unknown'} |"
        )
    if any(item.link() is None for item in media):
        lines += [
            "",
            LOCAL_FILES,
        ]
    if any((item.uri or "").startswith("s3://") for item in media):
        lines += ["", "Links are presigned and end seven days after this run; the files stay."]
    return "\n".join(lines)


def total(media: list[Media]) -> str:
    """The cost of all files in words, a sum for each unit."""
    sums: defaultdict[str, float] = defaultdict(float)
    certain = True
    for item in media:
        cost = item.cost or Cost(None, "", certain=False)
        certain = certain and cost.certain and cost.amount is not None
        if cost.amount is not None:
            sums[cost.unit] += cost.amount
    words = " and ".join(f"{amount:g} {unit}" for unit, amount in sums.items()) or "unknown"
    return words if certain else f"about {words}" if sums else words


def _summary(media: list[Media]) -> str:
    return f"{len(media)} file{'' if len(media) == 1 else 's'}, cost {total(media)}."


def _grid(media: list[Media]) -> list[str]:
    """A table of previews, each below a caption that links to the file.

    A picture that is itself a link would be shown as text by the UI's Markdown.
    """
    lines: list[str] = []
    width = min(COLUMNS, len(media))
    for start in range(0, len(media), COLUMNS):
        row = list(enumerate(media, 1))[start : start + COLUMNS]
        padding = [""] * (width - len(row))
        lines.append("| " + " | ".join([_caption(item, number) for number, item in row] + padding) + " |")
        if start == 0:
            lines.append("|" + ":---:|" * width)
        lines.append("| " + " | ".join([_picture(item, number) for number, item in row] + padding) + " |")
    return lines


def _caption(item: Media, number: int) -> str:
    words = f"{number}. {_made_by(item)} {_pixels(item)}".strip()
    link = item.link()
    return f"[{words}]({link})" if link else words


def _picture(item: Media, number: int) -> str:
    preview = item.link(preview=True) if item.content_type.startswith("image/") else None
    return f"![{number}]({preview})" if preview else item.content_type


def _row(item: Media) -> dict[str, Any]:
    # What matters first: the page shows about five columns without scrolling.
    return {
        "file": _name(item),
        "pixels": _pixels(item),
        "seed": "" if item.seed is None else str(item.seed),
        "cost": str(item.cost or "unknown"),
        "made by": _made_by(item),
        "account": item.account,
        "bytes": item.size,
        "link": item.link() or "",
        "uri": item.uri or "",
        "sha256": item.sha256,
    }


def _made_by(item: Media) -> str:
    return f"{item.provider}: {item.model}" if item.model else f"{item.provider}: {item.function}"


def _name(item: Media) -> str:
    return (item.uri or "").rpartition("/")[2].partition("?")[0]


def _pixels(item: Media) -> str:
    return f"{item.width}x{item.height}" if item.width else ""


def _plain(text: str) -> str:
    """A prompt as one line of Markdown that cannot change the page."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|!" else c for c in " ".join(text.split()))[:200]
