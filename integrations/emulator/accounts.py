"""Accounts of the two services, with the keys derived from their names."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass

EXHAUSTED = "Exhausted balance. Top up your balance at fal.ai/dashboard/billing."


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _fal_key(name: str, scope: str) -> str:
    label = f"emulator:{name}:{scope}"
    return f"{uuid.uuid5(uuid.NAMESPACE_URL, label)}:{_digest(label)[:32]}"


@dataclass
class Account:
    """One customer of both services.

    Attributes:
        name: How settings and the ledger call it.
        credits: Stability credits left; a request that costs more answers 402.
        balance: US dollars left at fal; at zero the account is locked.
        concurrency: fal jobs that run at the same time.
        locked: Reason fal gives in its 403 answer, or ``None`` when the account may work.
        revoked: Both services refuse the keys with 401.
        blocked_until: End of the running Stability rate-limit penalty.
    """

    name: str
    credits: float
    balance: float
    concurrency: int
    locked: str | None = None
    revoked: bool = False
    blocked_until: float = 0.0

    @property
    def stability_key(self) -> str:
        """Stability API key."""
        return f"sk-emulator-{self.name}"

    @property
    def fal_key(self) -> str:
        """Key of the scope API: generation, uploads and reading the catalogue."""
        return _fal_key(self.name, "API")

    @property
    def fal_admin_key(self) -> str:
        """Key of the scope ADMIN, which billing needs."""
        return _fal_key(self.name, "ADMIN")

    @property
    def email(self) -> str:
        """Address in Stability's account answer."""
        return f"{self.name}@emulator.example"

    @property
    def user_id(self) -> str:
        """Identity at both services; fal signs webhooks with it."""
        return f"user-{_digest(self.name)[:24]}"

    @property
    def organization_id(self) -> str:
        """Stability organization that pays."""
        return f"org-{_digest(self.name)[24:48]}"

    @property
    def lock_reason(self) -> str | None:
        """Why fal refuses this account, if it does."""
        return self.locked or (EXHAUSTED if self.balance <= 0 else None)
