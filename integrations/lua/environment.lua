-- The globals of a script: a fresh table filled by an allow-list, never an edited copy of Lua's own.
--
-- Left out, and why:
--   io, package, require, dofile, loadfile   files and native code
--   os.execute getenv remove rename tmpname exit setlocale   the system, the process
--   debug            reaches the locals of the files above (the pipes) and can turn limits off
--   load, loadstring, string.dump   bytecode crashes the interpreter; text chunks would carry no line of the script
--   collectgarbage   can stop the collector and hide garbage from the memory limit
--   python, lupa     Python objects
--   warn             writes to the process' own stderr
-- Changed, and why:
--   setmetatable     refuses __gc: finalizers run with no limit in force
--   getmetatable     hides the marks that tell an empty list from an empty object
--   coroutine.*      the script itself runs in a coroutine, so that its line survives any error; it must not notice
--   tostring, print  KosmoKrator's text of numbers and tables

local K = ...
local G = _G
local shims = K.shims
local error, type, rawget, next, select = error, type, rawget, next, select
local setmetatable, getmetatable, debug = setmetatable, getmetatable, debug
local running, yield, yieldable, clock = coroutine.running, coroutine.yield, coroutine.isyieldable, os.clock
local string_metatable = debug.getmetatable("")
local LIST, OBJECT, same = K.LIST, K.OBJECT, rawequal

local function copy(source, extra, without)
    local t = {}
    for key, value in next, source do
        t[key] = value
    end
    for key, value in next, extra or {} do
        t[key] = value
    end
    for _, key in next, without or {} do
        t[key] = nil
    end
    return t
end

local env = {
    assert = assert, error = error, ipairs = ipairs, next = next, pairs = pairs, pcall = pcall, xpcall = xpcall,
    rawequal = rawequal, rawget = rawget, rawlen = rawlen, rawset = rawset, select = select, tonumber = tonumber,
    type = type, typeof = type, unpack = table.unpack, _VERSION = _VERSION,
    math = copy(math, shims.math),
    table = copy(table, shims.table),
    string = copy(string, shims.string, { "dump" }),
    utf8 = copy(utf8),
    bit32 = shims.bit32,
    os = { time = os.time, date = os.date, difftime = os.difftime },
    print = K.print, dump = K.dump, sleep = K.sleep,
    json = K.json, regex = K.regex, docs = K.docs, mcp = K.mcp, lua_read_doc = K.docs.read, app = K.app,
}
env._G = env

-- CPU used by the script, not by the start of its process.
local started = clock()
function env.os.clock()
    return clock() - started
end

function env.tostring(...)
    if select("#", ...) == 0 then
        error("bad argument #1 to 'tostring' (value expected)", 2)
    end
    return K.text((...))
end

function env.setmetatable(t, own)
    if type(own) == "table" and rawget(own, "__gc") ~= nil then
        error("setmetatable: __gc is not available", 2)
    end
    return setmetatable(t, own)
end

function env.getmetatable(value)
    local own = getmetatable(value)
    if same(own, LIST) or same(own, OBJECT) then
        return nil
    end
    return own
end

env.coroutine = copy(coroutine)

function env.coroutine.yield(...)
    if running() == K.script then
        error("attempt to yield from outside a coroutine", 2)
    end
    return yield(...)
end

function env.coroutine.running()
    local current = running()
    return current, current == K.script
end

function env.coroutine.isyieldable(co)
    co = co or running()
    return co ~= K.script and yieldable(co)
end

-- ("x"):upper() finds the script's own copy of the library.
string_metatable.__index = env.string
string_metatable.__metatable = false

K.environment = env

-- Nothing may reach the originals through a table the interpreter still knows.
local function empty(t)
    for key in next, t do
        t[key] = nil
    end
end

function K.empty_globals()
    local loaded, preload = package.loaded, package.preload
    for _, name in next, { "io", "os", "debug", "package", "string", "table", "math", "utf8", "coroutine" } do
        empty(G[name])
    end
    empty(loaded)
    empty(preload)
    empty(G)
end
