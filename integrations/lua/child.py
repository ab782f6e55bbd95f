"""The process a script runs in: started by `process`, alone, with nothing but two pipes.

    python -I -S -B child.py FOLDER LUPA REGEX MEMORY CPU WALL PARENT

FOLDER holds this package's files, LUPA the folder of lupa, REGEX the folder to find the `regex` package in (or nothing,
when the script does not use it). Nothing of the caller's environment is needed, and nothing of it is there.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as in typing, which takes a third of the start-up time to load
if TYPE_CHECKING:
    from typing import Any

# The prelude, in the order in which its parts build on each other.
PARTS = ("channel", "wire", "text", "host", "json", "regex", "shims", "environment", "main")


def adopt(name: str, folder: str) -> None:
    """Make a package importable from a folder without running its __init__ or searching the path: both cost time."""
    package: Any = type(sys)(name)
    package.__path__ = [folder]
    sys.modules[name] = package


def deny(*_: object) -> None:
    """Refuse attribute access; no Python object is given to scripts, so this is never reached."""
    raise AttributeError


def main() -> None:
    """Lock this process down and run the script that arrives on stdin."""
    folder, lupa_folder, regex_folder, memory, cpu, wall, parent = sys.argv[1:]
    for name in ("", ".integrations", ".integrations.lua"):
        adopt("prefect_kosmokrator" + name, folder)
    adopt("lupa", lupa_folder)
    lua54: Any = __import__("lupa.lua54", fromlist=["lua54"])

    import _thread  # noqa: PLC0415 - `threading` would take as long to load as all the rest
    import os  # noqa: PLC0415
    import time  # noqa: PLC0415

    from prefect_kosmokrator.integrations.lua import lockdown, watchdog  # noqa: PLC0415 - only importable from here on

    runtime = lua54.LuaRuntime(
        encoding=None,
        source_encoding="utf-8",
        attribute_handlers=(deny, deny),
        register_eval=False,
        register_builtins=False,
        unpack_returned_tuples=True,
        max_memory=int(memory) + 2**20,
    )
    guard = watchdog.Watchdog(lua54.__file__, float(cpu), float(wall))
    kosmo = runtime.table()
    kosmo[b"watch"] = guard.watch
    if regex_folder:
        sys.path.append(regex_folder)
        from prefect_kosmokrator.integrations.lua import patterns  # noqa: PLC0415 - loads the regex package

        engine = patterns.Patterns()
        kosmo[b"regex_compile"], kosmo[b"regex_begin"], kosmo[b"regex_next"] = engine.compile, engine.begin, engine.next

    def relax() -> int:
        runtime.set_max_memory(runtime.get_memory_used() + 2**20)
        return 0

    kosmo[b"relax"] = relax
    chunks: list[Any] = []
    for part in PARTS:
        with open(f"{folder}/{part}.lua", "rb") as file:  # noqa: PTH123 - pathlib is slow to load
            chunks.append(runtime.compile(file.read(), name=b"=kosmo", mode="t"))
    start = chunks.pop()
    for chunk in chunks:
        chunk(kosmo)

    time.localtime()  # reads the time zone, which cannot be done later
    locks = lockdown.Lockdown()
    # The kernel keeps some locks per thread, so the watchdog's thread locks itself before anything else happens. It
    # starts before the process is limited, because afterwards there can be no new thread.
    thread_layers: list[str] = []
    confined = _thread.allocate_lock()
    confined.acquire()

    def confine() -> None:
        thread_layers.extend(locks.limit_thread())
        confined.release()

    _thread.stack_size(256 * 1024)
    _thread.start_new_thread(guard.run, (confine,))
    confined.acquire()
    layers = locks.limit_process(int(memory), float(cpu), int(parent))
    layers += [layer for layer in locks.limit_thread() if layer in thread_layers]
    locks.close()
    names = ",".join(layers).encode()
    os.write(1, b"R" + len(names).to_bytes(4, "little") + names)
    runtime.set_max_memory(runtime.get_memory_used() + int(memory))
    try:
        start(kosmo)  # ends the process itself
    except lua54.LuaMemoryError:
        watchdog.report(b"memory")
    except BaseException as error:  # noqa: BLE001 - the last chance to say what went wrong
        watchdog.report(b"crash", message=f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:1000])


if __name__ == "__main__":
    main()
