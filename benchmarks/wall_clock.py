"""A wall clock that jumps for chosen processes only, without touching the machine's.

A small library is compiled and loaded before libc: `clock_gettime`, `gettimeofday` and `time` add a number of seconds
that this script may change at any moment, through a file that both have mapped. So Python, OpenSSL and every extension
of the process see the jump at once, as after a correction by an operator or by NTP, or when a suspended machine goes on
with a wrong clock. The monotonic clock stays, as in reality. What differs: other processes of the machine see no jump,
and a wait until a moment of the wall clock keeps its length.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long *shift;

__attribute__((constructor)) static void map(void) {
  const char *name = getenv("STAGE_CLOCK");
  int file = name ? open(name, O_RDONLY) : -1;
  if (file < 0) return;
  void *at = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (at != MAP_FAILED) shift = at;
}

static long off(void) { return shift ? *shift : 0; }

int clock_gettime(clockid_t id, struct timespec *now) {
  int failed = (int)syscall(SYS_clock_gettime, id, now);
  if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += off();
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec exact;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &exact);
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *into) {
  struct timespec exact;
  clock_gettime(CLOCK_REALTIME, &exact);
  if (into) *into = exact.tv_sec;
  return exact.tv_sec;
}

int sem_timedwait(sem_t *restrict lock, const struct timespec *restrict end) {
  int (*real)(sem_t *, const struct timespec *) = dlsym(RTLD_NEXT, "sem_timedwait");
  struct timespec meant = {end->tv_sec - off(), end->tv_nsec};
  return real(lock, &meant);
}
"""


def library(folder: Path) -> Path | None:
    """Compiles the library; None where there is no C compiler or no such loader."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not Path("/proc/self/maps").exists():
        return None
    source, made = folder / "clock.c", folder / "clock.so"
    source.write_text(SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(source), "-ldl"], check=True)
    return made


class Clock:
    """The clock of the processes that are started with its environment.

    Args:
        made: What `library` compiled.
        path: The file through which it is moved.

    Attributes:
        environment: What a process must be started with.
    """

    def __init__(self, made: Path, path: Path) -> None:
        self._path = path
        self.jump(0)
        self.environment = {"LD_PRELOAD": str(made), "STAGE_CLOCK": str(path)}

    def jump(self, seconds: int) -> None:
        """Sets how far the clock is ahead of the true one; negative behind it."""
        with self._path.open("r+b" if self._path.exists() else "wb") as file:
            file.write(struct.pack("l", seconds))
