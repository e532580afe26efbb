"""Gives the memory a backlog took back to the system, once the backlog has gone.

The C library keeps what is freed for later: pages between objects that still live stay with the process until
it is asked for them. So a worker that has held tens of thousands of messages asks once most of them are gone.
It decides nothing about messages, and where the library cannot be asked (it is not glibc) nothing happens.
"""

import asyncio
import ctypes
from collections.abc import Callable
from typing import Final

from broker.telemetry import logs

LOOK_S: Final = 1.0
REST_S: Final = 60.0
"""Asking stops all else for some 0.2 ms a megabyte: not at every turn of a load that comes and goes."""
MUCH: Final = 10_000
"""Messages, 1-2 KB each: what fewer leave behind is not worth a pause."""
LEFT: Final = 0.1
"""The part of the most that may be left for it to count as gone."""


async def give_back(
    held: Callable[[], int], *, trim: Callable[[], object], look_s: float = LOOK_S, rest_s: float = REST_S
) -> None:
    """Look at how many messages are held until cancelled, and trim after much has become little; at most once
    in so long, and what became little meanwhile is not forgotten."""
    loop = asyncio.get_running_loop()
    most, rests_until_s = 0, loop.time()
    while True:
        await asyncio.sleep(look_s)
        now = held()
        most = max(most, now)
        if most >= MUCH and now <= most * LEFT and loop.time() >= rests_until_s:
            trim()
            logs.event("memory.given_back", held_before=most)
            most, rests_until_s = now, loop.time() + rest_s


def trim() -> bool:
    """Return free pages of this process to the system; tell whether there were any. A C library without this
    has none to return."""
    library = ctypes.CDLL(None)
    # malloc_trim(3), of glibc alone.
    return hasattr(library, "malloc_trim") and bool(library.malloc_trim(0))
