-- Takes, renews or gives up the lease of a shard for one trade. A lease taken anew gets the next fencing token;
-- the counter is never reset, so a process that slept through the end of its lease is recognised for ever.
-- A process takes over from itself at once: its name on a lease it does not know of is that of its own earlier
-- life, killed and started again (or the reply to an earlier take was lost). The new token fences that life.
--
-- The first write changes nothing, so Redis at its memory limit does not refuse it: without owners nothing would
-- ever be worked off.
--
-- KEYS 1 owner  2 fence
-- ARGV 1 `take`, `renew` or `release`  2 process (take) or owner value (renew, release)  3 lease in ms
-- Reply: take: the owner value `token:process`, or false where another holds it; renew, release: 1 or 0.
if ARGV[1] == 'take' then
  local holder = redis.call('GET', KEYS[1])
  if holder and string.match(holder, '^%d+:(.*)$') ~= ARGV[2] then return false end
  redis.call('PERSIST', KEYS[2])
  local value = redis.call('INCR', KEYS[2]) .. ':' .. ARGV[2]
  redis.call('SET', KEYS[1], value, 'PX', ARGV[3])
  return value
end
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 0 end
if ARGV[1] == 'renew' then return redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return redis.call('DEL', KEYS[1])
