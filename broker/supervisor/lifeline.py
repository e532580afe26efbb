"""How a child learns that its supervisor is gone, however that ended: a pipe that nobody writes to.

The supervisor holds the writing end, every child inherits the reading end. When the supervisor dies, even by
kill -9, the kernel closes the pipe and the child reads its end. (Linux' parent-death signal is not used: it
fires when the *thread* that started the child ends, and it does not exist elsewhere.)
"""

import os
import signal
import threading
import time
from collections.abc import MutableMapping
from typing import Final, Self

VARIABLE: Final = "AGENT_BROKER_LIFELINE"


class Lifeline:
    """The supervisor's side."""

    def __enter__(self) -> Self:
        self.reading_end, self._writing_end = os.pipe()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._writing_end)
        os.close(self.reading_end)


def follow(environment: MutableMapping[str, str], *, patience_s: float) -> None:
    """In a child: end this process when the supervisor is gone, by SIGTERM, and by force after `patience_s`.

    Does nothing in a process that no supervisor started.
    """
    descriptor = environment.pop(VARIABLE, "")
    if not descriptor.isdigit():
        return
    os.set_inheritable(int(descriptor), False)
    threading.Thread(target=_wait_for_the_end, args=(int(descriptor), patience_s), daemon=True).start()


def _wait_for_the_end(descriptor: int, patience_s: float) -> None:
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(patience_s)
    os._exit(1)
