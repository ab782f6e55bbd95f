"""How long it takes from cancelling a flow run until its last fal job is cancelled, and what is left over.

    python benchmarks/cancelled_runs.py [--load N] [--together] [--only CASE ...]

The runs are those of a real worker, in deployments of the pack and of this folder. Each one is cancelled as a program
does it (the API), as an operator does it (the command line), or as the button of the UI does it. The promise: every
queued job is cancelled within a minute, or listed: in the log of the run or by `kosmo jobs list`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import leaks
from loopback import until
from stage import FINAL, Stage
from stand_ins import end

WITHIN = 60.0
WATCHED = 90.0
"""Seconds for which a case is watched after it was cancelled."""

BATCH = 3
"""Runs that are started at the same time: many more keep Prefect's SQLite database from answering."""

WORKFLOW = "package://prefect_kosmokrator.deployments/workflows/fal_batch.lua"
CANCEL = "PUT /fal/queue/"
LISTED = re.compile("not cancelled|cannot be cancelled|may go on|ALREADY_COMPLETED")
"""What a line of the log says that lists a job, besides its id."""


@dataclass
class Case:
    """A run that is cancelled.

    Attributes:
        name: Of the case and its account.
        by: Who cancels.
        flow: What is deployed.
        parameters: Of the run.
        jobs: How many jobs it submits.
        faults: What goes wrong at the service.
        accounts: Whose jobs they are, if not those of the account `name`.
    """

    name: str
    by: Literal["api", "cli", "ui"]
    flow: str
    parameters: dict[str, Any]
    jobs: int
    faults: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    accounts: tuple[str, ...] = ()
    run: str = ""
    pids: list[int] = field(default_factory=list[int])
    cancelled_at: float = 0.0
    times: dict[str, float] = field(default_factory=dict[str, float])
    left: list[str] = field(default_factory=list[str])
    broken: list[str] = field(default_factory=list[str])

    def row(self) -> str:
        """The case as a row of the table."""
        figures = " ".join(f"{self.times.get(name, float('nan')):8.1f}" for name in MOMENTS)
        words = "BROKEN" if self.broken else f"kept; listed: {len(self.left)}" if self.left else "kept"
        return f"{self.name:11} {self.by:3} {self.jobs:4} {figures}  {words}"


MOMENTS = {
    "process": "end of process",
    "hook": "start of hook",
    "first": "first job",
    "last": "last job",
    "final": "run",
}


def many(name: str, by: Literal["api", "cli", "ui"], how: str, jobs: int, *faults: dict[str, Any], **more: Any) -> Case:
    """A case of the flow `many_jobs`."""
    accounts = more.pop("accounts", (name,))
    parameters = {"accounts": list(accounts), "how": how, "count": jobs // len(accounts), **more}
    return Case(name, by, "many_jobs", parameters, jobs, list(faults), accounts)


INPUT = {"prompt": "one", "num_images": 1}
CASES = [
    many("direct", "api", "direct", 2),
    many("submit", "cli", "submit", 3),
    many("map", "ui", "map", 20),
    Case("lua", "api", "lua_workflow", {"file": WORKFLOW}, 3, accounts=("default",)),
    Case("fal-request", "cli", "fal_request", {
        "model_id": "fal-ai/flux/dev", "input": INPUT, "account": "fal-request",
    }, 1),
    Case("gen-image", "ui", "generate_image", {
        "prompt": "one", "model": "fal-ai/flux/schnell", "variants": 3, "account": "gen-image",
    }, 3),
    many("two", "api", "direct", 4, accounts=("two-a", "two-b")),
    many("refused", "cli", "direct", 3, {"match": CANCEL, "fault": "500", "times": 6}),
    many("down", "api", "direct", 2, {"match": CANCEL, "fault": "500", "times": 0}),
    # The answer of the second submission never comes; the process is killed while it waits for it.
    many("in-flight", "api", "direct", 2, {"match": "POST /fal/queue/", "fault": "timeout-after", "after": 1}),
    many("finished", "ui", "direct", 3, finished=1),
]  # fmt: skip


def main() -> int:
    """Cancels the runs, prints when what happened, and tells which promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", type=int, default=0, help="processes that keep the machine busy meanwhile")
    parser.add_argument("--together", action="store_true", help="cancel all runs at once instead of one after another")
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES], help="some cases")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs, database and files")
    options = parser.parse_args()
    cases = [case for case in CASES if not options.only or case.name in options.only]
    if options.together:  # its submission gives up before the last run has started
        cases = [case for case in cases if case.name != "in-flight"]
    accounts = {"default", *(account for case in cases for account in case.accounts or (case.name,))}
    with Stage("cancelled", sorted(accounts), keep=options.keep, queue_seconds=3600.0) as stage:
        deployments = _deploy(stage, cases)
        for batch in [cases[start : start + BATCH] for start in range(0, len(cases), BATCH)]:
            _start(stage, batch, deployments)
            if not options.together:
                with _busy(options.load):
                    for case in batch:
                        _cancel_and_watch(stage, [case])
        if options.together:
            with _busy(options.load):
                _cancel_and_watch(stage, cases)
        for case in cases:
            _judge(stage, case)
        stage.stop_prefect()
        found = leaks.search(stage)
    return _tell(cases, found, options.load)


def _tell(cases: list[Case], found: list[str], load: int) -> int:
    """Prints the table and what is left over; 1 if a promise was broken."""
    print(f"\nSeconds after the cancel, with {load} busy processes:")
    print(f"{'case':11} by  jobs {' '.join(f'{name:>8}' for name in MOMENTS)}  ({', '.join(MOMENTS.values())})")
    for case in cases:
        print(case.row())
    for case in cases:
        for job in case.left:
            print(f"listed  {case.name}: {job}")
    broken = [f"{case.name}: {problem}" for case in cases for problem in case.broken] + found
    for problem in broken:
        print(f"BROKEN  {problem}")
    return 1 if broken else 0


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Keeps the machine busy with so many processes."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            end(process)


def _deploy(stage: Stage, cases: list[Case]) -> dict[str, str]:
    """Deploys the flows and starts the worker; returns the deployments' ids."""
    own = "staged_flows.many_jobs"
    deployments = {
        flow: stage.deploy(own if flow == "many_jobs" else f"prefect_kosmokrator.flows.{flow}.{flow}")
        for flow in sorted({case.flow for case in cases})
    }
    stage.start_worker()
    return deployments


def _start(stage: Stage, cases: list[Case], deployments: dict[str, str]) -> None:
    """Starts runs, and waits until their jobs are in the queue."""
    for case in cases:
        for fault in case.faults:
            stage.emulator.post("faults", account=case.name, **fault)
        case.run = stage.create(deployments[case.flow], case.parameters)
    for case in cases:
        until(f"the jobs of {case.name}", lambda case=case: len(_jobs(stage, case)) == case.jobs, 180)
    time.sleep(5)  # until the waits have begun


def _cancel_and_watch(stage: Stage, cases: list[Case]) -> None:
    """Cancels runs, and notes when their processes and they themselves end."""
    for case in cases:
        case.pids = stage.processes(case.run)
        case.cancelled_at = time.time()
        if case.by == "cli":
            stage.run("prefect", "flow-run", "cancel", case.run)
        else:
            # The UI of this version forces the state, a program usually does not.
            stage.set_state(case.run, "CANCELLING", "Cancelling", force=case.by == "ui")
    waiting = list(cases)
    while waiting:
        for case in list(waiting):
            passed = time.time() - case.cancelled_at
            pids = set(stage.processes(case.run))
            if "process" not in case.times and not pids & set(case.pids):
                case.times["process"] = passed
            if "hook" not in case.times and pids - set(case.pids):
                case.times["hook"] = passed
            if stage.record(case.run)["state_type"] in FINAL:
                case.times["final"] = passed
            if "final" in case.times or passed > WATCHED:
                waiting.remove(case)
        time.sleep(0.3)


def _judge(stage: Stage, case: Case) -> None:
    """Reads what became of each job."""
    entries = [entry for account in case.accounts or (case.name,) for entry in stage.emulator.entries(account)]
    asked = [e["time"] - case.cancelled_at for e in entries if e["operation"] == "cancel" and e["status"] == 202]
    if asked:
        case.times["first"], case.times["last"] = min(asked), max(asked)
    if max(asked, default=0) > WITHIN:
        case.broken.append(f"the last job was cancelled after {max(asked):.0f} s")
    if "final" not in case.times:
        case.broken.append(f"the run had not ended after {WATCHED:.0f} s")
    told = [line for line in stage.log(case.run).splitlines() if LISTED.search(line)]
    shown = subprocess.run(
        [str(Path(sys.executable).with_name("kosmo")), "jobs", "list"], env=stage.environment, cwd=stage.folder,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    listed = "\n".join([*told, shown.stdout if shown.returncode == 0 else ""])
    for job in _jobs(stage, case):
        if job["cancelled"]:
            continue
        what = f"{job['id']} ({job['phase']}, {job['arguments']['prompt']!r})"
        if job["id"] in listed or job["arguments"]["prompt"] in listed:
            case.left.append(what)
        else:
            case.broken.append(f"job {what} was neither cancelled nor listed")


def _jobs(stage: Stage, case: Case) -> list[dict[str, Any]]:
    return [job for account in case.accounts or (case.name,) for job in stage.emulator.jobs(account)]


if __name__ == "__main__":
    sys.exit(main())
