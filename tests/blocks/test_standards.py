"""Every block follows Prefect's standards for blocks and is found by Prefect."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import ValidationError

from prefect_kosmokrator.blocks import FalCredentials, OutputStore, StabilityCredentials

BLOCKS = [StabilityCredentials, FalCredentials, OutputStore]
KEY = "sk-a1b2c3d4e5f6g7h8"
MADE = [
    StabilityCredentials(api_key=KEY),
    FalCredentials(api_key=KEY),
    OutputStore(url="s3://renders", access_key_id="me", secret_access_key=KEY),
]


@pytest.mark.parametrize("block", BLOCKS)
class TestBlocks(BlockStandardTestSuite):
    @pytest.fixture
    def block(self, block):
        return block

    def test_has_a_valid_image(self, block):
        # The suite would fetch it; tests do not leave this machine.
        assert str(block._logo_url).startswith("https://")
        assert str(block._logo_url).endswith(".png?size=200")


def test_prefect_finds_the_blocks_through_the_entry_point():
    (found,) = [point for point in entry_points(group="prefect.collections") if point.name == "prefect_kosmokrator"]
    module = found.load()
    assert [getattr(module, block.__name__) for block in BLOCKS] == BLOCKS


def test_the_slugs_never_change():
    slugs = {block.__name__: block._block_type_slug for block in BLOCKS}
    assert slugs == {
        "StabilityCredentials": "stability-credentials",
        "FalCredentials": "fal-credentials",
        "OutputStore": "output-store",
    }


@pytest.mark.timeout(120)
def test_the_command_line_registers_the_blocks(prefect_server):
    command = [sys.executable, "-m", "prefect", "block", "register", "-m", "prefect_kosmokrator.blocks"]
    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()}
    shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110, env=environment)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    for name in ("Stability AI Credentials", "fal.ai Credentials", "Media Output Store"):
        assert name in shown.stdout


@pytest.mark.parametrize(
    ("block", "fields"),
    [
        (StabilityCredentials, {"api_key": KEY, "bse_url": "https://x"}),
        (FalCredentials, {"api_key": KEY, "que_url": "https://x"}),
        (OutputStore, {"url": "s3://b", "bucket": "b"}),
    ],
)
def test_a_misspelt_field_is_refused(block, fields):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        block(**fields)


@pytest.mark.parametrize(
    ("block", "fields"),
    [
        (StabilityCredentials, {"api_key": ""}),
        (StabilityCredentials, {"api_key": "  "}),
        (FalCredentials, {"api_key": KEY, "queue_url": "queue.fal.run"}),
        (StabilityCredentials, {"api_key": KEY, "base_url": "ftp://x"}),
        (OutputStore, {"url": "my-bucket"}),
        (OutputStore, {"url": "s3://"}),
        (OutputStore, {"url": "s3://b", "endpoint_url": "localhost"}),
    ],
)
def test_a_wrong_value_is_refused_without_showing_a_key(block, fields):
    with pytest.raises(ValidationError) as caught:
        block(**fields)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("block", MADE, ids=lambda block: type(block).__name__)
def test_a_secret_shows_nowhere(block):
    shown = f"{block!r} {block!s} {block.model_dump()} {block.model_dump_json()}"
    assert KEY not in shown
    assert KEY[:8] not in shown


def test_white_space_around_a_key_is_dropped():
    assert StabilityCredentials(api_key=f" {KEY}\n").api_key.get_secret_value() == KEY


@pytest.mark.parametrize("block", MADE, ids=lambda block: type(block).__name__)
def test_a_block_is_saved_and_loaded_again(block, prefect_server):
    block.save("roundtrip", overwrite=True)
    loaded = type(block).load("roundtrip")
    assert loaded.model_dump(context={"include_secrets": True}) == block.model_dump(context={"include_secrets": True})
    assert KEY not in repr(loaded)
