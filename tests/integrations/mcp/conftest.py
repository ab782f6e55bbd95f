"""What the MCP tests share: a person's home, a project, servers that behave and that do not, and no process left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefect_kosmokrator.integrations import lua
from prefect_kosmokrator.integrations.confinement import Confinement
from prefect_kosmokrator.integrations.host import Host
from prefect_kosmokrator.integrations.mcp.config import Server, Servers, load
from prefect_kosmokrator.integrations.mcp.guard import descendants
from prefect_kosmokrator.integrations.mcp.hub import Hub
from prefect_kosmokrator.integrations.mcp.script import ScriptTools
from prefect_kosmokrator.integrations.permissions import Permissions

FAULTS = Path(__file__).with_name("fault_server.py")
NPM_FOLDER = os.environ.get("KOSMO_TEST_NPM", "")
EVERYTHING = "@modelcontextprotocol/server-everything"
INSPECTOR = "@modelcontextprotocol/inspector"


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """The home of a person who has decided nothing yet, and a project to work in."""
    folder = tmp_path / "home"
    (folder / ".kosmo").mkdir(parents=True)
    project = tmp_path / "project"
    (project / ".git").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("KOSMO_HOME", str(folder / ".kosmo"))
    monkeypatch.chdir(project)
    return folder


def processes_naming(text):
    """Processes whose command line or environment contains a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            seen = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
            state = (path / "stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:
            continue
        if text.encode() in seen and state != b"Z" and int(path.name) != os.getpid():
            found.append((int(path.name), seen[:200]))
    return found


def gone(look, seconds=5.0):
    """Whether there is nothing left to see within some seconds."""
    deadline = time.monotonic() + seconds
    while look() and time.monotonic() < deadline:
        time.sleep(0.05)
    return look() == []


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, request):
    """Every process a test started, and every process those started, is gone after it."""
    before = set(descendants())
    yield
    assert gone(lambda: processes_naming(str(tmp_path)))
    assert gone(lambda: sorted(set(descendants()) - before))


@pytest.fixture
def alive(tmp_path):
    """Looks for what the test has started and still runs; with seconds, waits that long for it to go."""

    def look(wait=0.0):
        gone(lambda: processes_naming(str(tmp_path)), wait)
        return processes_naming(str(tmp_path))

    return look


@pytest.fixture
def traces(tmp_path):
    """Where the fault server leaves traces."""
    folder = tmp_path / "traces"
    folder.mkdir()
    return folder


@pytest.fixture
def faulty(traces):
    """Makes a server that misbehaves in a way."""

    def make(mode="well", name="faults", **changes):
        return Server(name, command=sys.executable, args=(str(FAULTS), mode, str(traces)), **changes)

    return make


@pytest.fixture
def entry(traces):
    """Makes the entry of such a server in a file."""

    def make(mode="well", **changes):
        return {"command": sys.executable, "args": [str(FAULTS), mode, str(traces)], **changes}

    return make


@pytest.fixture
def configure(tmp_path):
    """Writes a file of servers and returns the servers that are configured then."""

    def write(path, servers, key="mcpServers"):
        file = Path(path) if Path(path).is_absolute() else tmp_path / "project" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({key: servers}))
        return load()

    return write


@pytest.fixture
def web_server(traces):
    """Starts the fault server on a port of this machine."""

    @contextmanager
    def start(*options, name="web", **changes):
        command = [sys.executable, str(FAULTS), "well", str(traces), "http", *options]
        process = subprocess.Popen(command)
        try:
            port = traces / "port"
            deadline = time.monotonic() + 20
            while not port.exists() or not port.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield Server(name, url=f"http://127.0.0.1:{port.read_text()}/mcp", **changes)
        finally:
            process.terminate()
            process.wait(10)

    return start


class Script:
    """Runs scripts against servers, as the command and the task do."""

    def __init__(self, servers, permissions, hub=None, **fields):
        self.hub = hub or Hub(servers if isinstance(servers, Servers) else Servers(servers), permissions)
        self.host = Host(permissions, Confinement([Path.cwd()]), **fields)
        self.host.mcp = ScriptTools(self.hub, self.host)

    def run(self, source, **options):
        return lua.run(source, self.host, **options)

    def value(self, expression):
        """The value of a Lua expression."""
        return lua.materialise(self.run(f"return {expression}").result[0])

    def error(self, statement):
        """The message with which a statement fails, caught in the script."""
        result = self.run(f"local ok, e = pcall(function() {statement} end) return ok, tostring(e), e.kind").result
        assert result[0] is False, result
        return result[1], result[2]


@pytest.fixture
def script():
    """Makes the runner of scripts for some servers; they are ended when the test is."""
    made = []

    def make(*servers, write="allow", force=False, **fields):
        given = servers[0] if servers and isinstance(servers[0], Servers) else list(servers)
        made.append(Script(given, Permissions(write=write, force=force), **fields))
        return made[-1]

    yield make
    for one in made:
        one.hub.close()


@pytest.fixture(scope="module")
def shared_hub(tmp_path_factory):
    """One server that behaves, for all tests of a module."""
    folder = tmp_path_factory.mktemp("shared")
    server = Server("faults", command=sys.executable, args=(str(FAULTS), "well", str(folder)))
    with Hub(Servers([server]), Permissions(write="allow")) as hub:
        hub.tools(server)  # a test looks for processes that are more after it than before
        yield hub


@pytest.fixture
def shared(shared_hub):
    """Runs scripts against that server."""
    shared_hub.permissions = Permissions(write="allow")
    return Script(shared_hub.servers, shared_hub.permissions, hub=shared_hub)


@pytest.fixture(scope="session")
def npm(tmp_path_factory):
    """The published Node.js server and client, installed from the registry, by name of their commands."""
    if shutil.which("npm") is None:
        pytest.skip("Node.js is not installed")
    folder = Path(NPM_FOLDER) if NPM_FOLDER else tmp_path_factory.mktemp("npm")
    commands = folder / "node_modules" / ".bin"
    if not (commands / "mcp-inspector").exists():
        wanted = [f"{EVERYTHING}@2026.8.31", f"{INSPECTOR}@2.12.0"]
        install = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), *wanted]
        done = subprocess.run(install, capture_output=True, text=True, check=False, timeout=200)
        if done.returncode:
            pytest.skip(f"the registry cannot be reached: {done.stderr[-300:]}")
    return commands


def pytest_collection_modifyitems(items):
    """The first test that needs Node.js packages waits for their installation."""
    for item in items:
        if "npm" in item.fixturenames and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(240))
