-- Ends what waits for an agent that was deleted: takes each entry out of its mailbox and, only where it was still
-- there, writes how it ended. Atomic per entry: whoever deletes it writes how it ended. Its sender is told by whoever
-- records that. Needs no owner: done twice it finds nothing. Retries of an entry that is gone are dropped when they
-- fall due. The first write frees memory (or changes nothing), so Redis at its memory limit does not refuse it.
--
-- KEYS 1 mailbox  2 ledger  3 expiry  4 active
-- ARGV per entry: entry id, event as JSON
-- Reply: {number taken out, number that are left}
local events, members = {}, {}
for i = 1, #ARGV, 2 do
  members[#members + 1] = KEYS[1] .. '|' .. ARGV[i]
  if redis.call('XDEL', KEYS[1], ARGV[i]) == 1 then events[#events + 1] = ARGV[i + 1] end
end
if #members > 0 then redis.call('ZREM', KEYS[3], unpack(members)) end
if #events > 0 then redis.call('XADD', KEYS[2], '*', 'b', '[' .. table.concat(events, ',') .. ']') end
local left = redis.call('XLEN', KEYS[1])
if left == 0 then
  redis.call('ZREM', KEYS[4], KEYS[1])
  redis.call('UNLINK', KEYS[1])
end
return {#events, left}
