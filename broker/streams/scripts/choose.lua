-- Writes down who was chosen for messages, before they are forwarded: whoever owns the shard next chooses the same.
-- Fenced, because a late word of an owner before would say something else, and would never be forgotten.
--
-- KEYS 1 owner:route  2 chosen
-- ARGV 1 owner value  2.. message id, agent id, message id, agent id, ...
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED choose') end
return redis.call('HSET', KEYS[2], unpack(ARGV, 2))
