-- Returns what waits for an agent that was deleted: takes each entry out of its mailbox and, only where it was still
-- there, writes how it ended and puts the note to its sender into the ingress of this shard, from where it is routed
-- like any message. Atomic per entry: whoever deletes it writes how it ended, and no sender is told of another end.
-- Needs no owner: done twice it finds nothing. Retries of an entry that is gone are dropped when they fall due.
-- The first write frees memory (or changes nothing), so Redis at its memory limit does not refuse it.
--
-- KEYS 1 mailbox  2 ingress lane  3 ledger  4 expiry  5 active
-- ARGV per entry: entry id, event as JSON, note to the sender ('' for none)
-- Reply: {number taken out, number that are left}
local events, members = {}, {}
for i = 1, #ARGV, 3 do
  members[#members + 1] = KEYS[1] .. '|' .. ARGV[i]
  if redis.call('XDEL', KEYS[1], ARGV[i]) == 1 then
    events[#events + 1] = ARGV[i + 1]
    if ARGV[i + 2] ~= '' then redis.call('XADD', KEYS[2], '*', 'm', ARGV[i + 2]) end
  end
end
if #members > 0 then redis.call('ZREM', KEYS[4], unpack(members)) end
if #events > 0 then redis.call('XADD', KEYS[3], '*', 'b', '[' .. table.concat(events, ',') .. ']') end
local left = redis.call('XLEN', KEYS[1])
if left == 0 then
  redis.call('ZREM', KEYS[5], KEYS[1])
  redis.call('UNLINK', KEYS[1])
end
return {#events, left}
