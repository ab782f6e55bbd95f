-- The two pipes to the parent: frames out, replies in.
--
-- A frame out is one letter, a 32-bit length and that many bytes. A frame in is a 32-bit length and that many
-- bytes, after which the long strings it mentions follow bare, so that a 5 MB image crosses with a single copy.
-- The file handles of `io` live only in this file's locals: scripts have neither `io` nor `debug` to reach them.

local K = ...
local stdin, stdout, exit = io.stdin, io.stdout, os.exit
local read, write, flush = stdin.read, stdout.write, stdout.flush
local pack, unpack, sub = string.pack, string.unpack, string.sub
local clock, count = os.clock, collectgarbage
local getinfo, pcall = debug.getinfo, pcall

-- The exit status the parent reads as "ran out of memory while a reply was arriving".
local OUT_OF_MEMORY = 3

stdout:setvbuf("full", 65536)
stdin:setvbuf("full", 65536)

local started

function K.begin()
    started = clock()
end

function K.cpu()
    return clock() - started
end

function K.send(letter, payload)
    if not (write(stdout, letter, pack("<I4", #payload), payload) and flush(stdout)) then
        exit(1, false) -- the parent is gone; nobody is left to tell
    end
end

-- Both readers end the process when the stream ends: a script must not go on without its parent.
function K.read(length)
    if length == 0 then
        return ""
    end
    local bytes = read(stdin, length)
    if not bytes or #bytes ~= length then
        exit(1, false)
    end
    return bytes
end

function K.read_frame()
    return K.read((unpack("<I4", K.read(4))))
end

-- A reply that does not fit into memory leaves the stream in mid-air, so the run cannot go on after it.
function K.guarded(receive, ...)
    local ok, first, second = pcall(receive, ...)
    if not ok then
        exit(OUT_OF_MEMORY, false)
    end
    return first, second
end

-- The line of the script that is running now: the innermost frame that is not ours.
function K.line(level)
    for depth = (level or 2), 250 do
        local info = getinfo(depth, "Sl")
        if not info then
            return 0
        end
        if info.source == K.chunk then
            return info.currentline
        end
    end
    return 0
end

-- The last frame of a run that did not reach its end.
function K.fail(kind, line, message, id)
    local used = count("count") * 1024
    K.send("E", pack("<s4 I4 I4 d d s4", kind, line, id or 0, K.cpu(), used, message))
    exit(0, false)
end

local printed = 0

-- One line of output, sent at once so that it can be watched. The limit ends the run; what fitted is kept.
function K.emit(text)
    local room = K.output_limit - printed
    printed = printed + #text + 1
    if printed > K.output_limit + 1 then -- the last line needs no newline
        if room > 0 then
            K.send("P", sub(text, 1, room))
        end
        K.fail("output", K.line(3), "")
    end
    K.send("P", text)
end
