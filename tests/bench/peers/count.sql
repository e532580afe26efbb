-- What a peer has recorded: messages, those delivered, attempts, those that failed.
SELECT
    (SELECT count(*) FROM messages) AS messages,
    (SELECT count(*) FROM messages WHERE status = 'delivered') AS delivered,
    (SELECT count(*) FROM attempts) AS attempts,
    (SELECT count(*) FROM attempts WHERE status <> 'success') AS failed;
