-- One picture for each prompt at fal.ai: submit them all, then look at them in turn until all are done.
-- inputs: prompts (a list), model_id, timeout (seconds for all of them, default 600)
local fal = app.integrations.fal
local model_id = inputs.model_id or "fal-ai/flux/schnell"
local prompts = inputs.prompts or { "a lighthouse at dusk", "a harbour at dawn", "a forest path in autumn" }

local waiting = {}
for number, prompt in ipairs(prompts) do
  local job = fal.submit_request({
    model_id = model_id,
    input = { prompt = prompt, image_size = "landscape_16_9", num_images = 1 },
  })
  waiting[number] = { prompt = prompt, request_id = job.request_id }
  print("Submitted " .. job.request_id .. ": " .. prompt)
end

local done, failed = {}, {}
local pause, waited, timeout = 0.5, 0, inputs.timeout or 600
while #waiting > 0 do
  for number = #waiting, 1, -1 do
    local item = waiting[number]
    local status = fal.get_request_status({ model_id = model_id, request_id = item.request_id })
    if status.status == "COMPLETED" then
      table.remove(waiting, number)
      local ok, result = pcall(fal.get_result, { model_id = model_id, request_id = item.request_id })
      if ok then
        done[#done + 1] = { prompt = item.prompt, uri = result.media[1].uri }
        print("Done: " .. item.prompt)
      else
        failed[#failed + 1] = { prompt = item.prompt, error = tostring(result) }
        print("Failed: " .. item.prompt .. " (" .. tostring(result) .. ")")
      end
    end
  end
  if #waiting > 0 then
    if waited > timeout then
      error(#waiting .. " requests were not completed after " .. timeout .. " s; they go on and can be fetched later")
    end
    sleep(pause)
    waited, pause = waited + pause, math.min(pause * 1.5, 5)
  end
end

return { done = done, failed = failed }
