-- How many messages of a range of ids are recorded, how many of their attempts, how many of them delivered.
SELECT
    count(*) AS messages,
    count(*) FILTER (WHERE status = 'delivered') AS delivered,
    (SELECT count(DISTINCT message_id) FROM message_delivery_log WHERE message_id BETWEEN $1 AND $2) AS attempted
FROM agent_messages
WHERE id BETWEEN $1 AND $2;
