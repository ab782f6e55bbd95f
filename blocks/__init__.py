"""What an operator sets up once in Prefect: credentials of each provider, and output stores.

Importing this package makes saved blocks known to the integrations: an account or output store that the environment
does not define is looked up as the Prefect block of that name.
"""

from importlib import import_module

from prefect_kosmokrator.blocks.fal import FalCredentials
from prefect_kosmokrator.blocks.mcp_server import McpServer
from prefect_kosmokrator.blocks.output_store import OutputStore
from prefect_kosmokrator.blocks.saved import find_saved_accounts, find_saved_stores
from prefect_kosmokrator.blocks.stability import StabilityCredentials
from prefect_kosmokrator.integrations.providers import PROVIDERS

__all__ = ["FalCredentials", "McpServer", "OutputStore", "StabilityCredentials"]

# `prefect block register -m` and the entry point register what is importable from here: also the credentials of a
# provider that this file does not name.
for _name in PROVIDERS:
    _module = import_module(f"prefect_kosmokrator.blocks.{_name}")
    globals().update({name: value for name, value in vars(_module).items() if name.endswith("Credentials")})

find_saved_accounts()
find_saved_stores()
