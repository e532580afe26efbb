-- Secrets are encrypted where a key is set; keys that ended are forgotten after a while.

INSERT INTO schema_migrations (version, name) VALUES (10, 'secrets');

COMMENT ON COLUMN agents.signing_secret IS
    'sealed:1:<key name>:<base64 of nonce and AES-256-GCM, bound to the id>; whsec_: not encrypted (yet)';
COMMENT ON COLUMN agents.previous_secret IS
    'pushes are signed with it as well until previous_secret_until; encrypted as signing_secret';

-- Keys that were revoked or have expired, in the order in which they are forgotten.
CREATE INDEX agent_keys_ended ON agent_keys (least(revoked_at, expires_at))
    WHERE revoked_at IS NOT NULL OR expires_at IS NOT NULL;
