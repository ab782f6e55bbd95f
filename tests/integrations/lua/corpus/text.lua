--## numbers print the KosmoKrator way
--= ok []
--> 5
--> 9007199254740992
--> 0.30000000000000004
--> 100000000000000
--> 100000000000000000000
--> 1e+21
--> 0.1
--> 0.000001
--> 1e-07
--> 1.5
--> -0
--> 0.00001234
print(10 / 2)
print(2 ^ 53)
print(0.1 + 0.2)
print(1e14)
print(1e20)
print(1e21)
print(0.1)
print(1e-6)
print(1e-7)
print(1.5)
print(-0.0)
print(0.00001234)
--## extremes
--= ok []
--> inf
--> -inf
--> nan
--> 9223372036854775807
--> -9223372036854775808
--> 1.7976931348623157e+308
--> 5e-324
print(math.huge)
print(-math.huge)
print(0 / 0)
print(math.maxinteger)
print(math.mininteger)
print(1.7976931348623157e308)
print(5e-324)
--## tostring formats numbers and tables
--= ok ["5", "nil", "true", "{}", "[\n  1,\n  2\n]", "x"]
return tostring(10 / 2), tostring(nil), tostring(true), tostring({}), tostring({1, 2}), tostring("x")
--## tostring needs a value
--= runtime 1 value expected
tostring()
--## print joins with tabs and keeps nils
--= ok []
--> a	nil	1	true	nil
print("a", nil, 1, true, nil)
--## print with nothing is an empty line
--= ok []
--> 
print()
--## print of nested tables
--= ok []
--> {
-->   a: 1,
-->   b: [
-->     x,
-->     y
-->   ],
-->   c: {}
--> }
print({a = 1, b = {"x", "y"}, c = {}})
--## keys come in order, numbers first
--= ok []
--> {
-->   1: a,
-->   3: c,
-->   x: 1,
-->   y: 2
--> }
print({"a", nil, "c", y = 2, x = 1})
--## odd keys
--= ok []
--> {
-->   1.5: a,
-->   false: b
--> }
print({[1.5] = "a", [false] = "b"})
--## a shared table is not circular
--= ok []
--> [
-->   {
-->     a: 1
-->   },
-->   {
-->     a: 1
-->   }
--> ]
local t = {a = 1}
print({t, t})
--## and prints twice
--= ok []
--> [
-->   1
--> ]
--> [
-->   1
--> ]
local t = {1}
print(t)
print(t)
--## a circular table
--= ok []
--> {
-->   self: <circular>
--> }
local t = {}
t.self = t
print(t)
--## dump returns its argument
--= ok [[1, 2], null]
--> [
-->   1,
-->   2
--> ]
--> x
--> nil
local t = dump({1, 2}, "ignored")
dump("x")
return t, dump()
--## __tostring is used
--= ok []
--> me
--> [
-->   me
--> ]
local t = setmetatable({}, {__tostring = function() return "me" end})
print(t)
print({t})
--## __tostring that prints
--= ok []
--> inner
--> outer
print(setmetatable({}, {__tostring = function() print("inner") return "outer" end}))
--## __tostring that returns no string
--= runtime 1 __tostring
print(setmetatable({}, {__tostring = function() return {} end}))
--## __tostring that raises
--= ok [false]
return (pcall(print, setmetatable({}, {__tostring = function() error("no") end})))
--## a raising __index does not matter to print
--= ok []
--> {}
print(setmetatable({}, {__index = function() error("no") end}))
--## __pairs and __len do not matter to print
--= ok []
--> [
-->   1
--> ]
print(setmetatable({1}, {__pairs = function() error("no") end, __len = function() error("no") end}))
--## concatenation is Lua's own
--= ok ["n=5.0"]
return "n=" .. 10 / 2
--## json.null prints as null
--= ok [null]
--> null
print(json.null)
return json.null
--## app prints as its path
--= ok []
--> app	app.integrations.fal
print(app, app.integrations.fal)
--## printing with the globals gone
--= ok []
--> {
-->   a: 1
--> }
string, table, math, pairs, next, type, tostring, select, rawget = nil
print({a = 1})
--## string library emptied
--= ok []
--> 1.5	[
-->   x
--> ]
for k in pairs(string) do string[k] = nil end
print(1.5, {"x"})
--## NUL and invalid UTF-8 in output
--= ok []
--> a�b
print("a\xffb")
--## output before an error is kept
--= runtime 2 boom
--> before
print("before")
error("boom")
