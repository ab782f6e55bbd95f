-- Everything that asks the parent: app.*, docs.*, mcp.*, sleep, lazy fields, and the errors that come back.

local K = ...
local select, type, error, next, rawget, rawequal, tostring = select, type, error, next, rawget, rawequal, tostring
local setmetatable, pack_values, pack = setmetatable, table.pack, string.pack
local huge = math.huge

local MAX_SEGMENTS = 8

-- ---------------------------------------------------------------- errors

-- A host error is a table that can be used where scripts expect the error text: tostring(e), "failed: " .. e,
-- e:match("...") all see the message; e.kind, e.retryable, e.status and e.request_id tell more.
local ERROR = { __metatable = false }
local error_ids = setmetatable({}, { __mode = "k" })
local methods = {}
for name, method in next, string do
    methods[name] = method
end

function ERROR.__tostring(e)
    return K.text(rawget(e, "message"))
end

function ERROR.__concat(a, b)
    return (type(a) == "table" and tostring(a) or a) .. (type(b) == "table" and tostring(b) or b)
end

function ERROR.__len(e)
    return #tostring(e)
end

function ERROR.__index(_, key)
    local method = methods[key]
    return method and function(self, ...)
        return method(type(self) == "table" and tostring(self) or self, ...)
    end
end

local function new_error(fields)
    local id = fields.id
    fields.id = nil
    local e = setmetatable(fields, ERROR)
    error_ids[e] = id
    return e
end

-- The parent's number for the exception behind an error value, or 0.
function K.error_id(e)
    return error_ids[e] or 0
end

function K.is_host_error(e)
    return error_ids[e] ~= nil
end

function K.raise_value(message)
    error(new_error({ message = message, kind = "value", retryable = false, id = 0 }))
end

-- ---------------------------------------------------------------- calls

local function ask(letter, payload)
    K.send(letter, payload)
    local answer, value = K.receive()
    if answer == "X" then
        error(new_error(value))
    end
    return value
end

function K.load_lazy(record, key, shortened)
    local value = record.loaded[key]
    if value == nil and shortened then
        value = record.shown[key]
    end
    if value == nil then
        value = ask("L", pack("<I4 B s4", record.id, shortened and 1 or 0, key))
        local kept = shortened and record.shown or record.loaded
        kept[key] = value
    end
    return value
end

function K.new_handle(id, fields, lazy)
    local record = { id = id, fields = fields, lazy = lazy, loaded = {}, shown = {} }
    local t = {}
    for key, value in next, fields do
        t[key] = value
    end
    local own = { __metatable = false }
    function own.__index(_, key)
        if lazy[key] then
            return K.load_lazy(record, key)
        end
    end
    function own.__pairs(self)
        return next, K.full(self), nil
    end
    K.handles[own] = record
    return setmetatable(t, own)
end

local function call(record, arguments)
    local value = ask("C", pack("<I4 s4", K.line(4), record.encoded) .. arguments)
    return value -- not a tail call: it would hide the line of the script
end

local function encode_arguments(record, helper, ...)
    local count, values = select("#", ...), pack_values(...)
    while count > 0 and (values[count] == nil or rawequal(values[count], K.NULL)) do
        count = count - 1 -- f(x, nil) is f(x)
    end
    local first = values[1]
    if helper then
        return K.encode_many("p", count, values)
    elseif count == 0 then
        return "m\0\0\0\0"
    elseif count == 1 and type(first) == "table" and not K.paths[first] and not K.handle_id(first) then
        return K.encode(first)
    end
    return K.encode_many("p", count, values)
end

-- ---------------------------------------------------------------- app

-- A proxy knows its path as a list of names, so a dot inside a name is never a separator.
local paths = setmetatable({}, { __mode = "k" })
K.paths = paths
local PROXY = { __metatable = false }

local function new_proxy(parent, key)
    local before = parent and paths[parent]
    local names = before and before.names .. pack("<c1 s4", "s", key) or ""
    local depth = before and before.depth + 1 or 0
    local proxy = {}
    paths[proxy] = {
        names = names,
        encoded = pack("<c1 I4", "l", depth) .. names,
        depth = depth,
        parent = parent,
        children = {},
        text = before and before.text .. "." .. key or "app",
    }
    return setmetatable(proxy, PROXY)
end

function PROXY.__index(proxy, key)
    local record = paths[proxy]
    local child = record.children[key]
    if child then
        return child
    elseif type(key) ~= "string" then
        error(record.text .. " is indexed by names, not by a " .. type(key), 2)
    elseif record.depth >= MAX_SEGMENTS then
        error(record.text .. " is as deep as a path can be", 2)
    end
    child = new_proxy(proxy, key)
    record.children[key] = child
    return child
end

function PROXY.__newindex(proxy)
    error(paths[proxy].text .. " cannot be changed", 2)
end

function PROXY.__pairs()
    return next, {}, nil
end

function PROXY.__len()
    return 0
end

function PROXY.__tostring(proxy)
    return paths[proxy].text
end

function PROXY.__concat(a, b)
    return (paths[a] and paths[a].text or a) .. (paths[b] and paths[b].text or b)
end

function PROXY.__call(proxy, ...)
    local record = paths[proxy]
    if record.depth == 0 then
        error("app is a namespace, not a function", 2)
    end
    local arguments
    if select("#", ...) > 0 and rawequal(record.parent, (...)) then -- app.x:f{} puts app.x before the arguments
        arguments = encode_arguments(record, false, select(2, ...))
    else
        arguments = encode_arguments(record, false, ...)
    end
    local value = call(record, arguments)
    return value
end

K.app = new_proxy()

-- ---------------------------------------------------------------- helpers

local function helper(group, name)
    local record = { encoded = pack("<c1 I4 c1 s4 c1 s4", "l", 2, "s", group, "s", name) }
    return function(...)
        local value = call(record, encode_arguments(record, true, ...))
        return value
    end
end

local function helpers(group, names)
    local t = {}
    for _, name in next, names do
        t[name] = helper(group, name)
    end
    return t
end

K.docs = helpers("docs", { "list", "search", "read" })
K.mcp = helpers("mcp", {
    "servers", "tools", "schema", "call", "resources", "read_resource", "prompts", "get_prompt",
})

-- Waiting happens in the parent: no CPU is used, and a cancelled run wakes at once.
function K.sleep(seconds)
    if type(seconds) ~= "number" then
        error("sleep: expected number of seconds, got " .. type(seconds), 2)
    elseif not (seconds >= 0 and seconds < huge) then
        error("sleep: the number of seconds must be 0 or more", 2)
    end
    ask("S", pack("<I4 d", K.line(3), seconds))
end
