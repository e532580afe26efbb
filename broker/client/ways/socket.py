"""The agent's WebSocket."""

from broker.client.ways.poll import Poll


class Socket(Poll):
    """Stands in until the gateway has one: the same by long poll."""
