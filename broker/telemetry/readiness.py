"""What this process waits for before it can do its work: at `/readyz` of its metrics port, and a metric.

Not here: whether it does its work well. A process that waits for nothing may be slow, or have nothing to do.
"""

from collections.abc import Mapping
from typing import Final, Literal

from broker.telemetry import metrics

Store = Literal["redis", "postgres"]

_awaited: dict[Store, str] = {}
_shown: Final = {store: metrics.AWAITED.child(store=store) for store in metrics.STORES}


def awaits(store: Store, reason: str) -> None:
    """Note that this process cannot go on without a store."""
    _awaited[store] = reason
    _shown[store].set(1)


def has(store: Store) -> None:
    """Note that the store is there."""
    if _awaited.pop(store, None) is not None:
        _shown[store].set(0)


def awaited() -> Mapping[Store, str]:
    """Return what is waited for, and why."""
    return dict(_awaited)
