-- Takes back a message that ended where no mailbox has it yet: from among the scheduled ones, or from those parked.
-- Where it is on its way from there to a mailbox at this moment, the router finds it among those withdrawn.
-- A parked entry is told by its id and by the message in it: another shard may have given the same id. Harmless when
-- repeated. The first write frees memory (or changes nothing).
--
-- KEYS 1 later  2 later:messages  3 expiry  4 withdrawn  5.. parked streams, one per lane it may have come through
-- ARGV 1 parked entry ('' for none)  2 how its message begins  3 its name among those withdrawn
--      4 how long it stays among those withdrawn, in ms
--      5.. members of `later`, one per lane it may have come through
-- Reply: how often it was there.
local gone = redis.call('ZREM', KEYS[1], unpack(ARGV, 5))
redis.call('HDEL', KEYS[2], unpack(ARGV, 5))
if ARGV[1] ~= '' then
  for k = 5, #KEYS do
    local found = redis.call('XRANGE', KEYS[k], ARGV[1], ARGV[1])[1]
    if found and string.sub(found[2][2], 1, #ARGV[2]) == ARGV[2] then
      gone = gone + redis.call('XDEL', KEYS[k], ARGV[1])
      redis.call('ZREM', KEYS[3], KEYS[k] .. '|' .. ARGV[1])
    end
  end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Each for its own time: one lifetime for all would be renewed with every one, and none would ever go.
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now - ARGV[4])
redis.call('ZADD', KEYS[4], now, ARGV[3])
redis.call('PEXPIRE', KEYS[4], ARGV[4])
return gone
