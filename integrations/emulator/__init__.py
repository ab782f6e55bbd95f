"""A local stand-in for Stability AI and fal.ai: as strict as the services, with the faults they have on bad days.

Nothing reaches it unless it is told to: the emulator is used only where settings name its address.

Words in a prompt ask for what cannot be asked for otherwise: ``moderate-me`` (refused by moderation),
``public-figure`` (refused by Stability), ``filter-me`` (a success whose picture is blurred or black). fal inputs may
carry a field ``_emulator`` with ``queue_seconds``, ``run_seconds`` or ``size_bytes``. Everything else goes by
``EmulatorState.inject``, by the settings, or over HTTP by the endpoints below ``/emulator``.
"""

from prefect_kosmokrator.integrations.emulator.app import create_app
from prefect_kosmokrator.integrations.emulator.clock import Clock
from prefect_kosmokrator.integrations.emulator.faults import FaultRule
from prefect_kosmokrator.integrations.emulator.ledger import Ledger, LedgerEntry
from prefect_kosmokrator.integrations.emulator.server import Emulator, serve
from prefect_kosmokrator.integrations.emulator.settings import EmulatorSettings
from prefect_kosmokrator.integrations.emulator.state import EmulatorState

__all__ = [
    "Clock",
    "Emulator",
    "EmulatorSettings",
    "EmulatorState",
    "FaultRule",
    "Ledger",
    "LedgerEntry",
    "create_app",
    "serve",
]
