"""What routing knows of the agents of its shard: how much they have to do, how well they do it."""

from collections.abc import Callable

from workers.delivery.delivery import Delivery
from workers.delivery.stats import DeliveryStats


class ShardLoads:
    """Loads as the delivery owner in the same process sees them; nothing is known of agents elsewhere."""

    def __init__(self, delivery: Callable[[], Delivery | None], stats: DeliveryStats) -> None:
        self._delivery = delivery
        self.quality = stats.quality
        """What was measured of an agent at a capability: the same method, as it is asked twice a message."""

    def outstanding(self, agent_id: str) -> int:
        """Return how many messages of an agent are not finished, as far as this process knows."""
        delivery = self._delivery()
        if delivery is None:
            return 0
        endpoint = delivery.room.endpoints.get(agent_id)
        return 0 if endpoint is None else endpoint.outstanding
