-- Note the checksum of an applied file, which recorded itself.
UPDATE schema_migrations SET checksum = $2 WHERE version = $1 AND checksum IS NULL
