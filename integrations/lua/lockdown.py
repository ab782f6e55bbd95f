"""What the child process gives up before it reads a script.

Every layer is best effort except that each one that took hold is named, and `run(..., strict=True)` insists on all:

========== ====================================================================================================
rlimits    no new files, processes or core dumps; address space and CPU bounded by the kernel (POSIX)
pdeathsig  the child dies with the thread that started it, however that one dies (Linux)
landlock   no path can be opened, no TCP port reached, no process outside signalled (Linux 5.13, 6.7, 6.12)
seccomp    only the two dozen calls a running interpreter needs; no executable memory (Linux, x86-64 and arm64)
========== ====================================================================================================
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys

from prefect_kosmokrator.integrations.lua import seccomp

TYPE_CHECKING = False  # as in typing, which is slow to load
if TYPE_CHECKING:
    from typing import Any

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
SIGKILL = 9
# Landlock's calls have the same numbers on every architecture.
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
LANDLOCK_VERSION = 1
ABI_REFER, ABI_TRUNCATE, ABI_NETWORK, ABI_IOCTL, ABI_SCOPES = 2, 3, 4, 5, 6

# Beside the Lua heap: the interpreter's own objects, the regular expression engine, two copies of a large string.
NATIVE_BYTES = 96 * 2**20


class Lockdown:
    """The order is: one `limit_process`, then `limit_thread` on each thread."""

    def __init__(self) -> None:
        self._libc: Any = ctypes.CDLL(None)
        # Made first: afterwards no file descriptor can be had.
        self._ruleset = self._landlock_ruleset() if sys.platform == "linux" else -1

    def limit_process(self, memory_bytes: int, cpu_seconds: float, parent: int) -> list[str]:
        """Apply what holds for the whole process; the names of the layers that took hold."""
        layers: list[str] = []
        try:
            with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 - pathlib is slow to load
                file.write("1000")  # if memory runs out, this process goes first, not its parent
        except OSError:
            pass
        limits = {
            "RLIMIT_CORE": 0,
            "RLIMIT_FSIZE": 0,
            "RLIMIT_NPROC": 0,
            "RLIMIT_NOFILE": 3,
            "RLIMIT_CPU": int(min(cpu_seconds, 10**9)) + 2,  # the watchdog comes first, this is for when it cannot
            "RLIMIT_AS": _address_space() + memory_bytes + NATIVE_BYTES,
        }
        try:
            for name, value in limits.items():
                if sys.platform == "linux" or name != "RLIMIT_AS":  # macOS refuses it
                    # at the first value the kernel warns, at the second it kills
                    hard = value + 1 if name == "RLIMIT_CPU" else value
                    resource.setrlimit(getattr(resource, name), (value, hard))
            layers.append("rlimits")
        except (OSError, ValueError):
            pass
        if sys.platform == "linux" and self._prctl(PR_SET_PDEATHSIG, SIGKILL) == 0:
            if os.getppid() != parent:
                os._exit(1)  # it died before we asked
            layers.append("pdeathsig")
        return layers

    def limit_thread(self) -> list[str]:
        """Apply what the kernel keeps per thread; the names of the layers that took hold."""
        if sys.platform != "linux":
            return []
        layers: list[str] = []
        self._prctl(PR_SET_NO_NEW_PRIVS, 1)
        if self._ruleset >= 0 and int(self._libc.syscall(LANDLOCK_RESTRICT_SELF, self._ruleset, 0)) == 0:
            layers.append("landlock")
        if seccomp.install(self._libc):
            layers.append("seccomp")
        return layers

    def close(self) -> None:
        """Drop what the threads shared, once all are locked."""
        if self._ruleset >= 0:
            os.close(self._ruleset)

    def _landlock_ruleset(self) -> int:
        """Handle every right this kernel knows and grant none; -1 where there is no Landlock."""
        create = self._libc.syscall
        abi = int(create(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_VERSION))
        if abi < 1:
            return -1
        files = (1 << 13) - 1
        for version, right in ((ABI_REFER, 13), (ABI_TRUNCATE, 14), (ABI_IOCTL, 15)):
            if abi >= version:
                files |= 1 << right
        attributes = struct.pack("<Q", files)
        if abi >= ABI_NETWORK:
            attributes += struct.pack("<Q", 0b11)
        if abi >= ABI_SCOPES:
            attributes += struct.pack("<Q", 0b11)
        return int(create(LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))

    def _prctl(self, option: int, value: int) -> int:
        zero = ctypes.c_ulong(0)
        return int(self._libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero))


def _address_space() -> int:
    """The size of this process now, since the limit counts it."""
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123 - pathlib is slow to load
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 256 * 2**20
