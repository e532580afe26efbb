-- Takes a message from the agent that does not manage it, or does not want it, and puts it back into the ingress for
-- another: the entry goes, and only where it was still there the message is there again. Atomic, so that it is never
-- at two agents at once, nor at none. What has ended meanwhile (cancelled, its agent deleted) stays ended; the attempt
-- is told of all the same. Marked `p` (passed the gate), because it was deduplicated when it first came.
-- The first write frees memory (or changes nothing), so Redis at its memory limit does not refuse it.
--
-- KEYS 1 owner:deliver  2 ledger  3 due  4 expiry  5 mailbox  6 ingress lane
-- ARGV 1 owner value  2 entry  3 event as JSON  4 message as it is routed anew  5 gateway that waits ('' for none)
--      6 member of due that is over ('' for none)
-- Reply: 1, or 0 where it was gone.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED reroute') end
local there = redis.call('XDEL', KEYS[5], ARGV[2])
redis.call('ZREM', KEYS[4], KEYS[5] .. '|' .. ARGV[2])
if ARGV[6] ~= '' then redis.call('ZREM', KEYS[3], ARGV[6]) end
if there == 1 and ARGV[5] ~= '' then
  redis.call('XADD', KEYS[6], '*', 'm', ARGV[4], 'p', '1', 'w', ARGV[5])
elseif there == 1 then
  redis.call('XADD', KEYS[6], '*', 'm', ARGV[4], 'p', '1')
end
redis.call('XADD', KEYS[2], '*', 'b', '[' .. ARGV[3] .. ']')
return there
