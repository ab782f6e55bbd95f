"""The error tree: what each error carries, and that it survives a trip between processes."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

from prefect_kosmokrator.integrations import errors
from prefect_kosmokrator.integrations.errors import KosmoError
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.records import Job

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, KosmoError)]
CONTEXT = {
    "provider": "fal",
    "function": "submit_request",
    "account": "work",
    "status": 503,
    "request_id": "req-1",
    "code": "no_runner",
    "retryable": True,
    "retry_after": 2.5,
}
JOB = Job(id="a", request_id="a", status="IN_QUEUE", provider="fal", function="submit_request", account="work")
EXTRA = {
    "InvalidInput": {"parameter": "prompt"},
    "JobError": {"job": JOB},
    "JobFailed": {"job": JOB},
    "JobPending": {"job": JOB},
    "DeadlineExceeded": {"job": JOB},
    "ContentFiltered": {"media": Media.from_bytes(b"picture", "image/png")},
    "StorageError": {"spool": Path("/spool/a.png"), "uri": "s3://bucket/a.png"},
}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("send", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])  # noqa: S301
def test_an_error_arrives_whole(kind, send):
    error = kind("It did not work.", **CONTEXT, **EXTRA.get(kind.__name__, {}))
    again = send(error)
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert (str(again), again.args, again.kind) == (str(error), error.args, kind.__name__)


def test_the_tree_is_drawn_as_it_is():
    drawn = {
        line.split()[1] for line in errors.__doc__.splitlines() if "──" in line for line in [line.replace("│", "")]
    }
    bases = {"KosmoError", "JobError"}
    assert {kind.__name__ for kind in CLASSES} - bases == drawn - {"LuaError"}  # lives beside the sandbox


@pytest.mark.parametrize(
    ("context", "text"),
    [
        ({}, "It broke."),
        ({"provider": "fal"}, "fal: It broke."),
        ({"provider": "fal", "function": "get_result"}, "fal.get_result: It broke."),
        (
            {"provider": "fal", "function": "get_result", "account": "work", "request_id": "r1"},
            "fal.get_result (account 'work'): It broke. [request r1]",
        ),
        ({"request_id": "r1"}, "It broke. [request r1]"),
    ],
)
def test_the_text_says_where_it_happened(context, text):
    assert str(KosmoError("It broke.", **context)) == text


def test_only_waiting_helps_is_what_retryable_means():
    retryable = {kind.__name__ for kind in CLASSES if kind("x").retryable}
    assert retryable == {"Unavailable", "JobPending"}


def test_an_error_may_say_otherwise_about_itself():
    assert errors.Unavailable("x", retryable=False).retryable is False
    assert errors.JobFailed("x", retryable=True).retryable is True


def test_refusals_can_be_caught_as_one():
    for kind in (errors.Moderated, errors.OutOfCredits, errors.EndpointDiscontinued):
        assert issubclass(kind, errors.Rejected)
    for kind in CLASSES:
        assert issubclass(kind, KosmoError)
    assert not issubclass(errors.AmbiguousSubmission, errors.Unavailable)
