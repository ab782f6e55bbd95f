"""How often an account is asked: a 429 pauses all of it, the pause ends in single file, and others are asked first."""

from __future__ import annotations

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import httpx
import pytest
import stamina

from prefect_kosmokrator.integrations import fal, governor, stability
from prefect_kosmokrator.integrations.accounts import Account
from prefect_kosmokrator.integrations.errors import ConfigurationError, DeadlineExceeded, Unavailable
from prefect_kosmokrator.integrations.governor import Hook, RateLimit
from prefect_kosmokrator.integrations.http import Client
from prefect_kosmokrator.integrations.messages import Request
from prefect_kosmokrator.integrations.retries import MAX_SECONDS

HOST = "https://api.example.com"
READ = Request("GET", f"{HOST}/balance", once=True)
BALANCE = {"credits": 5}


class Service:
    """A service with an account and a limit, which notes when each request came."""

    def __init__(self, *answers, limit=governor.UNDECLARED, account="default"):
        self.answers = list(answers)
        self.came = []
        self.client = Client(
            "acme",
            Account(name=account, api_key="a-long-secret-key"),
            authorization="Bearer a-long-secret-key",
            hosts=(HOST,),
            read_error=lambda _response: None,
            limit=limit,
            transport=httpx.MockTransport(self._answer),
        )

    def _answer(self, _request):
        self.came.append(time.monotonic())
        return self.answers.pop(0) if self.answers else httpx.Response(200, json={})

    def refuse(self, seconds=None):
        """Has one request refused, as another part of the process would."""
        self.answers.insert(0, refusal(seconds))
        with pytest.raises(Unavailable):
            self.client.send(READ)
        self.came.clear()


def refusal(seconds=None):
    return httpx.Response(429, headers={} if seconds is None else {"retry-after": f"{seconds:g}"})


def seconds_of(call):
    started = time.monotonic()
    call()
    return time.monotonic() - started


@pytest.fixture
def real_time():
    """Pauses last as long as they say."""
    stamina.set_testing(False)


@pytest.fixture
def hook(monkeypatch):
    """Notes what it is asked and told; admits everything."""
    noted = []

    def admit(turn):
        noted.append((turn.provider, turn.account))
        return True

    monkeypatch.setattr(governor, "hooks", [Hook(admit, lambda _turn, seconds: noted.append(seconds))])
    return noted


def test_a_refusal_pauses_every_request_of_the_account(fake, waits, caplog):
    fake.answer(refusal(30), BALANCE)
    with pytest.raises(DeadlineExceeded):
        stability.get_result("a" * 64, timeout=5)
    assert 29 < seconds_of(stability.get_balance) < 31
    assert "stability refuses account 'default' for 30 s; every request of it waits until then." in caplog.text


def test_other_accounts_go_on(fake, waits, monkeypatch):
    monkeypatch.setenv("KOSMO_STABILITY__WORK__API_KEY", "sk-another")
    fake.answer(refusal(30))
    with pytest.raises(DeadlineExceeded):
        stability.get_result("a" * 64, timeout=5)
    fake.answer(BALANCE, httpx.Response(200, json=1.5))
    assert seconds_of(lambda: stability.get_balance(account="work")) < 1
    assert seconds_of(fal.get_balance) < 1


def test_what_does_not_count_neither_pauses_nor_waits(fake, waits):
    fake.answer(refusal(30), {"models": []})
    fal.list_models()
    fake.answer({"request_id": "one"})
    assert seconds_of(lambda: fal.submit_request("fal-ai/flux/dev", {})) < 1
    fake.answer(refusal(40), {"request_id": "two"})
    assert 40 <= seconds_of(lambda: fal.submit_request("fal-ai/flux/dev", {})) < 41
    fake.answer({"models": []})
    assert seconds_of(fal.list_models) < 1


def test_a_full_queue_of_one_model_pauses_nothing(fake, waits):
    full = httpx.Response(429, json={"detail": "Queue length exceeded"})
    fake.answer(*[full] * 4, {"request_id": "other"})
    with pytest.raises(Unavailable):
        fal.submit_request("fal-ai/flux/dev", {}, max_queue_length=1)
    assert seconds_of(lambda: fal.submit_request("fal-ai/flux/schnell", {})) < 1


@pytest.mark.parametrize(
    ("limit", "asked", "paused"),
    [
        (governor.UNDECLARED, None, 5),
        (RateLimit(10, 10, lock_out=33), None, 33),
        (RateLimit(10, 10, lock_out=33), 7, 7),
        (RateLimit(10, 10, lock_out=0), None, 0),
        (RateLimit(10, 10), 0, 0),
    ],
)
def test_a_pause_lasts_as_long_as_the_service_says_or_its_lock_out(waits, limit, asked, paused):
    service = Service(limit=limit)
    service.refuse(asked)
    assert paused - 0.5 < seconds_of(lambda: service.client.send(READ)) < paused + 0.5


def test_a_wait_that_is_too_long_is_an_error_at_once_that_says_when(waits):
    service = Service()
    service.refuse(governor.PATIENCE_SECONDS + 100)
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"acme .account 'default'.: Not sent .* next turn is in 700 s") as caught:
        service.client.send(Request("GET", f"{HOST}/balance"))
    assert time.monotonic() - started < 1
    assert (round(caught.value.retry_after), caught.value.retryable, service.came) == (700, True, [])


def test_after_an_hour_one_request_tries_whatever_the_service_said(waits):
    service = Service()
    service.refuse(10**9)
    time.sleep(governor.MAX_PAUSE_SECONDS)
    assert service.client.send(READ).status == 200


@pytest.mark.parametrize("timeout", [15, 45])
def test_a_look_at_a_job_keeps_its_promised_time(fake, waits, timeout):
    fake.answer(refusal(30), BALANCE)
    stability.get_balance()
    fake.answer(refusal(60))
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="goes on; fetch it again"):
        stability.get_result("a" * 64, timeout=timeout)
    with pytest.raises(DeadlineExceeded, match="goes on; fetch it again"):
        stability.get_result("a" * 64, timeout=timeout)
    assert time.monotonic() - started < 2 * timeout
    assert len(fake.sent) == 3


def test_a_turn_that_comes_late_leaves_the_rest_of_the_time(real_time):
    service = Service(limit=RateLimit(10, 100, lock_out=0.4))
    service.refuse()
    seen = []
    service.client._http._transport = httpx.MockTransport(
        lambda request: seen.append(request.extensions["timeout"]["read"]) or httpx.Response(200)
    )
    service.client.send(Request("GET", HOST, total=1.0, once=True))
    assert 0 < seen[0] < 0.65


def test_a_pause_ends_in_single_file(real_time):
    service = Service(limit=RateLimit(burst=3, per_second=40))
    service.refuse(0.5)
    ends = time.monotonic() + 0.5
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: service.client.send(READ), range(20)))
    service.came.sort()
    assert service.came[0] >= ends - 0.05
    for index, came in enumerate(service.came):
        assert came >= ends + index / 40 - 0.05
    assert service.came[-1] < ends + 20 / 40 + 2


def test_without_a_refusal_nothing_is_slowed_down(real_time):
    service = Service(limit=RateLimit(burst=1, per_second=1))
    assert seconds_of(lambda: [service.client.send(READ) for _ in range(50)]) < 5


def test_a_pause_ends_for_a_thread_that_is_cancelled(real_time):
    class Cancelled(BaseException):
        pass

    service, ended = Service(), []

    def wait():
        try:
            service.client.send(READ)
        except Cancelled:
            ended.append(time.monotonic())

    service.refuse(60)
    thread = Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Cancelled))
    thread.join(5)
    assert ended
    assert service.came == []


def test_everybody_is_asked_before_each_attempt_and_told_of_a_refusal(hook):
    service = Service(refusal(9), httpx.Response(503), limit=RateLimit(10, 10))
    service.client.send(Request("GET", HOST))
    assert hook == [("acme", "default"), 9, ("acme", "default"), ("acme", "default")]


def test_a_crowd_that_is_refused_tells_once(hook):
    service = Service(*[refusal(9)] * 8, limit=RateLimit(10, 10))
    for _ in range(8):
        with pytest.raises(Unavailable):
            service.client.send(READ)
    assert hook.count(9) == 1


def test_waiting_for_a_turn_is_no_part_of_the_deadline_nor_of_the_retries(waits, monkeypatch):
    def slowly(_turn):
        time.sleep(MAX_SECONDS * 2)
        return True

    monkeypatch.setattr(governor, "hooks", [Hook(slowly, lambda _turn, _seconds: None)])
    service = Service(httpx.Response(503), limit=RateLimit(10, 10))
    assert service.client.send(Request("GET", HOST, deadline=1.0)).status == 200
    assert len(service.came) == 2


def test_a_provider_without_a_limit_is_not_asked_about(hook):
    Service().client.send(READ)
    assert hook == []


def test_limits_can_be_switched_off(hook, monkeypatch):
    monkeypatch.setenv("KOSMO_LIMITS", "off")
    Service(limit=RateLimit(10, 10)).client.send(READ)
    assert hook == []


@pytest.mark.parametrize(("value", "message"), [("strict", "only Prefect runs know"), ("maybe", "auto, strict or off")])
def test_a_request_is_refused_where_limits_are_required_or_the_setting_is_wrong(fake, monkeypatch, value, message):
    monkeypatch.setenv("KOSMO_LIMITS", value)
    with pytest.raises(ConfigurationError, match=message):
        stability.get_balance()
    assert fake.sent == []
