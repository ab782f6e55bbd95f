--## what is not there
--= ok []
for _, name in ipairs({"io", "debug", "package", "require", "load", "loadstring", "loadfile", "dofile", "collectgarbage", "python", "lupa", "warn", "getfenv", "setfenv", "newproxy", "__php", "__app"}) do
  assert(_G[name] == nil, name)
end
for _, name in ipairs({"execute", "exit", "getenv", "remove", "rename", "tmpname", "setlocale"}) do
  assert(os[name] == nil, name)
end
assert(string.dump == nil)
--## reading a file
--= runtime 1
io.open("/etc/passwd")
--## os.exit
--= runtime 1
os.exit(1)
--## os.execute
--= runtime 1
os.execute("id")
--## require
--= runtime 1
require("os")
--## load
--= runtime 1
load("return 1")()
--## string metatable is closed
--= ok [false, false]
return getmetatable(""), (pcall(setmetatable, "", {}))
--## nothing behind the string library
--= ok [true, null]
return ("").format == string.format, ("").dump
--## replacing libraries breaks the script only
--= ok ["{\"a\":1}", "x"]
string.format, string.rep, string.find, string.gsub, string.sub, string.byte, string.pack = nil
table.concat, table.sort, math.type, math.floor = nil
local text = json.encode({a = 1}, {pretty = false})
return text, app.integrations.test.echo({x = "x"}).x
--## every global gone
--= ok [1]
local echo, g, pairs = app.integrations.test.echo, _G, pairs
for k in pairs(g) do g[k] = nil end
return echo({a = 1}).a
--## a hostile environment
--= ok [1]
local echo = app.integrations.test.echo
setmetatable(_G, {__index = function() error("index") end, __newindex = function() error("newindex") end})
return echo({a = 1}).a
--## replaced error functions
--= runtime 5 real
error_ = error
pcall = function() return true end
error = function() end
tostring = function() while true do end end
error_("real")
--## overwritten string methods do not reach the prelude
--= ok ["1"]
string.format = function() while true do end end
tostring = nil
return json.encode(1)
--## a poisoned string metatable
--= ok [false]
return (pcall(function() getmetatable("").__index = nil end))
--## metatables on functions, nil, numbers cannot be set
--= ok [false, false, false]
return (pcall(setmetatable, print, {})), (pcall(setmetatable, nil, {})), (pcall(setmetatable, 1, {}))
--## walking everything reachable finds no userdata and no foreign function
--= ok []
local seen = {}
local function walk(value)
  local kind = type(value)
  assert(kind ~= "userdata", "userdata")
  if kind == "table" and not seen[value] then
    seen[value] = true
    for k, v in next, value do walk(k) walk(v) end
    local mt = getmetatable(value)
    if type(mt) == "table" then walk(mt) end
  end
end
walk(_G)
walk(json.null)
walk(app)
walk(getmetatable(json.decode("{}")))
walk(select(2, pcall(app.integrations.test.fail)))
walk(app.media.make())
--## error objects from the prelude are plain
--= ok ["string"]
local _, e = pcall(json.decode, 1)
return type(e)
--## errors of the regex engine are plain
--= ok ["string", "string"]
local _, a = pcall(regex.match, "x", "(")
local _, b = pcall(regex.match, "x", ("x"):rep(10) .. "{99999999999999}")
return type(a), type(b)
--## formats that read memory do not exist
--= ok [false]
return (pcall(string.format, "%n", 1))
--## string.pack abuse
--= ok [false, false, false]
return (pcall(string.pack, "i17", 1)), (pcall(string.unpack, "s8", ("\xff"):rep(8))), (pcall(string.unpack, "z", "abc"))
--## string.rep with a separator
--= any
local s = ("x"):rep(1e8, ("y"):rep(1e3))
--## a proxy as a key, a value, a metatable
--= ok [1]
local t = {[app.x] = 1}
setmetatable(t, {__index = app.integrations.fal})
return t[app.x]
--## fields through a proxy metatable
--= any
local t = setmetatable({}, app)
return t.x
--## a weak table over everything
--= ok []
local weak = setmetatable({}, {__mode = "kv"})
for i = 1, 10000 do weak[{}] = {} end
--## rawset on the libraries
--= ok [5]
rawset(string, "upper", function() return 5 end)
return ("x"):upper()
--## next over frozen or proxied tables
--= any
for k, v in next, app do error("found " .. tostring(k)) end
for k, v in next, table.freeze({1}) do print(k) end
--## goto continue in nested loops
--= ok [25]
local n = 0
for i = 1, 10 do
  for j = 1, 10 do
    if (i + j) % 4 ~= 0 then goto continue end
    n = n + 1
    ::continue::
  end
end
return n
--## numbers at the edge
--= ok [true, true, true, false]
return math.maxinteger + 1 == math.mininteger, 1 // 0.0 == math.huge, 0x7fffffffffffffff == math.maxinteger, (pcall(function() return 1 // 0 end))
--## string to number coercions
--= ok [15, 10.5, null]
return "10" + 5, "10" + 0.5, tonumber("0x")
--## a coroutine that closes itself
--= ok [false]
local co
co = coroutine.create(function() return (pcall(coroutine.close, co)) end)
return select(2, coroutine.resume(co))
--## closing or resuming the script itself
--= ok [false, false]
local me = coroutine.running()
return (pcall(coroutine.close, me)), (coroutine.resume(me))
--## closing the script from inside a coroutine
--= ok [false, false]
local me = coroutine.running()
return coroutine.wrap(function() return (pcall(coroutine.close, me)), (coroutine.resume(me)) end)()
--## a dead coroutine resumed
--= ok [false, "cannot resume dead coroutine"]
local co = coroutine.create(function() end)
coroutine.resume(co)
return coroutine.resume(co)
