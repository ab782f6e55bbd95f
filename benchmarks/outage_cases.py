"""The cases of `outages.py`: when what fails, for how long, and what has become of the money afterwards."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from loopback import until
from stage import Stage
from staged_flows import PAID_CALLS
from stand_ins import BUCKET
from wall_clock import Clock

HOURS = 7200
PATIENCE = 330.0
"""Seconds within which a run must end by itself: the pauses between four attempts of a task take up to 233."""

HELD = 60.0
"""Seconds for which jobs and a submission are held, to be sure that the outage strikes in the middle of them."""

OUTAGE = 75.0
"""Seconds without the Prefect server; Prefect's client repeats a request for 62 s."""

GAP = 25.0
"""Seconds between two looks at a waiting job that count as a hang, on a machine that is busy."""

MOUNT = (shutil.which("mount") or "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs")
UMOUNT = shutil.which("umount") or "umount"
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF")
TOLD = re.compile(r"may have been accepted and billed|could not be kept on this machine")


@dataclass
class Case:
    """A run and what came of it.

    Attributes:
        name: Of the case, its account and its run.
        why: What the error of a failed run must say.
        run: Id of the flow run.
        env: What its process gets besides the worker's environment.
        first: State and message with which it ended first.
        resumed: How often it was resumed.
        seconds: From the start to the end.
        broken: Promises that were not kept.
        note: What is worth knowing besides.
    """

    name: str
    why: str
    run: str = ""
    env: dict[str, str] = field(default_factory=dict[str, str])
    first: tuple[str, str] = ("", "")
    resumed: int = 0
    seconds: float = 0.0
    counts: tuple[int, int, int] = (0, 0, 0)
    broken: list[str] = field(default_factory=list[str])
    note: str = ""
    started: float = field(default_factory=time.monotonic)

    def row(self) -> str:
        """The case as a row of the table."""
        billed, stored, spooled = self.counts
        words = f"{'BROKEN' if self.broken else 'kept'} {self.note}"
        figures = f"{self.resumed:7} {billed:6} {stored:6} {spooled:7} {self.seconds:7.0f}"
        return f"{self.name:20} {self.first[0].lower():11} {figures}  {words}"


class Cases:
    """Runs cases on a stage.

    Args:
        stage: Where.
        deployment: Of the flow that pays.
        library: The compiled clock, for the cases that need it.
    """

    def __init__(self, stage: Stage, deployment: str, library: Path | None) -> None:
        self.stage = stage
        self.emulator = stage.emulator
        self._deployment = deployment
        self._library = library
        self._disks: list[Path] = []

    def alone(self, name: str) -> Case:
        """One case of the sections b, c and d."""
        kind, _, how = name.partition("-")
        play: Callable[[Case, str], None] = getattr(self, f"_{kind}")
        case = Case(name, why="")
        case.broken += _attempt(lambda: play(case, how))
        return self._judge(case)

    def server_outage(self) -> list[Case]:
        """The Prefect server is killed in the middle of two waits and a submission, for longer than Prefect repeats."""
        wait, in_lua, submit = cases = [
            Case(name, why="Prefect|concurrency slots") for name in ("stop-wait", "stop-lua", "stop-submit")
        ]
        self.emulator.post("faults", match="POST /fal/queue/", fault="slow", seconds=HELD, account=submit.name)
        self._start(in_lua, lua_seconds=HELD)
        self._start(wait, seconds=HELD)
        self._start(submit)
        until("both waits", lambda: self._looks(wait.name) and self._looks(in_lua.name, 2), HELD)
        until("the submission", lambda: self._under_way(submit.name), HELD)
        self.stage.stop_server(hard=True)
        time.sleep(OUTAGE)
        self.stage.start_server()
        for case in cases:
            case.broken += _attempt(lambda case=case: self._finish(case))
            looks = pairwise(look["time"] for look in self._looks(case.name, 2 if case is in_lua else 1))
            case.note = (
                f"(longest pause between two looks {max((later - one for one, later in looks), default=0):.0f} s)"
            )
        return [self._judge(case) for case in cases]

    def _s3(self, case: Case, how: str) -> None:
        """S3 refuses writes for a minute, from the start or a paid call on; for good; or for a clock that is ahead."""
        case.why = "503|SlowDown|reduce your request rate"
        if how == "fast":
            case.why = "Skewed|time is too large"
            self.stage.store.strict.add(case.name)
            clock = self._clock(case, HOURS)
            self._start(case)
            self._finish(case, lambda: clock.jump(0))
            return
        works = threading.Timer(60, self.stage.store.refused.discard, [case.name])
        if how == "start":
            self.stage.store.refused.add(case.name)
            self._start(case)
        else:
            self._start_paying(case, "/stability/")
            self.stage.store.refused.add(case.name)
        if how == "refuses":
            self._finish(case, lambda: self.stage.store.refused.discard(case.name))
        else:
            works.start()
            self._finish(case, works.join)

    def _fill(self, case: Case, what: str) -> None:
        """A disk that becomes full while a paid call is under way: a submission to fal, or a picture."""
        at_fal = what in {"job", "ledger"}
        self._full(case, what, during="/fal/queue/" if at_fal else "/stability/")

    def _full(self, case: Case, what: str, *, during: str = "") -> None:
        """A disk that is full from the start."""
        case.why = "No space left|space|disk"
        disk = self._disk(case.name)
        settings = {
            "result": {"PREFECT_LOCAL_STORAGE_PATH": str(disk)},
            "job": {"PREFECT_LOCAL_STORAGE_PATH": str(disk)},
            "spool": {"KOSMO_SPOOL": str(disk)},
            "output": {"KOSMO_OUTPUT": disk.as_uri()},
            "ledger": {"KOSMO_LEDGER": disk.as_uri()},
        }
        case.env |= settings[what]
        filler = disk / "filler"
        if during:
            self._start_paying(case, during)
            _take_space(filler)
        else:
            _take_space(filler)
            self._start(case)
        if what == "spool":
            case.why += "|SlowDown|reduce your request rate|may have been accepted"
            self.stage.store.refused.add(case.name)

        def repair() -> None:
            filler.unlink()
            self.stage.store.refused.discard(case.name)

        self._finish(case, repair)

    def _wait(self, case: Case, how: str) -> None:
        """The clock jumps while a job is waited for."""
        clock = self._clock(case, 0)
        self._start(case, seconds=14)
        until(f"{case.name} waits", lambda: self._looks(case.name), 90)
        clock.jump(HOURS if how == "fast" else -HOURS)
        self._finish(case)
        looks = pairwise(look["time"] for look in self._looks(case.name))
        if case.first[0] != "COMPLETED":
            case.broken.append("the wait ended early")
        if max((later - one for one, later in looks), default=0) > GAP:
            case.broken.append("the wait stood still")

    def _send(self, case: Case, how: str) -> None:
        """The clock jumps while a submission is under way."""
        self.emulator.post("faults", match="POST /fal/queue/", fault="slow", seconds=5, account=case.name)
        clock = self._clock(case, 0)
        self._start(case)
        until(f"{case.name} submits", lambda: self._under_way(case.name), 90)
        clock.jump(HOURS if how == "fast" else -HOURS)
        self._finish(case)
        if case.first[0] != "COMPLETED":
            case.broken.append("the run did not survive the jump")

    def _resume(self, case: Case, how: str) -> None:
        """A submission is accepted, its answer lost, the process killed; the run resumes with a clock that is off."""
        self._lost(case, 0, HOURS if how == "fast" else -HOURS)

    def _intent(self, case: Case, how: str) -> None:
        """The same with a clock that is off at first and right when the run resumes."""
        self._lost(case, HOURS if how == "fast" else -HOURS, 0)

    def _lost(self, case: Case, before: int, after: int) -> None:
        case.why = "."  # a killed process says nothing; the worker does
        clock = self._clock(case, before)
        self.emulator.post("faults", match="POST /fal/queue/", fault="timeout-after", account=case.name)
        self._start(case)
        until(f"{case.name} is accepted", lambda: self.emulator.jobs(case.name), 90)
        for pid in self.stage.processes(case.run):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.stage.ended(case.run, PATIENCE)
        # The worker reports the crash again when the hooks have run; that would end a run which is resumed before.
        time.sleep(3)
        until(f"the worker is done with {case.name}", lambda: not self.stage.processes(case.run), 90)
        time.sleep(3)
        self._finish(case, lambda: clock.jump(after))
        if "the answer was lost after job" not in self.stage.log(case.run):
            case.note = "(not adopted)"

    def _start_paying(self, case: Case, path: str) -> None:
        """Starts a run, and returns while its first paid call to `path` is under way."""
        self.emulator.post("faults", match=f"POST {path}", fault="slow", seconds=4, account=case.name)
        self._start(case)
        until(f"{case.name} pays", lambda: self._under_way(case.name, path), 90)

    def _start(self, case: Case, **parameters: float) -> None:
        own = {
            "KOSMO_OUTPUT": f"s3://{BUCKET}/{case.name}",
            "KOSMO_SPOOL": str(self.stage.folder / "spool" / case.name),
        }
        case.env = {**own, **case.env}
        case.started = time.monotonic()
        case.run = self.stage.create(self._deployment, {"account": case.name, **parameters}, case.env)

    def _finish(self, case: Case, repair: Callable[[], Any] = lambda: None) -> None:
        """Waits for the end; after a bad one repairs what was broken and resumes, as the button of the UI does."""
        record = self.stage.ended(case.run, PATIENCE)
        case.first = record["state_type"], str(record["state"]["message"] or "")
        if record["state_type"] != "COMPLETED" and not re.search(case.why or ".", case.first[1]):
            case.broken.append(f"the error does not say why: {case.first[1][:200]}")
        repair()
        while record["state_type"] != "COMPLETED" and case.resumed < 2:
            case.resumed += 1
            self.stage.set_state(case.run, "SCHEDULED", "AwaitingRetry", force=False)
            record = self.stage.ended(case.run, PATIENCE)
        case.seconds = time.monotonic() - case.started
        message = str(record["state"]["message"] or "")
        if record["state_type"] != "COMPLETED" and TOLD.search(message):
            case.note += " (left to the operator)"
        elif record["state_type"] != "COMPLETED":
            case.broken.append(f"no good end after {case.resumed} resumptions: {message}"[:400])

    def _judge(self, case: Case) -> Case:
        """Compares what was billed with what is kept."""
        entries = self.emulator.entries(case.name)
        billed = [entry for entry in entries if entry["billed"]]
        inputs = Counter((entry["operation"], entry["fingerprint"]) for entry in billed)
        case.broken += [f"{what} was billed {n} times for the same input" for (what, _), n in inputs.items() if n > 1]
        stored = _pictures(self.stage.store.objects(f"{case.name}/"))
        output = case.env.get("KOSMO_OUTPUT", "")
        if output.startswith("file://"):
            stored |= _pictures(_files(Path(output.removeprefix("file://"))))
        spooled = _pictures(_files(Path(case.env["KOSMO_SPOOL"]))) - stored if case.env else set()
        case.counts = len(billed), len(stored), len(spooled)
        lost = len(billed) - len(stored | spooled)
        if lost > 0 and TOLD.search(self.stage.log(case.run)):
            case.note += f" ({lost} not kept, but reported)"
        elif lost > 0:
            case.broken.append(f"{lost} of {len(billed)} billed pictures are neither stored nor spooled nor reported")
        elif not case.broken and len(billed) != PAID_CALLS:
            case.broken.append(f"{len(billed)} calls were billed, not {PAID_CALLS}")
        return case

    def _looks(self, name: str, job: int = 1) -> list[dict[str, Any]]:
        """The looks at the account's first or second job."""
        jobs = self.emulator.jobs(name)
        wanted = jobs[job - 1]["id"] if len(jobs) >= job else None
        entries = self.emulator.entries(name)
        return [entry for entry in entries if entry["operation"] == "status" and entry["request_id"] == wanted]

    def _under_way(self, name: str, path: str = "/fal/queue/") -> list[dict[str, Any]]:
        """The paid calls of an account, answered or not: by default its submissions to fal."""
        entries = self.emulator.entries(name)
        return [entry for entry in entries if entry["method"] == "POST" and entry["path"].startswith(path)]

    def _clock(self, case: Case, ahead: int) -> Clock:
        if self._library is None:
            raise LookupError("there is no compiled clock")
        clock = Clock(self._library, self.stage.folder / f"{case.name}.clock")
        clock.jump(ahead)
        case.env |= clock.environment
        return clock

    def _disk(self, name: str) -> Path:
        """A disk of 2 MB."""
        folder = self.stage.folder / "disks" / name
        folder.mkdir(parents=True)
        subprocess.run([*MOUNT, str(folder)], check=True)
        self._disks.append(folder)
        return folder

    def unmount(self) -> None:
        """Takes the disks away again."""
        for folder in self._disks:
            subprocess.run([UMOUNT, str(folder)], check=True)


def _attempt(play: Callable[[], None]) -> list[str]:
    """What is broken if the world does not come to where a case needs it."""
    try:
        play()
    except (TimeoutError, LookupError) as error:
        return [str(error)]
    return []


def _take_space(path: Path) -> None:
    """Takes all space that is left."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _pictures(files: dict[str, bytes]) -> set[str]:
    """The different pictures among files, without previews."""
    whole = [content for name, content in files.items() if "-preview" not in name and content.startswith(PICTURES)]
    return {hashlib.sha256(content).hexdigest() for content in whole}
