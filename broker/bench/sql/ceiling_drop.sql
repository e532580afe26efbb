-- Removes everything the ceiling made.
DROP SCHEMA IF EXISTS bench_ceiling CASCADE;
