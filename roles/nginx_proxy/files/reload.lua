-- Says whether nginx is about to reload. On a reload nginx closes the connections that wait for their next request, and
-- a client that sends one at that very moment has it fail. So for a while before, each answer announces that
-- it is the connection's last, and whoever is busy goes on over a new one. The unit's drop-in reload.conf begins it.
local begun_file = "/run/nginx_reload"
-- The two seconds until the reload, and time for the old workers to be told. It ends by itself, whatever fails meanwhile.
local lasts_seconds = 10

local reload = {}

function reload.is_near()
    local file = io.open(begun_file)
    if not file then
        return false
    end
    local begun = tonumber(file:read("*l") or "")
    file:close()
    return begun ~= nil and ngx.time() - begun < lasts_seconds
end

return reload
