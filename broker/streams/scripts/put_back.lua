-- Gives retries that were taken a new time. Atomic and fenced, so that a late owner does not make another's
-- due again. The first write changes nothing, so Redis at its memory limit does not refuse it.
--
-- KEYS 1 owner:deliver  2 due
-- ARGV 1 owner value  2 due in ms  3.. members; what is no longer there stays away
-- Reply: number of members given.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED put_back') end
redis.call('ZREM', KEYS[2], '')
local pairs_ = {}
for i = 3, #ARGV do
  pairs_[2 * i - 5] = ARGV[2]
  pairs_[2 * i - 4] = ARGV[i]
end
if #pairs_ > 0 then redis.call('ZADD', KEYS[2], 'XX', unpack(pairs_)) end
return #ARGV - 2
