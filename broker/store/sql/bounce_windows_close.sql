-- End up to $2 windows that are $1 ms old; return them.
DELETE FROM bounce_windows AS w
WHERE w.agent_id IN (
    SELECT agent_id FROM bounce_windows
    WHERE began_at <= clock_timestamp() - $1::float8 * interval '1 millisecond'
    ORDER BY began_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
)
RETURNING w.agent_id, w.began_at, w.held, w.reasons, clock_timestamp() AS now
