"""Answers that several callers wait for and one task works out: each gets one, whatever becomes of the task.

Without this an error nobody thought of would end the task and leave its callers waiting for ever.
"""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def owed(answers: Collection["asyncio.Future[Any]"]) -> Iterator[None]:  # Any: whatever they wait for
    """Give whoever has no answer yet the exception that ended the block; a cancelled block cancels them."""
    try:
        yield
    except Exception as error:
        for answer in answers:
            if not answer.done():  # else it has its own, or its caller was cancelled
                answer.set_exception(error)
                answer.exception()  # its caller may have gone away
    except BaseException:
        for answer in answers:
            answer.cancel()
        raise
