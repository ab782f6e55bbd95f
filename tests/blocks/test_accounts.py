"""Saved blocks as accounts and output stores: found by name after the environment, tested on request, never mixed."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from prefect import flow

from prefect_kosmokrator.blocks import FalCredentials, OutputStore, StabilityCredentials
from prefect_kosmokrator.integrations import output
from prefect_kosmokrator.integrations.errors import (
    ConfigurationError,
    OutOfCredits,
    Rejected,
    StorageError,
    Unavailable,
)
from prefect_kosmokrator.tasks import fal, stability

pytestmark = pytest.mark.usefixtures("prefect_server")

FAL_URLS = {"queue_url": "queue", "run_url": "run", "rest_url": "rest", "cdn_url": "cdn", "api_url": "api/v1"}


def stability_block(emulator, account="default", **fields):
    key = emulator.state.account(account).stability_key
    return StabilityCredentials(**{"api_key": key, "base_url": f"{emulator.url}/stability", **fields})


def fal_block(emulator, account="default", **fields):
    urls = {field: f"{emulator.url}/fal/{path}" for field, path in FAL_URLS.items()}
    return FalCredentials(**{"api_key": emulator.state.account(account).fal_key, **urls, **fields})


def name():
    return f"a{uuid4().hex[:10]}"


def test_a_stability_block_tells_the_balance_when_it_is_tested(emulator):
    assert stability_block(emulator).check() == "Connected to Stability AI; 1,000.0 credits left."


def test_a_fal_block_says_that_it_is_connected(emulator):
    assert fal_block(emulator).check() == "Connected to fal.ai."


def test_testing_a_block_costs_nothing(emulator):
    stability_block(emulator).check()
    fal_block(emulator).check()
    assert emulator.state.ledger.billed("credits") == emulator.state.ledger.billed("USD") == 0


@pytest.mark.parametrize("make", [stability_block, fal_block])
def test_a_wrong_key_is_named_without_being_shown(emulator, make):
    with pytest.raises(Rejected) as caught:
        make(emulator, api_key="sk-quite-wrong-key-1234").check()
    assert caught.value.status == 401
    assert "key of account" in str(caught.value)
    assert "quite" not in str(caught.value)


def test_a_saved_block_with_a_wrong_key_is_named_in_the_error(emulator):
    account = name()
    stability_block(emulator, api_key="sk-quite-wrong-key-1234").save(account)
    with pytest.raises(Rejected, match=f"stability-credentials/{account}"):
        StabilityCredentials.load(account).check()


def test_a_locked_fal_account_is_out_of_credits(emulator):
    emulator.state.account().locked = "Exhausted balance. Top up your balance at fal.ai/dashboard/billing."
    with pytest.raises(OutOfCredits, match="Top up"):
        fal_block(emulator).check()


def test_a_fal_account_without_balance_is_out_of_credits(emulator):
    emulator.state.account().balance = 0
    with pytest.raises(OutOfCredits, match="Top up"):
        fal_block(emulator).check()


def test_a_stability_account_without_credits_shows_zero(emulator):
    emulator.state.account().credits = 0
    assert stability_block(emulator).check() == "Connected to Stability AI; 0.0 credits left."


@pytest.mark.parametrize("fields", [{"base_url": "http://127.0.0.1:9"}])
def test_an_address_where_nobody_listens_is_unavailable(emulator, fields):
    with pytest.raises(Unavailable, match="cannot be reached"):
        stability_block(emulator, **fields).check()


def test_a_store_writes_reads_and_removes_when_it_is_tested(bucket, s3_server):
    url = f"s3://{bucket.name}/lamps"
    assert OutputStore(url=url, endpoint_url=s3_server).check() == f"{url} can be written and read."
    assert list(bucket.objects.all()) == []


def test_a_folder_as_store_is_tested_too(tmp_path):
    OutputStore(url=tmp_path.as_uri()).check()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_bucket_is_a_storage_error(bucket, s3_server):
    with pytest.raises(StorageError, match="no-such-bucket"):
        OutputStore(url="s3://no-such-bucket-here", endpoint_url=s3_server).check()


def test_a_task_finds_the_account_of_a_saved_block(emulator, without_accounts):
    account = name()
    stability_block(emulator, "work").save(account)
    assert stability.generate_core("a lamp", account=account).size > 0
    assert emulator.state.ledger.billed("credits", "work") == 3
    assert emulator.state.ledger.billed("credits", "default") == 0


def test_a_task_in_an_async_flow_finds_the_account_of_a_saved_block(emulator, without_accounts):
    account = name()
    fal_block(emulator).save(account)

    @flow
    async def balance():
        return fal.get_balance(account=account)

    import asyncio

    assert asyncio.run(balance())["balance"] == 50.0


def test_account_names_ignore_case_and_underscores(emulator, without_accounts):
    account = name()
    stability_block(emulator).save(f"{account}-team")
    assert stability.get_balance(account=f"{account.upper()}_Team")["credits"] == 1000


def test_the_environment_comes_before_a_block_of_the_same_name(emulator):
    stability_block(emulator, api_key="sk-the-wrong-one-12345").save("work", overwrite=True)
    assert stability.get_balance(account="work")["credits"] == 1000


def test_an_unknown_account_lists_those_of_environment_and_blocks(emulator):
    account = name()
    stability_block(emulator).save(account)
    with pytest.raises(ConfigurationError) as caught:
        stability.generate_core("a lamp", account="wrok")
    known = str(caught.value).partition("Known accounts: ")[2]
    assert known.startswith("default, ")
    assert account in known
    assert "work" in known


def test_an_unknown_account_never_becomes_the_default_one(emulator):
    with pytest.raises(ConfigurationError):
        stability.generate_core("a lamp", account="nobody")
    assert emulator.state.ledger.select("POST") == []


def test_without_any_account_the_error_says_what_to_set(without_accounts):
    with pytest.raises(ConfigurationError, match="KOSMO_FAL__NEVER_SAVED__API_KEY"):
        fal.get_balance(account="never-saved")


def test_a_saved_store_is_used_by_its_name(emulator, bucket, s3_server):
    store = name()
    OutputStore(url=f"s3://{bucket.name}/lamps", endpoint_url=s3_server).save(store)
    media = stability.generate_core("a lamp", output=store)
    assert media.uri.startswith(f"s3://{bucket.name}/lamps/")
    assert media.read()[:4] == b"\x89PNG"


def test_a_saved_store_with_its_own_credentials_needs_no_others(emulator, bucket, s3_server, monkeypatch):
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "KOSMO_OUTPUT_ENDPOINT_URL"):
        monkeypatch.delenv(variable)
    store = name()
    keys = {"access_key_id": "me", "secret_access_key": "my-secret", "region": "us-east-1"}
    OutputStore(url=f"s3://{bucket.name}", endpoint_url=s3_server, **keys).save(store)
    media = stability.generate_core("a lamp", output=store)
    assert "my-secret" not in repr(media)
    assert stability.upscale_fast(media, output=store).width > 3 * media.width


def test_an_unknown_store_is_refused_before_anything_is_paid(emulator):
    with pytest.raises(Exception, match="neither the name of a saved output store nor a URL"):
        stability.generate_core("a lamp", output="my-renders")
    assert emulator.state.ledger.select("POST") == []


def test_a_relative_folder_is_resolved_at_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = OutputStore(url="file://./outputs").get_store().put(b"x", "a.txt", "text/plain")
    assert output.file_path(uri) == Path(tmp_path, "outputs", "a.txt")


def test_accounts_that_differ_only_in_their_key_never_share_a_result(emulator, without_accounts, tmp_path):
    one, other, store = name(), name(), tmp_path.as_uri()
    stability_block(emulator).save(one)
    stability_block(emulator, "work").save(other)

    @flow
    def lamps():
        return [stability.generate_core("a lamp", account=account, output=store).seed for account in (one, other)]

    first, second = lamps()
    assert first != second
    assert [entry.account for entry in emulator.state.ledger.select("POST")] == ["default", "work"]


def test_a_changed_key_takes_effect_within_a_minute(emulator, without_accounts, monkeypatch):
    from prefect_kosmokrator.blocks import saved

    account = name()
    stability_block(emulator).save(account)
    stability.get_account(account=account)
    stability_block(emulator, "work").save(account, overwrite=True)
    assert stability.get_account(account=account)["email"] == "default@emulator.example"
    assert saved.CACHE_SECONDS <= 60
    monkeypatch.setattr(saved, "CACHE_SECONDS", 0)
    assert stability.get_account(account=account)["email"] == "work@emulator.example"
