-- Tells which entries are still in their mailboxes. A script, so that the messages need not travel.
--
-- KEYS the mailbox of each entry
-- ARGV the entries
-- Reply: 1 or 0 per entry.
local reply = {}
for k = 1, #KEYS do reply[k] = #redis.call('XRANGE', KEYS[k], ARGV[k], ARGV[k]) end
return reply
