-- Acknowledges entries of mailboxes for the agents that pulled them, by whatever way: takes each out of its mailbox
-- (and of the native group, where there is one) and, only where it was still there, appends how it ended to the
-- ledger. Atomic, because an entry that is gone without its ledger event would be lost. Not fenced: whoever the
-- agent talks to may say so, and repeating it is harmless. An entry is told by its id and by the message in it,
-- because a mailbox that was removed and made again may give an id twice.
--
-- The event gets the message here: that of an agent whose endpoint was just taken away may not be told yet.
-- The first write frees memory (or changes nothing), so Redis at its memory limit does not refuse it. An emptied
-- mailbox goes, unless a native group remembers its place there or the delivery owner believes it is active.
--
-- KEYS 1 ledger  2 expiry  3 active  4.. the mailbox of each entry
-- ARGV 1 native group  then per entry: entry id, how its message begins, event as JSON
-- Reply: per entry the gateway that waits for its message ('' for none), or false where it was gone already.
local events, members, reply = {}, {}, {}
for k = 4, #KEYS do
  local at = 3 * (k - 4) + 1
  local entry, head, event = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local found = redis.call('XRANGE', KEYS[k], entry, entry)[1]
  local fields = found and found[2]
  if fields and string.sub(fields[2], 1, #head) == head then
    redis.call('XACK', KEYS[k], ARGV[1], entry)
    redis.call('XDEL', KEYS[k], entry)
    events[#events + 1] = string.sub(event, 1, -2) .. ',"message":' .. fields[2] .. '}'
    members[#members + 1] = KEYS[k] .. '|' .. entry
    reply[#reply + 1] = fields[4] or ''
    if redis.call('XLEN', KEYS[k]) == 0
        and #redis.call('XINFO', 'GROUPS', KEYS[k]) == 0
        and not redis.call('ZSCORE', KEYS[3], KEYS[k]) then
      redis.call('UNLINK', KEYS[k])
    end
  else
    if not fields then redis.call('XACK', KEYS[k], ARGV[1], entry) end
    reply[#reply + 1] = false
  end
end
if #members > 0 then redis.call('ZREM', KEYS[2], unpack(members)) end
if #events > 0 then redis.call('XADD', KEYS[1], '*', 'b', '[' .. table.concat(events, ',') .. ']') end
return reply
