-- Whether we are the one that folds, until the end of this transaction: two would meet at the same sums.
SELECT pg_try_advisory_xact_lock(hashtext('agent_broker.statistics'))
