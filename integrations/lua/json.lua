-- json.decode, json.encode and json.null.

local K = ...
local byte, sub, find, char, format = string.byte, string.sub, string.find, string.char, string.format
local concat, gsub, utf8_char, utf8_len = table.concat, string.gsub, utf8.char, utf8.len
local type, next, error, pcall, tonumber = type, next, error, pcall, tonumber
local rawget, rawequal = rawget, rawequal
local math_type, huge = math.type, math.huge
local metatable, setmetatable = debug.getmetatable, setmetatable
local LIST, OBJECT, NULL = K.LIST, K.OBJECT, K.NULL

local MAX_DEPTH = 512

-- ---------------------------------------------------------------- decode

local text, at, depth
local value -- reads one value

-- Raised as a table so that the public function can add the position of its caller.
local function fail(what)
    error({ what = what, at = at })
end

local function skip()
    at = find(text, "[^ \t\r\n]", at) or #text + 1
end

local function described()
    return at > #text and "end of text" or "'" .. sub(text, at, at) .. "'"
end

local escapes = { ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

local function unicode_escape()
    local _, stop, digits = find(text, "^(%x%x%x%x)", at)
    if not stop then
        fail("\\u needs four hexadecimal digits")
    end
    at = stop + 1
    local code = tonumber(digits, 16)
    if code >= 0xD800 and code <= 0xDBFF then
        local _, after, low = find(text, "^\\u([dD][c-fC-F]%x%x)", at)
        if after then
            at = after + 1
            return utf8_char(0x10000 + (code - 0xD800) * 0x400 + (tonumber(low, 16) - 0xDC00))
        end
    end
    -- half of a pair is no character: it becomes the replacement character
    return utf8_char(code >= 0xD800 and code <= 0xDFFF and 0xFFFD or code)
end

local function string_value()
    at = at + 1
    local stop = find(text, '["\\%c]', at)
    if stop and byte(text, stop) == 34 then -- the common case: no escape inside
        local plain = sub(text, at, stop - 1)
        at = stop + 1
        return plain
    end
    local parts, count = {}, 0
    while true do
        stop = find(text, '["\\%c]', at)
        if not stop then
            at = #text + 1
            fail("unfinished string")
        end
        count = count + 1
        parts[count] = sub(text, at, stop - 1)
        at = stop
        local code = byte(text, stop)
        if code == 34 then
            at = stop + 1
            return concat(parts)
        elseif code == 92 then
            local letter = sub(text, stop + 1, stop + 1)
            at = stop + 2
            count = count + 1
            if letter == "u" then
                parts[count] = unicode_escape()
            elseif escapes[letter] then
                parts[count] = escapes[letter]
            else
                at = stop
                fail("unknown escape")
            end
        elseif code == 127 then -- not a control character in JSON
            count = count + 1
            parts[count] = "\127"
            at = stop + 1
        else
            fail("control character in a string")
        end
    end
end

local function number_value()
    local start = at
    local _, stop = find(text, "^-?%d+", at)
    if not stop or find(text, "^-?0%d", at) then
        fail("unexpected " .. described())
    end
    local _, fraction = find(text, "^%.%d+", stop + 1)
    local _, exponent = find(text, "^[eE][+-]?%d+", (fraction or stop) + 1)
    at = (exponent or fraction or stop) + 1
    return tonumber(sub(text, start, at - 1)) -- beyond 64 bits it is a float
end

local function enter()
    depth = depth + 1
    if depth > MAX_DEPTH then
        fail("nested deeper than " .. MAX_DEPTH .. " levels")
    end
    at = at + 1
    skip()
end

-- After an element: true to go on, false at the closing bracket.
local function more(closing)
    skip()
    local code = byte(text, at)
    if code == closing then
        at = at + 1
        depth = depth - 1
        return false
    elseif code ~= 44 then
        fail("unexpected " .. described())
    end
    at = at + 1
    skip()
    return true
end

local function list_value()
    enter()
    local t, count = setmetatable({}, LIST), 0
    if byte(text, at) == 93 then
        at, depth = at + 1, depth - 1
        return t
    end
    repeat
        count = count + 1
        t[count] = value() -- null keeps its position as json.null
    until not more(93)
    return t
end

local function object_value()
    enter()
    local t = setmetatable({}, OBJECT)
    if byte(text, at) == 125 then
        at, depth = at + 1, depth - 1
        return t
    end
    repeat
        if byte(text, at) ~= 34 then
            fail("expected a key, got " .. described())
        end
        local key = string_value()
        skip()
        if byte(text, at) ~= 58 then
            fail("expected ':', got " .. described())
        end
        at = at + 1
        skip()
        local field = value()
        if field == NULL then
            field = nil -- so that `if data.key then` works
        end
        t[key] = field
    until not more(125)
    return t
end

local words = { t = { "true", true }, f = { "false", false }, n = { "null", NULL } }

function value()
    local letter = sub(text, at, at)
    if letter == '"' then
        return string_value()
    elseif letter == "{" then
        return object_value()
    elseif letter == "[" then
        return list_value()
    end
    local word = words[letter]
    if word and sub(text, at, at + #word[1] - 1) == word[1] then
        at = at + #word[1]
        return word[2]
    end
    return number_value()
end

local function document()
    at, depth = 1, 0
    skip()
    local result = value()
    skip()
    if at <= #text then
        fail("unexpected " .. described() .. " after the value")
    end
    return result
end

local function position()
    local before = sub(text, 1, at - 1)
    local _, lines = gsub(before, "\n", "")
    local start = find(before, "[^\n]*$")
    return "line " .. lines + 1 .. " column " .. #before - start + 2
end

local function decode(source)
    if type(source) ~= "string" then
        error("json.decode: expected string, got " .. type(source), 2)
    end
    text = source
    local ok, result = pcall(document)
    local message = not ok and type(result) == "table" and result.what .. " at " .. position()
    text = nil
    if message then
        error("json.decode: " .. message, 2)
    elseif not ok then
        error(result, 0)
    end
    if result == NULL then
        return nil
    end
    return result
end

-- ---------------------------------------------------------------- encode

local marks = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }
for code = 0, 31 do
    marks[char(code)] = marks[char(code)] or format("\\u%04x", code)
end

local function quoted(s)
    if not utf8_len(s) then
        error({ what = "a string that is not valid UTF-8" })
    end
    return '"' .. gsub(s, '[%z\1-\31"\\]', marks) .. '"'
end

local write

local function write_table(out, t, indent, active)
    if rawequal(t, NULL) then
        out[#out + 1] = "null"
        return
    elseif K.paths[t] then
        error({ what = K.paths[t].text .. " itself" })
    elseif active[t] then
        error({ what = "a table that contains itself" })
    elseif active.depth >= MAX_DEPTH then
        error({ what = "a table nested deeper than " .. MAX_DEPTH .. " levels" })
    end
    local contents = K.full(t)
    if next(contents) == nil then
        out[#out + 1] = rawequal(metatable(t), OBJECT) and "{}" or "[]"
        return
    end
    active[t], active.depth = true, active.depth + 1
    local deeper = indent and indent .. "    "
    local first, between = indent and "\n" .. deeper or "", indent and ",\n" .. deeper or ","
    local length = K.sequence(contents)
    if length then
        out[#out + 1] = "["
        for index = 1, length do
            out[#out + 1] = index > 1 and between or first
            write(out, contents[index], deeper, active)
        end
        out[#out + 1] = (indent and "\n" .. indent or "") .. "]"
    else
        out[#out + 1] = "{"
        local keys, count = K.sorted_keys(contents)
        for index = 1, count do
            local key = keys[index]
            if type(key) ~= "string" and math_type(key) ~= "integer" then
                error({ what = "a table with a " .. type(key) .. " key" })
            end
            out[#out + 1] = index > 1 and between or first
            out[#out + 1] = quoted(type(key) == "string" and key or format("%d", key))
            out[#out + 1] = indent and ": " or ":"
            write(out, contents[key], deeper, active)
        end
        out[#out + 1] = (indent and "\n" .. indent or "") .. "}"
    end
    active[t], active.depth = nil, active.depth - 1
end

function write(out, v, indent, active)
    local kind = type(v)
    if kind == "table" then
        write_table(out, v, indent, active)
    elseif kind == "string" then
        out[#out + 1] = quoted(v)
    elseif kind == "number" then
        if v ~= v or v == huge or v == -huge then
            error({ what = "the number " .. K.number(v) })
        end
        out[#out + 1] = K.number(v)
    elseif kind == "boolean" then
        out[#out + 1] = v and "true" or "false"
    elseif kind == "nil" then
        out[#out + 1] = "null"
    else
        error({ what = "a " .. kind })
    end
end

local function encode(v, options)
    if options ~= nil and type(options) ~= "table" then
        error("json.encode: expected table of options, got " .. type(options), 2)
    end
    local out = {}
    local indent = (options == nil or rawget(options, "pretty") ~= false) and "" or nil
    local ok, problem = pcall(write, out, v, indent, { depth = 0 })
    if ok then
        return concat(out)
    elseif type(problem) == "table" and problem.what then
        error("json.encode: cannot encode " .. problem.what, 2)
    end
    error(problem, 0)
end

K.json = { decode = decode, encode = encode, null = NULL }
