"""The integrations start fast: they import neither Prefect nor boto3."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["stability", "fal", "providers", "accounts", "emulator"])
def test_a_module_imports_neither_prefect_nor_boto3(module):
    code = (
        f"import sys, prefect_kosmokrator.integrations.{module};"
        "print([name for name in ('prefect', 'boto3', 'botocore') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert shown.stdout.strip() == "[]"
