-- Drops one entry of a mailbox because the message is finished elsewhere (its agent or its sender said so), also
-- from among what a native consumer has read. Harmless when repeated.
--
-- KEYS 1 mailbox  2 expiry
-- ARGV 1 entry id  2 native group
-- Reply: 1 when it was there.
redis.call('ZREM', KEYS[2], KEYS[1] .. '|' .. ARGV[1])
redis.call('XACK', KEYS[1], ARGV[2], ARGV[1])
return redis.call('XDEL', KEYS[1], ARGV[1])
