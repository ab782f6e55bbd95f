"""Storing files as a task of its own, for files that a task before it left in memory or on fal's CDN."""

from __future__ import annotations

from prefect import task

from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.tasks.policy import RETRY, SameCall, in_run


@task(name="save_media", task_run_name="save_media: {name}", cache_policy=SameCall(), **RETRY)
def save_media(media: Media, output: str, name: str = "media") -> Media:
    """Stores a file and returns a small reference to it.

    Args:
        media: The file: with its bytes, or with an address such as those in a fal result's `media`.
        output: Output store's name or URL prefix.
        name: The step that made it; part of the file name.

    Raises:
        StorageError: After retries. The bytes are then kept in a spool file that the error names.
    """
    with in_run("save_media"):
        return media.save(output, name)
