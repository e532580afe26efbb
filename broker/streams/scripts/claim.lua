-- Says to whom routers hand messages directly from now on. What an owner before was handed, or a call of its own that
-- was still on its way, is refused after this: nobody has it in memory.
-- The first write frees memory (or changes nothing), so Redis at its memory limit does not refuse it.
--
-- KEYS 1 owner:deliver  2 direct  3 direct_to
-- ARGV 1 owner value  2 whom they are handed to: a name that is never used twice
-- Reply: the fields of what an owner before has left there.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED claim') end
redis.call('HDEL', KEYS[2], '')
redis.call('SET', KEYS[3], ARGV[2])
return redis.call('HKEYS', KEYS[2])
