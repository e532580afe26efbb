-- Fold deltas of about $3 messages into the sums; return how many deltas and messages that were.
-- $1: words of a kind; $2: minutes before this are not kept. One folds at a time: see statistics_lock.
WITH deltas AS (
    DELETE FROM statistics_deltas
    WHERE ctid = ANY (ARRAY(
        SELECT ctid
        FROM (
            SELECT ctid, sum(messages) OVER (ROWS UNBOUNDED PRECEDING) - messages AS before
            FROM (SELECT ctid, messages FROM statistics_deltas LIMIT 5000) AS next
        ) AS counted
        WHERE before < $3::bigint))
    RETURNING *
),
\ir statistics_facts.sql
,
add_words AS (
    INSERT INTO statistics_words (kind, word) SELECT kind, word FROM new_words
),
add_totals AS (
    INSERT INTO statistics_totals AS t (agent_id, side, day, status, message_type, reason, messages)
    SELECT agent_id, side, day, status, message_type, reason, messages FROM changed_totals
    ON CONFLICT (agent_id, side, day, status, message_type, reason)
    DO UPDATE SET messages = t.messages + excluded.messages
),
add_times AS (
\ir statistics_add_times.sql
),
add_minutes AS (
    INSERT INTO statistics_minutes AS t (agent_id, side, minute, accepted, delivered, processed)
    SELECT agent_id, side, minute, accepted, delivered, processed FROM changed_minutes
    ON CONFLICT (agent_id, side, minute) DO UPDATE SET
        accepted = t.accepted + excluded.accepted, delivered = t.delivered + excluded.delivered,
        processed = t.processed + excluded.processed
),
order_deltas AS (
    DELETE FROM statistics_order_deltas
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM statistics_order_deltas LIMIT 5000))
    RETURNING *
),
add_orders AS (
    INSERT INTO statistics_orders AS t (status, orders)
    SELECT status, sum(orders) FROM order_deltas GROUP BY status
    ON CONFLICT (status) DO UPDATE SET orders = t.orders + excluded.orders
)
SELECT
    (SELECT count(*) FROM deltas) + (SELECT count(*) FROM order_deltas) AS deltas,
    (SELECT coalesce(sum(messages), 0) FROM deltas) AS messages
