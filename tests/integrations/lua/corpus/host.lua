--## a call
--= ok [{"path": ["integrations", "fal", "list_models"], "arguments": {"a": 1}}]
return app.integrations.fal.list_models({a = 1})
--## names in brackets, accounts, dots inside names
--= ok [["integrations", "fal", "x"], ["integrations", "stability", "work", "get_balance"], ["integrations", "a.b", "c d"]]
return app.integrations["fal"].x().path, app.integrations.stability.work.get_balance().path, app.integrations["a.b"]["c d"]().path
--## MCP tools
--= ok [["mcp", "echo", "echo"], ["mcp", "fake-server", "x"]]
return app.mcp.echo.echo({}).path, app.mcp["fake-server"].x().path
--## shapes of arguments
--= ok ["dict", "dict", "list", "positional", "positional", "positional", "dict"]
local kind = app.integrations.test.kind
return kind(), kind({a = 1}), kind({1, 2}), kind("a"), kind(1, 2), kind({}, {}), kind(nil)
--## trailing nils do not count
--= ok ["dict", ["a", null, "b"]]
return app.integrations.test.kind({}, nil), app.integrations.test.echo("a", nil, "b", nil)
--## colon calls
--= ok ["dict", {"a": 1}, "dict"]
return app.integrations.test:kind({}), app.integrations.test:echo({a = 1}), app.integrations.test:kind()
--## a namespace as an argument
--= ok [false, true]
local ok, problem = pcall(app.integrations.test.echo, {x = app.mcp})
return ok, tostring(problem):find("app.mcp", 1, true) ~= nil
--## calling through a variable
--= ok [7]
local echo = app.integrations.test.echo
return echo({n = 7}).n
--## calls from sort, gsub and metamethods
--= ok [[1, 2, 3], "A", 5]
local echo = app.integrations.test.echo
local t = {3, 1, 2}
table.sort(t, function(a, b) return echo({v = a}).v < b end)
local s = ("a"):gsub("a", function() return echo({v = "A"}).v end)
local m = setmetatable({}, {__index = function(_, k) return echo({v = k}).v end})
return t, s, m[5]
--## calls from coroutines
--= ok [1, 2]
local wrap = coroutine.wrap(function()
  coroutine.yield(app.integrations.test.echo({n = 1}).n)
  return app.integrations.test.echo({n = 2}).n
end)
return wrap(), wrap()
--## app has nothing to list
--= ok [0, 0, null, "table"]
local n = 0
for _ in pairs(app) do n = n + 1 end
for _ in pairs(app.integrations) do n = n + 1 end
return n, #app, next(app), type(app.integrations.fal)
--## app cannot be assigned to
--= runtime 1 app.integrations cannot be changed
app.integrations.x = 1
--## app can be replaced by the script, for itself
--= ok [1]
app = 1
return app
--## app is no function
--= runtime 1 app is a namespace
app()
--## paths end at eight names
--= runtime 1 as deep as a path can be
return app.a.b.c.d.e.f.g.h.i
--## only names
--= ok [false, false]
return (pcall(function() return app[1] end)), (pcall(function() return app.x[{}] end))
--## the same namespace is the same
--= ok [true, false]
return app.x == app.x, app.x == app.y
--## docs and mcp helpers get their arguments by position
--= ok [["docs", "read"], ["stability"], ["docs", "list"], [], ["mcp", "servers"], ["mcp", "get_prompt"], ["s", "n", {"a": 1}]]
local a, b, c, d = docs.read("stability"), docs.list(), mcp.servers(), mcp.get_prompt("s", "n", {a = 1})
return a.path, a.arguments, b.path, b.arguments, c.path, d.path, d.arguments
--## lua_read_doc
--= ok [["docs", "read"], ["fal"]]
local a = lua_read_doc("fal")
return a.path, a.arguments
--## all helpers exist
--= ok []
for _, name in ipairs({"servers", "tools", "schema", "call", "resources", "read_resource", "prompts", "get_prompt"}) do
  assert(type(mcp[name]) == "function", name)
end
assert(docs.list and docs.search and docs.read)
--## a host error is caught
--= ok [false, "no credits", "OutOfCredits", false, 402, "req-1"]
local ok, e = pcall(app.integrations.test.fail, {})
return ok, tostring(e), e.kind, e.retryable, e.status, e.request_id
--## and used like text
--= ok ["failed: no credits!", "credits", 10, "NO CREDITS", "no credits"]
local _, e = pcall(app.integrations.test.fail, {})
return "failed: " .. e .. "!", e:match("credits"), #e, e:upper(), e.message
--## a plain exception
--= ok ["ValueError", "bad", null]
local _, e = pcall(app.integrations.test.value_error)
return e.kind, e.message, e.status
--## an uncaught host error has the line of the call
--= runtime 3 no credits

local x = 1
app.integrations.test.fail({})
--## also inside functions and after a tail call
--= runtime 2 no credits
local function call()
  local r = app.integrations.test.fail({})
  return r
end
call()
--## in a return, which would be a tail call
--= runtime 3 no credits

local x = 1
return app.integrations.test.fail({})
--## raised again
--= runtime 3 no credits
local ok, e = pcall(app.integrations.test.fail, {})
assert(not ok)
error(e)
--## odd exceptions
--= ok [true, true, true, true]
local test = app.integrations.test
local function message(name) return tostring(select(2, pcall(test[name]))) end
return message("surrogate"):find("ud800", 1, true) ~= nil, message("silent") == "RuntimeError", #message("huge_error") < 5000, message("broken_str") == "BrokenError"
--## an error that lies about its attributes
--= ok [false, null, "liar"]
local _, e = pcall(app.integrations.test.liar)
return e.retryable, e.status, e.kind
--## answers
--= ok [null, true, 1.5, "x", [1, 2], {}]
local a = app.integrations.test
return a.none(), a.yes(), a.float(), a.text(), a.list(), a.dict()
--## None in a dict is absent, in a list json.null
--= ok [true, true, 3]
local d, l = app.integrations.test.dict(), app.integrations.test.holes()
return d.a == nil and next(d) == nil, l[2] == json.null, #l
--## bytes and text are strings
--= ok [4, 2, 3]
return #app.integrations.test.bytes(), #app.integrations.test.nul(), #app.integrations.test.text_surrogate()
--## bytes come back as they were
--= ok [true]
local b = app.integrations.test.bytes()
return app.integrations.test.same_bytes({data = b})
--## whole numbers
--= ok [9007199254740993, "18446744073709551616", true, -9223372036854775808]
local t = app.integrations.test.numbers()
return t.exact, t.beyond, t.max == math.maxinteger, t.min
--## answers that cannot cross are errors
--= ok [false, "value", true]
local ok, e = pcall(app.integrations.test.object)
for _, name in ipairs({"object", "nan", "inf", "set", "int_keys", "deep", "cycle", "huge_int", "many"}) do
  local fine, problem = pcall(app.integrations.test[name])
  assert(not fine, name)
  assert(problem.kind == "value", name)
end
return ok, e.kind, e.message:find("object", 1, true) ~= nil
--## an answer larger than memory is refused before it is sent
--= ok [false, "memory"]
local ok, e = pcall(app.integrations.test.too_big)
return ok, e.kind
--## and ends the run as any memory error
--= memory 1
app.integrations.test.too_big()
--## an uncaught one ends the run
--= value 2 cannot be handed

app.integrations.test.object()
--## lists and dicts of other kinds
--= ok [[1, 2], {"a": 1}]
return app.integrations.test.tuple(), app.integrations.test.mapping()
--## a frozen, cloned or metatabled argument is its contents
--= ok [{"a": 1}, {"a": 1}, {"a": 1}]
local echo = app.integrations.test.echo
return echo(table.freeze({a = 1})), echo(table.clone({a = 1})), echo(setmetatable({a = 1}, {__index = {b = 2}}))
--## arguments that cannot cross
--! memory_bytes=100000000
--= ok []
local echo, cycle, deep = app.integrations.test.echo, {}, {}
cycle.c = cycle
for _ = 1, 100 do deep = {deep} end
local bad = {
  {x = print}, {x = coroutine.create(print)}, {x = 0 / 0}, {x = math.huge}, {x = cycle}, {x = deep}, {1, 2, x = 3},
  {[1.5] = 1}, {[true] = 1}, {[0] = 1}, {[-1] = 1}, {[1000000] = 1}, {x = app}, {[{}] = 1}, {x = ("x"):rep(17 * 2 ^ 20)},
}
for index, value in ipairs(bad) do
  local ok, e = pcall(echo, value)
  assert(not ok, "accepted " .. index)
  assert(e.kind == "value", index)
end
--## the message says where
--= value 1 a function (at input.image)
app.integrations.test.echo({input = {image = print}})
--## holes are null
--= ok [[1, null, 3]]
return app.integrations.test.echo({1, nil, 3})
--## json.null is null
--= ok [true]
return app.integrations.test.is_null({x = json.null})
--## integral floats are whole numbers
--= ok [["int", "int", "float", "int", "float"]]
return app.integrations.test.types({10 / 2, 2 ^ 53, 1.5, 3, 1e21})
--## text and bytes
--= ok [["str", "bytes", "str", "str"]]
return app.integrations.test.types({"é", "\xff", "a\0b", ""})
--## empty tables
--= ok [["EmptyTable", "dict", "list"]]
return app.integrations.test.types({{}, json.decode("{}"), json.decode("[]")})
--## keys arrive in order
--= ok [["a", "b", "c", "d"]]
return app.integrations.test.keys({d = 1, b = 2, a = 3, c = 4})
--## a large answer
--= ok [5242880]
return #app.integrations.test.five_megabytes()
--## the same large answer again and again
--= ok [10]
local n = 0
for _ = 1, 10 do if #app.integrations.test.five_megabytes() == 5242880 then n = n + 1 end end
return n
--## many rows
--= ok [10000, 10000, "row 1"]
local rows = app.integrations.test.rows()
return #rows, rows[10000].id, rows[1].name
--## an answer beyond memory
--= memory 2
local keep = {}
for i = 1, 100 do keep[i] = app.integrations.test.five_megabytes() .. i end
--## an answer beyond memory cannot be caught
--! memory_bytes=4194304
--= memory 1
pcall(function() return app.integrations.test.four_megabytes() end)
--## too many calls
--! host_calls=5
--= calls 2
for i = 1, 100 do
  pcall(app.integrations.test.none)
end
--## no calls at all
--! host_calls=0
--= calls 1
app.integrations.test.none()
--## docs count as calls
--! host_calls=1
--= calls 2
docs.list()
docs.list()
--## rawset on app
--= any
rawset(app, "x", 1)
return app.x
--## getmetatable of app is closed
--= ok [false, false]
return getmetatable(app), (pcall(setmetatable, app, {}))
--## setting a metatable on an answer
--= ok ["fallback"]
local t = setmetatable(app.integrations.test.dict(), {__index = function() return "fallback" end})
return t.anything
--## a name that is not text
--= ok [true]
return app.integrations["\xff"].x().path[2]:find("xff", 1, true) ~= nil
--## a very long name
--= ok [100000]
return #app.integrations[("x"):rep(100000)].y().path[2]
