-- Contacts: who asked whom, and what was answered.

INSERT INTO schema_migrations (version, name) VALUES (3, 'contacts');

CREATE TABLE contacts (
    agent_id uuid NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
    peer_id uuid NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
    status text COLLATE "C" NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'accepted', 'declined')),
    rate_per_minute integer CHECK (rate_per_minute > 0),
    expires_at timestamptz,
    reason text,
    message_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    decided_at timestamptz,
    PRIMARY KEY (agent_id, peer_id),
    CHECK (agent_id <> peer_id)
);
COMMENT ON COLUMN contacts.agent_id IS 'who was asked, and decides';
COMMENT ON COLUMN contacts.peer_id IS 'who asked';
COMMENT ON COLUMN contacts.rate_per_minute IS 'messages the peer may send to the agent; null: any number';
COMMENT ON COLUMN contacts.message_id IS 'the last request';

-- Lists of an agent's contacts, in both directions, in the order they began.
CREATE INDEX contacts_incoming ON contacts (agent_id, created_at, peer_id);
CREATE INDEX contacts_outgoing ON contacts (peer_id, created_at, agent_id);
-- Every gateway knows who has set a rate at all, so that a message to anybody else asks nothing.
CREATE INDEX contacts_rated ON contacts (agent_id) WHERE rate_per_minute IS NOT NULL AND status = 'accepted';
