-- Expires entries whose time has come: deletes each from its mailbox or parked stream and, only where it was
-- still there, appends its event to the ledger. Atomic per entry: whoever deletes it writes how it ended.
--
-- KEYS 1 owner:deliver  2 ledger  3 expiry  4.. the stream of each entry
-- ARGV 1 owner value  then per entry: entry id, event as JSON
-- Reply: 1 or 0 per entry: whether it expired now.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED expire') end
local events, members, reply = {}, {}, {}
for k = 4, #KEYS do
  local entry, event = ARGV[2 * (k - 4) + 2], ARGV[2 * (k - 4) + 3]
  local gone = redis.call('XDEL', KEYS[k], entry)
  reply[#reply + 1] = gone
  members[#members + 1] = KEYS[k] .. '|' .. entry
  if gone == 1 then events[#events + 1] = event end
end
if #members > 0 then redis.call('ZREM', KEYS[3], unpack(members)) end
if #events > 0 then redis.call('XADD', KEYS[2], '*', 'b', '[' .. table.concat(events, ',') .. ']') end
return reply
