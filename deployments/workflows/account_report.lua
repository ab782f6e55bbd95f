-- What the accounts have left. One account that cannot be read does not hide the others.
-- inputs: accounts (a list of names, default { "default" }), minimum_credits (default 100), minimum_usd (default 5)
local report = {}

local function row(provider, account, balance, unit, minimum)
  local low = balance < minimum
  report[#report + 1] = { provider = provider, account = account, balance = balance, unit = unit, low = low }
  print(provider .. " " .. account .. ": " .. tostring(balance) .. " " .. unit .. (low and " (low)" or ""))
end

for _, account in ipairs(inputs.accounts or { "default" }) do
  local ok, answer = pcall(app.integrations.stability[account].get_balance, {})
  if ok then
    row("stability", account, answer.credits, "credits", inputs.minimum_credits or 100)
  else
    print("stability " .. account .. ": " .. tostring(answer))
  end
  ok, answer = pcall(app.integrations.fal[account].get_balance, {})
  if ok then
    row("fal", account, answer.balance, answer.currency, inputs.minimum_usd or 5)
  else
    print("fal " .. account .. ": " .. tostring(answer))
  end
end

return report
