-- Removes mailboxes that are empty, and takes them off the active set. Atomic, because a message routed between
-- the look and the removal would be lost, and an active mailbox forgotten would never be served.
--
-- KEYS 1 owner:deliver  2 active  3.. mailboxes believed empty
-- ARGV 1 owner value
-- Reply: 1 per mailbox that was removed, 0 where something lies in it.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED vacate') end
local gone, reply = {}, {}
for k = 3, #KEYS do
  if redis.call('XLEN', KEYS[k]) == 0 then
    gone[#gone + 1] = KEYS[k]
    reply[#reply + 1] = 1
  else
    reply[#reply + 1] = 0
  end
end
if #gone > 0 then
  redis.call('UNLINK', unpack(gone))
  redis.call('ZREM', KEYS[2], unpack(gone))
end
return reply
