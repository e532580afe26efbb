"""The chaos harness: a real deployment, real faults, a ledger outside that says what became of everything."""
