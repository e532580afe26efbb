-- What `deltas` change: totals, delivery times and minutes of the deployment, of recipients and of senders.
-- $1: how many types, and how many reasons, are counted one by one; $2: minutes before this do not matter.
-- Grouped by both ends first, because spreading every message over three scopes costs three times as much.
rows AS MATERIALIZED (
    SELECT
        d.sign, u.to_agent, u.from_agent, u.message_type, u.status, u.reason, u.created, u.delivered, u.processed,
        (u.created AT TIME ZONE 'UTC')::date AS day,
        CASE WHEN u.started IS NOT NULL
            THEN greatest(0, round(date_part('epoch', u.delivered - u.started) * 1000))::bigint END AS delivery_ms
    FROM deltas AS d
    CROSS JOIN LATERAL unnest(
        d.to_agents, d.from_agents, d.types, d.statuses, d.reasons, d.created, d.started, d.delivered, d.processed
    ) AS u (to_agent, from_agent, message_type, status, reason, created, started, delivered, processed)
),
totals_of_pairs AS MATERIALIZED (
    SELECT
        to_agent, from_agent, day, status, message_type, statistics_reason(status, reason) AS reason,
        sum(sign) AS messages
    FROM rows
    GROUP BY to_agent, from_agent, day, status, message_type, statistics_reason(status, reason)
    HAVING sum(sign) <> 0
),
deliveries_of_pairs AS (
    SELECT
        to_agent, from_agent, day, statistics_bucket(delivery_ms) AS bucket,
        sum(sign) AS messages, sum(sign * delivery_ms) AS total_ms
    FROM rows
    WHERE delivery_ms IS NOT NULL
    GROUP BY to_agent, from_agent, day, statistics_bucket(delivery_ms)
),
minutes_of_pairs AS (
    SELECT
        to_agent, from_agent, date_trunc('minute', created) AS accepted_at,
        date_trunc('minute', delivered) AS delivered_at, date_trunc('minute', processed) AS processed_at,
        sum(sign) AS messages
    FROM rows
    WHERE created >= $2 OR delivered >= $2 OR processed >= $2
    GROUP BY 1, 2, 3, 4, 5
    HAVING sum(sign) <> 0
),
-- Words not met before get sums of their own while there is room. First come, first served: what a word counts
-- as never changes.
met AS (
    SELECT 'type' AS kind, message_type AS word FROM totals_of_pairs
    UNION
    SELECT 'reason', reason FROM totals_of_pairs WHERE reason <> ''
),
new_words AS MATERIALIZED (
    SELECT kind, word
    FROM (
        SELECT m.kind, m.word, row_number() OVER (PARTITION BY m.kind ORDER BY m.word) AS place
        FROM met AS m
        WHERE NOT EXISTS (SELECT FROM statistics_words AS w WHERE w.kind = m.kind AND w.word = m.word)
    ) AS m
    WHERE place <= $1::integer - (SELECT count(*) FROM statistics_words AS w WHERE w.kind = m.kind)
),
words AS MATERIALIZED (
    SELECT kind, word FROM statistics_words UNION ALL SELECT kind, word FROM new_words
),
changed_totals AS (
    SELECT
        s.agent_id, s.side, p.day, p.status, coalesce(t.word, 'other') AS message_type,
        CASE WHEN p.reason = '' THEN '' ELSE coalesce(r.word, 'other') END AS reason, sum(p.messages) AS messages
    FROM totals_of_pairs AS p
    LEFT JOIN words AS t ON t.kind = 'type' AND t.word = p.message_type
    LEFT JOIN words AS r ON r.kind = 'reason' AND r.word = p.reason
    CROSS JOIN LATERAL (VALUES
        ('00000000-0000-0000-0000-000000000000'::uuid, 'all'), (p.to_agent, 'received'), (p.from_agent, 'sent')
    ) AS s (agent_id, side)
    WHERE s.agent_id IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5, 6
    HAVING sum(p.messages) <> 0
),
changed_deliveries AS (
    SELECT
        s.agent_id, s.side, p.day, p.bucket, sum(p.messages) AS messages, sum(p.total_ms) AS total_ms
    FROM deliveries_of_pairs AS p
    CROSS JOIN LATERAL (VALUES
        ('00000000-0000-0000-0000-000000000000'::uuid, 'all'), (p.to_agent, 'received'), (p.from_agent, 'sent')
    ) AS s (agent_id, side)
    WHERE s.agent_id IS NOT NULL
    GROUP BY 1, 2, 3, 4
    HAVING sum(p.messages) <> 0 OR sum(p.total_ms) <> 0
),
changed_minutes AS (
    SELECT
        s.agent_id, s.side, m.minute, coalesce(sum(m.accepted), 0) AS accepted,
        coalesce(sum(m.delivered), 0) AS delivered, coalesce(sum(m.processed), 0) AS processed
    FROM minutes_of_pairs AS p
    CROSS JOIN LATERAL (VALUES
        (p.accepted_at, p.messages, NULL::bigint, NULL::bigint),
        (p.delivered_at, NULL, p.messages, NULL),
        (p.processed_at, NULL, NULL, p.messages)
    ) AS m (minute, accepted, delivered, processed)
    CROSS JOIN LATERAL (VALUES
        ('00000000-0000-0000-0000-000000000000'::uuid, 'all'), (p.to_agent, 'received'), (p.from_agent, 'sent')
    ) AS s (agent_id, side)
    WHERE s.agent_id IS NOT NULL AND m.minute >= $2::timestamptz
    GROUP BY 1, 2, 3
)
