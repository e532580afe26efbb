-- Drops one entry of a mailbox because the message is finished elsewhere (its agent or its sender said so), also
-- from among what a native consumer has read, and tells the delivery owner, who may have it in memory, still to be
-- posted. Harmless when repeated. The first write frees memory (or changes nothing).
--
-- KEYS 1 mailbox  2 expiry  3 active  4 doorbell
-- ARGV 1 entry id  2 native group
-- Reply: 1 when it was there.
redis.call('ZREM', KEYS[2], KEYS[1] .. '|' .. ARGV[1])
redis.call('XACK', KEYS[1], ARGV[2], ARGV[1])
local gone = redis.call('XDEL', KEYS[1], ARGV[1])
if gone == 1 and redis.call('ZSCORE', KEYS[3], KEYS[1]) then
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', 10000, '*', 'e', KEYS[1] .. '|' .. ARGV[1])
end
return gone
