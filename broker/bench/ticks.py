"""Ticks at exact times on any event loop, by a Linux timerfd (timerfd_create(2)).

Timers of epoll loops, uvloop's and asyncio's, wake in whole milliseconds, which a paced publisher would
count as the broker's latency; a loop on select is exact and costs several times the CPU, on cores that are
shared with what is measured. Python has timerfd from 3.13 on; before that it is reached through ctypes.
"""

import asyncio
import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

CLOCK_MONOTONIC: Final = 1
TFD_NONBLOCK: Final = os.O_NONBLOCK
TFD_CLOEXEC: Final = os.O_CLOEXEC
TFD_TIMER_ABSTIME: Final = 1
INTERVAL_NS_MIN: Final = 250_000
"""Faster ticks would be all a core does; messages due between two ticks leave together."""


class _Moment(ctypes.Structure):
    _fields_ = (("s", ctypes.c_long), ("ns", ctypes.c_long))


class _Timer(ctypes.Structure):
    _fields_ = (("interval", _Moment), ("first", _Moment))


@contextmanager
def ticking(start_ns: int, *, interval_ns: int, tick: Callable[[], None]) -> Iterator[None]:
    """Call `tick` from the running loop at `start_ns` (CLOCK_MONOTONIC) and every interval after it.

    Raises: OSError where the kernel has no timerfd.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = _checked(libc.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC))
    timer = _Timer(_moment(max(interval_ns, INTERVAL_NS_MIN)), _moment(start_ns))
    loop = asyncio.get_running_loop()

    def wake() -> None:
        os.read(descriptor, 8)  # how many ticks have passed: the schedule knows better
        tick()

    try:
        _checked(libc.timerfd_settime(descriptor, TFD_TIMER_ABSTIME, ctypes.byref(timer), None))
        loop.add_reader(descriptor, wake)
        yield
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _moment(nanoseconds: int) -> _Moment:
    return _Moment(*divmod(nanoseconds, 1_000_000_000))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
