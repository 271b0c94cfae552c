-- Requests for wrk, made beforehand; and its latencies, every one of them, on the last lines of its output.
-- Arguments: workload, number of keys, bytes of a value, query of a stale read.

local writes, reads, mode = {}, {}, nil

local function read_of(path)
  return wrk.format("GET", path)
end

function init(args)
  mode = args[1]
  local keys, value = tonumber(args[2]), string.rep("x", tonumber(args[3]))
  local query = mode == "stale" and args[4] or ""
  for n = 1, keys do
    local path = string.format("/key/key-%05d", n - 1)
    writes[n] = wrk.format("PUT", path, nil, value)
    reads[n] = read_of(path .. query)
  end
  math.randomseed(os.time())
end

function request()
  local from = reads
  if mode == "writes" or (mode == "mixed" and math.random(2) == 1) then
    from = writes
  end
  return from[math.random(#from)]
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
