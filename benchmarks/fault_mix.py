"""Three hundred jobs while one request in ten goes wrong: nothing is paid twice, nothing is lost.

    python benchmarks/fault_mix.py [--jobs N] [--seed S] [--quick]

Tasks are called, submitted and mapped in flows by chunks, and called by Lua workflows, with both providers. The
emulator answers every tenth request with a rate limit, an error of the service or of a gateway, a broken, cut-off or
slow answer, before or after it has accepted the request; the S3 server fails every tenth PUT, and some pictures always.
The seed decides which request of each kind is struck by what.

`--quick` leaves out what makes the client wait for a minute, and Stability's asynchronous jobs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
from proof import BUCKET, Lab, LabAccount, fal_addresses, lab, secret_scan, stability_addresses, table, verdict
from relay import Exchange, Moment, Relay

RATE = 0.1
CHUNK = 10
AMBIGUOUS = "AmbiguousSubmission"
ERRORS = (AMBIGUOUS, "StorageError", "Unavailable")
RUN_SECONDS = 1500.0
KINDS = {
    "generate_core": 5,
    "generate_ultra": 4,
    "upscale_fast": 4,
    "upscale_creative": 1,
    "fal, one file": 6,
    "fal, several files": 5,
    "Lua": 5,
}
"""How often each kind of job is among thirty."""
BY_OPERATION = {
    "generate/core": "generate_core",
    "generate/ultra": "generate_ultra",
    "generate/sd3": "Lua",
    "upscale/fast": "upscale_fast",
    "upscale/creative": "upscale_creative",
}

Fault = dict[str, Any]
ANSWERS: list[Fault] = [
    {"fault": "429", "retry_after": 1},
    {"fault": "500"},
    {"fault": "502-html"},
    {"fault": "reset"},
    {"fault": "truncate"},
    {"fault": "drip", "seconds": 0.5},
]
PAID: list[Fault] = [*ANSWERS, {"fault": "reset-after"}, {"fault": "502-html-after"}, {"fault": "close-after"}]
LOCK_OUT: Fault = {"fault": "429"}
"""Without a hint when to come back, a client of Stability waits for the whole minute of the lock-out."""
FAULTS: dict[str, list[Fault]] = {
    "POST /stability/v2beta/": PAID,
    "GET /stability/v2beta/": ANSWERS,
    "POST /fal/queue/": [*PAID, LOCK_OUT],
    "GET /fal/queue/": [*ANSWERS, LOCK_OUT],
    "GET /fal/media/": [*ANSWERS, LOCK_OUT],
    "GET /fal/api/": ANSWERS,
}


def rules(seed: int, match: str, kinds: list[Fault], requests: int) -> Generator[Fault]:
    """Rules that strike every tenth of the matching requests on average."""
    chance, struck = random.Random(f"{seed} {match}"), 0  # noqa: S311 - repeatable, not secret
    for position in range(requests):
        if chance.random() < RATE:
            # A rule does not see the requests that an earlier one strikes.
            yield {"match": match, **chance.choice(kinds), "after": position - struck}
            struck += 1


def _refusal(status: str, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>Please try again.</Message></Error>"
    headers = f"Content-Type: application/xml\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n{body}".encode()


STORE_ANSWERS = {
    "503": _refusal("503 Slow Down", "SlowDown"),
    "500": _refusal("500 Error", "InternalError"),
    "reset": b"",
}


class FaultyStore:
    """Fails one PUT in ten, and every PUT of one picture in forty."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(f"{seed} store")  # noqa: S311 - repeatable, not secret
        self._pictures: dict[str, int] = {}
        self._after: set[int] = set()
        self.struck: Counter[str] = Counter()
        self.puts = 0

    def __call__(self, exchange: Exchange, moment: Moment) -> bytes | None:
        """The hook of the relay in front of S3."""
        if moment == "answered" and id(exchange) in self._after:
            self._after.remove(id(exchange))
            return b""
        if moment != "received" or exchange.method != "PUT":
            return None
        self.puts += 1
        if self._is_refused(exchange.path):
            self.struck["never taken"] += 1
            return STORE_ANSWERS[self._chance.choice(["503", "500", "reset"])]
        if self._chance.random() >= RATE:
            return None
        kind = self._chance.choice([*STORE_ANSWERS, "reset-after"])
        self.struck[kind] += 1
        if kind == "reset-after":
            self._after.add(id(exchange))
        return STORE_ANSWERS.get(kind)

    def _is_refused(self, path: str) -> bool:
        """Whether it is a picture that is never taken."""
        if not re.search(r"-[0-9a-f]{12}\.(jpg|png)$", path):
            return False
        return self._pictures.setdefault(path, len(self._pictures)) % 40 == 7


def plan(count: int, seed: int, accounts: list[LabAccount], folder: Path, *, quick: bool) -> list[list[dict[str, str]]]:
    """The jobs in chunks. Lua workflows and half of the rest are submitted, the others are called."""
    chance = random.Random(f"{seed} plan")  # noqa: S311 - repeatable, not secret
    kinds = [kind for kind, share in KINDS.items() for _ in range(share) if not (quick and kind == "upscale_creative")]
    chance.shuffle(kinds)
    jobs = [
        {"id": f"job-{number:04}", "kind": kinds[number % len(kinds)], "folder": str(folder)} for number in range(count)
    ]
    for job in jobs:
        called = job["kind"] == "upscale_creative" or (job["kind"] != "Lua" and chance.random() < 0.5)
        job |= {"style": "called" if called else "submitted", "account": chance.choice(accounts).name}
    jobs.sort(key=lambda job: job["style"])
    return [jobs[start : start + CHUNK] for start in range(0, count, CHUNK)]


class Books:
    """What the emulator billed, against what the jobs say and what is stored."""

    def __init__(self, made: Lab, accounts: list[LabAccount], exchanges: list[Exchange], outcomes: Path) -> None:
        self._lab, self._keys = made, {account.name: account for account in accounts}
        ledger = made.control("ledger")
        self.entries: list[dict[str, Any]] = ledger["entries"]
        self.billed = [entry for entry in self.entries if entry["billed"]]
        self.breaches: list[str] = list(ledger["violations"])
        self.breaches += [f"request {number} of the emulator was paid before" for number in ledger["paid_twice"]]
        inputs = {(entry["account"], entry["operation"], entry["fingerprint"]) for entry in self.billed}
        self.twice = len(self.billed) - len(inputs)
        self._jobs = {job["id"]: job for job in made.control("jobs")["jobs"]}
        self._answers = {exchange.headers.get("x-request-id"): exchange for exchange in exchanges}
        lines = [json.loads(line) for line in outcomes.read_text().splitlines()]
        self.outcomes: dict[str, dict[str, Any]] = {line["id"]: line for line in lines}  # the last attempt's
        self.stored = {_sha256(content) for content in made.stored().values()}
        self.spooled = {_sha256(content) for content in made.spooled()} - self.stored
        self.rows: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}

    def close(self, jobs: list[dict[str, str]], exchanges: list[Exchange]) -> None:
        """Fill in the rows and the breaches."""
        kinds = {job["id"]: job["kind"] for job in jobs}
        for job in jobs:
            self._ended(job)
        lost = Counter[str]()
        for entry in self.billed:
            kind, mark, wanted = self._made(entry, kinds)
            row = self.rows[kind]
            row["billed"] += 1
            if wanted is not None and wanted <= self.stored:
                row["stored"] += 1
            elif wanted is not None and wanted <= self.stored | self.spooled:
                row["spooled"] += 1
            elif wanted is None or (entry["provider"] == "stability" and self._error(mark) == AMBIGUOUS):
                lost[kind] += 1
            else:
                where = f"{len(wanted - self.stored - self.spooled)} of {len(wanted)} files"
                said = self.outcomes.get(mark, {}).get("message", "it ended well")
                self.breaches.append(f"{mark} ({kind}) was billed, {where} are neither stored nor spooled: {said}")
        self._ambiguous(lost, exchanges, kinds)

    def _ended(self, job: dict[str, str]) -> None:
        """Whether a job has its files, or an error that says why not."""
        row, outcome = self.rows[job["kind"]], self.outcomes.get(job["id"])
        row["jobs"] += 1
        if outcome is None:
            self.breaches.append(f"{job['id']} ({job['kind']}) never ended")
        elif "files" in outcome:
            row["ended well"] += 1
            if not outcome["files"] or not set(outcome["files"]) <= self.stored:
                self.breaches.append(f"{job['id']} ({job['kind']}) ended well without its files")
        else:
            row[self._error(job["id"])] += 1
            if not outcome["meant"] or not re.search(r"\b(stability|fal)\.\w+", outcome["message"]):
                said = f"{outcome['kinds']} {outcome['message']}"
                self.breaches.append(f"{job['id']} ({job['kind']}) ended with an error that does not say why: {said}")

    def _error(self, mark: str) -> str:
        """The error a job ended with, by its class; a script's error by its cause."""
        names = [name for name in self.outcomes.get(mark, {}).get("kinds", []) if name != "LuaError"]
        return (names[0] if names[0] in ERRORS else "other error") if names else ""

    def _made(self, entry: dict[str, Any], kinds: dict[str, str]) -> tuple[str, str, set[str] | None]:
        """What a billed request was for: kind of job, job, and hashes of its files; None where the answer was lost."""
        account = self._keys[entry["account"]]
        if entry["provider"] == "fal":
            job = self._jobs[entry["request_id"]]
            mark = _mark(job["arguments"]["prompt"])
            url = f"{self._lab.emulator}/fal/queue/fal-ai/flux/requests/{job['id']}"
            result = (
                self._lab.http.get(url, headers={"Authorization": f"Key {account.fal_key}"}).raise_for_status().json()
            )
            paths = [httpx.URL(image["url"]).path for image in result["images"]]
            return (
                kinds[mark],
                mark,
                {_sha256(self._lab.http.get(f"{self._lab.emulator}{path}").content) for path in paths},
            )
        kind = BY_OPERATION[entry["operation"]]
        if kind == "upscale_creative":
            job = next(job for job in self._jobs.values() if job["id"].startswith(entry["outcome"].split()[-1]))
            url = f"{self._lab.emulator}/stability/v2beta/results/{job['id']}"
            headers = {"Authorization": f"Bearer {account.stability_key}", "Accept": "*/*"}
            picture = self._lab.http.get(url, headers=headers).raise_for_status().content
            return kind, _mark(job["arguments"]["prompt"]), {_sha256(picture)}
        exchange = self._answers.get(entry["request_id"])
        if exchange is None or not exchange.delivered:
            return kind, "", None
        return kind, _mark(exchange.request.decode("latin-1")), {exchange.sha256}

    def _ambiguous(self, lost: Counter[str], exchanges: list[Exchange], kinds: dict[str, str]) -> None:
        """Every call of Stability whose answer was lost is reported by its job, and was never made again."""
        named: dict[str, set[str]] = {kind: set() for kind in KINDS}
        open_calls: set[tuple[str, str]] = set()
        for exchange in exchanges:
            if exchange.method != "POST" or not exchange.path.startswith("/stability/"):
                continue
            mark = _mark(exchange.request.decode("latin-1"))
            if (mark, exchange.path) in open_calls:
                self.breaches.append(f"{mark}: {exchange.path} was called again though it may have been accepted")
            refused = exchange.status == 429 or (
                exchange.status >= 500 and "json" in exchange.headers.get("content-type", "")
            )
            if refused or (exchange.delivered and exchange.status == 200):
                continue
            open_calls.add((mark, exchange.path))
            named[kinds[mark]].add(mark)
            if self._error(mark) != AMBIGUOUS:
                outcome = self.outcomes.get(mark, {})
                self.breaches.append(f"{mark}: the answer of {exchange.path} was lost, but it ended with {outcome}")
        for kind, count in lost.items():
            self.rows[kind]["ambiguous"] = count
            if count > len(named[kind]):
                self.breaches.append(f"{kind}: {count} answers were lost, but only {len(named[kind])} jobs say so")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _mark(text: str) -> str:
    """The job that a prompt or a file is named after."""
    found = re.search(r"job-\d{4}", text)
    return found[0] if found else ""


def main() -> int:
    """Run the jobs, close the books, print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    started = time.monotonic()
    pauses = {"queue_seconds": 0.1, "run_seconds": 0.3, "stability_async_seconds": 0.5}
    store = FaultyStore(asked.seed)
    with (
        lab(plain_pictures=True, credits=1e6, balance=1e6, **pauses) as made,
        Relay(made.emulator) as services,
        Relay(made.s3, store) as s3,
    ):
        accounts = [made.add_account(f"{word}{secrets.token_hex(2)}") for word in ("env", "block")]
        chunks = plan(asked.jobs, asked.seed, accounts, made.folder, quick=asked.quick)
        for match, faults in FAULTS.items():
            kinds = [*faults, LOCK_OUT] if "POST /stab" in match and not asked.quick else faults
            for rule in rules(asked.seed, match, kinds, 6 * asked.jobs):
                made.control("faults", rule)
        began = time.monotonic()
        _run(made, chunks, accounts, services.url, s3.url)
        seconds = time.monotonic() - began
        made.control("faults", {}, method="DELETE")
        books = Books(made, accounts, services.exchanges, made.folder / "outcomes.jsonl")
        books.close([job for chunk in chunks for job in chunk], services.exchanges)
        leaks, size = secret_scan(made)
        _show(books, store)
        print(f"{seconds:.0f} s for the jobs, {time.monotonic() - started:.0f} s in all, seed {asked.seed}; ", end="")
        print(f"{size / 2**20:.0f} MiB searched for secrets")
        return verdict(
            made, [*books.breaches, *leaks], "Nothing was paid twice, nothing was lost, no secret was written."
        )


def _run(made: Lab, chunks: list[list[dict[str, str]]], accounts: list[LabAccount], services: str, s3: str) -> None:
    """Run the jobs in a process of their own; one account is in its environment, one in Prefect blocks."""
    files = made.folder / "plan.json", made.folder / "outcomes.jsonl"
    files[0].write_text(json.dumps({"output": f"s3://{BUCKET}/files", "chunks": chunks}))
    in_environment, in_blocks = accounts
    settings = in_environment.settings(services) | {"KOSMO_OUTPUT_ENDPOINT_URL": s3}
    script = str(Path(__file__).with_name("mixed_jobs.py"))
    process = made.start("jobs", sys.executable, script, *map(str, files), **settings)
    fields = {
        "stability": {"api_key": in_blocks.stability_key, **stability_addresses(services)},
        "fal": {"api_key": in_blocks.fal_key, **fal_addresses(services)},
    }
    try:
        process.communicate(json.dumps({in_blocks.name: fields}).encode(), timeout=RUN_SECONDS)
    except subprocess.TimeoutExpired:
        sys.exit(f"the jobs did not end within {RUN_SECONDS:.0f} s")
    if process.returncode:
        sys.exit(f"the jobs could not be run:\n{made.log('jobs').read_text(errors='replace')[-3000:]}")


def _show(books: Books, store: FaultyStore) -> None:
    columns = ["jobs", "ended well", *ERRORS, "other error", "billed", "stored", "spooled", "ambiguous"]
    total = sum(books.rows.values(), Counter[str]())
    table(
        [{"kind": kind} | {name: row[name] for name in columns} for kind, row in [*books.rows.items(), ("all", total)]]
    )
    struck = Counter(entry["fault"] for entry in books.entries if entry["fault"])
    count = len(books.entries)
    print(f"{struck.total()} of {count} requests were struck: {_listed(struck)}")
    print(f"{store.struck.total()} of {store.puts} PUTs were struck: {_listed(store.struck)}")
    print(f"paid twice: {books.twice}")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
