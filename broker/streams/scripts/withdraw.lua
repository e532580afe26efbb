-- Takes back a message that ended where no mailbox has it yet: from among the scheduled ones, or from those parked.
-- A parked entry is told by its id and by the message in it: another shard may have given the same id. Harmless when
-- repeated. The first write frees memory (or changes nothing).
--
-- KEYS 1 later  2 later:messages  3 expiry  4 parked stream
-- ARGV 1 member of `later`  2 parked entry ('' for none)  3 how its message begins
-- Reply: 1 when it was there.
local gone = redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
if ARGV[2] ~= '' then
  local found = redis.call('XRANGE', KEYS[4], ARGV[2], ARGV[2])[1]
  if found and string.sub(found[2][2], 1, #ARGV[3]) == ARGV[3] then
    gone = gone + redis.call('XDEL', KEYS[4], ARGV[2])
    redis.call('ZREM', KEYS[3], KEYS[4] .. '|' .. ARGV[2])
  end
end
return gone
