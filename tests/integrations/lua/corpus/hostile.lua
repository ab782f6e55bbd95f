--## string.rep of nothing, a billion times
--! cpu_seconds=0.3
--= any
return #("").rep("", 1e10)
--## a concat of a long hole
--= runtime 1 invalid value
table.concat({}, "x", 1, 1e9)
--## string.byte of everything
--= runtime 1
return ("x"):rep(1e7):byte(1, 1e7)
--## string.char of too much
--= any
return string.char(table.unpack(setmetatable({}, {__index = function() return 65 end}), 1, 200000))
--## os.date with a format bomb
--= any
return #os.date(("%c"):rep(100000))
--## os.date with a bad format
--= runtime 1
os.date("%Ez")
--## os.time out of range
--= runtime 1
os.time({year = 1e300, month = 1, day = 1})
--## utf8.char out of range
--= runtime 1
utf8.char(2 ^ 31)
--## select with a huge index
--= runtime 1
select(-1e9, 1)
--## setmetatable loops in __index through rawequal tables
--= any
local a, b = {}, {}
setmetatable(a, {__index = b})
setmetatable(b, {__index = a})
return a.x
--## a coroutine per level
--= any
local function nest(n) if n == 0 then return 0 end return coroutine.wrap(function() return nest(n - 1) end)() end
return nest(10000)
--## pcall per level
--= any
local function nest(n) if n == 0 then return 0 end local _, v = pcall(nest, n - 1) return v end
return nest(100000)
--## tostring of a deep table
--= any
local t = {}
for _ = 1, 5000 do t = {t} end
return #tostring(t)
--## a deep table as an argument
--= ok [false]
local t = {}
for _ = 1, 100000 do t = {t} end
return (pcall(app.integrations.test.echo, t))
--## a wide table as an argument
--= any
local t = {}
for i = 1, 600000 do t[i] = 1 end
app.integrations.test.none(t)
--## a metatable with every metamethod raising, as an argument
--= ok [{"a": 1}]
local raise = function() error("metamethod") end
local mt = {}
for _, name in ipairs({"__index", "__newindex", "__len", "__eq", "__lt", "__le", "__concat", "__call", "__pairs", "__tostring", "__close", "__name"}) do mt[name] = raise end
return app.integrations.test.echo(setmetatable({a = 1}, mt))
--## __eq is never asked
--= ok [{"a": 1}, "{\"a\":1}", "table"]
local mt = {__eq = function() error("eq") end}
local t = setmetatable({a = 1}, mt)
getmetatable(setmetatable({}, setmetatable(mt, {__eq = mt.__eq})))
return app.integrations.test:echo(t), json.encode(t, {pretty = false}), type(table.clone(t))
--## the same table as a result
--= ok [[1]]
return setmetatable({1}, {__index = error, __len = error, __pairs = error})
--## changing a table while it is encoded is impossible, so this is plain
--= ok [{"a": {"b": 1}}]
local t = {a = {b = 1}}
setmetatable(t.a, {__index = function() t.a = nil end})
return app.integrations.test.echo(t)
--## a host call inside __tostring inside print
--= ok []
--> 7
print(setmetatable({}, {__tostring = function() return tostring(app.integrations.test.echo({n = 7}).n) end}))
--## a host call inside __close while an error passes
--= runtime 1 boom
--! host_calls=2
local x <close> = setmetatable({}, {__close = function() app.integrations.test.none() end}) error("boom")
--## yielding across a host call
--= any
local co = coroutine.wrap(function() return app.integrations.test.echo(setmetatable({}, {__index = coroutine.yield})) end)
co()
--## yielding inside sort
--= runtime 1 yield across
coroutine.wrap(function() table.sort({2, 1}, coroutine.yield) end)()
--## yielding inside gsub
--= runtime 1 yield across
coroutine.wrap(function() local _ = ("a"):gsub("a", coroutine.yield) end)()
--## a sleep flood
--! cpu_seconds=0.3
--= cpu 1
while true do pcall(sleep, 0) end
--## a flood of lazy reads is answered from memory
--! cpu_seconds=0.3
--= cpu 2
local image = app.media.large()
while true do local _ = tostring(image) end
--## an error that holds everything
--= any
local t = {}
for i = 1, 100000 do t[i] = {i} end
error(t)
--## error with a proxy
--= runtime 1
error(app)
--## error with json.null
--= runtime 1 null
error(json.null)
--## error with a host error inside a string
--= runtime 1 oops: no credits
local _, e = pcall(app.integrations.test.fail) error("oops: " .. e)
--## a thousand errors
--= ok [1000]
local n = 0
for _ = 1, 1000 do if not pcall(app.integrations.test.fail) then n = n + 1 end end
return n
--## binary noise as source
--= syntax 1
--! source=00ff00ff00ff
--## a source of one long line
--! source_repeat=["return 1", " + 1", 50000, ""]
--= any
--## a source with a hundred thousand lines
--! source_repeat=["", "\n", 100000, "error('end')"]
--= runtime 100001 end
--## deeply nested functions
--! source_repeat=["", "(function() ", 300, ""]
--= syntax null
--## deeply nested tables
--! source_repeat=["return ", "{", 300, ""]
--= syntax null
--## a very long identifier
--! source_repeat=["local ", "a", 100000, " = 1"]
--= ok []
--## many string constants
--! source_repeat=["local t = {", "'x' .. 1,", 100000, "}"]
--= any
--## too many upvalues and constants stay an error of syntax
--! source_repeat=["local t = {", "{", 250, ""]
--= syntax null
--## a label twice
--= syntax 2
::a::
::a::
--## break outside a loop
--= syntax 1
break
--## a const assigned
--= syntax 2
local x <const> = 1
x = 2
--## a <close> variable that cannot be closed
--= runtime 1 non-closable
local x <close> = 1
--## varargs of the script are empty
--= ok [0]
return select("#", ...)
--## return in the middle
--= syntax 1
return 1 print(2)
--## the print function kept and called after everything is gone
--= ok []
--> still here
local p, g = print, _G
for k in pairs(g) do g[k] = nil end
p("still here")
--## rawset, rawget, rawlen and rawequal on app and null
--= ok [null, 0, false]
return rawget(app, "x"), rawlen(app), rawequal(app, json.null)
--## next on a handle shows the plain fields only
--= ok ["content_type"]
local keys = {}
for k in next, app.media.make() do keys[#keys + 1] = k end
table.sort(keys)
return keys[1]
--## huge exponents and odd numerals
--= ok [true, true, 255, 0.5]
return 1e309 == math.huge, -1e309 == -math.huge, 0xff, 0x.8
--## integer overflow in a loop bound
--= ok [1]
local n = 0
for i = math.maxinteger - 1, math.maxinteger do n = n + 1 if n > 5 then break end end
return n // 2
--## a zero step
--= runtime 1 'for' step is zero
for i = 1, 2, 0 do end
--## math.random with bad ranges
--= runtime 1 interval is empty
math.random(2, 1)
--## string.pack with a huge alignment
--= runtime 1
string.pack("!17i4", 1)
--## string.format with a huge width
--= runtime 1
string.format("%1000d", 1)
--## string.format with a table
--= any
return string.format("%s %q", {}, {})
--## gsub with a repeated anchor and empty matches
--= ok ["-a-b-"]
return (("ab"):gsub("", "-"))
--## a malformed pattern
--= runtime 1 malformed pattern
("x"):find("[a")
--## a pattern too complex
--= any
return ("x"):rep(300000):find((".-"):rep(300000) .. "b")
--## gsub building something huge
--= memory 1
return #(("x"):rep(10000):gsub("x", ("y"):rep(10000)))
--## print while memory is short, again and again
--! cpu_seconds=1
--= any
local t = {}
while true do
  local ok = pcall(function() t[#t + 1] = ("x"):rep(10000) .. #t end)
  if not ok then pcall(print, #t) t = {} end
end
--## os.clock counts the script only
--= ok [true]
return os.clock() < 0.2
--## unicode names of inputs
--! inputs={"ключ": "значение"}
--= ok ["значение"]
return inputs["ключ"]
--## a global called inputs can be replaced
--= ok [1]
inputs = 1
return inputs
--## regex on a 1 MB subject with a slow pattern
--! cpu_seconds=0.5
--= any
return regex.match(("a"):rep(2 ^ 20), "(x+x+)+y|a*a*a*a*a*b")
--## regex gsub that grows without end
--= any
return #regex.gsub(("x"):rep(10000), "x", ("y"):rep(10000))
--## regex with a subject that holds NUL
--= ok ["a\u0000b"]
return regex.match("xa\0by", "a.b")[1]
--## json of a megabyte of nesting and text
--= ok [1000000]
return #json.decode(json.encode(("x"):rep(1000000)))
--## bit32 on odd numbers
--= ok [4294967295, 0, 1]
return bit32.band(-1), bit32.band(2 ^ 32), bit32.band(2 ^ 32 + 1)
--## table.freeze of app and null
--= ok [false, false]
return (pcall(table.freeze, app)), (pcall(table.freeze, json.null))
--## clone of app is useless but harmless
--= any
return table.clone(app)
--## a frozen table cannot be unfrozen
--= ok [false, false]
local t = table.freeze({})
return (pcall(setmetatable, t, {})), (pcall(rawset, t, 1, 1) and t[1] == 1 and #t == 1)
