-- Takes back the death of a delivery owner that has only lost its lease, or its connection: its word is still there
-- (then nobody has counted it yet), or it was counted as a death. What it had under way is not to blame.
-- The first write changes nothing, so Redis at its memory limit does not refuse it.
--
-- Done once, however often it is said: the answer may have been lost, and another's death must not be taken back.
--
-- KEYS 1 deliverer  2 deaths  3 trials  4 survived:<life>
-- ARGV 1 owner value  2 for how long it is remembered, in ms  3.. places it had noted and not struck out
redis.call('HDEL', KEYS[3], '')
if not redis.call('SET', KEYS[4], '', 'NX', 'PX', ARGV[2]) then return end
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
elseif tonumber(redis.call('GET', KEYS[2]) or 0) > 0 then
  redis.call('DECR', KEYS[2])
end
for i = 3, #ARGV do
  if redis.call('HINCRBY', KEYS[3], ARGV[i], -1) <= 0 then redis.call('HDEL', KEYS[3], ARGV[i]) end
end
