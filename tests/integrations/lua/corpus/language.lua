--## empty script
--= ok []
--## only a comment, no newline at the end
--= ok []
-- nothing
--## long comment at the end
--= ok [1]
return 1 --[[ the end ]]
--## several results, nil kept
--= ok [1, null, "x"]
return 1, nil, "x"
--## a trailing nil is a result too
--= ok [1, null]
return 1, nil
--## tables as results
--= ok [{"x": 1, "y": [1, 2, {"z": true}]}]
return {x = 1, y = {1, 2, {z = true}}}
--## an empty table is an empty list
--= ok [[]]
return {}
--## undefined variables are nil
--= ok [null]
return nothing_here
--## locals and globals named like internals
--= ok [3]
local __app, __x = 1, 2
__json = 5
return __app + __x
--## ordinary metatables
--= ok [7, "hi", 3]
local Class = {}
Class.__index = Class
function Class.new(n) return setmetatable({n = n}, Class) end
function Class:get() return self.n end
local late = setmetatable({}, {
  __index = function(_, k) return k .. "i" end,
  __len = function() return 3 end,
})
return Class.new(7):get(), late.h, #late
--## inheritance, operators and __call
--= ok [5, true, "V(3)", 12]
local V = {}
V.__index = V
V.__add = function(a, b) return setmetatable({n = a.n + b.n}, V) end
V.__eq = function(a, b) return a.n == b.n end
V.__tostring = function(v) return "V(" .. v.n .. ")" end
V.__call = function(self, x) return self.n * x end
local function v(n) return setmetatable({n = n}, V) end
return (v(2) + v(3)).n, v(1) == v(1), tostring(v(3)), v(3)(4)
--## closures, varargs and select
--= ok [6, 3, "c"]
local function sum(...)
  local total = 0
  for _, n in ipairs({...}) do total = total + n end
  return total
end
return sum(1, 2, 3), select("#", 1, nil, nil), select(-1, "a", "b", "c")
--## goto and integer division
--= ok [3, 2, 6]
local n = 0
::again::
n = n + 1
if n < 3 then goto again end
return n, 7 // 3, 4 | 2
--## coroutines
--= ok [1, 2, "done", "dead"]
local co = coroutine.create(function(a)
  local b = coroutine.yield(a)
  coroutine.yield(b)
  return "done"
end)
local _, a = coroutine.resume(co, 1)
local _, b = coroutine.resume(co, 2)
local _, c = coroutine.resume(co)
return a, b, c, coroutine.status(co)
--## a generator
--= ok [10]
local total = 0
for n in coroutine.wrap(function() for i = 1, 4 do coroutine.yield(i) end end) do total = total + n end
return total
--## the script does not notice that it runs in a coroutine
--= ok [true, false, false]
local _, main = coroutine.running()
return main, coroutine.isyieldable(), (pcall(coroutine.yield, 1))
--## inside a coroutine everything is as usual
--= ok [false, true]
return coroutine.wrap(function()
  local _, main = coroutine.running()
  return main, coroutine.isyieldable()
end)()
--## errors pass from a coroutine to its caller
--= ok [false, "script:1: inner"]
local co = coroutine.create(function() error("inner") end)
return coroutine.resume(co)
--## closing variables run
--= ok []
--> body
--> closed
do
  local guard <close> = setmetatable({}, {__close = function() print("closed") end})
  print("body")
end
--## string library
--= ok ["HELLO", 5, "olleh", "he", "a-b", 2]
return ("hello"):upper(), #"hello", ("hello"):reverse(), ("hello"):sub(1, 2), table.concat({"a", "b"}, "-"), select(2, ("aXbX"):gsub("X", ""))
--## string.format, pack and unpack
--= ok ["007 1.50 x", 258]
return string.format("%03d %.2f %s", 7, 1.5, "x"), (string.unpack(">I2", string.pack("BB", 1, 2)))
--## split
--= ok [["a", "b", ""], ["a b", "c"], ["x", "y"], [""]]
return string.split("a,b,"), ("a b::c"):split("::"), ("xy"):split(""), (""):split(",")
--## table shims
--= ok [2, null, [1, 2], false, 3, ["x", "x"]]
local t = {1, 2}
local copy = table.clone(t)
return table.find({"a", "b"}, "b"), table.find(t, 9), copy, copy == t, select("#", unpack({1, 2, 3})), table.create(2, "x")
--## freeze
--= ok [true, 2, [1, 2], 3, false, true]
local t = table.freeze({1, 2})
local sum = 0
for _, v in ipairs(t) do sum = sum + v end
local ok = pcall(function() t[1] = 5 end)
return table.isfrozen(t), #t, t, sum, ok, not pcall(function() t.x = 1 end)
--## frozen tables print and encode
--= ok ["{\"a\":1}", ["b"]]
--> {
-->   a: 1
--> }
local t = table.freeze({a = 1})
print(t)
return json.encode(t, {pretty = false}), table.freeze({"b"})
--## bit32
--= ok [8, 14, 6, true, 4294967295, 16, 4, 4294967292, 2, 15, 5, 31, 4]
return bit32.band(12, 10), bit32.bor(12, 10), bit32.bxor(12, 10), bit32.btest(1, 3), bit32.bnot(0), bit32.lshift(1, 4), bit32.rshift(16, 2), bit32.arshift(0xFFFFFFF0, 2), bit32.lrotate(0x80000000, 2), bit32.extract(0xF0, 4, 4), bit32.replace(0, 5, 0, 3), bit32.countlz(1), bit32.countrz(16)
--## math
--= ok [3, 5, 1, 10, -1, 3, "integer", 3]
return math.floor(3.7), math.max(1, 5), math.tointeger(1.0), math.clamp(20, 0, 10), math.sign(-4), math.round(2.5), math.type(1), math.abs(-3)
--## math has everything
--= ok [true]
for _, name in ipairs({"abs", "acos", "asin", "atan", "ceil", "cos", "deg", "exp", "floor", "fmod", "huge", "log", "max", "maxinteger", "min", "mininteger", "modf", "pi", "rad", "random", "randomseed", "sin", "sqrt", "tan", "tointeger", "type", "ult"}) do
  assert(math[name] ~= nil, name)
end
return math.random(5) <= 5
--## utf8
--= ok [2, "é", [233, 97]]
local codes = {}
for _, c in utf8.codes("éa") do codes[#codes + 1] = c end
return utf8.len("éa"), utf8.char(233), codes
--## the clock
--= ok [true, true, "1970-01-01", 86400, true]
return os.time() > 1e9, os.clock() < 1, os.date("!%Y-%m-%d", 0), os.difftime(86400, 0), type(os.date("%H:%M")) == "string"
--## sort, remove, insert, move
--= ok [[1, 2, 3], [3, 1], [9, 3, 1], [1, 1, 2]]
local a, b = {3, 1, 2}, {3, 1, 2}
table.sort(a)
table.remove(b)
local c = {3, 1}
table.insert(c, 1, 9)
return a, b, c, table.move({1, 2}, 1, 2, 2, {1})
--## typeof and type
--= ok ["table", "nil", "string"]
return typeof({}), type(nil), type("")
--## inputs
--! inputs={"name": "lamp", "n": 3, "tags": ["a", null], "none": null}
--= ok ["lamp", 3, true, null, "a"]
return inputs.name, inputs.n, inputs.tags[2] == json.null, inputs.none, inputs.tags[1]
--## inputs without inputs
--= ok [{}]
return inputs
--## sleep
--= ok [true]
sleep(0.01)
return os.clock() < 0.5
--## sleep refuses nonsense
--= ok [false, false, false, false]
return (pcall(sleep, -1)), (pcall(sleep, 0 / 0)), (pcall(sleep, "x")), (pcall(sleep, math.huge))
--## deep but finite recursion
--= ok [10000]
local function depth(n) if n == 0 then return 0 end return 1 + depth(n - 1) end
return depth(10000)
--## a script with many lines of the same thing
--= ok [1000]
local n = 0
for i = 1, 1000 do n = n + 1 end
return n
--## invalid UTF-8 in the source
--= ok [1]
--! source=72657475726e202322ff22
--## a byte order mark and a shebang
--= ok [2]
--! source=efbbbf23212f7573722f62696e2f6c75610a72657475726e2032
--## a shebang alone
--= ok []
--! source=23212f62696e2f7368
--## NUL in the source
--= syntax 1
--! source=72657475726e20310078
--## NUL inside a string
--= ok [3]
return #"a\0b"
