-- Drops one entry of a mailbox because the message is finished elsewhere (its agent or its sender said so).
-- Harmless when repeated.
--
-- KEYS 1 mailbox  2 expiry
-- ARGV 1 entry id
-- Reply: 1 when it was there.
redis.call('ZREM', KEYS[2], KEYS[1] .. '|' .. ARGV[1])
return redis.call('XDEL', KEYS[1], ARGV[1])
