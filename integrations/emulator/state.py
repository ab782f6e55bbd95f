"""Everything the emulator knows: accounts, jobs, files, faults, the clock and the ledger."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from prefect_kosmokrator.integrations.emulator.accounts import Account
from prefect_kosmokrator.integrations.emulator.clock import Clock
from prefect_kosmokrator.integrations.emulator.faults import FaultRule, Faults
from prefect_kosmokrator.integrations.emulator.files import FileStore
from prefect_kosmokrator.integrations.emulator.jobs import Job, schedule
from prefect_kosmokrator.integrations.emulator.ledger import Ledger
from prefect_kosmokrator.integrations.emulator.pictures import randomness
from prefect_kosmokrator.integrations.emulator.settings import EmulatorSettings

if TYPE_CHECKING:
    from collections import deque

    from prefect_kosmokrator.integrations.emulator.webhooks import WebhookSigner

MAX_SEED = 4_294_967_294


class EmulatorState:
    """What both services remember; safe to read and change from another thread while the emulator serves.

    Attributes:
        settings: The knobs, changeable at any time.
        clock: The emulator's time; ``clock.advance(seconds)`` ages jobs, results, tokens and files.
        accounts: Accounts by name.
        jobs: Asynchronous work by id.
        files: Uploaded and generated files.
        tokens: fal upload tokens and when each ends, with the account.
        deliveries: Webhook deliveries tried, each with its status.
        closing: Set when the emulator stops.
    """

    def __init__(self, settings: EmulatorSettings | None = None, clock: Clock | None = None) -> None:
        self.settings = settings or EmulatorSettings()
        self.clock = clock or Clock()
        self.closing = threading.Event()
        self._lock = threading.RLock()
        self.files = FileStore(self.clock)
        self._start()

    def _start(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.jobs: dict[str, Job] = {}
        self._open: dict[str, Job] = {}
        self.tokens: dict[str, tuple[str, float]] = {}
        self.stability_requests: dict[str, deque[float]] = {}
        self.deliveries: list[dict[str, Any]] = []
        self._ledger = Ledger()
        self._faults = Faults()
        self._signer: WebhookSigner | None = None
        # A fixed start makes the seeds that the services choose the same in every run.
        self._random = randomness("2026")
        for name in self.settings.accounts:
            self.add_account(name)

    def reset(self) -> None:
        """Forget everything but the settings and the clock."""
        with self._lock:
            self.files.close()
            self.files = FileStore(self.clock)
            self._start()

    def add_account(self, name: str, **values: Any) -> Account:
        """Create an account, or replace it.

        Args:
            name: Its name; the keys follow from it.
            values: ``credits``, ``balance``, ``concurrency``, ``locked`` or ``revoked`` instead of the defaults.
        """
        account = Account(name.lower(), self.settings.credits, self.settings.balance, self.settings.concurrency)
        self.accounts[account.name] = account = replace(account, **values)
        return account

    def account(self, name: str = "default") -> Account:
        """An account by name, in any case."""
        try:
            return self.accounts[name.lower()]
        except KeyError:
            raise KeyError(f"no account {name!r}; there are {sorted(self.accounts)}") from None

    def owner_of(self, key: str) -> tuple[Account, str] | None:
        """The account of a key and the key's scope: ``stability``, ``API`` or ``ADMIN``."""
        for account in self.accounts.values():
            scopes = {account.stability_key: "stability", account.fal_key: "API", account.fal_admin_key: "ADMIN"}
            if key in scopes:
                return account, scopes[key]
        return None

    def inject(self, match: str, fault: str, **options: Any) -> FaultRule:
        """Make matching requests go wrong.

        Args:
            match: Which requests, as ``METHOD /path-prefix``; a ``*`` makes it a pattern for the whole path.
            fault: ``reset`` (TCP reset) or ``close`` (orderly close), ``timeout`` (no answer ever), any status such as
                ``429`` or ``503``, ``502-html`` (a proxy's error page), ``redirect``, ``malformed`` (broken JSON),
                ``respond`` (the given status, headers and body). These strike before the request is processed; with
                the suffix ``-after`` it takes effect, and is billed, first. ``slow`` delays the answer, ``drip`` sends
                it in small pieces, ``truncate`` cuts it. Faults of a fal job or an asynchronous generation:
                ``job-error`` (it completes with an error), ``job-hang`` (it never completes), ``job-unknown-status``,
                ``job-no-logs``, ``job-filtered`` (also for synchronous pictures).
            options: ``times`` (default 1, 0 for ever), ``after``, ``account``, ``retry_after``, ``seconds``, ``bytes``,
                ``status``, ``body``, ``headers``, ``location``, ``error_type``; see ``FaultRule``.
        """
        with self._lock:
            rule = FaultRule(match, fault, **options)
            self._faults.rules.append(rule)
            return rule

    @property
    def faults(self) -> list[FaultRule]:
        """Rules that have not been spent."""
        return list(self._faults.rules)

    def clear_faults(self) -> None:
        """Drop every rule."""
        with self._lock:
            self._faults.rules.clear()

    def take_fault(self, method: str, path: str, account: str | None) -> FaultRule | None:
        """The fault that strikes a request, which uses the rule up."""
        with self._lock:
            return self._faults.take(method, path, account)

    @property
    def ledger(self) -> Ledger:
        """Every request so far, with the bills of all jobs that have completed by now."""
        self.settle()
        return self._ledger

    @property
    def signer(self) -> WebhookSigner:
        """The key pairs that sign fal's webhooks."""
        if self._signer is None:
            from prefect_kosmokrator.integrations.emulator.webhooks import WebhookSigner  # noqa: PLC0415

            self._signer = WebhookSigner()
        return self._signer

    def choose_seed(self, wanted: int | None) -> int:
        """The seed the caller asked for, or a random one for zero and none."""
        return wanted or self._random.randrange(1, MAX_SEED)

    def add_job(self, job: Job) -> Job:
        """Accept a job and decide when it runs."""
        with self._lock:
            self.jobs[job.id] = self._open[job.id] = job
            self._schedule(job)
            return job

    def cancel_job(self, job: Job) -> None:
        """Stop a waiting job; a running one goes on unless the settings say otherwise."""
        with self._lock:
            waiting = job.phase(self.clock.time()) == "IN_QUEUE"
            if waiting or self.settings.cancel_stops_running:
                job.cancelled = self.clock.time()
                self._schedule(job)

    def _schedule(self, changed: Job) -> None:
        group = self.open_jobs(changed.provider, changed.account)
        slots = self.account(changed.account).concurrency if changed.provider == "fal" else len(group)
        schedule(group, slots, self.clock.time())

    def queue_position(self, job: Job) -> int:
        """How many jobs of the account wait in front of this one."""
        now = self.clock.time()
        others = self.open_jobs(job.provider, job.account)
        return sum(1 for j in others if j.phase(now) == "IN_QUEUE" and j.submitted < job.submitted)

    def open_jobs(self, provider: str, account: str) -> list[Job]:
        """Jobs of an account that have not been billed or written off, in order of submission."""
        with self._lock:
            return [job for job in self._open.values() if (job.provider, job.account) == (provider, account)]

    def settle(self) -> None:
        """Bill every job that has completed; failed and cancelled ones cost nothing."""
        now = self.clock.time()
        with self._lock:
            for job in [job for job in self._open.values() if now >= job.ends]:
                del self._open[job.id]
                job.settled = True
                if job.succeeds:
                    self.charge(job.account, job.cost, job.unit, job.entry)

    def reprice(self, job: Job, cost: float) -> None:
        """Correct the price of a job, also after it was billed: some prices follow from the result."""
        with self._lock:
            if job.settled and job.cancelled is None:
                self.charge(job.account, cost - job.entry.billed, job.unit, job.entry)
                job.entry.billed = cost
            job.cost = cost

    def charge(self, account: str, amount: float, unit: str, entry: Any) -> None:
        """Take the price of a finished piece of work from its account and note it in the ledger."""
        with self._lock:
            owner = self.account(account)
            if unit == "credits":
                owner.credits = round(owner.credits - amount, 6)
            else:
                owner.balance = round(owner.balance - amount, 6)
            entry.billed, entry.unit = amount, unit

    def close(self) -> None:
        """Let held connections go and remove the files."""
        self.closing.set()
        self.files.close()
