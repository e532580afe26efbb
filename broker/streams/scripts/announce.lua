-- Announces a process of a trade and tells who else is alive. The first write frees memory (or changes nothing),
-- so Redis at its memory limit does not refuse it: without owners nothing would ever be worked off.
--
-- KEYS 1 processes
-- ARGV 1 process  2 when it counts as gone, in ms  3 now in ms
-- Reply: names of the live processes.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[3])
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1)
