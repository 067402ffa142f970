-- wrk sends the requests of a file in turn: one per line, METHOD PATH HEADER BODY (tab-separated, "-" for none).

local requests, at = {}, 0

function init(args)
    for line in io.lines(args[1]) do
        local method, path, header, body = line:match("^([^\t]*)\t([^\t]*)\t([^\t]*)\t(.*)$")
        local headers = {}
        local name, value = header:match("^([^:]*): (.*)$")
        if name then headers[name] = value end
        if body == "-" then body = nil else headers["Content-Type"] = "application/json" end
        requests[#requests + 1] = wrk.format(method, path, headers, body)
    end
    at = math.random(#requests)
end

function request()
    at = at % #requests + 1
    return requests[at]
end

function done(summary, latency)
    local faults = summary.errors
    io.stderr:write(string.format("requests=%d us=%d p50=%d p99=%d faults=%d refused=%d\n",
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        faults.connect + faults.read + faults.write + faults.timeout, faults.status))
end
