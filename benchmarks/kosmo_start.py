"""How long `kosmo` takes to run the smallest script, beside the imports that any such command needs.

    python benchmarks/kosmo_start.py [TIMES]

The two are run in turn, so that both see the same machine, and the shortest time of each counts. What dominates: the
interpreter's own start with its site-packages, the parser of the command line, and the start of the sandbox' process.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

GOAL = 1.5
BASE = [sys.executable, "-c", "import lupa.lua54, pydantic_settings"]
KOSMO = [str(Path(sys.executable).with_name("kosmo")), "integrations:lua", "--eval", "print(1)"]


def seconds(command: list[str]) -> float:
    """Return the time on the clock of one run."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Print both times and their ratio."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    pairs = [(seconds(BASE), seconds(KOSMO)) for _ in range(times)]
    base, kosmo = (min(column) for column in zip(*pairs, strict=True))
    print(f"python -c 'import lupa.lua54, pydantic_settings'  {base * 1000:6.0f} ms")
    print(f"kosmo integrations:lua --eval 'print(1)'          {kosmo * 1000:6.0f} ms")
    print(f"ratio {kosmo / base:.2f}, at most {GOAL} wanted; the shortest of {times} runs each")


if __name__ == "__main__":
    main()
