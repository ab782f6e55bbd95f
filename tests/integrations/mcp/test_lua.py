"""MCP tools as a script sees them."""

from __future__ import annotations

import pytest

from prefect_kosmokrator.integrations.mcp.config import Server


def test_a_tool_is_called_by_table_or_by_position(shared):
    runner = shared
    assert runner.value("app.mcp.faults.add{a=1, b=2}") == {"result": 3}
    assert runner.value("app.mcp.faults.add(1, 2)") == {"result": 3}
    assert runner.value("app.mcp.faults.add({1, 2})") == {"result": 3}
    assert runner.value('mcp.call("faults.add", {a=1, b=2})') == {"result": 3}
    assert runner.value('mcp.call("mcp.faults.add", {1, 2}).result') == 3
    assert [(call.function, call.status) for call in runner.host.calls] == [("mcp.faults.add", "ok")] * 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("add{a=1}", "mcp.faults.add: b is required."),
        ('add{a=1, b="x"}', "mcp.faults.add: b: 'x' is not of type 'integer'."),
        ("add(1, 2, 3)", "mcp.faults.add: takes at most 2 arguments, got 3."),
        ("shapes{items={1}, options={}}", "mcp.faults.shapes: items[0]: 1 is not of type 'string'."),
        ('shapes{items={}, options={a="x"}}', "mcp.faults.shapes: options.a: 'x' is not of type 'integer'."),
        (r'said{value="\xff"}', "mcp.faults.said: value must be text or JSON, not bytes or NaN."),
        ("nope{}", "Unknown function: app.mcp.faults.nope. The tools of 'faults' are: add, die, draw,"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(shared, call, message):
    text, kind = shared.error(f"app.mcp.faults.{call}")
    assert message in text
    assert kind == "InvalidInput"


def test_an_empty_table_is_a_list_or_an_object_as_the_schema_says(shared):
    runner = shared
    assert runner.value("app.mcp.faults.shapes{items={}, options={}}") == "[] {} None"
    assert runner.value("app.mcp.faults.shapes{items={}, options={}, nested={{a={}}, {}}}") == "[] {} [{'a': []}, {}]"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, {}]}', {"a": [1, {}]}),
        ("[1, 2]", [1, 2]),
        ("123", "123"),
        ("true", "true"),
        ('"quoted"', '"quoted"'),
        ("{broken", "{broken"),
        ("plain", "plain"),
    ],
)
def test_one_text_that_is_json_is_decoded_and_scalars_stay_text(shared, text, value):
    result = shared.run(f"return app.mcp.faults.said{{value=[==[{text}]==]}}").result
    assert result == [value]


def test_structured_content_files_and_nothing(shared):
    runner = shared
    structured = runner.value("app.mcp.faults.structured{}")
    assert (structured["answer"], structured["empty"]) == (42, [])
    assert structured["media"][0]["content_type"] == "image/png"
    assert runner.run("return app.mcp.faults.nothing{} == nil").result == [True]
    parts = runner.value("app.mcp.faults.everything{}")
    assert parts[0] == {"type": "text", "text": "here"}
    assert [part["content_type"] for part in parts[1:]] == ["image/png", "audio/wav", "video/mp4"]
    assert (parts[1]["provider"], parts[1]["function"], parts[1]["width"]) == ("mcp", "faults.everything", 1)
    assert len(runner.host.media) == 4


def test_a_picture_of_a_tool_can_be_passed_on(shared):
    runner = shared
    same = """
      local image = app.mcp.faults.draw{words="x"}
      return image.body_base64 == app.mcp.faults.said{value=image}, image.content_type
    """
    assert runner.run(same).result == [True, "image/png"]


def test_files_are_stored_where_the_run_stores_its_files(faulty, script, tmp_path):
    store = (tmp_path / "out").as_uri()
    runner = script(faulty(), store=store)
    result = runner.value('app.mcp.faults.draw{words="x"}')
    assert result["uri"].startswith(f"{store}/faults.draw-")
    assert runner.host.media[0].content is None
    assert len(list((tmp_path / "out").glob("*.png"))) == 1


def test_an_error_of_a_tool_is_caught(shared):
    assert shared.error('app.mcp.faults.fail{why="rain"}') == ("mcp.faults.fail: no: rain", "Rejected")


def test_names_that_collide_are_reported_and_stay_reachable(faulty, script):
    runner = script(faulty("collide", "my-server"))
    message, kind = runner.error("app.mcp.my_server.get_time{}")
    assert "two tools share the name get_time: 'Get.Time' and 'get-time' and 'get_time'" in message
    assert 'mcp.call("my-server.get-time", ...)' in message
    assert kind == "InvalidInput"
    assert runner.value('app.mcp["my-server"]["get-time"]{}') == "this is get-time"
    assert runner.value('mcp.call("my_server.get_time", {})') == "this is get_time"
    assert runner.value('mcp.call("my-server.Get.Time")') == "this is Get.Time"
    assert runner.value("app.mcp.my_server.other{}") == "this is other"
    assert runner.value('app.mcp.my_server["end"]{}') == runner.value("app.mcp.my_server.end_{}") == "this is end"
    assert runner.value("app.mcp.my_server._3d{}") == "this is 3d"
    paths = [row["lua_path"] for row in runner.value('mcp.tools("my-server")') if "ime" in row["name"]]
    assert paths[0] == 'mcp.call("my-server.Get.Time", ...)'


def test_the_helpers(shared, monkeypatch):
    runner = shared
    broken = Server("helper", command="none-such", problem="it is broken")
    monkeypatch.setitem(shared.hub.servers.all, "helper", broken)
    rows = {row["name"]: row for row in runner.value("mcp.tools()")}
    assert rows["add"]["operation"] == "read"
    assert rows["note"]["operation"] == "write"
    assert rows["add"]["function"] == "faults.add"
    assert rows["add"]["lua_path"] == "app.mcp.faults.add"
    assert rows["add"]["parameters"][0] == {"name": "a", "type": "integer", "required": True, "description": ""}
    schema = runner.value('mcp.schema("app.mcp.faults.add")')
    assert schema["schema"]["required"] == ["a", "b"]
    servers = runner.value("mcp.servers()")
    assert servers["faults"]["permissions"] == {"read": "allow", "write": "allow"}
    assert servers["helper"]["problem"] == "it is broken"
    assert runner.value('mcp.resources("faults")')[0]["uri"] == "notes://today"
    contents = runner.value('mcp.read_resource("faults", "notes://today").contents')
    assert contents[0]["text"] == "rain"
    assert runner.value('mcp.prompts("faults")')[0]["name"] == "greet"
    messages = runner.value('mcp.get_prompt("faults", "greet", {name="Ada"}).messages')
    assert messages[0]["content"]["text"] == "Say hello to Ada."


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ('mcp.tools("nope")', "Unknown MCP server: nope. There are: faults."),
        ("app.mcp.nope.x{}", "Unknown MCP server: nope"),
        ("app.mcp.echo{}", "Unknown function: app.mcp.echo. Tools are called as app.mcp.SERVER.TOOL"),
        ("app.mcp.a.b.c{}", "Unknown function: app.mcp.a.b.c."),
        ("mcp.schema()", "mcp.schema: expected SERVER.TOOL, got nothing"),
        ("mcp.call(7)", "mcp.call: expected SERVER.TOOL, got int"),
        ('mcp.call("faults")', "'faults' does not name a tool of an MCP server: write SERVER.TOOL."),
        ('mcp.get_prompt("faults", "greet", 1)', "expected a table of arguments, got int"),
        ('mcp.read_resource("faults", "notes://none")', "refused the resource notes://none"),
    ],
)
def test_what_does_not_exist_is_named(shared, statement, message):
    assert message in shared.error(statement)[0]


def test_a_server_called_like_a_helper_keeps_its_tools(faulty, script):
    runner = script(faulty(name="tools"))
    assert runner.value("app.mcp.tools.add{a=1, b=2}.result") == 3
    assert len(runner.value('mcp.tools("tools")')) > 5


def test_only_the_servers_that_are_used_start_and_each_once(faulty, script, traces):
    runner = script(faulty(name="one"), faulty(name="two"), faulty(name="three", enabled=False))
    assert runner.value("app.mcp.one.add{a=1,b=2}.result") == 3
    assert runner.value("app.mcp.one.add{a=2,b=2}.result") == 4
    assert len(list(traces.glob("started-*"))) == 1
    assert "is disabled" in runner.error("app.mcp.three.add{a=1,b=2}")[0]
    assert {row["server"] for row in runner.value("mcp.tools()")} == {"one", "two"}
    assert len(list(traces.glob("started-*"))) == 2


def test_a_run_without_mcp_starts_no_thread_and_no_server(faulty, script, traces):
    runner = script(faulty())
    assert runner.value("1 + 1") == 2
    assert runner.hub._portal is None
    assert not list(traces.glob("started-*"))


def test_a_long_answer_below_the_limit(shared_hub):
    size = 12 * 1024 * 1024
    assert len(shared_hub.call(shared_hub.tool("faults.large"), {"size": size})) == size
