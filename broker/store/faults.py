"""Turn errors of the driver into ours, by type or SQLSTATE, where the driver is called.

Three outcomes: the store cannot serve now (`StoreUnavailable`), the store refuses a row for what is in it
(`DataFault`), and everything else, which is a bug of ours and passes through as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from schema.errors import BrokerError, DataFault, StoreUnavailable

NO_PARTITION: Final = "23514"
"""Also a check's violation; the hot tables have no checks."""
UNIQUE: Final = "23505"

# By class (the first two characters). 08 connection, 25 transaction state (a standby is read-only), 28
# authorisation, 3D no such database, 40 deadlock, 53 resources, 55 lock not available, 57 operator
# intervention and statement time-out, 58 system error, XX internal.
_AWAY: Final = frozenset({"08", "25", "28", "3D", "40", "53", "55", "57", "58", "XX"})
# A table, function, column or right is missing: the database has not been migrated yet.
_UNPREPARED: Final = frozenset({"42P01", "42883", "42703", "42501"})
# 21 cardinality, 22 data exception, 23 integrity, 54 too large for the server.
_FAULTY: Final = frozenset({"21", "22", "23", "54"})


class PartitionMissing(DataFault):
    """A row's day has no partition."""

    code = "partition_missing"


@contextmanager
def mapped() -> Iterator[None]:
    """Raise what the store's calls inside raise as errors of ours. Raises: StoreUnavailable, DataFault."""
    try:
        yield
    except BrokerError:
        raise
    except asyncpg.PostgresError as error:
        raise _of_server(error) from error
    except asyncpg.ClientConfigurationError as error:
        raise StoreUnavailable(f"DATABASE_URL makes no sense: {error}") from error
    except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        # The driver's own complaint about an argument is the one that is a ValueError as well.
        if isinstance(error, ValueError):
            raise DataFault(_without_value(str(error))) from error
        raise StoreUnavailable(f"the store's connection failed: {error}") from error
    except UnicodeEncodeError as error:
        raise DataFault("text holds an unpaired surrogate") from error
    except (OSError, TimeoutError) as error:
        raise StoreUnavailable(f"the store does not answer: {str(error) or type(error).__name__}") from error


def _without_value(text: str) -> str:
    """Return a complaint without the value it is about, which both the server and the driver put behind a
    colon: it is part of somebody's message, and the complaint is logged."""
    return text.splitlines()[0].partition(": ")[0] if text else "refused"


def _first_line(error: asyncpg.PostgresError) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _of_server(error: asyncpg.PostgresError) -> Exception:
    state = error.sqlstate or ""
    if state == NO_PARTITION:
        # What the server adds in further lines is the row: it is part of somebody's message.
        return PartitionMissing(f"{_without_value(str(error))} ({state})")
    if state[:2] in _FAULTY:
        return DataFault(f"{_without_value(str(error))} ({state})")
    if state[:2] in _AWAY or state in _UNPREPARED:
        return StoreUnavailable(f"the store refuses: {_first_line(error)} ({state})")
    return error
