-- Moves messages that were handed over directly into their mailboxes: they take longer, are to be tried again, or are
-- given back. Atomic, because a message must never be in two places or in none; one that is no longer there is not
-- put anywhere. The first write frees memory (or changes nothing), so Redis at its memory limit does not refuse it.
--
-- KEYS 1 owner:deliver  2 direct  3 active  4.. the mailbox of each
-- ARGV 1 owner value  2 now in ms  then per message: its field, the message, 1 where its agent is registered
-- Reply: per message its entry id, '0-0' where it was gone.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED shelve') end
local reply, served = {}, {}
for k = 4, #KEYS do
  local at = 3 * k - 9
  if redis.call('HDEL', KEYS[2], ARGV[at]) == 1 then
    reply[#reply + 1] = redis.call('XADD', KEYS[k], '*', 'm', ARGV[at + 1])
    if ARGV[at + 2] == '1' then
      served[#served + 1] = ARGV[2]
      served[#served + 1] = KEYS[k]
    end
  else
    reply[#reply + 1] = '0-0'
  end
end
if #served > 0 then redis.call('ZADD', KEYS[3], 'NX', unpack(served)) end
return reply
