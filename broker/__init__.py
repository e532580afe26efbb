"""Agent Broker: an event-driven broker between software agents."""
