"""What becomes of paid calls when the world around a run fails, and whether the run can be brought to a good end.

    python benchmarks/outages.py [--only a|b|c|d]

a  the Prefect server is cut off and started again, while jobs are waited for and one is submitted
b  S3 refuses writes: from the start or from a paid call on, for a minute or for good
c  the disk is full under the results, the spool, the output folder, the ledger (needs root, to mount a tiny disk)
d  the wall clock of the run jumps by two hours, either way (needs a C compiler)

Each run pays for five pictures of both providers, two of them in a Lua workflow, in a process of a real worker. The
promise: nothing is billed twice; every billed picture is stored, spooled or reported; the run ends well, or with an
error that says why, and is then resumed to a good end; no secret is left anywhere.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import leaks
import wall_clock
from outage_cases import Case, Cases
from stage import Stage

SECTIONS = {
    "a": ["stop-wait", "stop-lua", "stop-submit"],
    "b": ["s3-start", "s3-minute", "s3-refuses"],
    "c": [
        "full-result", "fill-result", "fill-job", "fill-spool", "full-output", "fill-output", "full-ledger",
        "fill-ledger",
    ],
    "d": [
        "wait-fast", "wait-slow", "send-fast", "send-slow", "resume-fast", "resume-slow", "intent-fast", "intent-slow",
        "s3-fast",
    ],
}  # fmt: skip
"""The cases of each section; each has an account of its own, by the same name."""


def main() -> int:
    """Runs the cases and tells what was promised and not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SECTIONS, help="one section")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs, database and files")
    options = parser.parse_args()
    wanted = [options.only] if options.only else list(SECTIONS)
    stage = Stage("outages", [name for section in wanted for name in SECTIONS[section]], keep=options.keep)
    library = wall_clock.library(stage.folder) if "d" in wanted else None
    for section, missing, what in (
        ("c", os.geteuid() != 0, "root, to mount a tiny disk"),
        ("d", library is None, "a C compiler"),
    ):
        if section in wanted and missing:
            print(f"{section} is skipped: it needs {what}.")
            wanted.remove(section)
    with stage:
        cases = Cases(stage, stage.deploy("staged_flows.both_providers"), library)
        stage.start_worker()
        try:
            done = _run(cases, wanted)
            stage.stop_prefect()
            found = leaks.search(stage)
        finally:
            cases.unmount()
    heads = f"{'first end':11} {'resumed':>7} {'billed':>6} {'stored':>6} {'spooled':>7} {'seconds':>7}"
    print(f"\n{'case':20} {heads}  verdict")
    for case in done:
        print(case.row())
    broken = [f"{case.name}: {problem}" for case in done for problem in case.broken] + found
    for problem in broken:
        print(f"BROKEN  {problem}")
    return 1 if broken else 0


def _run(cases: Cases, wanted: list[str]) -> list[Case]:
    """Section a has the server to itself; the cases of the others run four at a time."""
    done = [case for section in wanted if section == "a" for case in cases.server_outage()]
    names = [name for section in wanted if section != "a" for name in SECTIONS[section]]
    with ThreadPoolExecutor(4) as pool:
        return done + list(pool.map(cases.alone, names))


if __name__ == "__main__":
    sys.exit(main())
