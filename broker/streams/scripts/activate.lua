-- Hands the mailboxes of an agent that has just been given an endpoint to the delivery owner: those that hold
-- anything become active. What a native consumer has read and not acknowledged is pushed like the rest; its group
-- goes, and by that it learns that it is not to read on. Atomic, so that it cannot make the group again in between
-- and read on beside the pushes. The first write changes nothing, so Redis at its memory limit does not refuse it.
--
-- KEYS 1 active  2.. mailboxes
-- ARGV 1 native group
-- Reply: number of mailboxes that hold something.
redis.call('ZREM', KEYS[1], '')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local holding = 0
for k = 2, #KEYS do
  if redis.call('EXISTS', KEYS[k]) == 1 then
    redis.call('XGROUP', 'DESTROY', KEYS[k], ARGV[1])
    redis.call('ZADD', KEYS[1], 'NX', now, KEYS[k])
    if redis.call('XLEN', KEYS[k]) > 0 then holding = holding + 1 end
  end
end
return holding
