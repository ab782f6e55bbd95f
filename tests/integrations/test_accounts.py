"""Named accounts: where they come from, what an unknown or wrong one says, and that no key is ever shown."""

from __future__ import annotations

import logging
import pickle

import httpx
import pytest

from prefect_kosmokrator.integrations import accounts, fal, fal_api, stability, stability_api
from prefect_kosmokrator.integrations.accounts import Finder
from prefect_kosmokrator.integrations.errors import ConfigurationError, InvalidInput, Rejected
from prefect_kosmokrator.integrations.fal_api import FalAccount
from prefect_kosmokrator.integrations.stability_api import StabilityAccount

SECRET = "sk-verysecret0123456789"


def find(name="default"):
    return accounts.find("stability", StabilityAccount, name, "STABILITY_API_KEY")


def find_fal(name="default"):
    return accounts.find("fal", FalAccount, name, "FAL_KEY")


def names():
    return accounts.names("stability", "STABILITY_API_KEY")


@pytest.fixture
def saved(monkeypatch):
    """Accounts that are kept elsewhere, as blocks are."""
    kept = {"shop": {"api_key": SECRET, "base_url": "https://proxy.example"}}
    monkeypatch.setattr(accounts, "finders", [Finder(lambda _provider, name: kept.get(name), lambda _p: list(kept))])
    return kept


def test_an_account_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("KOSMO_STABILITY__WORK__API_KEY", SECRET)
    monkeypatch.setenv("KOSMO_STABILITY__WORK__BASE_URL", "https://proxy.example/stability/")
    account = find("work")
    assert account.api_key.get_secret_value() == SECRET
    assert (account.name, account.base_url) == ("work", "https://proxy.example/stability")


def test_addresses_default_to_the_public_hosts(monkeypatch):
    monkeypatch.setenv("KOSMO_STABILITY__DEFAULT__API_KEY", SECRET)
    monkeypatch.setenv("KOSMO_FAL__DEFAULT__API_KEY", SECRET)
    assert find().base_url == "https://api.stability.ai"
    assert find_fal().model_dump(exclude={"name", "api_key", "max_cost"}) == {
        "queue_url": "https://queue.fal.run",
        "run_url": "https://fal.run",
        "rest_url": "https://rest.fal.ai",
        "cdn_url": "https://v3.fal.media",
        "api_url": "https://api.fal.ai/v1",
    }


def test_every_address_of_fal_can_be_set(monkeypatch):
    fields = ("queue_url", "run_url", "rest_url", "cdn_url", "api_url")
    monkeypatch.setenv("KOSMO_FAL__WORK__API_KEY", SECRET)
    for field in fields:
        monkeypatch.setenv(f"KOSMO_FAL__WORK__{field.upper()}", f"https://{field.replace('_', '-')}.example")
    account = find_fal("work")
    assert [getattr(account, field) for field in fields] == [f"https://{f.replace('_', '-')}.example" for f in fields]


@pytest.mark.parametrize("variable", ["KOSMO_STABILITY__MY_TEAM__API_KEY", "kosmo_stability__my-team__api_key"])
@pytest.mark.parametrize("name", ["my_team", "my-team", "MY_TEAM", " My-Team "])
def test_account_names_are_compared_without_case_and_with_either_dash(monkeypatch, variable, name):
    monkeypatch.setenv(variable, SECRET)
    assert find(name).name == "my-team"
    assert names() == ["my-team"]


@pytest.mark.parametrize("key", [f"{SECRET}\n", f"  {SECRET}\t", f"\r\n{SECRET}\r\n"])
def test_white_space_around_a_key_is_removed(monkeypatch, key):
    monkeypatch.setenv("KOSMO_STABILITY__WORK__API_KEY", key)
    assert find("work").api_key.get_secret_value() == SECRET


@pytest.mark.parametrize("key", ["12345678", "true", "null", '{"a": 1}', "[1]", '"quoted"'])
def test_a_key_is_a_text_even_if_it_looks_like_json(monkeypatch, key):
    monkeypatch.setenv("KOSMO_STABILITY__WORK__API_KEY", key)
    assert find("work").api_key.get_secret_value() == key


def test_the_vendors_own_variables_make_the_default_account(monkeypatch):
    monkeypatch.setenv("STABILITY_API_KEY", f"{SECRET}\n")
    monkeypatch.setenv("FAL_KEY", "id:secret")
    assert find("DEFAULT").api_key.get_secret_value() == SECRET
    assert find_fal().api_key.get_secret_value() == "id:secret"


def test_our_variable_comes_before_the_vendors(monkeypatch):
    monkeypatch.setenv("STABILITY_API_KEY", "sk-vendor-variable")
    monkeypatch.setenv("KOSMO_STABILITY__DEFAULT__API_KEY", SECRET)
    assert find().api_key.get_secret_value() == SECRET


def test_a_blank_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("STABILITY_API_KEY", "  ")
    monkeypatch.setenv("KOSMO_STABILITY__DEFAULT__API_KEY", " ")
    with pytest.raises(ConfigurationError):
        find()


@pytest.mark.parametrize("provider", [stability, fal])
def test_an_unknown_account_never_falls_back_to_default(fake, monkeypatch, provider):
    monkeypatch.setenv("KOSMO_STABILITY__WORK__API_KEY", SECRET)
    monkeypatch.setenv("KOSMO_FAL__WORK__API_KEY", SECRET)
    with pytest.raises(ConfigurationError) as caught:
        provider.get_balance(account="client-b")
    assert "no" in str(caught.value)
    assert "'client-b'. Known accounts: default, work." in str(caught.value)
    assert f"KOSMO_{provider.provider.name.upper()}__CLIENT_B__API_KEY" in str(caught.value)
    assert (caught.value.account, caught.value.retryable) == ("client-b", False)


def test_without_any_account_the_message_says_what_to_set():
    with pytest.raises(ConfigurationError, match=r"Known accounts: none\. Set .* \(or STABILITY_API_KEY\)"):
        find()


def test_an_unknown_setting_is_refused_without_showing_its_value(monkeypatch):
    monkeypatch.setenv("KOSMO_FAL__WORK__API_KEY", SECRET)
    monkeypatch.setenv("KOSMO_FAL__WORK__APIKEY", "sk-another-secret")
    with pytest.raises(ConfigurationError, match="APIKEY: Extra inputs are not permitted") as caught:
        find_fal("work")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("address", ["proxy.example", "ftp://proxy.example", "https://", "http:///x"])
def test_an_address_must_be_a_web_address(monkeypatch, address):
    monkeypatch.setenv("KOSMO_STABILITY__WORK__API_KEY", SECRET)
    monkeypatch.setenv("KOSMO_STABILITY__WORK__BASE_URL", address)
    with pytest.raises(ConfigurationError, match=r"BASE_URL: .*must be an address such as https://host"):
        find("work")


@pytest.mark.parametrize(
    "variable", ["KOSMO_STABILITY", "KOSMO_STABILITY__WORK", "KOSMO_STABILITY__WORK__API_KEY__MORE"]
)
def test_a_variable_of_another_form_is_refused_without_showing_its_value(monkeypatch, variable):
    monkeypatch.setenv(variable, SECRET)
    with pytest.raises(ConfigurationError, match="must read KOSMO_STABILITY__<ACCOUNT>__<FIELD>") as caught:
        find("work")
    assert SECRET not in str(caught.value)


def test_accounts_may_be_given_as_one_json_object(monkeypatch):
    monkeypatch.setenv("KOSMO_STABILITY", f'{{"Work": {{"api_key": "{SECRET}"}}}}')
    assert find("work").api_key.get_secret_value() == SECRET


@pytest.mark.parametrize("key", ["sk-a\u2013b0123456789", "sk-a\nb0123456789", "sk-ключ0123456789"])
def test_a_key_that_no_header_can_carry_is_a_configuration_error(fake, monkeypatch, key):
    monkeypatch.setenv("KOSMO_STABILITY__WORK__API_KEY", key)
    with pytest.raises(ConfigurationError) as caught:
        stability.get_balance(account="work")
    assert key not in str(caught.value)


def test_a_saved_account_is_found_after_the_environment(monkeypatch, saved):
    monkeypatch.setenv("KOSMO_STABILITY__WORK__API_KEY", SECRET)
    assert find("Shop").base_url == "https://proxy.example"
    assert names() == ["shop", "work"]
    with pytest.raises(ConfigurationError, match="Known accounts: shop, work"):
        find("default")


def test_the_environment_comes_before_a_saved_account(monkeypatch, saved):
    monkeypatch.setenv("KOSMO_STABILITY__SHOP__API_KEY", "sk-from-environment")
    assert find("shop").api_key.get_secret_value() == "sk-from-environment"
    assert find("shop").base_url == "https://api.stability.ai"


def test_an_address_in_the_environment_redirects_a_saved_account(monkeypatch, saved):
    monkeypatch.setenv("KOSMO_STABILITY__SHOP__BASE_URL", "http://127.0.0.1:8787/stability")
    assert (find("shop").base_url, find("shop").api_key.get_secret_value()) == (
        "http://127.0.0.1:8787/stability",
        SECRET,
    )


def test_a_wrong_field_of_a_saved_account_is_refused_without_its_value(saved):
    saved["shop"]["token"] = "sk-another-secret"
    with pytest.raises(ConfigurationError, match="TOKEN: Extra inputs") as caught:
        find("shop")
    assert "secret" not in str(caught.value)


def test_default_is_listed_first(monkeypatch):
    for name in ("ZOO", "DEFAULT", "ANT"):
        monkeypatch.setenv(f"KOSMO_STABILITY__{name}__API_KEY", SECRET)
    assert names() == ["default", "ant", "zoo"]


def test_an_account_shows_its_key_nowhere(monkeypatch):
    monkeypatch.setenv("KOSMO_STABILITY__WORK__API_KEY", SECRET)
    account = find("work")
    assert SECRET not in f"{account!r} {account} {account.model_dump()} {account.model_dump_json()}"
    assert pickle.loads(pickle.dumps(account)) == account  # noqa: S301


def test_no_key_gets_into_logs_or_errors(fake, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("KOSMO_STABILITY__WORK__API_KEY", SECRET)
    fake.answer(fake.media(), httpx.Response(401, json={"id": "e", "name": "unauthorized", "message": f"bad {SECRET}"}))
    media = stability.generate_core("a lamp", account="work")
    with pytest.raises(Rejected) as caught:
        stability.get_account(account="work")
    shown = f"{caplog.text} {media!r} {media.to_json()} {caught.value!r} {caught.value} {vars(caught.value)}"
    for part in (SECRET, SECRET[3:], "verysecret", "456789"):
        assert part not in shown


def test_a_changed_key_is_used_at_once(fake, monkeypatch):
    fake.answer({"credits": 1}, {"credits": 1})
    stability.get_balance()
    monkeypatch.setenv("KOSMO_STABILITY__DEFAULT__API_KEY", "sk-rotated-0123456789")
    stability.get_balance()
    assert fake.sent[1].headers["authorization"] == "Bearer sk-rotated-0123456789"


def test_one_client_serves_all_calls_of_an_account(monkeypatch):
    monkeypatch.setenv("KOSMO_STABILITY__WORK__API_KEY", SECRET)
    monkeypatch.setenv("KOSMO_FAL__WORK__API_KEY", SECRET)
    assert stability_api.client_for("work") is stability_api.client_for("WORK")
    assert fal_api.client_for("work") is fal_api.client_for("Work")


def test_a_key_passed_as_account_is_not_repeated(fake):
    with pytest.raises((ConfigurationError, InvalidInput)) as caught:
        stability.get_balance(account=SECRET)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(vars(caught.value))
