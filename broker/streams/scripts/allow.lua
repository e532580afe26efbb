-- Lets one more through, or says how long to wait: a token bucket kept as a single time (GCRA). The time is
-- when the bucket will be full again; each one let through moves it on by the interval between two.
-- One script, because two gateways that read and then write would both let the last one through.
--
-- KEYS 1 allowance
-- ARGV 1 how many at once (the bucket)  2 in how many ms the whole bucket fills
-- Reply: 0, or ms until one more is let through. A refusal writes nothing; the key ends when the bucket is full.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local window = tonumber(ARGV[2]) * 1000
local interval = window / tonumber(ARGV[1])
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now) + interval
local over = full - now - window
-- A millionth of a second of rounding must not cost the last place in the bucket.
if over > 1 then return math.ceil(over / 1000) end
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
return 0
