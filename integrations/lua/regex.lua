-- regex.match, regex.match_all and regex.gsub, after PHP's preg functions.
--
-- The matching itself is Python's `regex` package inside this same child (patterns.py), reached through three
-- callables that take strings and answer whole numbers only: offsets, or the bytes of a message. No Python object
-- ever becomes a Lua value, and Python never builds a Lua string, which could fail with the heap full.

local K = ...
local native_compile, native_begin, native_next = K.regex_compile, K.regex_begin, K.regex_next
local sub, char, find, match = string.sub, string.char, string.find, string.match
local concat, insert, pack, select, type, error, pcall = table.concat, table.insert, table.pack, select, type, error, pcall
local next, math_type, tonumber = next, math.type, tonumber
local setmetatable, LIST, NULL = setmetatable, K.LIST, K.NULL

local OFFSETS, NULLS = 256, 512 -- the values of PREG_OFFSET_CAPTURE and PREG_UNMATCHED_AS_NULL
local SET_ORDER = 2 -- PREG_SET_ORDER; PREG_PATTERN_ORDER (1) is the default

-- "/foo/i" is a delimited pattern; anything else is taken as it stands. Brackets do not delimit: `(\d+)` is bare.
local function split(pattern)
    local delimiter = sub(pattern, 1, 1)
    if delimiter ~= "" and find("/#~!@%|", delimiter, 1, true) then
        local body, flags = match(sub(pattern, 2), "^(.*)%" .. delimiter .. "([imsxuADSXJUn]*)$")
        if body then
            return body, flags
        end
    end
    return pattern, ""
end

-- The callables are Python's: whatever goes wrong inside them must not reach the script as a Python object.
local function native(name, call, ...)
    local results = pack(pcall(call, ...))
    if not results[1] then
        error("regex." .. name .. ": out of memory", 0)
    end
    return results
end

local compiled, compiled_count = {}, 0

local function compile(name, pattern)
    local known = compiled[pattern]
    if known then
        return known
    end
    local body, flags = split(pattern)
    local answer = native(name, native_compile, body, flags)
    if answer[2] < 0 then
        local bytes = {}
        for index = 3, answer.n do
            bytes[index - 2] = char(answer[index])
        end
        error({ what = "regex." .. name .. ": " .. concat(bytes) .. " in pattern " .. pattern })
    end
    known = { id = answer[2], groups = answer[3], names = {} }
    local index = 4
    while index <= answer.n do
        local group, length = answer[index], answer[index + 1]
        local bytes = {}
        for offset = 1, length do
            bytes[offset] = char(answer[index + 1 + offset])
        end
        insert(known.names, { group = group, name = concat(bytes) })
        index = index + 2 + length
    end
    if compiled_count >= 64 then
        compiled, compiled_count = {}, 0
    end
    compiled[pattern], compiled_count = known, compiled_count + 1
    return known
end

local problems = {
    [-1] = "the pattern took too long (it backtracks too much on this subject)",
    [-2] = "out of memory",
    [-3] = "the pattern failed on this subject",
}

-- Iterates over matches; each is a packed list: [2] start and [3] stop of the whole, [4] and [5] of group 1, ...
local function matches(name, pattern, subject)
    native(name, native_begin, pattern.id, subject)
    return function()
        local found = native(name, native_next)
        local status = found[2]
        if status < 0 then
            error({ what = "regex." .. name .. ": " .. problems[status] })
        end
        return status == 1 and found or nil
    end
end

local function capture(subject, found, group, offsets, nulls)
    local start, stop = found[3 + 2 * group], found[4 + 2 * group]
    local text
    if start >= 0 then
        text = sub(subject, start + 1, stop)
    else
        text = nulls and NULL or ""
    end
    return offsets and { text, start } or text
end

-- 1 is the whole match, 2 the first group, ...; groups at the end that took no part are left out, unless nulls.
local function captures(subject, found, pattern, offsets, nulls)
    local last = pattern.groups
    while not nulls and last > 0 and found[3 + 2 * last] < 0 do
        last = last - 1
    end
    local t = {}
    for group = 0, last do
        t[group + 1] = capture(subject, found, group, offsets, nulls)
    end
    for _, named in next, pattern.names do
        if named.group <= last then
            t[named.name] = t[named.group + 1]
        end
    end
    return t
end

-- Checks the arguments and adds the caller's position to errors.
local function public(name, body, third)
    return function(subject, pattern, extra, ...)
        if not native_compile then -- the engine is only loaded for scripts in whose text it occurs
            error("regex." .. name .. ": write `regex` out somewhere in the script, it is loaded by name", 2)
        elseif type(subject) ~= "string" then
            error("regex." .. name .. ": expected string subject, got " .. type(subject), 2)
        elseif type(pattern) ~= "string" then
            error("regex." .. name .. ": expected string pattern, got " .. type(pattern), 2)
        elseif third == "replacement" and type(extra) ~= "string" then
            error("regex." .. name .. ": expected string replacement, got " .. type(extra), 2)
        elseif third == "flags" and extra ~= nil and math_type(extra) ~= "integer" then
            error("regex." .. name .. ": expected integer flags, got " .. type(extra), 2)
        end
        local ok, result = pcall(body, subject, pattern, extra, ...)
        if not ok then
            error(type(result) == "table" and result.what or result, type(result) == "table" and 2 or 0)
        end
        return result
    end
end

local function regex_match(subject, text, flags)
    flags = flags or 0
    if flags ~= OFFSETS and flags ~= NULLS and flags ~= OFFSETS + NULLS then
        flags = 0
    end
    local pattern = compile("match", text)
    local found = matches("match", pattern, subject)()
    return found and captures(subject, found, pattern, flags & OFFSETS ~= 0, flags & NULLS ~= 0)
end

local function match_all(subject, text, flags)
    flags = flags or 0
    local order = flags & 3
    if flags & ~(3 | OFFSETS | NULLS) ~= 0 or order == 3 then
        error({ what = "regex.match_all: unknown flags " .. flags })
    end
    local offsets, nulls = flags & OFFSETS ~= 0, flags & NULLS ~= 0
    local pattern = compile("match_all", text)
    local all, count = setmetatable({}, LIST), 0
    for found in matches("match_all", pattern, subject) do
        count = count + 1
        if order == SET_ORDER then
            all[count] = captures(subject, found, pattern, offsets, nulls)
        else
            for group = 0, pattern.groups do
                all[group + 1] = all[group + 1] or {}
                all[group + 1][count] = capture(subject, found, group, offsets, nulls)
            end
        end
    end
    if order ~= SET_ORDER and count > 0 then
        for _, named in next, pattern.names do
            all[named.name] = all[named.group + 1]
        end
    end
    return all
end

-- Splits a replacement into plain text and group numbers: $1, ${12}, \1.
local function pieces(replacement)
    local parts, at = {}, 1
    while at <= #replacement do
        local mark = find(replacement, "[$\\]", at)
        if not mark then
            break
        end
        insert(parts, sub(replacement, at, mark - 1))
        local rest = sub(replacement, mark, mark + 5)
        local group = match(rest, "^[$\\](%d%d?)") or match(rest, "^%${(%d%d?)}")
        if group then
            insert(parts, tonumber(group))
            at = mark + #group + (match(rest, "^%${") and 3 or 1)
        else -- a backslash before a backslash or a dollar sign makes it plain; anything else stands for itself
            local plain = match(rest, "^\\([\\$])")
            insert(parts, plain or sub(replacement, mark, mark))
            at = mark + (plain and 2 or 1)
        end
    end
    insert(parts, sub(replacement, at))
    return parts
end

local function gsub(subject, text, replacement, limit)
    if limit ~= nil and (type(limit) ~= "number" or limit ~= limit) then
        error({ what = "regex.gsub: expected number limit, got " .. type(limit) })
    end
    local pattern = compile("gsub", text)
    if limit == 0 then
        return subject
    end
    local parts, out, after, count = pieces(replacement), {}, 1, 0
    for found in matches("gsub", pattern, subject) do
        out[#out + 1] = sub(subject, after, found[3])
        for _, part in next, parts do
            if type(part) == "string" then
                out[#out + 1] = part
            elseif part <= pattern.groups then
                out[#out + 1] = capture(subject, found, part)
            end
        end
        after = found[4] + 1
        count = count + 1
        if count == limit then
            break
        end
    end
    out[#out + 1] = sub(subject, after)
    return concat(out)
end

K.regex = {
    match = public("match", regex_match, "flags"),
    match_all = public("match_all", match_all, "flags"),
    gsub = public("gsub", gsub, "replacement"),
}
