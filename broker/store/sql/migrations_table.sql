-- Tell whether this database has ever been migrated.
SELECT to_regclass('schema_migrations') IS NOT NULL
