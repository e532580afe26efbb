-- What a peer finds and fills: the agents with their endpoints, a row per message, a row per attempt.
CREATE TABLE agents (
    id        uuid PRIMARY KEY,
    endpoint  text NOT NULL
);
CREATE TABLE messages (
    id            uuid PRIMARY KEY,
    to_agent_id   uuid NOT NULL,
    message_type  text NOT NULL,
    priority      smallint NOT NULL,
    content       jsonb NOT NULL,
    metadata      jsonb NOT NULL,
    status        text NOT NULL,
    hop           smallint NOT NULL,
    created_at    timestamptz NOT NULL,
    delivered_at  timestamptz
);
CREATE TABLE attempts (
    message_id     uuid NOT NULL,
    attempt        smallint NOT NULL,
    status         text NOT NULL,
    response_code  smallint,
    duration_ms    integer NOT NULL,
    attempted_at   timestamptz NOT NULL
);
