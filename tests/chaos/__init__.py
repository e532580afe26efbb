"""The chaos harness: a real deployment, real faults, and a ledger outside it that says what became of every message."""
