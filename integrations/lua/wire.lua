-- Values on the wire, Lua side. values.py is the other half and documents the format.
--
-- Tables are walked with `next`, raw access and rawequal only (`==` would call __eq): no metamethod of a script runs in
-- here.

local K = ...
local byte, sub, pack, unpack, concat = string.byte, string.sub, string.pack, string.unpack, table.concat
local next, type, error, rawget, rawequal = next, type, error, rawget, rawequal
local metatable, setmetatable = debug.getmetatable, setmetatable
local math_type, huge, tostring, utf8_len = math.type, math.huge, tostring, utf8.len

local MAX_DEPTH, MAX_VALUES, MAX_BYTES = 64, 500000, 16 * 2 ^ 20

-- Marks on tables that came from JSON or the host, so that an empty one still knows what it was. They hold no
-- metamethods and scripts never see them: the script's getmetatable answers nil for both.
K.LIST, K.OBJECT = {}, {}
local LIST, OBJECT = K.LIST, K.OBJECT

K.NULL = setmetatable({}, {
    __tostring = function() return "null" end,
    __newindex = function() error("json.null cannot be changed", 2) end,
    __metatable = false,
})
local NULL = K.NULL

-- frozen table -> the table that really holds its contents (see shims.lua)
K.frozen = setmetatable({}, { __mode = "k" })
-- metatable of a handle -> its record {id, fields, lazy, loaded}
K.handles = setmetatable({}, { __mode = "k" })
local frozen, handles = K.frozen, K.handles

-- A table the script has not changed since the host gave it stands for the host's own object.
local function untouched(record, t)
    local fields = record.fields
    for key, value in next, t do
        if not rawequal(rawget(fields, key), value) then
            return false
        end
    end
    for key in next, fields do
        if rawget(t, key) == nil then
            return false
        end
    end
    return true
end

function K.handle_id(t)
    local record = handles[metatable(t)]
    return record and untouched(record, t) and record.id or nil
end

-- What a table holds: the contents of a frozen one, and a handle with its lazy fields read (or shortened).
function K.full(t, shortened)
    local record = handles[metatable(t)]
    if not record then
        return frozen[t] or t
    end
    local full = {}
    for key in next, record.lazy do
        full[key] = K.load_lazy(record, key, shortened)
    end
    for key, value in next, t do
        full[key] = value
    end
    return full
end

-- "list" and its length, "object", "empty", or nil and what is wrong with the keys. Holes count as null up to a
-- point: {1, nil, 3} is a list, {[1000000] = 1} is a mistake.
function K.shape(t)
    local count, max, names = 0, 0, 0
    for key in next, t do
        if type(key) == "string" then
            names = names + 1
        elseif math_type(key) == "integer" and key >= 1 then
            count = count + 1
            max = key > max and key or max
        else
            return nil, "a table with a " .. type(key) .. " key (" .. tostring(key) .. ")"
        end
    end
    if names > 0 then
        if count > 0 then
            return nil, "a table that mixes positions and names"
        end
        return "object", names
    end
    if count == 0 then
        local mark = metatable(t)
        return rawequal(mark, LIST) and "list" or rawequal(mark, OBJECT) and "object" or "empty", 0
    end
    if max > 2 * count + 8 then
        return nil, "a list with too many holes (" .. count .. " values, last position " .. max .. ")"
    end
    return "list", max
end

local out, used, size, values, trail, active

local function refuse(what)
    local where = concat(trail, ".")
    K.raise_value(what .. (where == "" and "" or " (at " .. where .. ")"))
end

local function put(text)
    used = used + 1
    out[used] = text
    size = size + #text
    if size > MAX_BYTES then
        refuse("more than 16 MiB of data")
    end
end

local encode

local function encode_table(t, depth)
    if rawequal(t, NULL) then
        return put("n")
    end
    if K.paths[t] then
        refuse(K.paths[t].text .. " itself")
    end
    local id = K.handle_id(t)
    if id then
        return put(pack("<c1 I4", "h", id))
    end
    if active[t] then
        refuse("a table that contains itself")
    end
    if depth >= MAX_DEPTH then
        refuse("a table nested deeper than " .. MAX_DEPTH .. " levels")
    end
    local contents = K.full(t)
    local shape, extent = K.shape(contents)
    if not shape then
        refuse(extent)
    end
    active[t] = true
    if shape == "list" then
        put(pack("<c1 I4", "l", extent))
        for position = 1, extent do
            trail[depth + 1] = tostring(position)
            encode(contents[position], depth + 1)
        end
    elseif shape == "object" then
        put(pack("<c1 I4", "m", extent))
        for key, value in next, contents do
            trail[depth + 1] = key
            if not utf8_len(key) then
                refuse("a table with a key that is not valid UTF-8")
            end
            put(pack("<s4", key))
            encode(value, depth + 1)
        end
    else
        put(depth == 0 and "m\0\0\0\0" or "e")
    end
    trail[depth + 1] = nil
    active[t] = nil
end

function encode(value, depth)
    values = values + 1
    if values > MAX_VALUES then
        refuse("more than " .. MAX_VALUES .. " values")
    end
    local kind = type(value)
    if kind == "string" then
        if #value > MAX_BYTES then -- before it is copied
            refuse("more than 16 MiB of data")
        end
        put(pack("<c1 s4", "s", value))
    elseif kind == "number" then
        if math_type(value) == "integer" then
            put(pack("<c1 i8", "i", value))
        elseif value ~= value or value == huge or value == -huge then
            refuse("the number " .. tostring(value))
        else
            put(pack("<c1 d", "d", value))
        end
    elseif kind == "table" then
        encode_table(value, depth)
    elseif kind == "boolean" then
        put(value and "t" or "f")
    elseif kind == "nil" then
        put("n")
    else
        refuse("a " .. kind)
    end
end

local function begin()
    out, used, size, values, trail, active = {}, 0, 0, 0, {}, {}
end

local function finish()
    local bytes = concat(out)
    out, trail, active = nil, nil, nil
    return bytes
end

function K.encode(value)
    begin()
    encode(value, 0)
    return finish()
end

-- Several values as "p" (arguments by position) or "l" (results); empty tables inside keep their own shape.
function K.encode_many(letter, count, list)
    begin()
    put(pack("<c1 I4", letter, count))
    for position = 1, count do
        trail[1] = "value " .. position
        encode(list[position], 1)
    end
    return finish()
end

local buffer, at
local decode

local function decode_fields(with_null)
    local count
    count, at = unpack("<I4", buffer, at)
    local t = {}
    for _ = 1, count do
        local key
        key, at = unpack("<s4", buffer, at)
        local value = decode()
        if value ~= NULL or with_null then -- null in an object is an absent key
            t[key] = value
        end
    end
    return t
end

local readers = {
    n = function() return NULL end,
    t = function() return true end,
    f = function() return false end,
    i = function()
        local value
        value, at = unpack("<i8", buffer, at)
        return value
    end,
    d = function()
        local value
        value, at = unpack("<d", buffer, at)
        return value
    end,
    s = function()
        local value
        value, at = unpack("<s4", buffer, at)
        return value
    end,
    b = function() -- a long string, which follows the frame
        local length
        length, at = unpack("<I4", buffer, at)
        return K.read(length)
    end,
    l = function()
        local count
        count, at = unpack("<I4", buffer, at)
        local t = {}
        for position = 1, count do
            t[position] = decode()
        end
        return setmetatable(t, LIST)
    end,
    m = function() return setmetatable(decode_fields(), OBJECT) end,
    h = function()
        local id
        id, at = unpack("<I4", buffer, at)
        local fields = decode_fields()
        return K.new_handle(id, fields, decode_fields(true))
    end,
}
local by_byte = {}
for letter, reader in next, readers do
    by_byte[byte(letter)] = reader
end

function decode()
    local position = at
    at = position + 1
    return by_byte[byte(buffer, position)]()
end

-- The next reply: its letter (V for an answer, X for an error) and its value.
local function receive()
    buffer, at = K.read_frame(), 2
    local letter = sub(buffer, 1, 1)
    local value = decode()
    buffer = nil
    if value == NULL then
        value = nil
    end
    return letter, value
end

function K.receive()
    return K.guarded(receive)
end
