"""A filter that leaves a process the system calls of a running interpreter, and no others.

Calls off the list fail with EPERM instead of killing: C libraries differ in what they try first, and nothing a script
wants is on the other side of the list either way.
"""

from __future__ import annotations

import ctypes
import os
import struct

TYPE_CHECKING = False  # as in typing, which is slow to load
if TYPE_CHECKING:
    from typing import Any

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2

# Classic BPF
LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | 1  # EPERM
# offsets in struct seccomp_data
NUMBER, ARCHITECTURE, THIRD_ARGUMENT = 0, 4, 32
PROT_EXEC = 4
X32_CALLS = 0x40000000


class _Table:
    """The numbers of one machine. `protecting` are mmap and mprotect: allowed unless they make memory executable."""

    def __init__(self, architecture: int, protecting: tuple[int, int], allowed: str) -> None:
        self.architecture, self.protecting = architecture, protecting
        self.allowed = [int(number) for number in allowed.split()]


# In both: read write readv writev close fstat lseek munmap brk rt_sigaction rt_sigprocmask rt_sigreturn mremap madvise
# sched_yield nanosleep getpid exit gettimeofday times getrusage sigaltstack gettid futex restart_syscall clock_gettime
# clock_getres clock_nanosleep exit_group getrandom membarrier rseq
_TABLES = {
    "x86_64": _Table(
        0xC000003E,
        (9, 10),
        "0 1 19 20 3 5 8 11 12 13 14 15 25 28 24 35 39 60 96 100 98 131 186 202 219 228 229 230 231 318 324 334",
    ),
    "aarch64": _Table(
        0xC00000B7,
        (222, 226),
        "63 64 65 66 57 80 62 215 214 134 135 139 216 233 124 101 172 93 169 153 165 132 178 98 128 113 114 115 94"
        " 278 283 293",
    ),
}


def install(libc: Any) -> bool:
    """Confine the calling thread; False where there is no filter for this machine or the kernel has none."""
    table = _TABLES.get(os.uname().machine)
    if table is None:
        return False
    program = _program(table)
    filters = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(filters)))
    return int(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0)) == 0


def _program(table: _Table) -> bytes:
    def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, value)

    steps = [
        step(LOAD, ARCHITECTURE),
        step(JUMP_EQUAL, table.architecture, 1, 0),
        step(RETURN, KILL),
        step(LOAD, NUMBER),
        step(JUMP_GREATER_EQUAL, X32_CALLS, 0, 1),
        step(RETURN, KILL),
    ]
    for number in table.allowed:
        steps += [step(JUMP_EQUAL, number, 0, 1), step(RETURN, ALLOW)]
    for number in table.protecting:
        steps += [
            step(JUMP_EQUAL, number, 0, 4),
            step(LOAD, THIRD_ARGUMENT),
            step(JUMP_ANY_BIT, PROT_EXEC, 0, 1),
            step(RETURN, REFUSE),
            step(RETURN, ALLOW),
        ]
    return b"".join([*steps, step(RETURN, REFUSE)])
