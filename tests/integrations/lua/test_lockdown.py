"""What the child could do if a script took over its interpreter: nothing that leaves it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefect_kosmokrator.integrations.lua import Limits, LuaError, run
from prefect_kosmokrator.integrations.lua.process import FOLDER

# Runs what child.py runs before it reads a script, then tries to get out. Modules are imported while that is possible.
PRISONER = f"""
import ctypes, json, os, signal, socket, subprocess, sys
sys.path.insert(0, {FOLDER!r})
import child
for name in ("", ".integrations", ".integrations.lua"):
    child.adopt("prefect_kosmokrator" + name, {FOLDER!r})
from prefect_kosmokrator.integrations.lua import lockdown
libc = ctypes.CDLL(None, use_errno=True)
locks = lockdown.Lockdown()
layers = locks.limit_process(32 * 2**20, 5, os.getppid()) + locks.limit_thread()
locks.close()

def outcome(attempt):
    try:
        attempt()
    except BaseException as error:
        return type(error).__name__
    return "done"

def ptrace():
    if libc.ptrace(16, os.getppid(), 0, 0) != 0:
        raise PermissionError

def executable_memory():
    import mmap
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)

attempts = {{
    "read": lambda: open("/etc/passwd"),
    "list": lambda: os.listdir("/"),
    "write": lambda: open("/tmp/escaped", "w"),
    "remove": lambda: os.unlink("/tmp/nothing-here"),
    "make a folder": lambda: os.mkdir("/tmp/escaped-folder"),
    "connect": lambda: socket.create_connection(("127.0.0.1", 9), 1),
    "socket": lambda: socket.socket(socket.AF_UNIX),
    "fork": os.fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "run": lambda: subprocess.run(["/bin/true"]),
    "kill": lambda: os.kill(os.getppid(), 0),
    "trace": ptrace,
    "executable memory": executable_memory,
    "memory": lambda: bytearray(2**30),
}}
print(json.dumps({{"layers": layers, "outcomes": {{name: outcome(attempt) for name, attempt in attempts.items()}},
                  "environment": sorted(os.environ)}}), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="these locks are the Linux kernel's")
def test_nothing_leaves_the_child():
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PRISONER], capture_output=True, text=True, env={}, check=False
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    if not {"landlock", "seccomp"} <= set(seen["layers"]):
        pytest.skip(f"this kernel only offers {seen['layers']}")
    assert "done" not in seen["outcomes"].values(), seen["outcomes"]
    assert seen["outcomes"]["memory"] == "MemoryError"
    assert not Path("/tmp/escaped").exists()  # noqa: S108


def test_a_run_names_the_layers_that_hold_it():
    layers = run("return 1", None).layers
    assert "rlimits" in layers
    assert layers == tuple(sorted(layers, key=("rlimits", "pdeathsig", "landlock", "seccomp").index))


def descendants(process):
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems notice at the end of the pipe")
@pytest.mark.parametrize("source", ["while true do end", "sleep(60)"])
def test_the_child_dies_with_its_parent(source):
    code = f"from prefect_kosmokrator.integrations.lua import run; run({source!r}, None)"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        until = time.monotonic() + 20
        while not (children := descendants(parent.pid)) and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.3)
        parent.kill()
    until = time.monotonic() + 3
    while any(alive(child) for child in children) and time.monotonic() < until:
        time.sleep(0.02)
    assert children
    assert not any(alive(child) for child in children)


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_child_that_stands_still_is_ended(monkeypatch):
    """A child that neither works nor speaks, here one that was stopped, does not hold its parent for ever."""
    monkeypatch.setattr("prefect_kosmokrator.integrations.lua.sandbox.STALL_CHECKS", 1)
    others = set(descendants(os.getpid()))  # servers of other tests
    stopped = []

    def host(_path, _arguments):
        stopped.extend(set(descendants(os.getpid())) - others)
        for child in stopped:
            os.kill(child, signal.SIGSTOP)

    with pytest.raises(LuaError) as caught:
        run("app.x.y() return 1", host, limits=Limits(cpu_seconds=5))
    assert (caught.value.kind, caught.value.message) == ("crash", "the sandbox stopped responding")
    assert not any(alive(child) for child in stopped)


def test_a_tiny_heap_is_an_error_not_a_crash():
    for memory in (1, 1000, 10_000, 50_000):
        try:
            run("local t = {} for i = 1, 10000 do t[i] = {i} end return 1", None, limits=Limits(memory_bytes=memory))
        except LuaError as error:
            assert error.kind == "memory"  # noqa: PT017
