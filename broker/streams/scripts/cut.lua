-- Cuts the ledger behind the last entry that is committed in Postgres. Exact, and only by the owner: anything
-- else would drop events nobody has recorded.
--
-- KEYS 1 owner:record  2 ledger
-- ARGV 1 owner value  2 the first entry to keep
-- Reply: number of entries cut.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED cut') end
return redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[2])
