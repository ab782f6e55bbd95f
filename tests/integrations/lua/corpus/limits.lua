--## a loop
--! cpu_seconds=0.2
--= cpu 2
local n = 0
while true do n = n + 1 end
--## an empty loop
--! cpu_seconds=0.2
--= cpu 1
while true do end
--## repeat
--! cpu_seconds=0.2
--= cpu 1
repeat until false
--## goto
--! cpu_seconds=0.2
--= cpu 2
::top::
goto top
--## a loop in a function
--! cpu_seconds=0.2
--= cpu 2
local function spin()
  while true do end
end
spin()
--## a loop around pcall
--! cpu_seconds=0.2
--= cpu 2
while true do
  pcall(function() while true do end end)
end
--## a loop that swallows every error
--! cpu_seconds=0.2
--= cpu 1
while true do pcall(error, "x") end
--## xpcall with a handler that loops
--! cpu_seconds=0.2
--= cpu 1
xpcall(error, function() while true do end end)
--## a loop in a coroutine
--! cpu_seconds=0.2
--= cpu 2
local co = coroutine.create(function()
  while true do end
end)
coroutine.resume(co)
--## in a wrapped coroutine inside a coroutine
--! cpu_seconds=0.2
--= cpu 3
coroutine.wrap(function()
  coroutine.wrap(function()
    while true do end
  end)()
end)()
--## a flood of coroutines
--! cpu_seconds=0.3
--= cpu 1
while true do coroutine.wrap(function() coroutine.yield() end)() end
--## coroutines that resume each other for ever
--! cpu_seconds=0.3
--= any
local function f() return coroutine.wrap(f)() end
while true do pcall(f) end
--## a __index loop
--! cpu_seconds=0.2
--= cpu 1
local t = setmetatable({}, {__index = function(t, k) while true do end end})
return t.x
--## a __index chain
--= any
local t = {}
for _ = 1, 3000 do t = setmetatable({}, {__index = t}) end
return t.x
--## a metatable that is its own __index
--= ok [false]
local t = {}
setmetatable(t, {__index = t, __newindex = t})
return (pcall(function() return t.x end))
--## __close loops
--! cpu_seconds=0.2
--= cpu 1
local x <close> = setmetatable({}, {__close = function() while true do end end})
--## __close loops after an error
--! cpu_seconds=0.2
--= cpu 1
local x <close> = setmetatable({}, {__close = function() while true do end end})
error("x")
--## __gc is refused
--= runtime 1 __gc is not available
setmetatable({}, {__gc = function() while true do end end})
--## __gc added later does nothing
--= ok [1]
local mt = {}
do local t = setmetatable({}, mt) end
mt.__gc = function() while true do end end
for i = 1, 100000 do local _ = {} end
return 1
--## __eq, __lt, __concat, __len loops
--! cpu_seconds=0.2
--= cpu 1
local t = setmetatable({}, {__lt = function() while true do end end})
return t < t
--## backtracking in string.find
--! cpu_seconds=0.2
--= cpu 2

string.find(("a"):rep(60), ("a*"):rep(14) .. "b")
--## backtracking in gsub, match and gmatch under pcall
--! cpu_seconds=0.2
--= cpu 2
while true do
  pcall(string.gsub, ("a"):rep(60), ("a*"):rep(14) .. "b", "")
end
--## backtracking inside a coroutine
--! cpu_seconds=0.2
--= cpu 2
coroutine.wrap(function()
  string.find(("a"):rep(60), ("a*"):rep(14) .. "b")
end)()
--## table.move over billions
--! cpu_seconds=0.2
--= cpu 1
table.move({}, 1, 10 ^ 10, 2)
--## table.concat over billions
--! cpu_seconds=0.2
--= any
table.concat(setmetatable({}, {__index = function() return "" end, __len = function() return 10 ^ 12 end}))
--## table.unpack of a huge range
--= runtime 1 too many results
table.unpack({}, 1, 10 ^ 7)
--## table.insert with a lying length
--! cpu_seconds=0.2
--= any
local t = setmetatable({}, {__len = function() return 10 ^ 15 end})
table.insert(t, 1, "x")
--## sort with a comparator that loops
--! cpu_seconds=0.2
--= cpu 1
table.sort({3, 2, 1}, function() while true do end end)
--## sort with a comparator that lies
--= any
local t = {}
for i = 1, 1000 do t[i] = i % 7 end
table.sort(t, function() return true end)
--## a heavy sort
--! cpu_seconds=0.3
--= cpu 3
local t = {}
for i = 1, 10000 do t[i] = math.random() end
while true do table.sort(t, function(a, b) return a < b end) end
--## utf8 and string.format floods
--! cpu_seconds=0.2
--= cpu 1
while true do utf8.len(("é"):rep(1000)); string.format("%099.99f", 1e308) end
--## json in a loop
--! cpu_seconds=0.2
--= cpu 1
while true do pcall(json.decode, json.encode({1, 2, 3})) end
--## CPU is the script's own: waiting is free
--! cpu_seconds=0.2
--= ok [true]
for _ = 1, 5 do sleep(0.1) end
return true
--## waiting for the host is free
--! cpu_seconds=0.2
--= ok [true]
for _ = 1, 5 do app.integrations.test.slow() end
return true
--## a wall limit while waiting
--! wall_seconds=0.2
--= wall 2

sleep(10)
--## a wall limit while working
--! wall_seconds=0.2
--= wall 1
while true do end
--## a wall limit in a flood of sleeps
--! wall_seconds=0.2
--= wall 1
while true do pcall(sleep, 0.01) end
--## a wall limit in host calls
--! wall_seconds=0.25
--= wall 1
while true do pcall(app.integrations.test.slow) end
--## a table that grows
--= memory 2
local t = {}
for i = 1, 1e9 do t[i] = i end
--## strings that grow
--= memory 2
local s = "x"
while true do s = s .. s end
--## string.rep
--= memory 1
local s = ("x"):rep(2 ^ 30)
--## rep in a table
--= memory 2
local t = {}
for i = 1, 1000 do t[i] = ("x"):rep(2 ^ 20) .. i end
--## table.concat
--= memory 3
local t = {}
for i = 1, 20 do t[i] = ("x"):rep(2 ^ 20) end
local s = table.concat(t)
--## globals that grow
--= memory 1
while true do _G[#_G + 1] = ("x"):rep(1000) .. #_G end
--## many coroutines
--= memory 2
local all = {}
for i = 1, 1e7 do all[i] = coroutine.create(function() end) end
--## closures
--= memory 2
local all = {}
for i = 1, 1e7 do all[i] = function() return all, i end end
--## memory in a coroutine
--= memory 4
local t = {}
coroutine.wrap(function()
  for i = 1, 1e9 do t[i] = i end
end)()
--## memory under pcall, for ever
--! cpu_seconds=0.5
--= cpu
while true do
  pcall(function() local t = {} for i = 1, 1e9 do t[i] = i end end)
end
--## a full heap and then a call
--= any
local keep, n = {}, 0
pcall(function() while true do n = n + 1; keep[n] = ("x"):rep(1000) .. n end end)
return #app.integrations.test.text()
--## a full heap and then a regex
--= any
local keep, n = {}, 0
pcall(function() while true do n = n + 1; keep[n] = ("x"):rep(1000) .. n end end)
pcall(regex.match, ("ab"):rep(100), "(a)(b)")
return 1
--## a full heap and then print and json
--= any
local keep, n = {}, 0
pcall(function() while true do n = n + 1; keep[n] = ("x"):rep(100) .. n end end)
pcall(print, "x")
pcall(json.encode, keep)
error({keep = 1})
--## a full heap and a returned table
--= any
local keep, n = {}, 0
pcall(function() while true do n = n + 1; keep[n] = ("x"):rep(1000) .. n end end)
return keep
--## a small limit
--! memory_bytes=1048576
--= memory 2
local t = {}
for i = 1, 1e6 do t[i] = i end
--## printing a tree that doubles
--! cpu_seconds=2
--= any
local t = {1}
for _ = 1, 30 do t = {t, t} end
print(t)
--## a flood of output
--! output_bytes=10000
--= output 2
while true do
  print("hello")
end
--## the flood cannot be caught
--! output_bytes=10000
--= output 2
while true do
  pcall(print, ("x"):rep(1000))
end
--## one line too long
--! output_bytes=100
--= output 1
print(("x"):rep(1000))
--## just enough
--! output_bytes=10
--= ok []
--> 1234
--> 56789
print("1234")
print("56789")
--## one byte more
--! output_bytes=10
--= output 2
print("1234")
print("567890")
--## no output at all
--! output_bytes=0
--= output 1
print("x")
--## empty lines count
--! output_bytes=100
--= output 1
while true do print() end
--## output in a coroutine
--! output_bytes=100
--= output 2
coroutine.wrap(function()
  while true do print("xxxxx") end
end)()
--## a flood of host calls
--= calls 1
while true do pcall(app.integrations.test.none) end
--## recursion under pcall
--! cpu_seconds=0.5
--= any
local function f() pcall(f) end
while true do f() end
--## recursion with a growing string
--= any
local function f(s) return f(s .. "x") .. "y" end
f("")
--## a source that is too large
--! memory_bytes=1000000
--! source_repeat=["--", "x", 1000001, ""]
--= memory null
