-- The plain tables of the bare-loop ceiling: the columns of a message and an attempt, and nothing promised.
DROP SCHEMA IF EXISTS bench_ceiling CASCADE;
CREATE SCHEMA bench_ceiling;
CREATE TABLE bench_ceiling.messages (
    id            uuid PRIMARY KEY,
    to_agent_id   uuid,
    message_type  text NOT NULL,
    priority      smallint NOT NULL,
    content       jsonb NOT NULL,
    metadata      jsonb NOT NULL,
    status        text NOT NULL,
    hop           smallint NOT NULL,
    created_at    timestamptz NOT NULL,
    delivered_at  timestamptz NOT NULL
);
CREATE TABLE bench_ceiling.attempts (
    message_id    uuid NOT NULL,
    attempt       smallint NOT NULL,
    status        text NOT NULL,
    response_code smallint NOT NULL,
    duration_ms   integer NOT NULL,
    attempted_at  timestamptz NOT NULL
);
