"""The client of an account: where its key goes, what answers become, deadlines and size caps."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from prefect_kosmokrator.integrations import http as client_module
from prefect_kosmokrator.integrations.accounts import Account
from prefect_kosmokrator.integrations.errors import (
    AmbiguousSubmission,
    ConfigurationError,
    KosmoError,
    Rejected,
    Unavailable,
)
from prefect_kosmokrator.integrations.http import Client, origin
from prefect_kosmokrator.integrations.messages import Request, Response
from prefect_kosmokrator.integrations.retries import MAX_SECONDS, retry_after_seconds

HOST = "https://api.example"
KEY = "0f8fad5b-d9cb-469f-a165-70867728950e:9c5d4f3e2b1a0c5d4f3e2b1a0c5d4f3e"
PAID = Request("POST", f"{HOST}/generate", json={}, paid=True)
READ = Request("GET", f"{HOST}/status")


def client(*answers, hosts=(HOST,), key=KEY, sent=None):
    """A client whose service gives these answers in order, and the last one for ever."""
    left = list(answers)

    def service(request):
        if sent is not None:
            sent.append(request)
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            return httpx.Response(answer, json={})
        return answer

    return Client(
        "acme",
        Account(name="work", api_key=key),
        authorization=f"Key {key}",
        hosts=hosts,
        read_error=lambda _response: None,
        transport=httpx.MockTransport(service),
    )


def failure(request, *answers, **options):
    with pytest.raises(KosmoError) as caught:
        client(*answers, **options).send(request)
    return caught.value


@pytest.mark.parametrize(
    ("answer", "read", "paid"),
    [
        (400, Rejected, Rejected),
        (401, Rejected, Rejected),
        (403, Rejected, Rejected),
        (404, Rejected, Rejected),
        (422, Rejected, Rejected),
        (408, Unavailable, Unavailable),
        (429, Unavailable, Unavailable),
        (500, Unavailable, Unavailable),
        (503, Unavailable, Unavailable),
        (504, Unavailable, Unavailable),
        (httpx.Response(500, text="oops"), Unavailable, AmbiguousSubmission),
        (httpx.Response(502, html="<html>nginx</html>"), Unavailable, AmbiguousSubmission),
        (httpx.Response(503, html="<html>nginx</html>"), Unavailable, Unavailable),
        (httpx.Response(504, html="<html>nginx</html>"), Unavailable, AmbiguousSubmission),
        (301, ConfigurationError, ConfigurationError),
        (307, ConfigurationError, ConfigurationError),
        (httpx.ConnectError("refused"), Unavailable, Unavailable),
        (httpx.ConnectTimeout("slow"), Unavailable, Unavailable),
        (httpx.ReadTimeout("slow"), Unavailable, AmbiguousSubmission),
        (httpx.WriteTimeout("slow"), Unavailable, AmbiguousSubmission),
        (httpx.ReadError("reset"), Unavailable, AmbiguousSubmission),
        (httpx.WriteError("reset"), Unavailable, AmbiguousSubmission),
        (httpx.RemoteProtocolError("disconnected"), Unavailable, AmbiguousSubmission),
        (httpx.DecodingError("gzip"), Unavailable, AmbiguousSubmission),
    ],
    ids=str,
)
def test_an_answer_becomes_an_error_by_whether_it_may_have_been_paid(answer, read, paid):
    assert type(failure(READ, answer)) is read
    assert type(failure(PAID, answer)) is paid


def test_an_error_knows_where_it_comes_from():
    error = failure(READ, httpx.Response(404, text="no such thing", headers={"x-request-id": "req-9"}))
    assert (error.provider, error.account, error.status, error.request_id) == ("acme", "work", 404, "req-9")
    assert str(error) == "acme (account 'work'): The service answered 404: no such thing [request req-9]"


def test_the_key_goes_to_the_accounts_own_hosts_only():
    sent = []
    service = client(200, hosts=(HOST, "https://queue.example:8443"), sent=sent)
    service.send(READ)
    service.send(Request("GET", "https://queue.example:8443/x"))
    assert [r.headers["authorization"] for r in sent] == [f"Key {KEY}"] * 2
    for url in (
        "http://api.example/status",
        "https://api.example:444/x",
        "https://api.example.evil.example/x",
        "https://evil.example/?api.example",
        "https://api.example@evil.example/x",
        "https://queue.example/x",
    ):
        with pytest.raises(ConfigurationError, match="its key is not sent there"):
            service.send(Request("GET", url))
    assert len(sent) == 2


def test_another_host_is_reached_without_the_key():
    sent = []
    request = Request("PUT", "https://store.example/x", {"Authorization": "Bearer t"}, content=b"x", authorized=False)
    client(200, sent=sent).send(request)
    assert sent[0].headers["authorization"] == "Bearer t"
    client(200, sent=sent).send(Request("PUT", "https://store.example/x", content=b"x", authorized=False))
    assert "authorization" not in sent[1].headers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("request_", [READ, PAID], ids=["read", "paid"])
def test_a_redirect_is_not_followed(status, request_):
    sent = []
    answer = httpx.Response(status, headers={"location": "https://evil.example/take?sig=1"})
    error = failure(request_, answer, sent=sent)
    assert "redirects to https://evil.example/take. Redirects are not followed" in str(error)
    assert [str(r.url.host) for r in sent] == ["api.example"]


def test_an_address_is_shown_without_user_and_query():
    error = failure(Request("GET", f"{HOST}/x?token=secret", params={"sig": "abc"}), httpx.ConnectError("no"))
    assert "https://api.example/x cannot be reached: no." in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    "text",
    [
        f"bad key {KEY}",
        f"bad id {KEY.partition(':')[0]}",
        f"bad secret {KEY.partition(':')[2]}",
        "Incorrect API key provided: sk-a1b2****m3n4. You can",
        "Incorrect API key provided: sk-a1b2c3d4e5f6g7h8i9.",
        "11111111-2222-3333-4444-555555555555:abcdef0123456789 is unknown",
        "sent Authorization: Bearer eyJhbGciOi.x.y",
        "sent Authorization: Key abcdefghijklmnop",
    ],
)
def test_a_service_that_repeats_a_key_is_not_quoted(text):
    shown = str(failure(READ, httpx.Response(400, text=text)))
    assert "[key]" in shown
    for part in (KEY[:36], KEY[37:], "a1b2", "m3n4", "abcdef0123456789", "eyJ", "abcdefghijklmnop"):
        assert part not in shown


def test_a_refused_key_names_the_variable_and_nothing_of_the_answer():
    echo = "Incorrect API key provided: abcdefg****wxyz."
    error = failure(READ, httpx.Response(401, json={"id": "e", "name": "unauthorized", "message": echo}))
    assert "The key of account 'work' was not accepted" in str(error)
    assert "KOSMO_ACME__WORK__API_KEY" in str(error)
    assert "abcdefg" not in str(error)
    assert "wxyz" not in str(error)


def test_signed_addresses_are_shown_without_their_signature():
    text = client(200).redact("PUT https://s3.example/x?a=1&X-Amz-Signature=deadbeef&b=2 and ?sig=cafe")
    assert text == "PUT https://s3.example/x?a=1&[key]&b=2 and ?[key]"


def test_short_words_that_happen_to_be_a_key_are_left_alone():
    assert client(200, key="test").redact("this is a test") == "this is a test"


def test_an_error_page_is_not_quoted_and_a_long_text_is_cut():
    assert "<html" not in str(failure(READ, httpx.Response(400, html="<html>long page</html>")))
    assert len(str(failure(READ, httpx.Response(400, text="x" * 10_000)))) < 600


def test_a_read_is_repeated_four_times_in_all():
    sent = []
    assert failure(READ, 503, sent=sent).retryable is True
    assert len(sent) == 4


@pytest.mark.parametrize("trouble", [429, 500, 502, 503, httpx.ReadError("reset"), httpx.ConnectError("refused")])
def test_a_read_recovers(trouble):
    sent = []
    assert client(trouble, trouble, 200, sent=sent).send(READ).status == 200
    assert len(sent) == 3


@pytest.mark.parametrize("refusal", [429, httpx.ConnectError("refused"), httpx.ConnectTimeout("slow")])
def test_a_paid_request_is_repeated_when_it_was_not_accepted(refusal):
    sent = []
    assert client(refusal, 200, sent=sent).send(PAID).status == 200
    assert len(sent) == 2


@pytest.mark.parametrize(
    "trouble",
    [500, 503, 408, httpx.Response(502, html="<html>"), httpx.ReadError("reset"), httpx.ReadTimeout("slow")],
    ids=str,
)
def test_a_paid_request_is_sent_once_when_it_may_have_been_accepted(trouble):
    sent = []
    failure(PAID, trouble, sent=sent)
    assert len(sent) == 1


def test_a_refusal_is_never_repeated():
    sent = []
    failure(READ, 404, sent=sent)
    assert len(sent) == 1


def test_a_read_that_is_not_json_is_repeated_and_a_paid_one_is_not():
    page = httpx.Response(200, html="<html>")
    assert client(page, httpx.Response(200, json=[1])).json(READ) == [1]
    with pytest.raises(Unavailable, match="something else than JSON"):
        client(page).json(READ)
    with pytest.raises(AmbiguousSubmission, match="not readable"):
        client(page, httpx.Response(200, json=[1])).json(PAID)


def test_pauses_grow_with_jitter_and_stay_short(waits):
    failure(READ, 503)
    assert len(waits) == 3
    assert all(0.3 * 2**n <= wait <= 0.3 * 2**n + 0.5 for n, wait in enumerate(waits))


@pytest.mark.parametrize("request_", [READ, PAID], ids=["read", "paid"])
def test_a_wait_that_the_service_asks_for_is_kept(waits, request_):
    client(httpx.Response(429, headers={"retry-after": "7"}), 200).send(request_)
    assert waits == [7]


def test_a_wait_may_be_asked_for_as_a_date(waits):
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    client(httpx.Response(503, headers={"retry-after": moment}), 200).send(READ)
    assert 28 < waits[0] <= 30


def test_a_wait_that_is_too_long_is_left_to_the_caller(waits):
    error = failure(READ, httpx.Response(429, headers={"retry-after": str(MAX_SECONDS + 1)}))
    assert (error.retry_after, error.retryable, waits) == (MAX_SECONDS + 1, True, [])


def test_a_service_that_limits_looks_is_not_asked_sooner(waits):
    client(503, 200).send(Request("GET", f"{HOST}/result", pause=10))
    assert waits == [10]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", None),
        ("3", 3),
        ("2.5", 2.5),
        ("-4", 0),
        ("soon", None),
        ("nan", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:00", 0),
    ],
)
def test_retry_after_is_read_in_both_forms(value, seconds):
    assert retry_after_seconds({"retry-after": value}) == seconds
    assert retry_after_seconds({}) is None


def drip(*chunks, pause=0.0):
    def stream():
        for chunk in chunks:
            time.sleep(pause)
            yield chunk

    return httpx.Response(200, stream=_Stream(stream()))


class _Stream(httpx.SyncByteStream):
    def __init__(self, chunks):
        self.chunks = chunks

    def __iter__(self):
        yield from self.chunks


def test_a_body_that_drips_for_ever_ends_at_the_deadline():
    started = time.monotonic()
    request = Request("POST", f"{HOST}/generate", paid=True, deadline=0.1)
    error = failure(request, drip(*[b"x"] * 100, pause=0.02))
    assert isinstance(error, AmbiguousSubmission)
    assert time.monotonic() - started < 0.5


def test_an_answer_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 1000)
    assert client(httpx.Response(200, content=b"x" * 1000)).send(READ).body == b"x" * 1000
    assert "more than 1,000 bytes" in str(failure(READ, httpx.Response(200, content=b"x" * 1001)))
    assert isinstance(failure(PAID, httpx.Response(200, content=b"x" * 1001)), AmbiguousSubmission)


def test_every_request_has_a_deadline_for_each_step():
    sent = []
    client(200, sent=sent).send(Request("GET", f"{HOST}/x", deadline=5))
    client(200, sent=sent).send(Request("GET", f"{HOST}/x", deadline=180))
    assert [r.extensions["timeout"] for r in sent] == [
        {"connect": 5, "read": 5, "write": 5, "pool": 5},
        {"connect": 10, "read": 180, "write": 180, "pool": 180},
    ]


def test_a_form_of_texts_is_multipart_too():
    sent = []
    client(200, sent=sent).send(Request("POST", f"{HOST}/x", form={"prompt": "a lamp"}))
    assert sent[0].headers["content-type"].startswith("multipart/form-data; boundary=")


def test_a_file_is_streamed_from_disk_again_on_each_attempt(tmp_path):
    bodies = []
    (tmp_path / "a.bin").write_bytes(b"content")

    def service(request):
        bodies.append(request.read())
        return httpx.Response(503 if len(bodies) == 1 else 200)

    uploader = Client(
        "acme",
        Account(name="work", api_key=KEY),
        authorization="",
        hosts=(),
        read_error=lambda _r: None,
        transport=httpx.MockTransport(service),
    )
    uploader.send(Request("PUT", f"{HOST}/x", content=tmp_path / "a.bin", authorized=False))
    assert bodies == [b"content", b"content"]


@pytest.mark.parametrize(
    ("header", "kind", "is_json"),
    [
        ("application/json; type=image/png", "application/json", True),
        ("Application/Problem+JSON", "application/problem+json", True),
        ("image/png", "image/png", False),
        ("", "", False),
    ],
)
def test_a_content_type_is_read_without_its_parameters(header, kind, is_json):
    response = Response(200, httpx.Headers({"content-type": header}), b"")
    assert (response.content_type, response.is_json, response.json_or_none()) == (kind, is_json, None)


def test_an_origin_is_scheme_host_and_port():
    assert origin("HTTPS://API.example/x") == origin("https://api.example:443") == ("https", "api.example", 443)
    assert origin("http://api.example") == ("http", "api.example", 80)
    assert origin("https://user@api.example") == ("https", "api.example", 443)
