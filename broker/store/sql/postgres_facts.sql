-- What this server says of itself, and what the record says of its own state.
SELECT
    current_setting('server_version_num')::integer / 10000 AS version,
    current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes,
    current_setting('synchronous_commit') AS synchronous_commit,
    pg_is_in_recovery() AS in_recovery,
    current_setting('default_transaction_read_only') AS read_only,
    current_setting('server_encoding') AS encoding,
    current_setting('max_connections')::integer AS max_connections,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::integer AS connections,
    current_setting('autovacuum') AS autovacuum,
    (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms
