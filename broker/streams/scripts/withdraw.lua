-- Takes back a message that ended where no mailbox has it yet: from among the scheduled ones, or from those parked.
-- Where it is on its way from there to a mailbox at this moment, the router finds it among those withdrawn.
-- A parked entry is told by its id and by the message in it: another shard may have given the same id. Harmless when
-- repeated. The first write frees memory (or changes nothing).
--
-- KEYS 1 later  2 later:messages  3 expiry  4 parked stream  5 withdrawn
-- ARGV 1 member of `later`  2 parked entry ('' for none)  3 how its message begins  4 its id
--      5 how long it stays among those withdrawn, in ms
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
redis.call('SADD', KEYS[5], ARGV[4])
redis.call('PEXPIRE', KEYS[5], ARGV[5])
return gone
