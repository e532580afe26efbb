-- What `deltas` change: totals, delivery times and minutes of the deployment, of recipients and of senders.
-- $1: how many types, and how many reasons, are counted one by one; $2: minutes before this do not matter.
-- Messages are grouped once by recipient and once by sender, by all that any sum asks for; the rest works on these
-- groups, which are far fewer.
rows AS MATERIALIZED (
    SELECT
        d.sign, u.to_agent, u.from_agent, u.message_type, u.status, statistics_reason(u.status, u.reason) AS reason,
        date_bin('1 minute', u.created, 'epoch') AS accepted_at,
        date_bin('1 minute', u.delivered, 'epoch') AS delivered_at,
        date_bin('1 minute', u.processed, 'epoch') AS processed_at,
        CASE WHEN u.started IS NOT NULL
            THEN greatest(0, round(date_part('epoch', u.delivered - u.started) * 1000))::bigint END AS delivery_ms
    FROM deltas AS d
    CROSS JOIN LATERAL unnest(
        d.to_agents, d.from_agents, d.types, d.statuses, d.reasons, d.created, d.started, d.delivered, d.processed
    ) AS u (to_agent, from_agent, message_type, status, reason, created, started, delivered, processed)
),
received AS MATERIALIZED (
    SELECT
        to_agent, status, message_type, reason, accepted_at, delivered_at, processed_at,
        CASE WHEN delivery_ms IS NOT NULL THEN statistics_bucket(delivery_ms) END AS bucket,
        sum(sign) AS messages, sum(sign * delivery_ms)::bigint AS total_ms
    FROM rows
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
),
groups AS MATERIALIZED (
    SELECT
        to_agent AS agent_id, 'received' AS side, (accepted_at AT TIME ZONE 'UTC')::date AS day, status,
        message_type, reason, accepted_at, delivered_at, processed_at, bucket, messages, total_ms
    FROM received
    WHERE to_agent IS NOT NULL
    UNION ALL
    SELECT
        from_agent, 'sent', (accepted_at AT TIME ZONE 'UTC')::date, status, message_type, reason, accepted_at,
        delivered_at, processed_at, CASE WHEN delivery_ms IS NOT NULL THEN statistics_bucket(delivery_ms) END AS b,
        sum(sign), sum(sign * delivery_ms)::bigint
    FROM rows
    WHERE from_agent IS NOT NULL
    GROUP BY from_agent, status, message_type, reason, accepted_at, delivered_at, processed_at, b
    UNION ALL
    SELECT
        '00000000-0000-0000-0000-000000000000', 'all', (accepted_at AT TIME ZONE 'UTC')::date, status,
        message_type, reason, accepted_at, delivered_at, processed_at, bucket, sum(messages)::bigint,
        sum(total_ms)::bigint
    FROM received
    GROUP BY status, message_type, reason, accepted_at, delivered_at, processed_at, bucket
),
totals_of_words AS MATERIALIZED (
    SELECT agent_id, side, day, status, message_type, reason, sum(messages) AS messages
    FROM groups
    GROUP BY agent_id, side, day, status, message_type, reason
    HAVING sum(messages) <> 0
),
minutes_of_groups AS (
    SELECT agent_id, side, accepted_at, delivered_at, processed_at, sum(messages)::bigint AS messages
    FROM groups
    WHERE accepted_at >= $2 OR delivered_at >= $2 OR processed_at >= $2
    GROUP BY agent_id, side, accepted_at, delivered_at, processed_at
    HAVING sum(messages) <> 0
),
-- Words not met before get sums of their own while there is room. First come, first served: what a word counts
-- as never changes.
met AS (
    SELECT 'type' AS kind, message_type AS word FROM totals_of_words
    UNION
    SELECT 'reason', reason FROM totals_of_words WHERE reason <> ''
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
        w.agent_id, w.side, w.day, w.status, coalesce(t.word, 'other') AS message_type,
        CASE WHEN w.reason = '' THEN '' ELSE coalesce(r.word, 'other') END AS reason, sum(w.messages) AS messages
    FROM totals_of_words AS w
    LEFT JOIN words AS t ON t.kind = 'type' AND t.word = w.message_type
    LEFT JOIN words AS r ON r.kind = 'reason' AND r.word = w.reason
    GROUP BY 1, 2, 3, 4, 5, 6
    HAVING sum(w.messages) <> 0
),
changed_deliveries AS (
    SELECT
        agent_id, side, day, bucket, sum(messages)::bigint AS messages, sum(total_ms)::bigint AS total_ms
    FROM groups
    WHERE bucket IS NOT NULL
    GROUP BY agent_id, side, day, bucket
    HAVING sum(messages) <> 0 OR sum(total_ms) <> 0
),
changed_minutes AS (
    SELECT
        g.agent_id, g.side, m.minute, coalesce(sum(m.accepted), 0) AS accepted,
        coalesce(sum(m.delivered), 0) AS delivered, coalesce(sum(m.processed), 0) AS processed
    FROM minutes_of_groups AS g
    CROSS JOIN LATERAL (VALUES
        (g.accepted_at, g.messages, NULL::bigint, NULL::bigint),
        (g.delivered_at, NULL, g.messages, NULL),
        (g.processed_at, NULL, NULL, g.messages)
    ) AS m (minute, accepted, delivered, processed)
    WHERE m.minute >= $2::timestamptz
    GROUP BY g.agent_id, g.side, m.minute
)
