--## the fields of a handle
--= ok ["image/png", 42, "aGVsbG8=", null]
local image = app.media.make()
return image.content_type, image.seed, image.body_base64, image.nothing
--## a lazy field is fetched once, and only when read
--= ok [0, 1, 1]
local image = app.media.make()
local before = app.media.fetches()
local a = image.body_base64
local once = app.media.fetches()
local b = image.body_base64
assert(a == b)
return before, once, app.media.fetches()
--## handed back untouched it is the host's own object
--= ok [true, true, true, true]
local image = app.media.make()
return app.media.is_handle({image = image}), app.media.is_handle({image = image, x = {1}}), app.media.is_handle(image), app.media.fetches() == 0
--## reading does not touch
--= ok [true]
local image = app.media.make()
local _ = image.body_base64, image.seed, tostring(image), json.encode(image)
return app.media.is_handle({image = image})
--## a clone is the same
--= ok [true]
return app.media.is_handle({image = table.clone(app.media.make())})
--## inside lists and tables
--= ok [true]
return app.media.is_handle({image = app.media.many()[2].media})
--## changed, it is an ordinary table with all fields
--= ok [{"body_base64": "aGVsbG8=", "content_type": "image/png", "finish_reason": "", "seed": 7}]
local image = app.media.make()
image.seed = 7
return app.media.echo({image = image}).image
--## a field added or removed is a change
--= ok [false, false]
local a, b = app.media.make(), app.media.make()
a.note = "x"
b.seed = nil
return app.media.is_handle({image = a}), app.media.is_handle({image = b})
--## a changed body
--= ok ["new"]
local image = app.media.make()
image.body_base64 = "new"
return app.media.echo({image = image}).image.body_base64
--## a copy of the fields
--= ok [{"body_base64": "aGVsbG8=", "content_type": "image/png"}]
local image = app.media.make()
return app.media.echo({image = {content_type = image.content_type, body_base64 = image.body_base64}}).image
--## a copy with pairs
--= ok ["aGVsbG8=", 4]
local copy, n = {}, 0
for k, v in pairs(app.media.make()) do copy[k], n = v, n + 1 end
return copy.body_base64, n
--## printing shows all fields
--= ok []
--> {
-->   body_base64: aGVsbG8=,
-->   content_type: image/png,
-->   finish_reason: ,
-->   seed: 42
--> }
print(app.media.make())
--## but not megabytes
--= ok [true]
--! memory_bytes=2000000
local text = tostring(app.media.large())
return #text < 300 and text:find("... (4000000 bytes)", 1, true) ~= nil
--## a large body stays with the host
--! memory_bytes=2000000
--= ok [true]
return app.media.is_handle({image = app.media.large()})
--## unless asked for
--! memory_bytes=2000000
--= memory 1
return #app.media.large().body_base64
--## with room it can be read
--= ok [4000000]
return #app.media.large().body_base64
--## json.encode has all fields
--= ok ["{\"body_base64\":\"aGVsbG8=\",\"content_type\":\"image/png\",\"finish_reason\":\"\",\"seed\":42}"]
return json.encode(app.media.make(), {pretty = false})
--## bytes in a lazy field
--= ok [4]
return #app.media.raw().body
--## a lazy field that fails
--= ok [false, "gone"]
local image = app.media.broken()
local ok, e = pcall(function() return image.body_base64 end)
return ok, tostring(e)
--## and fails while encoding
--= runtime 1 gone
json.encode(app.media.broken())
--## a handle is closed
--= ok [false, false]
local image = app.media.make()
return getmetatable(image), (pcall(setmetatable, image, {}))
--## a lazy field may be absent
--= ok [null]
return app.media.absent().body
