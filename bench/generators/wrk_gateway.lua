-- Requests to etcd's JSON gateway for wrk, made beforehand; and its latencies, every one of them, on the last lines of
-- its output. Arguments: workload, number of keys, bytes of a value, (unused).

local requests = {}

local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local function base64(text)
  local out = {}
  for at = 1, #text, 3 do
    local a, b, c = text:byte(at, at + 2)
    local bits = a * 65536 + (b or 0) * 256 + (c or 0)
    for place = 0, 3 do
      local index = math.floor(bits / 64 ^ (3 - place)) % 64 + 1
      local filled = place < 2 or (place == 2 and b) or (place == 3 and c)
      out[#out + 1] = filled and ALPHABET:sub(index, index) or "="
    end
  end
  return table.concat(out)
end

function init(args)
  local mode, keys, value = args[1], tonumber(args[2]), base64(string.rep("x", tonumber(args[3])))
  local fields = { ["Content-Type"] = "application/json" }
  for n = 1, keys do
    local key = base64(string.format("key-%05d", n - 1))
    if mode == "writes" then
      requests[n] = wrk.format("POST", "/v3/kv/put", fields, '{"key":"' .. key .. '","value":"' .. value .. '"}')
    else
      requests[n] = wrk.format("POST", "/v3/kv/range", fields, '{"key":"' .. key .. '"}')
    end
  end
  math.randomseed(os.time())
end

function request()
  return requests[math.random(#requests)]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format("summary %d %d %d\n", summary.duration, summary.requests,
    e.connect + e.read + e.write + e.status + e.timeout))
  for n = 1, #latency do
    local value, count = latency(n)
    io.write(string.format("latency %d %d\n", value, count))
  end
end
