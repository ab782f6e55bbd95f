"""A run that is killed at an exact place and resumed pays nothing again and loses nothing.

    python benchmarks/kill_points.py [--points N]

A flow generates with Stability, submits two equal fal requests and a different one, waits for them, upscales one of
their pictures and runs a Lua script with two paid calls. Its process is killed (SIGKILL) at 60 places, twelve each
while it submits, waits, downloads, stores and runs the script; then the same flow run is resumed in a new process.
Relays in front of the emulator and of the S3 server meet the process at the exact place: the service has the request
but has not answered, has answered, half of the answer has arrived, all of it. Writes to local folders are met in the
process itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import secrets
import signal
import sys
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import killed_run
from proof import BUCKET, Lab, lab, secret_scan, table, verdict
from relay import Exchange, Moment, Relay

PHASES = ("submit", "wait", "download", "store", "lua")
WORKERS = 2
RUN_SECONDS = 120.0
PRELOADED = ["killed_run", "prefect.flow_engine", "prefect_kosmokrator.tasks.fal", "prefect_kosmokrator.tasks.lua"]
AWAITING = {"type": "SCHEDULED", "name": "AwaitingRetry"}


@dataclass(frozen=True)
class Point:
    """A place to kill the process.

    Attributes:
        phase: What the run is doing.
        request: Pattern of `METHOD path`; the local folders of results and ledger for `opened` and `torn`.
        number: The how-manieth such request or write.
        moment: Of the exchange; or before a file is opened for writing, or when it is open and still empty.
        after: Counts only once a request holds this text.
    """

    phase: str
    request: str
    number: int
    moment: Moment | Literal["opened", "torn"]
    after: str = ""

    def __str__(self) -> str:
        where = f" after {self.after!r}" if self.after else ""
        return f"{self.phase}: {self.request} no. {self.number}{where}, {self.moment}"


CORE, FAST, ULTRA = (
    f"POST /stability/v2beta/stable-image/{name}" for name in ("generate/core", "upscale/fast", "generate/ultra")
)
SUBMIT, STATUS, RESULT = "POST /fal/queue/", "GET /fal/queue/.*/status", r"GET /fal/queue/.*/requests/[\w-]+$"
FILE, PUT, LEDGER = "GET /fal/media/", rf"PUT /{BUCKET}/files/(?!\.kosmo)", rf"PUT /{BUCKET}/files/\.kosmo"
BY_SCRIPT = "by script"


def _points(phase: str, *places: tuple[str, int, str] | tuple[str, int, str, str]) -> list[Point]:
    return [Point(phase, *place) for place in places]


POINTS = [
    *_points(
        "submit",
        (CORE, 1, "received"), (CORE, 1, "answered"), (CORE, 1, "half"), (CORE, 1, "delivered"),
        (SUBMIT, 1, "received"), (SUBMIT, 1, "answered"), (SUBMIT, 2, "answered"), (SUBMIT, 2, "delivered"),
        (SUBMIT, 3, "answered"), (SUBMIT, 3, "later"), (FAST, 1, "answered"), (FAST, 1, "half"),
    ),
    *_points(
        "wait",
        (STATUS, 1, "received"), (STATUS, 1, "answered"), (STATUS, 2, "delivered"), (STATUS, 2, "later"),
        (RESULT, 1, "received"), (RESULT, 1, "answered"), (RESULT, 1, "delivered"), (RESULT, 2, "received"),
        (RESULT, 2, "later"), (RESULT, 3, "answered"), (RESULT, 3, "half"), (RESULT, 3, "later"),
    ),
    *_points(
        "download",
        (FILE, 1, "received"), (FILE, 1, "answered"), (FILE, 1, "half"), (FILE, 1, "delivered"),
        (FILE, 1, "later"), (FILE, 2, "half"), (FILE, 2, "delivered"), (FILE, 3, "half"),
        (FILE, 3, "delivered"), (FILE, 4, "received"), (FILE, 4, "half"), (FILE, 4, "later"),
    ),
    *_points(
        "store",
        (PUT, 1, "received"), (PUT, 1, "answered"), (PUT, 2, "received"), (PUT, 3, "delivered"),
        (PUT, 4, "answered"), (PUT, 6, "later"), (PUT, 1, "answered", "upscale/fast"),
        (LEDGER, 1, "opened"), (LEDGER, 2, "torn"), (LEDGER, 3, "torn"), (LEDGER, 5, "torn"), (LEDGER, 8, "opened"),
    ),
    *_points(
        "lua",
        (ULTRA, 1, "received"), (ULTRA, 1, "answered"), (ULTRA, 1, "half"), (PUT, 1, "answered", BY_SCRIPT),
        (PUT, 3, "later", BY_SCRIPT), (SUBMIT, 4, "received"), (SUBMIT, 4, "answered"), (SUBMIT, 4, "delivered"),
        (STATUS, 2, "answered", BY_SCRIPT), (FILE, 5, "half"), (PUT, 4, "answered", BY_SCRIPT),
        (PUT, 6, "later", BY_SCRIPT),
    ),
]  # fmt: skip


class Trigger:
    """Kills the process at its place, once."""

    def __init__(self, point: Point) -> None:
        self.point = point
        self.process: multiprocessing.process.BaseProcess | None = None
        self.fired = False
        self.paid: list[Exchange] = []
        self._armed = not point.after
        self._count = 0
        self._target: Exchange | None = None
        # What happens to a write to a local file can happen to a write to S3 as well.
        self._moment = {"opened": "received", "torn": "answered"}.get(point.moment, point.moment)

    def __call__(self, exchange: Exchange, moment: Moment) -> bytes | None:
        """The hook of both relays."""
        if self.fired:
            return None
        if moment == "received":
            self._arrived(exchange)
        if exchange is self._target and moment == self._moment and self.process is not None and self.process.pid:
            self.fired = True
            os.kill(self.process.pid, signal.SIGKILL)
            return b""
        return None

    def _arrived(self, exchange: Exchange) -> None:
        if exchange.method == "POST" and not exchange.path.startswith(f"/{BUCKET}"):
            self.paid.append(exchange)
        if self._armed and re.match(self.point.request, f"{exchange.method} {exchange.path}"):
            self._count += 1
            if self._count == self.point.number:
                self._target = exchange
        self._armed = self._armed or self.point.after.encode() in exchange.request


@dataclass
class Report:
    """What became of one point.

    Attributes:
        point: The point.
        reached: The process was killed there.
        ended: How the resumed run ended: `well`, `ambiguous`, or what is wrong.
        finished: Paid calls that had ended when the process was killed.
        billed: Requests the services billed, in both attempts.
        twice: Those billed once more than asked for.
        lost: Billed results that are neither stored nor spooled.
        seconds: For both attempts.
        breaches: What was promised and did not hold.
    """

    point: Point
    reached: bool = False
    ended: str = ""
    finished: int = 0
    billed: int = 0
    twice: Counter[str] = field(default_factory=Counter[str])
    lost: list[str] = field(default_factory=list[str])
    seconds: float = 0.0
    breaches: list[str] = field(default_factory=list[str])


class Bench:
    """Runs points, one after the other, with an account of its own."""

    def __init__(self, made: Lab, name: str, flow_id: str) -> None:
        self.lab, self.name, self.flow_id = made, name, flow_id
        self._account = made.add_account(name)
        self._context = multiprocessing.get_context("forkserver")

    def measure(self, number: int, point: Point) -> Report:
        """Kill and resume."""
        report, trigger, started = Report(point), Trigger(point), time.monotonic()
        prompt, first = f"lamp {number}", len(self.lab.control("ledger")["entries"])
        output = f"s3://{BUCKET}/files/{number}"
        with ExitStack() as stack:
            services, s3 = (stack.enter_context(Relay(url, trigger)) for url in (self.lab.emulator, self.lab.s3))
            settings = self._account.settings(services.url) | {"KOSMO_OUTPUT_ENDPOINT_URL": s3.url}
            if point.moment == "torn":
                settings["KOSMO_LEDGER"] = (self.lab.folder / "ledger").as_uri()
            run_id = self._create({"prompt": prompt, "account": self.name, "output": output})
            code, _ = self._attempt(number, settings, run_id, trigger)
            trigger.fired, killed = True, code == -signal.SIGKILL
            report.reached = killed
            before = list(trigger.paid)
            self.lab.ask_prefect(f"flow_runs/{run_id}/set_state", {"state": AWAITING, "force": True})
            _, answer = self._attempt(number, settings, run_id, None)
            exchanges = list(services.exchanges)
        report.seconds = time.monotonic() - started
        self._judge(report, answer, before, exchanges, first, number)
        return report

    def _create(self, parameters: dict[str, str]) -> str:
        body = {"flow_id": self.flow_id, "parameters": parameters, "state": {"type": "PENDING"}}
        return str(self.lab.ask_prefect("flow_runs/", body)["id"])

    def _attempt(
        self, number: int, settings: dict[str, str], run_id: str, trigger: Trigger | None
    ) -> tuple[int | None, dict[str, Any]]:
        """The exit code of a process that runs the flow run, and how the run ended."""
        attempt, writes = "killed" if trigger else "resumed", None
        if trigger and trigger.point.moment in {"opened", "torn"}:
            folders = [str(self.lab.folder / "prefect" / "storage"), str(self.lab.folder / "ledger")]
            writes = folders, trigger.point.number, trigger.point.moment == "torn"
        answer = self.lab.folder / f"{number}-{attempt}.json"
        log = self.lab.log(f"{number}-{attempt}")
        process = self._context.Process(target=killed_run.run, args=(settings, str(log), run_id, str(answer), writes))
        process.start()
        if trigger:
            trigger.process = process
        process.join(RUN_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
        return process.exitcode, json.loads(answer.read_text()) if answer.exists() else {"state": "no end"}

    def _judge(
        self,
        report: Report,
        answer: dict[str, Any],
        before: list[Exchange],
        exchanges: list[Exchange],
        first: int,
        number: int,
    ) -> None:
        """Compare what was billed with what is stored and with how the run ended."""
        jobs = self._jobs()
        entries = [entry for entry in self.lab.control("ledger")["entries"][first:] if entry["account"] == self.name]
        billed = [entry for entry in entries if entry["billed"]]
        labels = [
            jobs[entry["request_id"]]["arguments"]["prompt"] if entry["provider"] == "fal" else entry["operation"]
            for entry in billed
        ]
        report.billed, report.finished = len(billed), max(0, len(before) - 1)
        report.twice = Counter(labels) - Counter({label: 2 if label.endswith("twin") else 1 for label in labels})
        stored = {hashlib.sha256(content).hexdigest() for content in self.lab.stored(f"files/{number}/").values()}
        stored |= {hashlib.sha256(content).hexdigest() for content in self.lab.spooled()}
        answers = {exchange.headers.get("x-request-id"): exchange for exchange in exchanges}
        report.ended = "well" if answer["state"] == "Completed" else "badly"
        in_flight = before[-1].path if before else ""
        if "AmbiguousSubmission" in answer.get("kinds", []):
            report.ended = "ambiguous" if "/stability/" in in_flight else "open"
        message = answer.get("message", "").replace("_", "/")
        for entry, label in zip(billed, labels, strict=True):
            if entry["provider"] == "fal":
                wanted = self._made(entry["request_id"])
            else:
                exchange = answers.get(entry["request_id"])
                wanted = {exchange.sha256} if exchange and exchange.delivered else set()
                if report.ended == "ambiguous" and entry["operation"] in message:
                    continue
                if not wanted:
                    report.lost.append(f"{label} was billed, its answer was lost, and nothing says so")
            if not wanted <= stored:
                report.lost.append(f"{label} was billed and is neither stored nor spooled")
        self._conclude(report, answer, stored, in_flight)

    def _conclude(self, report: Report, answer: dict[str, Any], stored: set[str], in_flight: str) -> None:
        said = f"{answer['state']} {answer.get('kinds', '')} {answer.get('message', '')}"
        if not report.reached:
            report.breaches.append("the process was never there; it was not killed")
        if report.ended == "badly":
            report.breaches.append(f"the resumed run ended neither well nor ambiguous: {said}")
        if report.ended == "ambiguous" and in_flight.partition("stable-image/")[2] not in said.replace("_", "/"):
            report.breaches.append(f"ambiguous, but not about {in_flight}: {said}")
        if report.ended == "well" and not (len(answer["files"]) == killed_run.FILES and set(answer["files"]) <= stored):
            report.breaches.append(f"{len(answer['files'])} files of {killed_run.FILES}, or not those that are stored")
        report.breaches += [f"{label} was paid {count} times too often" for label, count in report.twice.items()]
        report.breaches += [f"{lost}; the resumed run said: {said}" for lost in report.lost]

    def _jobs(self) -> dict[str, Any]:
        """This account's jobs, once all of them have ended."""
        deadline = time.monotonic() + 20
        while True:
            jobs = {job["id"]: job for job in self.lab.control("jobs")["jobs"] if job["account"] == self.name}
            if all(job["phase"] == "COMPLETED" for job in jobs.values()) or time.monotonic() > deadline:
                return jobs
            time.sleep(0.1)

    def _made(self, request_id: str) -> set[str]:
        """Hashes of the files that fal made for a request."""
        url = f"{self.lab.emulator}/fal/queue/fal-ai/flux/requests/{request_id}"
        result = (
            self.lab.http.get(url, headers={"Authorization": f"Key {self._account.fal_key}"}, timeout=60)
            .raise_for_status()
            .json()
        )
        paths = [httpx.URL(image["url"]).path for image in result["images"]]
        return {hashlib.sha256(self.lab.http.get(f"{self.lab.emulator}{path}").content).hexdigest() for path in paths}


def main() -> int:
    """Run the points, two at a time, and print what became of them by phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=len(POINTS), help="how many, spread over all phases")
    wanted = parser.parse_args().points
    chosen = [POINTS[place * len(POINTS) // wanted] for place in range(min(wanted, len(POINTS)))]
    started = time.monotonic()
    with lab(plain_pictures=True, credits=1e6, balance=1e6, queue_seconds=0.1, run_seconds=0.3) as made:
        os.environ.update(made.environment)
        multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
        flow_id = made.ask_prefect("flows/", {"name": "kill-points"})["id"]
        tasks, reports = deque(enumerate(chosen)), list[Report]()

        def work(bench: Bench) -> None:
            while tasks:
                reports.append(bench.measure(*tasks.popleft()))

        benches = [Bench(made, f"kill{number}{secrets.token_hex(2)}", flow_id) for number in range(WORKERS)]
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(work, benches))
        violations = made.control("ledger")["violations"]
        leaks, size = secret_scan(made)
        table(_rows(reports))
        print(f"{time.monotonic() - started:.0f} s in all; {size / 2**20:.0f} MiB searched for secrets")
        breaches = [f"{report.point}: {breach}" for report in reports for breach in report.breaches]
        promise = "Nothing was paid twice, nothing was lost, no secret was written."
        return verdict(made, [*breaches, *violations, *leaks], promise)


def _rows(reports: list[Report]) -> list[dict[str, object]]:
    """One row for each phase, and one for all."""
    groups = {phase: [report for report in reports if report.point.phase == phase] for phase in PHASES}
    return [
        {
            "killed during": phase,
            "points": len(group),
            "reached": sum(report.reached for report in group),
            "resumed well": sum(report.ended == "well" for report in group),
            "ambiguous": sum(report.ended == "ambiguous" for report in group),
            "open at fal": sum(report.ended == "open" for report in group),
            "other end": sum(report.ended == "badly" for report in group),
            "calls finished before": sum(report.finished for report in group),
            "billed": sum(report.billed for report in group),
            "paid twice": sum(report.twice.total() for report in group),
            "lost": sum(len(report.lost) for report in group),
            "seconds each": f"{sum(report.seconds for report in group) / max(1, len(group)):.1f}",
        }
        for phase, group in [*groups.items(), ("all", reports)]
    ]


if __name__ == "__main__":
    sys.exit(main())
