-- Runs one script: reads it from the parent, runs it, reports how it ended.

local K = ...
local create, resume, close, running = coroutine.create, coroutine.resume, coroutine.close, coroutine.running
local load, pcall, type, rawget, tonumber = load, pcall, type, rawget, tonumber
local pack, sub, match, format = string.pack, string.sub, string.match, string.format
local getinfo, traceback, metatable = debug.getinfo, debug.traceback, debug.getmetatable
local find, count, select = string.find, collectgarbage, select
local exit = os.exit

K.empty_globals()

local NO_MEMORY = "not enough memory" -- the one message Lua raises without a position
local MAX_MESSAGE = 4000
local DEEP = 20000 -- frames

local _, start = K.receive()
K.chunk, K.output_limit = "@" .. start.name, start.output
local short_name = getinfo(load("", K.chunk, "t"), "S").short_src .. ":"

-- The same from the text of a traceback: after a stack overflow, getinfo finds no room on the coroutine's stack.
local function traced_line(co)
    local text = traceback(co)
    local _, last = find(text, "\t" .. short_name, 1, true)
    return last and tonumber(match(sub(text, last + 1, last + 12), "^%d+")) or 0
end

-- The innermost line of the script in a stopped coroutine.
local function stopped_line(co)
    for level = 0, 250 do
        local ok, info = pcall(getinfo, co, level, "Sl")
        if not ok then
            return traced_line(co)
        elseif not info then
            return 0
        elseif info.source == K.chunk and info.currentline > 0 then
            return info.currentline
        end
    end
    return 0
end

-- The line a message itself starts with; error("...", 2) and rethrown errors know better than the stack.
-- One that passed through coroutine.wrap starts with several; the last is where it happened.
local function message_line(message)
    local line
    while sub(message, 1, #short_name) == short_name do
        local digits = match(sub(message, #short_name + 1, #short_name + 12), "^(%d+): ")
        if not digits then
            break
        end
        line = digits
        message = sub(message, #short_name + #digits + 3)
    end
    return line
end

local function describe(problem)
    if type(problem) == "string" then
        return problem
    elseif type(problem) == "number" then
        return K.number(problem)
    elseif type(problem) == "table" then
        local own = metatable(problem)
        if not (own and rawget(own, "__tostring")) and type(rawget(problem, "message")) == "string" then
            return rawget(problem, "message")
        end
        local ok, text = pcall(K.text, problem)
        return ok and text or "error object is a table value"
    end
    return "error object is a " .. type(problem) .. " value"
end

local function fail(problem, line, deep)
    if problem == NO_MEMORY then
        if deep then -- endless recursion fills the memory before it meets Lua's own limit
            K.fail("runtime", line, short_name .. format("%d: ", line) .. "stack overflow")
        end
        K.fail("memory", line, "")
    end
    local message = describe(problem)
    local own_line = message_line(message)
    local kind = "runtime"
    local id = 0
    if type(problem) == "table" then
        id = K.error_id(problem)
        if K.is_host_error(problem) and id == 0 then
            kind = rawget(problem, "kind") == "memory" and "memory" or "value"
        end
    end
    if #message > MAX_MESSAGE then
        message = sub(message, 1, MAX_MESSAGE) .. "..."
    end
    -- a string error that carries no line was raised that way on purpose; a table never carries one
    if not own_line and type(problem) == "table" and line > 0 then
        message = short_name .. format("%d: ", line) .. message
    end
    K.fail(kind, tonumber(own_line) or line, message, id)
end

local function finish(...)
    local used = count("count") * 1024
    local ok, encoded = pcall(K.encode_many, "l", select("#", ...), { ... })
    if not ok then
        K.relax()
        fail(encoded, 0)
    end
    K.send("D", pack("<d d", K.cpu(), used) .. encoded)
    exit(0, false)
end

local function ended(ok, ...)
    if ok then
        finish(...)
    end
    K.relax() -- the heap may be full to the last byte, and telling what happened takes some
    local line = stopped_line(K.script)
    local looked, frame = pcall(getinfo, K.script, DEEP, "l")
    local deep = not looked or frame ~= nil
    -- Variables marked <close> are still pending; closing may replace the error.
    local _, final = close(K.script)
    fail(final, line, deep)
end

K.begin()
local _, chunk, problem = pcall(load, start.source, K.chunk, "t", K.environment)
if type(chunk) ~= "function" then
    problem = problem or chunk
    if problem == NO_MEMORY then
        fail(problem, 0)
    end
    K.fail("syntax", tonumber(message_line(problem) or 0), problem)
end
K.environment.inputs = start.inputs
start = nil

-- In a coroutine, because a stopped coroutine keeps its stack: that is where the line of a memory error is found.
K.script = create(chunk)
chunk = nil
K.watch(tonumber(format("%p", (running())))) -- its address
ended(resume(K.script))
