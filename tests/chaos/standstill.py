"""When the machine itself stood still: a disk or a hypervisor that answers nobody is a fault
nobody has planned, and what was in flight then may be sent again.

Watched by a thread that does nothing else, so that the driver's own work is not taken for one.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from chaos.journal import Journal, Spell

LOOK_S: Final = 0.1
STANDSTILL_S: Final = 0.5
"""A look that comes so much too late is noted: settling takes less on a machine that works."""
KIND: Final = "the machine stood still"


@contextmanager
def watched(journal: Journal) -> Iterator[None]:
    """Note every standstill while the context is open."""
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(journal, done), daemon=True)
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()


def _watch(journal: Journal, done: threading.Event) -> None:
    looked = time.time()
    while not done.wait(LOOK_S):
        now = time.time()
        if now - looked > LOOK_S + STANDSTILL_S:
            journal.keep(Spell(KIND, "everything", looked, now, interrupts=True))
        looked = now
