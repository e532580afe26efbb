-- Work orders: the rows, who was offered which, what happened to each; and the outbox of messages that begin
-- in a transaction here.

INSERT INTO schema_migrations (version, name) VALUES (4, 'work_orders');

-- --- orders ------------------------------------------------------------------------------------------------

CREATE TABLE work_orders (
    id uuid PRIMARY KEY,
    requester_id uuid NOT NULL,
    worker_id uuid,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    accepted_at timestamptz,
    finished_at timestamptz,
    deadline_at timestamptz,
    estimated_completion timestamptz,
    lease_until timestamptz,
    offer_at timestamptz,
    lease_number integer NOT NULL DEFAULT 0,
    last_event integer NOT NULL DEFAULT 0,
    percent smallint CHECK (percent BETWEEN 0 AND 100),
    is_open boolean NOT NULL,
    status text COLLATE "C" NOT NULL CHECK (
        status IN ('pending', 'accepted', 'completed', 'failed', 'rejected', 'expired', 'cancelled')),
    lease_token text COLLATE "C",
    title text NOT NULL,
    description text NOT NULL,
    status_reason text,
    budget_usd numeric(20, 6) CHECK (budget_usd >= 0),
    capabilities text[] NOT NULL DEFAULT '{}',
    requirements jsonb NOT NULL,
    result jsonb,
    -- Exactly the finished ones say when; whoever has accepted has a lease.
    CHECK ((finished_at IS NULL) = (status IN ('pending', 'accepted'))),
    CHECK (status <> 'accepted' OR worker_id IS NOT NULL AND lease_token IS NOT NULL AND lease_until IS NOT NULL),
    CHECK (is_open OR worker_id IS NOT NULL)
) WITH (fillfactor = 80);

COMMENT ON COLUMN work_orders.worker_id IS 'of an open order: who accepted it last; null until somebody does';
COMMENT ON COLUMN work_orders.is_open IS 'for any capable agent; else directed to worker_id';
COMMENT ON COLUMN work_orders.lease_number IS 'leases given so far: the fencing number of the current one';
COMMENT ON COLUMN work_orders.last_event IS 'seq of the latest event: every change is guarded by it';
COMMENT ON COLUMN work_orders.offer_at IS 'of an open order: when to look for agents to offer it to';
COMMENT ON COLUMN work_orders.finished_at IS 'when it came to its last status; retention counts from here';

-- Lists of one agent: each status is a range in the order shown, and counting them reads the index only.
CREATE INDEX work_orders_requester ON work_orders (requester_id, status, id);
CREATE INDEX work_orders_worker ON work_orders (worker_id, status, id) WHERE worker_id IS NOT NULL;
CREATE INDEX work_orders_deadline ON work_orders (deadline_at)
    WHERE status IN ('pending', 'accepted') AND deadline_at IS NOT NULL;
CREATE INDEX work_orders_offer ON work_orders (offer_at)
    WHERE status IN ('pending', 'accepted') AND is_open;
CREATE INDEX work_orders_finished ON work_orders (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE work_order_offers (
    order_id uuid NOT NULL REFERENCES work_orders (id) ON DELETE CASCADE,
    agent_id uuid NOT NULL,
    offered_at timestamptz NOT NULL,
    declined_at timestamptz,
    round integer NOT NULL,
    stands boolean NOT NULL DEFAULT true,
    PRIMARY KEY (order_id, agent_id)
);
COMMENT ON COLUMN work_order_offers.round IS 'leases given when it was last offered: once to each agent per round';
COMMENT ON COLUMN work_order_offers.stands IS 'neither declined nor overtaken by an acceptance or an end';

CREATE INDEX work_order_offers_agent ON work_order_offers (agent_id, order_id) WHERE stands;

-- --- history -----------------------------------------------------------------------------------------------

CREATE TABLE work_order_events (
    order_id uuid NOT NULL REFERENCES work_orders (id) ON DELETE CASCADE,
    seq integer NOT NULL,
    at timestamptz NOT NULL,
    actor_id uuid,
    action text COLLATE "C" NOT NULL,
    by_party text COLLATE "C" NOT NULL CHECK (by_party IN ('worker', 'requester', 'broker')),
    from_status text COLLATE "C",
    to_status text COLLATE "C" NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (order_id, seq)
);
COMMENT ON COLUMN work_order_events.actor_id IS 'null: the broker itself';

-- History is append-only. It goes with its order and never before: when a deletion cascades here the order is
-- gone already.
CREATE FUNCTION work_order_events_stay() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF NOT EXISTS (SELECT FROM work_orders WHERE id = OLD.order_id) THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'the history of work orders is append-only' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER work_order_events_stay BEFORE UPDATE OR DELETE ON work_order_events
    FOR EACH ROW EXECUTE FUNCTION work_order_events_stay();
CREATE TRIGGER work_order_events_stay_whole BEFORE TRUNCATE ON work_order_events
    FOR EACH STATEMENT EXECUTE FUNCTION work_order_events_stay();

-- Only what is finished may be deleted, so nobody rids himself of a history by deleting a living order.
CREATE FUNCTION work_orders_finish_first() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.finished_at IS NULL THEN
        RAISE EXCEPTION 'a work order that is not finished cannot be deleted'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER work_orders_finish_first BEFORE DELETE ON work_orders
    FOR EACH ROW EXECUTE FUNCTION work_orders_finish_first();

-- --- outbox ------------------------------------------------------------------------------------------------

-- Messages of committed transactions that may not have been published yet. See broker.store.outbox.
CREATE TABLE outbox (
    id uuid PRIMARY KEY,
    added_at timestamptz NOT NULL DEFAULT now(),
    due_at timestamptz NOT NULL,
    envelope bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
COMMENT ON COLUMN outbox.id IS 'the id of the message';
COMMENT ON COLUMN outbox.due_at IS 'when the keeper may take it: whoever has just taken it gets time to publish';

CREATE INDEX outbox_due ON outbox (due_at);
