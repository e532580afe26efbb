-- Fill a day's table that is not attached yet: $1 messages made during the day that begins at $2, to agents $3.
-- The first agent gets a tenth of them and the second one in 500, all pending, the third one in 100,000; the others
-- share what is left, their part falling with the cube of their place.
INSERT INTO {table} (
    id, from_agent_id, to_agent_id, created_at, delivered_at, placed_at, priority, status, message_type, content,
    metadata
)
SELECT
    uuidv7(m.created_at - now()),
    ($3::uuid[])[1 + (m.number * 7919) % cardinality($3::uuid[])],
    ($3::uuid[])[m.place], m.created_at,
    CASE WHEN m.place > 3 THEN m.created_at + interval '3 milliseconds' END,
    m.created_at, 1 + m.number % 10,
    CASE WHEN m.place > 3 THEN 'delivered' ELSE 'pending' END,
    CASE WHEN m.number % 97 = 0 THEN 'ping' ELSE 'task' END,
    '{"url": "https://example.com/honda", "subject": "Scrape", "sent_ns": 1800000000000000000}', '{}'
FROM (
    SELECT
        number, $2::timestamptz + number * interval '86400 seconds' / $1::integer AS created_at,
        CASE
            WHEN number % 10 = 0 THEN 1
            WHEN number % 500 = 1 THEN 2
            WHEN number % 100000 = 3 THEN 3
            ELSE 4 + floor((cardinality($3::uuid[]) - 3) * power(random(), 3))::integer
        END AS place
    FROM generate_series(0, $1::integer - 1) AS number
) AS m
