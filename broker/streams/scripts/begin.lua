-- Says that a delivery owner has begun, and counts the one before it as dead where that has not said how it ended.
-- The first write changes nothing, so Redis at its memory limit does not refuse it: deliveries free memory.
--
-- KEYS 1 owner:deliver  2 deliverer  3 deaths  4 trials
-- ARGV 1 owner value  2 for how long a death counts, in ms
-- Reply: deaths in a row.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED begin') end
redis.call('HDEL', KEYS[4], '')
local before = redis.call('GET', KEYS[2])
if before and before ~= ARGV[1] then
  redis.call('INCR', KEYS[3])
  redis.call('PEXPIRE', KEYS[3], ARGV[2])
end
redis.call('SET', KEYS[2], ARGV[1])
return tonumber(redis.call('GET', KEYS[3]) or 0)
