-- How values look as text: print, dump and tostring.

local K = ...
local format, match, rep, concat, sort = string.format, string.match, string.rep, table.concat, table.sort
local type, next, tonumber, rawget, select = type, next, tonumber, rawget, select
local math_type, floor, abs, huge = math.type, math.floor, math.abs, math.huge
local metatable, to_text, pack = debug.getmetatable, tostring, table.pack

-- Integral floats without ".0" below 1e21, otherwise the fewest digits that read back as the same number;
-- fixed notation from 1e-6 up. (`..` and string.format are Lua's own and still say 5.0 for 10/2.)
function K.number(n)
    if math_type(n) == "integer" then
        return format("%d", n)
    elseif n ~= n then
        return "nan"
    elseif n == huge or n == -huge then
        return n > 0 and "inf" or "-inf"
    elseif n == 0 then
        return 1 / n < 0 and "-0" or "0"
    elseif n == floor(n) and abs(n) < 1e21 then
        return format("%.0f", n)
    end
    local text = format("%.15g", n)
    if abs(n) < 2.2250738585072014e-308 then -- subnormal numbers have fewer digits
        local digits = 1
        repeat
            text = format("%." .. format("%d", digits) .. "g", n)
            digits = digits + 1
        until tonumber(text) == n
    end
    if tonumber(text) ~= n then
        text = format("%.16g", n)
        if tonumber(text) ~= n then
            text = format("%.17g", n)
        end
    end
    if abs(n) >= 1e-6 and abs(n) < 1e-4 then
        local sign, first, rest, exponent = match(text, "^(-?)(%d)%.?(%d*)e%-(%d+)$")
        if sign then
            text = sign .. "0." .. rep("0", tonumber(exponent) - 1) .. first .. rest
        end
    end
    return text
end

-- Sorted keys make output the same in every run: Lua's own order changes from process to process.
local ranks = { number = 1, string = 2 }
local function before(a, b)
    local left, right = ranks[type(a)] or 3, ranks[type(b)] or 3
    if left ~= right then
        return left < right
    elseif left == 3 then
        return to_text(a) < to_text(b)
    end
    return a < b
end

function K.sorted_keys(t)
    local keys, count = {}, 0
    for key in next, t do
        count = count + 1
        keys[count] = key
    end
    sort(keys, before)
    return keys, count
end

-- Keys exactly 1..n: the length, else nil. A hole makes it a map here, as KosmoKrator prints it.
function K.sequence(t)
    local count, max = 0, 0
    for key in next, t do
        if math_type(key) ~= "integer" or key < 1 then
            return nil
        end
        count = count + 1
        max = key > max and key or max
    end
    return count == max and count or nil
end

local active

local function write(out, value, indent)
    local kind = type(value)
    if kind == "number" then
        out[#out + 1] = K.number(value)
        return
    elseif kind ~= "table" then
        out[#out + 1] = to_text(value)
        return
    end
    local own = metatable(value)
    if K.paths[value] then
        out[#out + 1] = K.paths[value].text
        return
    elseif own and rawget(own, "__tostring") ~= nil then
        out[#out + 1] = to_text(value)
        return
    elseif active[value] then
        out[#out + 1] = "<circular>"
        return
    end
    local contents = K.full(value, true) -- long unread fields of a handle are shortened
    if next(contents) == nil then
        out[#out + 1] = "{}"
        return
    end
    active[value] = true
    local deeper = indent .. "  "
    local length = K.sequence(contents)
    if length then
        out[#out + 1] = "[\n"
        for position = 1, length do
            out[#out + 1] = position > 1 and ",\n" .. deeper or deeper
            write(out, contents[position], deeper)
        end
        out[#out + 1] = "\n" .. indent .. "]"
    else
        out[#out + 1] = "{\n"
        local keys, count = K.sorted_keys(contents)
        for index = 1, count do
            local key = keys[index]
            out[#out + 1] = index > 1 and ",\n" .. deeper or deeper
            out[#out + 1] = type(key) == "number" and K.number(key) or to_text(key)
            out[#out + 1] = ": "
            write(out, contents[key], deeper)
        end
        out[#out + 1] = "\n" .. indent .. "}"
    end
    active[value] = nil -- only a table inside itself is circular, not one that is shared
end

function K.text(value)
    local kind = type(value)
    if kind == "number" then
        return K.number(value)
    elseif kind ~= "table" then
        return to_text(value)
    end
    local outer = active -- a __tostring may call tostring again
    active = {}
    local out = {}
    write(out, value, "")
    active = outer
    return concat(out)
end

function K.print(...)
    local count = select("#", ...)
    if count == 1 then
        return K.emit(K.text((...)))
    end
    local parts = pack(...)
    for index = 1, count do
        parts[index] = K.text(parts[index])
    end
    K.emit(concat(parts, "\t", 1, count))
end

function K.dump(...)
    local value = ...
    K.emit(K.text(value))
    return value
end
