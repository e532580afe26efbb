"""The Lua scripts: one `.lua` file each, loaded once, called by digest.

Lua moves, Python decides: no script parses a payload. Scripts exist only where several keys must change
together; plain reads and single writes go to Redis as pipelined commands, which cost it less.
"""

import hashlib
from importlib.resources import files
from typing import Final


class Script:
    """A script's text and its SHA-1 digest, by which Redis knows it."""

    __slots__ = ("digest", "name", "text")

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = files(__name__).joinpath(f"{name}.lua").read_text()
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


ROUTE: Final = Script("route")
SETTLE: Final = Script("settle")
TAKE_DUE: Final = Script("take_due")
EXPIRE: Final = Script("expire")
VACATE: Final = Script("vacate")
WAKE: Final = Script("wake")
UNPARK: Final = Script("unpark")
CUT: Final = Script("cut")
LEASE: Final = Script("lease")
DISCARD: Final = Script("discard")
ALLOW: Final = Script("allow")
ANNOUNCE: Final = Script("announce")
PUT_BACK: Final = Script("put_back")
DEPART: Final = Script("depart")
ACKNOWLEDGE: Final = Script("acknowledge")
ACTIVATE: Final = Script("activate")
ATTEND: Final = Script("attend")
PRESENT: Final = Script("present")
WITHDRAW: Final = Script("withdraw")
REROUTE: Final = Script("reroute")
ADMIT: Final = Script("admit")
BEGIN: Final = Script("begin")
SURVIVE: Final = Script("survive")
CHOOSE: Final = Script("choose")
CLAIM: Final = Script("claim")
SHELVE: Final = Script("shelve")
