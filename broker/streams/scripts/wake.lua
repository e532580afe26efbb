-- Moves scheduled messages whose time has come into their ingress lane. Marked `p` (passed the gate), because
-- they were deduplicated when they first came. Atomic: in one place or the other.
--
-- KEYS 1 owner:keep  2 later  3 later:messages  4-6 ingress high, normal, low
-- ARGV 1 owner value  2 how many at most. A member begins with the number of its lane (0 high .. 2 low)
-- Reply: {number moved, due ms of the next one or false, now in ms}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED wake') end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local members = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[2])
for _, member in ipairs(members) do
  local message = redis.call('HGET', KEYS[3], member)
  if message then
    redis.call('XADD', KEYS[4 + tonumber(string.sub(member, 1, 1))], '*', 'm', message, 'p', '1')
  end
end
if #members > 0 then
  redis.call('ZREM', KEYS[2], unpack(members))
  redis.call('HDEL', KEYS[3], unpack(members))
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
return {#members, first[2] or false, now}
