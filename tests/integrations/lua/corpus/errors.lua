--## a syntax error
--= syntax 2 <name> expected
local x = 1
local = 2
--## an unfinished function
--= syntax 1
function(
--## an unfinished string
--= syntax 1
local s = "abc
--## Luau only syntax
--= syntax 2
local n = 1
n += 1
--## compiled Lua
--! source=1b4c7561540019930d0a1a0a
--= syntax 1
--## too many nested brackets
--! source_repeat=["return ", "(", 100000, "1"]
--= syntax null C stack overflow
--## too many locals
--! source_repeat=["", "local a = 1\n", 300, ""]
--= syntax 200
--## error with a string
--= runtime 2 script:2: boom

error("boom")
--## error without a position
--= runtime 1 boom
error("boom", 0)
--## error at the caller's level
--= runtime 4 script:4: bad argument
local function check(x)
  if not x then error("bad argument", 2) end
end
check(nil)
--## a table
--= runtime 1 code: 5
error({code = 5})
--## a table with a message
--= runtime 1 script:1: too bad
error({message = "too bad", code = 5})
--## a table with __tostring
--= runtime 1 I am text
error(setmetatable({}, {__tostring = function() return "I am text" end}))
--## a table whose __tostring raises
--= runtime 1 error object is a table value
error(setmetatable({}, {__tostring = function() error("never") end}))
--## a table whose __tostring never ends
--! cpu_seconds=0.3
--= cpu 1
error(setmetatable({}, {__tostring = function() while true do end end}))
--## nil
--= runtime 1 nil value
error()
--## a number
--= runtime 1 42
error(42)
--## a boolean
--= runtime 1 boolean value
error(true)
--## a function
--= runtime 1 function value
error(print)
--## app
--= runtime 1 app.x
error(app.x)
--## a very long message
--= runtime 1 xxxx
error(("x"):rep(1000000))
--## invalid UTF-8 in a message
--= runtime 1 a�b
error("a\xffb")
--## arithmetic
--= runtime 2 arithmetic
local x
local y = x + 1
--## concatenation with a table
--= runtime 1 concatenate
return "a" .. {}
--## a string is no number
--= runtime 1
return "hello" + 5
--## calling nil
--= runtime 1 nothing
nothing()
--## indexing nil
--= runtime 3 field 'c'
local a = {b = {}}
local ok = a.b
return a.b.c.d
--## assert
--= runtime 1 not so
assert(false, "not so")
--## assert with a table
--= runtime 1 reason
assert(nil, {message = "reason"})
--## the line of an error inside a library function
--= runtime 2 bad argument

string.rep()
--## the line of an error inside a callback
--= runtime 2 inner
table.sort({1, 2}, function()
  error("inner")
end)
--## errors pass through coroutines
--= runtime 2 inner
local co = coroutine.wrap(function()
  error("inner")
end)
co()
--## pcall and xpcall
--= ok [false, "script:1: x", "handled: script:2: y"]
local ok, a = pcall(function() error("x") end)
local _, b = xpcall(function() error("y") end, function(m) return "handled: " .. m end)
return ok, a, b
--## an error inside an error handler
--= ok [false]
return (xpcall(error, function() error("again") end))
--## error objects keep their identity
--= ok [true]
local t = {}
local _, e = pcall(error, t)
return e == t
--## a stack overflow can be caught
--= ok [false]
local function f() return 1 + f() end
return (pcall(f))
--## and ends the script otherwise
--= runtime 1 stack overflow
local function f() return 1 + f() end
f()
--## a stack overflow in C
--= runtime 1 overflow
local function f(s) return (s:gsub(".", f)) end
f("x")
--## a pending <close> may replace the error
--= runtime 1 second
local guard <close> = setmetatable({}, {__close = function() error("second") end})
error("first")
--## memory errors can be caught
--= ok [false, "not enough memory"]
return pcall(string.rep, "x", 2 ^ 30)
--## an impossible size is a plain error
--= ok [false, "resulting string too large"]
return pcall(string.rep, "x", 2 ^ 62)
--## a message that only looks like a memory error
--= runtime 1 script:1: not enough memory
error("not enough memory")
--## results that cannot leave
--= value null a function
return print
--## results with a cycle
--= value null contains itself
local t = {}
t.t = t
return t
--## NaN as a result
--= value null number
return 0 / 0
--## app as a result
--= value null app.x itself
return app.x
--## mixed keys in a result
--= value null mixes
return {1, 2, x = 3}
--## too deep a result
--= value null nested
local t = {}
for _ = 1, 100 do t = {t} end
return t
--## too large a result
--! memory_bytes=100000000
--= value null data
return ("x"):rep(2 ^ 20):rep(17)
--## too many values in a result
--= value null values
local t = {}
for i = 1, 500001 do t[i] = true end
return t
--## a tree that doubles
--! cpu_seconds=3
--= value null values
local t = {1}
for _ = 1, 30 do t = {t, t} end
return t
--## a first line that could continue something before it
--= syntax 1
, 5
--## or an operator
--= syntax 1
or 5
