-- Takes, renews or gives up the leases of live sessions (SSE, WebSocket), one per agent; the newest session takes
-- over. What is renewed counts as a heartbeat, at the server's time. A lease that lapsed (Redis was away) is taken
-- again by whoever renews it first. Who lost one hears of it over `ab:sessions`, and asks by renewing.
--
-- A renewal of many writes little: one command for the signs of life of all, and a lease is made longer only once
-- half of it is over.
--
-- The first write changes nothing, so Redis at its memory limit does not refuse it: who pulls frees memory.
--
-- KEYS 1 presence  2.. leases
-- ARGV 1 `take`, `renew` or `release`  2 lease in ms  3 channel  then per lease: agent, session
-- Reply: per lease 1 where it is (release: was) the session's, else 0.
redis.call('ZREM', KEYS[1], '')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local verb, lease_ms = ARGV[1], tonumber(ARGV[2])
local holders = redis.call('MGET', unpack(KEYS, 2))
local reply, heard = {}, {}
for k = 2, #KEYS do
  local agent, session = ARGV[2 * k], ARGV[2 * k + 1]
  local holder = holders[k - 1]
  local held = 1
  if verb == 'take' then
    redis.call('SET', KEYS[k], session, 'PX', lease_ms)
    if holder and holder ~= session then redis.call('PUBLISH', ARGV[3], agent) end
  elseif verb == 'release' then
    held = holder == session and redis.call('DEL', KEYS[k]) or 0
  elseif not holder then
    redis.call('SET', KEYS[k], session, 'PX', lease_ms)
  elseif holder ~= session then
    held = 0
  elseif redis.call('PTTL', KEYS[k]) < lease_ms / 2 then
    redis.call('PEXPIRE', KEYS[k], lease_ms)
  end
  if held == 1 and verb ~= 'release' then
    heard[#heard + 1] = now
    heard[#heard + 1] = agent
  end
  reply[k - 1] = held
end
if #heard > 0 then redis.call('ZADD', KEYS[1], 'GT', unpack(heard)) end
return reply
