"""The hooks of a flow that makes paid calls: `@flow(**HOOKS)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

from prefect_kosmokrator.tasks.cancellation import cancel_open_jobs
from prefect_kosmokrator.tasks.spending import report_spend


class FlowHooks(TypedDict):
    """Arguments of `prefect.flow`."""

    on_completion: list[Callable[..., Any]]
    on_failure: list[Callable[..., Any]]
    on_crashed: list[Callable[..., Any]]
    on_cancellation: list[Callable[..., Any]]


HOOKS = FlowHooks(
    on_completion=[report_spend],
    on_failure=[report_spend],
    on_crashed=[report_spend],
    on_cancellation=[cancel_open_jobs, report_spend],
)
"""Cancels the open jobs of a cancelled run, and tells in each case what the run spent."""
