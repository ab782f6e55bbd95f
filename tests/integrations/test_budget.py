"""Budgets: checked before money moves, against the ledger and the balance; and the sums of what was spent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from prefect_kosmokrator.integrations import budget, fal, jobs, stability
from prefect_kosmokrator.integrations.errors import BudgetExceeded, ConfigurationError, Moderated, OutOfCredits
from prefect_kosmokrator.integrations.ledger import current_ledger
from prefect_kosmokrator.integrations.run import Run, current_run, running

CORE = "POST /stability/v2beta/stable-image/generate/core"
MODEL = "fal-ai/flux/schnell"


def run(max_cost, number=1):
    return running(Run(id=f"run-{number}", max_cost=max_cost))


@pytest.mark.parametrize(
    ("text", "usd"), [("", None), ("5", 5), ("5 USD", 5), ("0.5$", 0.5), ("300 credits", 3), ("1 credit", 0.01)]
)
def test_a_budget_has_a_unit(text, usd):
    assert budget.limit(text) == usd


@pytest.mark.parametrize("text", ["five", "5 EUR", "-1", "credits"])
def test_a_budget_that_cannot_be_read_is_refused(emulator, text, monkeypatch):
    with run(text), pytest.raises(ConfigurationError, match="max_cost is"):
        stability.generate_core("a lamp")
    monkeypatch.setenv("KOSMO_STABILITY__DEFAULT__MAX_COST", text)
    with pytest.raises(ConfigurationError, match=r"MAX_COST: .*must read like"):
        stability.generate_core("a lamp")
    assert emulator.state.ledger.billed("credits") == 0


def test_a_run_spends_no_more_than_its_budget(emulator):
    with run("7 credits"):
        stability.generate_core("one")
        stability.generate_core("two")
        with pytest.raises(BudgetExceeded, match=r"costs 3 credits .*\$0\.06 is spent.*7 credits") as caught:
            stability.generate_core("three")
    assert (caught.value.spent, caught.value.limit, caught.value.retryable) == (0.06, 0.07, False)
    with run("7 credits", number=2):
        stability.generate_core("of another run")
    assert emulator.state.ledger.billed("credits") == 9


def test_both_providers_count_in_one_currency(emulator):
    with run("0.033 USD"):
        stability.generate_core("one")
        fal.submit_request(MODEL, {"prompt": "two"})
        with pytest.raises(BudgetExceeded):
            fal.submit_request(MODEL, {"prompt": "three"})


def test_several_pictures_cost_several_times(emulator):
    with run("0.01 USD"):
        fal.submit_request(MODEL, {"prompt": "two", "num_images": 3})
        with pytest.raises(BudgetExceeded, match=r"costs ~0\.006 USD"):
            fal.submit_request(MODEL, {"prompt": "two", "num_images": 2})


def test_an_account_spends_no_more_than_its_budget_a_day(emulator, monkeypatch):
    monkeypatch.setenv("KOSMO_STABILITY__WORK__MAX_COST", "5 credits")
    stability.generate_core("one", account="work")
    stability.generate_core("one", account="default")
    with pytest.raises(BudgetExceeded, match="account 'work' may spend 5 credits a day"):
        stability.generate_core("two", account="Work")
    stability.generate_core("two", account="default")


def test_many_at_a_time_never_exceed_it(emulator):
    with run("9 credits"), ThreadPoolExecutor(8) as pool:
        inside = current_run()

        def generate(number):
            with running(inside):
                try:
                    stability.generate_core(f"lamp {number}")
                except BudgetExceeded:
                    return False
                return True

        assert sum(pool.map(generate, range(8))) == 3
    assert emulator.state.ledger.billed("credits") == 9


def test_what_was_refused_is_not_counted(emulator):
    emulator.state.inject(CORE, "403")
    with run("3 credits"):
        with pytest.raises(Moderated):
            stability.generate_core("one")
        stability.generate_core("two")


def test_the_balance_is_asked_where_there_is_a_budget(emulator):
    emulator.state.account().credits = 4
    stability.generate_core("one")
    asked = len(emulator.state.ledger.select("GET", "/stability/v1/user/balance"))
    with run("1 USD"), pytest.raises(OutOfCredits, match=r"\$0\.01 is left"):
        stability.generate_core("two")
    assert len(emulator.state.ledger.select("GET", "/stability/v1/user/balance")) == asked + 1
    assert emulator.state.ledger.billed("credits") == 3


def test_a_balance_that_cannot_be_read_refuses_nothing(emulator):
    emulator.state.inject("GET /stability/v1/user/balance", "403", times=0)
    with run("1 USD"):
        stability.generate_core("one")


def test_an_unknown_price_does_not_fit_a_budget(emulator):
    emulator.state.inject("GET /fal/api/v1/models/pricing", "404", times=0)
    with run("1 USD"), pytest.raises(BudgetExceeded, match="not known beforehand"):
        fal.submit_request(MODEL, {"prompt": "a lamp"})
    assert emulator.state.jobs == {}


def test_costs_are_corrected_by_what_the_service_billed(emulator, tmp_path):
    emulator.state.settings.run_seconds = 0
    job = fal.submit_request(MODEL, {"prompt": "a lamp", "num_images": 2})
    (before,) = budget.spent_since(current_ledger(), datetime.now(UTC).date())
    fal.wait_for_request(job, output=tmp_path.as_uri())
    (after,) = budget.spent_since(current_ledger(), datetime.now(UTC).date())
    assert (before.cost.certain, after.cost.certain) == (False, True)
    assert after.cost.amount == pytest.approx(emulator.state.ledger.billed("USD"))
    assert (after.provider, after.account, after.function) == ("fal", "default", "submit_request")


def test_a_cancelled_request_in_the_queue_costs_nothing(emulator):
    emulator.state.settings.queue_seconds = 3600
    jobs.cancel(jobs.find(fal.submit_request(MODEL, {"prompt": "a lamp"}).id))
    assert list(budget.spent_since(current_ledger(), datetime.now(UTC).date())) == []
    assert emulator.state.ledger.billed("USD") == 0
