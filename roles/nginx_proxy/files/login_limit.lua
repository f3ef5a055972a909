-- Counts failed logins, and refuses further ones before they cost MLflow a password hash.
--
-- A failed login is a request that brought credentials and was answered 401. It counts against the user name it gave
-- at its address, and against the address. The first limit is low; the second is higher, so that one job with an old
-- password does not shut out everybody behind the same address. What is over a limit is not asked of MLflow, hence
-- not counted: the count ends by itself when its window does. The memory is of a fixed size, the oldest counts go first.

local login_limit = {}
local failures = ngx.shared.login_failures

-- The two names under which the request at hand is counted; nothing for one without credentials.
local function counters()
  local authorization = ngx.var.http_authorization
  if not authorization then
    return
  end
  local address = ngx.var.binary_remote_addr
  if #address == 16 then
    address = address:sub(1, 8) -- IPv6: who has one address there has the whole /64
  end
  -- What cannot be read as strictly as this is all counted under the empty name.
  local encoded = authorization:match("^[Bb][Aa][Ss][Ii][Cc] +(.+)$")
  local user = (encoded and ngx.decode_base64(encoded) or ""):match("^[^:]*")
  return address, address .. ngx.md5_bin(user)
end

local function refuse_over(counter, limit)
  if (failures:get(counter) or 0) >= limit then
    ngx.header["Retry-After"] = math.max(1, math.ceil(failures:ttl(counter) or 1))
    return ngx.exit(ngx.HTTP_TOO_MANY_REQUESTS)
  end
end

function login_limit.refuse(user_limit, address_limit)
  local address, user = counters()
  if address then
    refuse_over(user, user_limit)
    refuse_over(address, address_limit)
  end
end

function login_limit.count(window)
  if ngx.status ~= ngx.HTTP_UNAUTHORIZED then
    return
  end
  local address, user = counters()
  if address then
    failures:incr(user, 1, 0, window)
    failures:incr(address, 1, 0, window)
  end
end

return login_limit
