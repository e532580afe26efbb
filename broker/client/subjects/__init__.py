"""The operations of the contract by subject, as builders of requests."""
