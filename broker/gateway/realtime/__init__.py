"""Live sessions: an agent that keeps a connection open gets its messages as they arrive."""
