"""Agent Broker beside workers that good engineers write in an afternoon with known libraries."""
