-- Requests for wrk, and what came of them as JSON. Arguments: a file of requests (method, path and body, tab between
-- them, one a line) and a file of run ids. @RUN@ becomes one id after the other, @STEP@ a number not used before.
local threads = 0
function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

local function lines(path)
  local found = {}
  for line in io.lines(path) do found[#found + 1] = line end
  return found
end

function init(arguments)
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["Authorization"] = os.getenv("WRK_AUTHORIZATION")
  forms, runs = {}, lines(arguments[2])
  for index, line in ipairs(lines(arguments[1])) do
    local method, path, body = line:match("^([^\t]*)\t([^\t]*)\t(.*)$")
    forms[index] = {method = method, path = path, body = body ~= "" and body or nil}
  end
  -- Numbers of one start of wrk do not come again in the next.
  count = (os.time() % 10000000) * 100000 + number * 50000
end

function request()
  count = count + 1
  local form = forms[count % #forms + 1]
  local filled = {["@RUN@"] = runs[(count + number * 997) % #runs + 1], ["@STEP@"] = string.format("%d", count)}
  local path, body = form.path:gsub("@%u+@", filled), form.body
  return wrk.format(form.method, path, nil, body and (body:gsub("@%u+@", filled)))
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.6f, "bytes": %d, "p50": %.6f, "p99": %.6f, "max": %.6f, "failures": %d}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
    latency.max / 1e6, errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
