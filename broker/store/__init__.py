"""Postgres: pool, migrations, one module per subject. Knows nothing of Redis or HTTP."""
