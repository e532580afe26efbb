"""Enums for the hot path.

CPython 3.11 keeps the members of an enum behind a descriptor and hashes them in Python: 0.2 us for every
`Status.PENDING`, as much for every look-up in a dict, some thirty times a message. Members are singletons, so
plain class attributes and the identity hash say the same at a tenth of the price. (From 3.12 on members are
plain attributes anyway.)
"""

from enum import Enum
from typing import TypeVar

Members = TypeVar("Members", bound=type[Enum])


def quick(members: Members) -> Members:
    """Class decorator: make look-ups of members, and of them in dicts, as cheap as any attribute's."""
    for name, member in members.__members__.items():
        type.__setattr__(members, name, member)
    type.__setattr__(members, "__hash__", object.__hash__)
    return members
