"""Real servers from wheels, run as child processes under a data directory: Valkey and PostgreSQL."""
