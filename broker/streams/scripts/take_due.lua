-- Takes retries that are due: gives them to the owner and marks them as under way, so that they are neither taken
-- twice nor forgotten with their count of attempts if the owner dies (a new owner finds the mark and resets it).
-- The first write changes nothing, so Redis at its memory limit does not refuse it.
--
-- KEYS 1 owner:deliver  2 due
-- ARGV 1 owner value  2 how many at most  3 the score that marks "under way"
-- Reply: {members, due ms of the next one or false, now in ms}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED take_due') end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local members = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[2])
if #members > 0 then
  redis.call('ZREM', KEYS[2], '')
  local marked = {}
  for i, member in ipairs(members) do
    marked[2 * i - 1] = ARGV[3]
    marked[2 * i] = member
  end
  redis.call('ZADD', KEYS[2], 'XX', unpack(marked))
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
return {members, first[2] or false, now}
