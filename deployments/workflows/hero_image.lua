-- A hero image in two sizes.
-- inputs: prompt, aspect_ratio (default 1:1), account (default "default")
local stability = app.integrations.stability[inputs.account or "default"]

local image = stability.generate_core({
  prompt = inputs.prompt or "product photo of a matte black desk lamp, soft morning light",
  aspect_ratio = inputs.aspect_ratio or "1:1",
  output_format = "png",
})
print("Generated " .. image.width .. "x" .. image.height .. ", seed " .. image.seed)

local big = stability.upscale_fast({ image = image, output_format = "png" })
print("Upscaled to " .. big.width .. "x" .. big.height)

return { image = image.uri, upscaled = big.uri }
