-- Fill a day's table that is not attached yet: $1 messages made during the day that begins at $2, to agents $3.
-- The first agent gets a tenth of them and the second one in 500, all pending, the third one in 100,000; the others
-- share what is left, their part falling with the cube of their place; one in 100 of theirs is a dead letter. One in 20
-- belongs to a conversation, of which each recipient has one.
INSERT INTO {table} (
    id, from_agent_id, to_agent_id, created_at, delivered_at, placed_at, priority, status, status_reason,
    conversation_id, message_type, content, metadata
)
SELECT
    uuidv7(m.created_at - now()),
    ($3::uuid[])[1 + (m.number * 7919) % cardinality($3::uuid[])],
    ($3::uuid[])[m.place], m.created_at,
    CASE WHEN m.status = 'delivered' THEN m.created_at + interval '3 milliseconds' END,
    m.created_at, 1 + m.number % 10, m.status,
    CASE WHEN m.status = 'failed' THEN 'rejected' END,
    CASE WHEN m.number % 20 = 5 THEN 'of-' || m.place END,
    CASE WHEN m.number % 97 = 0 THEN 'ping' ELSE 'task' END,
    '{"url": "https://example.com/honda", "subject": "Scrape", "sent_ns": 1800000000000000000}', '{}'
FROM (
    SELECT
        *, CASE WHEN place <= 3 THEN 'pending' WHEN number % 101 = 7 THEN 'failed' ELSE 'delivered' END AS status
    FROM (
        SELECT
            number, $2::timestamptz + number * interval '86400 seconds' / $1::bigint AS created_at,
            CASE
                WHEN number % 10 = 0 THEN 1
                WHEN number % 500 = 1 THEN 2
                WHEN number % 100000 = 3 THEN 3
                ELSE 4 + floor((cardinality($3::uuid[]) - 3) * power(random(), 3))::integer
            END AS place
        FROM generate_series(0, $1::bigint - 1) AS number
    ) AS placed
) AS m
