--## encode is pretty
--= ok ["{\n    \"a\": [\n        1,\n        2\n    ],\n    \"b\": {\n        \"c\": null\n    },\n    \"d\": []\n}"]
return json.encode({a = {1, 2}, b = {c = json.null}, d = {}})
--## encode compact
--= ok ["{\"a\":[1,2],\"b\":{}}"]
return json.encode({a = {1, 2}, b = json.decode("{}")}, {pretty = false})
--## scalars
--= ok ["1", "1.5", "\"x\"", "true", "null", "5", "0.30000000000000004", "9007199254740992", "1e+21", "[]"]
return json.encode(1), json.encode(1.5), json.encode("x"), json.encode(true), json.encode(nil), json.encode(10 / 2), json.encode(0.1 + 0.2), json.encode(2 ^ 53), json.encode(1e21), json.encode({})
--## slashes and other alphabets stay as they are
--= ok ["\"a/b é ✓\""]
return json.encode("a/b é ✓")
--## escapes
--= ok ["\"\\\"\\\\\\n\\t\\u0000\\u001f\u007f\""]
return json.encode("\"\\\n\t\0\x1f\x7f")
--## keys become strings
--= ok ["{\"1\":\"a\",\"3\":\"c\",\"x\":1}"]
return json.encode({"a", nil, "c", x = 1}, {pretty = false})
--## NaN and infinity are refused
--= ok [false, false, false]
return (pcall(json.encode, 0 / 0)), (pcall(json.encode, math.huge)), (pcall(json.encode, {1, {-math.huge}}))
--## so is text that is none
--= runtime 1 not valid UTF-8
json.encode("\xff")
--## functions, cycles, namespaces
--= ok [false, false, false, false]
local t = {}
t.t = t
return (pcall(json.encode, print)), (pcall(json.encode, t)), (pcall(json.encode, {app})), (pcall(json.encode, {[true] = 1}))
--## the line of a bad encode
--= runtime 2 cannot encode a function

json.encode({print})
--## too deep
--= ok [false]
local t = {}
for _ = 1, 600 do t = {t} end
return (pcall(json.encode, t))
--## shared tables are fine
--= ok ["[[1],[1]]"]
local t = {1}
return json.encode({t, t}, {pretty = false})
--## decode
--= ok [{"a": [1, 2.5, "x", true, false], "b": {"c": "d"}}]
return json.decode('  {"a": [1, 2.5, "x", true, false], "b": {"c": "d"}}\n')
--## decoded scalars
--= ok [1, "x", true, null, -1500, 0]
return json.decode("1"), json.decode('"x"'), json.decode("true"), json.decode("null"), json.decode("-1.5e3"), json.decode("-0")
--## null: absent in objects, json.null in lists
--= ok [true, true, 3, "[1,null,2]"]
local t = json.decode('{"a": null, "b": [1, null, 2]}')
return t.a == nil, t.b[2] == json.null, #t.b, json.encode(t.b, {pretty = false})
--## empty list and empty object are remembered
--= ok ["[]", "{}", "{}"]
local emptied = json.decode('{"a": 1}')
emptied.a = nil
return json.encode(json.decode("[]")), json.encode(json.decode("{}")), json.encode(emptied)
--## and reach the host
--= ok [[], {}]
local t = app.integrations.test.echo({list = json.decode("[]"), object = json.decode("{}")})
return t.list, t.object
--## the mark is not visible
--= ok [null, true]
local t = json.decode("[]")
return getmetatable(t), getmetatable(setmetatable(t, {})) ~= nil
--## escapes in text
--= ok ["é😀\n\"\\/\b\f\r\t", "�", "�x"]
return json.decode([["\u00e9\ud83d\ude00\n\"\\\/\b\f\r\t"]]), json.decode([["\ud800"]]), json.decode([["\udc00x"]])
--## large whole numbers
--= ok [9223372036854775807, 9223372036854775808]
return json.decode("9223372036854775807"), json.decode("9223372036854775808")
--## mistakes
--= ok []
for _, text in ipairs({"", "{", "[", "[1,]", "{,}", '{"a"}', '{"a":}', "{a:1}", "01", "1.", "1e", ".5", "+1", "nul", "'x'", '"', '"\\x"', '"\\u12"', '"\n"', "[1 2]", "1 1", "NaN", "\xff", "[1}", '{"a":1', "\0", "--1", "-"}) do
  local ok, problem = pcall(json.decode, text)
  assert(not ok, "accepted " .. text)
  assert(problem:find("json.decode:", 1, true), problem)
end
--## the place of a mistake
--= runtime 2 json.decode: unexpected 'x' at line 2 column 3

json.decode("[1,\n  x]")
--## wrong type
--= runtime 1 json.decode: expected string, got table
json.decode({})
--## depth 512
--= ok [true, false]
return (pcall(json.decode, ("["):rep(512) .. ("]"):rep(512))), (pcall(json.decode, ("["):rep(513) .. ("]"):rep(513)))
--## a bomb of brackets
--= ok [false]
return (pcall(json.decode, ("["):rep(1000000)))
--## a big document
--= ok [20000, 20000]
local rows = {}
for i = 1, 20000 do rows[i] = {id = i} end
local back = json.decode(json.encode(rows, {pretty = false}))
return #back, back[20000].id
--## json.null cannot be changed
--= ok [false]
return (pcall(function() json.null.x = 1 end))
--## tables with __index and __len are read as they are
--= ok ["[1]"]
return json.encode(setmetatable({1}, {__index = function() return 1 end, __len = function() return 9 end}), {pretty = false})
