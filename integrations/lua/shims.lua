-- Functions KosmoKrator scripts know from Luau and Lua 5.4 lacks. Each is small; none is a full emulation.

local K = ...
local next, type, error, select, rawequal = next, type, error, select, rawequal
local setmetatable, metatable = setmetatable, debug.getmetatable
local find, sub, floor, math_type = string.find, string.sub, math.floor, math.type
local frozen = K.frozen

local shims = { table = {}, string = {}, math = {}, bit32 = {} }
K.shims = shims

local function check_table(name, t)
    if type(t) ~= "table" then
        error("table." .. name .. ": expected table, got " .. type(t), 3)
    end
end

-- ---------------------------------------------------------------- table

function shims.table.find(t, value, init)
    check_table("find", t)
    for index = init or 1, #t do
        if t[index] == value then
            return index
        end
    end
    return nil
end

function shims.table.create(count, value)
    local t = {}
    if value ~= nil then
        for index = 1, count do
            t[index] = value
        end
    end
    return t
end

function shims.table.clone(t)
    check_table("clone", t)
    local copy = {}
    for key, value in next, frozen[t] or t do
        copy[key] = value
    end
    return setmetatable(copy, not frozen[t] and metatable(t) or nil)
end

-- A frozen table keeps its identity: its contents move to a table behind it and every assignment lands in
-- __newindex. `pairs`, `ipairs`, `#` and indexing work as before; a bare `next` sees nothing.
function shims.table.freeze(t)
    check_table("freeze", t)
    if frozen[t] then
        return t
    end
    local own = metatable(t)
    if own and not rawequal(own, K.LIST) and not rawequal(own, K.OBJECT) then
        error("table.freeze: a table with a metatable cannot be frozen", 2)
    end
    local contents = {}
    for key, value in next, t do
        contents[key] = value
    end
    for key in next, contents do
        t[key] = nil
    end
    frozen[t] = setmetatable(contents, own)
    return setmetatable(t, {
        __index = contents,
        __newindex = function() error("attempt to modify a frozen table", 2) end,
        __len = function() return #contents end,
        __pairs = function() return next, contents, nil end,
        __metatable = false,
    })
end

function shims.table.isfrozen(t)
    check_table("isfrozen", t)
    return frozen[t] ~= nil
end

-- ---------------------------------------------------------------- string

function shims.string.split(s, separator)
    separator = separator == nil and "," or separator
    if type(s) ~= "string" then
        error("string.split: expected string, got " .. type(s), 2)
    elseif type(separator) ~= "string" then
        error("string.split: expected string separator, got " .. type(separator), 2)
    end
    local parts, count, at = {}, 0, 1
    if separator == "" then
        for index = 1, #s do
            parts[index] = sub(s, index, index)
        end
        return parts
    end
    while true do
        local start, stop = find(s, separator, at, true)
        count = count + 1
        parts[count] = sub(s, at, (start or 0) - 1)
        if not start then
            return parts
        end
        at = stop + 1
    end
end

-- ---------------------------------------------------------------- math

function shims.math.clamp(n, low, high)
    if low > high then
        error("math.clamp: the minimum is above the maximum", 2)
    end
    return n < low and low or n > high and high or n
end

function shims.math.sign(n)
    return n > 0 and 1 or n < 0 and -1 or 0
end

-- Halves round away from zero.
function shims.math.round(n)
    return n < 0 and -floor(0.5 - n) or floor(n + 0.5)
end

-- ---------------------------------------------------------------- bit32

local MASK = 0xFFFFFFFF

local function word(n)
    if type(n) ~= "number" then
        error("bit32: expected number, got " .. type(n), 3)
    end
    local whole = floor(n)
    -- beyond 64 bits a number has no low bits left that mean anything
    return math_type(whole) == "integer" and whole & MASK or 0
end

local function shift(n, by)
    if by >= 32 or by <= -32 then
        return 0
    end
    return (by >= 0 and n << by or n >> -by) & MASK
end

local function fold(start, join)
    return function(...)
        local result = start
        for index = 1, select("#", ...) do
            result = join(result, word((select(index, ...))))
        end
        return result
    end
end

local bit32 = shims.bit32
bit32.band = fold(MASK, function(a, b) return a & b end)
bit32.bor = fold(0, function(a, b) return a | b end)
bit32.bxor = fold(0, function(a, b) return a ~ b end)

function bit32.btest(...)
    return bit32.band(...) ~= 0
end

function bit32.bnot(n)
    return ~word(n) & MASK
end

function bit32.lshift(n, by)
    return shift(word(n), floor(by))
end

function bit32.rshift(n, by)
    return shift(word(n), -floor(by))
end

function bit32.arshift(n, by)
    n, by = word(n), floor(by)
    if by <= 0 or n < 0x80000000 then
        return shift(n, -by)
    end
    return by >= 32 and MASK or (shift(n, -by) | ~(MASK >> by)) & MASK
end

function bit32.lrotate(n, by)
    n, by = word(n), floor(by) % 32
    return (n << by | n >> (32 - by)) & MASK
end

function bit32.rrotate(n, by)
    return bit32.lrotate(n, -floor(by))
end

local function field(at, width)
    at, width = floor(at), floor(width or 1)
    if at < 0 or width < 1 or at + width > 32 then
        error("bit32: the field lies outside 32 bits", 3)
    end
    return at, (1 << width) - 1
end

function bit32.extract(n, at, width)
    local start, mask = field(at, width)
    return word(n) >> start & mask
end

function bit32.replace(n, value, at, width)
    local start, mask = field(at, width)
    return word(n) & ~(mask << start) & MASK | (word(value) & mask) << start
end

function bit32.countlz(n)
    n = word(n)
    local count = 32
    while n > 0 do
        n, count = n >> 1, count - 1
    end
    return count
end

function bit32.countrz(n)
    n = word(n)
    if n == 0 then
        return 32
    end
    local count = 0
    while n & 1 == 0 do
        n, count = n >> 1, count + 1
    end
    return count
end
