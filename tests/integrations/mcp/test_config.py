"""Which servers are configured, what is expanded, and what is shown of them."""

from __future__ import annotations

import pytest

from prefect_kosmokrator.integrations.errors import ConfigurationError
from prefect_kosmokrator.integrations.mcp.config import Server, Servers, load, masked
from prefect_kosmokrator.integrations.mcp.environment import expanded
from prefect_kosmokrator.integrations.mcp.naming import identifier


def test_later_files_override_earlier_ones_a_whole_entry_at_a_time(configure, home, tmp_path):
    files = [
        home / ".kosmokrator/mcp.json",
        home / ".kosmo/mcp.json",
        ".vscode/mcp.json",
        ".cursor/mcp.json",
        ".mcp.json",
    ]
    for place, file in enumerate(files):
        own = {f"only{place}": {"command": f"c{place}"}}
        shared = {f"upto{last}": {"command": f"c{place}"} for last in range(place, len(files))}
        configure(file, {**own, **shared, "env": {"command": "x", "env": {str(place): "1"}}}, key="servers")
    servers = load().all
    assert {server.command for server in servers.values() if server.name.startswith("only")} == {
        "c0", "c1", "c2", "c3", "c4"
    }  # fmt: skip
    assert [servers[f"upto{last}"].command for last in range(5)] == ["c0", "c1", "c2", "c3", "c4"]
    assert servers["env"].env == {"4": "1"}
    assert [servers[f"only{place}"].source for place in range(5)] == ["user", "user", "project", "project", "project"]
    assert servers["only4"].path == tmp_path / "project/.mcp.json"


def test_the_git_root_is_where_the_project_begins(configure, monkeypatch, tmp_path):
    configure(".mcp.json", {"one": {"command": "x"}})
    deep = tmp_path / "project/a/b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert list(load().all) == ["one"]


def test_comments_and_trailing_commas_of_editors_are_understood(tmp_path):
    path = tmp_path / "project/.vscode/mcp.json"
    path.parent.mkdir()
    path.write_text('{ // mine\n "servers": { /* all */ "a": {"url": "http://x/y//z", "headers": {"k": "a,}"},}, },\n}')
    server = load().all["a"]
    assert (server.url, server.headers["k"], server.transport) == ("http://x/y//z", "a,}", "http")


def test_a_file_that_cannot_be_read_hides_no_other(configure, tmp_path):
    configure(".cursor/mcp.json", {"one": {"command": "x"}})
    (tmp_path / "project/.mcp.json").write_text("{ broken")
    servers = load()
    assert list(servers.all) == ["one"]
    assert "/project/.mcp.json cannot be read" in servers.problems[0]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "needs either a command, or a url"),
        ({"command": "x", "url": "http://x"}, "needs either a command, or a url"),
        ({"url": "http://x", "type": "sse"}, "type 'sse' is not supported"),
        ({"url": "file:///etc/passwd"}, "must begin with http"),
        ({"command": ["x"]}, "must be texts"),
        ({"command": "x", "args": "-v"}, "args must be a list"),
        ("x", "not a JSON object"),
    ],
)
def test_a_wrong_entry_says_what_is_wrong_with_it(configure, fields, problem):
    assert problem in configure(".mcp.json", {"one": fields}).all["one"].problem


def test_a_project_cannot_give_itself_permissions(configure, home):
    fields = {"command": "x", "permissions": {"write": "allow"}}
    assert configure(".mcp.json", {"one": fields}).all["one"].permissions == {}
    assert configure(home / ".kosmo/mcp.json", {"two": fields}).all["two"].permissions == {"write": "allow"}


@pytest.mark.parametrize(("given", "seconds"), [(5, 5), (0.5, 0.5), (0, 30), (-1, 30), ("7", 30), (None, 30)])
def test_the_timeout(configure, given, seconds):
    assert configure(".mcp.json", {"one": {"command": "x", "timeout": given}}).all["one"].timeout == seconds


@pytest.mark.parametrize(
    ("name", "lua"),
    [
        ("echo", "echo"),
        ("get-time", "get_time"),
        ("Get Time!", "get_time"),
        ("end", "end_"),
        ("3d", "_3d"),
        ("ü", "tool"),
    ],
)
def test_names_are_lua_identifiers(name, lua):
    assert identifier(name) == lua


def test_servers_are_found_by_both_names_and_a_clash_is_an_error():
    servers = Servers([Server("my-files"), Server("a.b"), Server("x-y"), Server("x_y")])
    assert servers.find("my_files").name == servers.find("my-files").name == "my-files"
    assert servers.split("a.b.read.file")[0].name == "a.b"
    assert servers.split("app.mcp.my_files.read.file")[1] == "read.file"
    with pytest.raises(ConfigurationError, match="share the Lua name x_y: 'x-y' and 'x_y'"):
        servers.find("x_y")
    assert servers.find("x-y").name == "x-y"
    with pytest.raises(ConfigurationError, match=r"Unknown MCP server: nope. There are: my-files"):
        servers.find("nope")


def test_only_allowed_variables_are_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("KOSMO_MCP_TOKEN", "t0ken-value")
    monkeypatch.setenv("REGION", "eu")
    monkeypatch.setenv("OTHER", "other")
    monkeypatch.setenv("KOSMO_MCP_ALLOWED_ENV", "REGION, OTHER")
    server = Server(
        "one",
        command="x",
        args=("--at=${REGION}", "${env:OTHER}", "${MISSING:-none}", "$REGION", "${workspaceFolder}/x"),
        env={"TOKEN": "${KOSMO_MCP_TOKEN}", "BOTH": "${REGION}-${OTHER}"},
        root=tmp_path,
    )
    made, secrets = expanded(server)
    assert made.args == ("--at=eu", "other", "none", "$REGION", f"{tmp_path}/x")
    assert made.env["TOKEN"] == "t0ken-value"
    assert made.env["BOTH"] == "eu-other"
    assert secrets.hide({"a": ["x t0ken-value y eu"]}) == {"a": ["x *** y eu"]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("${GITHUB_TOKEN}", "which it may not see. To allow it, set KOSMO_MCP_ALLOWED_ENV=GITHUB_TOKEN"),
        ("${GITHUB_TOKEN:-x}", "which it may not see"),
        ("${KOSMO_MCP_NONE}", "which is not set"),
        ("${input:token}", "which nobody is here to answer"),
        ("${KOSMO_MCP_ALLOWED_ENV}", "which it may not see"),
    ],
)
@pytest.mark.parametrize("where", ["env", "headers", "args", "url"])
def test_every_other_reference_is_refused(monkeypatch, value, message, where):
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_secret")
    monkeypatch.setenv("KOSMO_MCP_ALLOWED_ENV", "X")
    given = {"env": {"A": value}, "headers": {"A": value}, "args": (value,), "url": f"http://x/{value}"}
    with pytest.raises(ConfigurationError, match=message.split(" To")[0].replace("$", r"\$")) as caught:
        expanded(Server("one", **{where: given[where]}))
    assert "ghp_secret" not in str(caught.value)


def test_listings_show_no_secret(configure):
    fields = {
        "command": "x",
        "args": ["--api-key", "k3y-value", "--token=t0ken", "--verbose", "https://me:pass@h/p?sig=s1gned"],
        "env": {"A": "v1sible"},
    }
    web = {"url": "https://me:pass@h/p?key=k3y-value", "headers": {"Authorization": "Bearer b3arer"}}
    servers = configure(".mcp.json", {"one": fields, "web": web})
    shown = str([server.to_json() for server in servers.all.values()]) + repr(servers.all["one"].env.keys())
    shown += repr(servers.all["web"])
    for secret in ("b3arer", "v1sible"):
        assert secret not in shown
    listed = str([server.to_json() for server in servers.all.values()])
    for secret in ("k3y-value", "t0ken", "pass", "s1gned"):
        assert secret not in listed
    assert masked(["--api-key", "k", "--token=t", "--verbose"]) == ["--api-key", "***", "--token=***", "--verbose"]
