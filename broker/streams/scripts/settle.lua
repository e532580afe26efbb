-- Settles one batch of attempts: deletes what is finished, from among what was handed over directly and from
-- mailboxes, plans retries, and appends what happened to the ledger. Atomic, because an entry that is gone without its ledger event would be lost.
-- The first write frees memory (or changes nothing), so Redis at its memory limit does not refuse it: what was
-- attempted must come to its end, or nothing would ever be freed.
--
-- KEYS 1 owner:deliver  2 ledger  3 due  4 expiry  5 direct  6.. mailboxes with finished entries
-- ARGV 1 owner value  2 ledger batch as JSON ('' for none)  3 number of retries to plan
--      4 number of retries that are over  5 number of expiries to forget  6 number of finished direct messages
--      then: fields of those; due in ms and member (`mailbox|entry|attempts`) of each retry; members that are over;
--        members of expiry (`mailbox|entry`); per mailbox: number of entries, entries
-- Reply: number of messages deleted.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED settle') end
local plan, over, forget, direct = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local deleted = 0
if direct > 0 then
  deleted = redis.call('HDEL', KEYS[5], unpack(ARGV, 7, 6 + direct))
elseif #KEYS == 5 and over == 0 then
  redis.call('ZREM', KEYS[3], '')
end
local plan_at = 6 + direct
local at = plan_at + 2 * plan + over + forget
for k = 6, #KEYS do
  local n = tonumber(ARGV[at + 1])
  deleted = deleted + redis.call('XDEL', KEYS[k], unpack(ARGV, at + 2, at + 1 + n))
  at = at + 1 + n
end
at = plan_at + 2 * plan
if over > 0 then redis.call('ZREM', KEYS[3], unpack(ARGV, at + 1, at + over)) end
if forget > 0 then redis.call('ZREM', KEYS[4], unpack(ARGV, at + over + 1, at + over + forget)) end
if plan > 0 then redis.call('ZADD', KEYS[3], unpack(ARGV, plan_at + 1, plan_at + 2 * plan)) end
if ARGV[2] ~= '' then redis.call('XADD', KEYS[2], '*', 'b', ARGV[2]) end
return deleted
