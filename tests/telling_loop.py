"""The loop of the tests: uvloop's, which ends also where a test failed before it closed its connections.

uvloop warns of an open connection before it closes it. Where warnings are errors, that connection stays open
and the loop waits for it for ever: one failed test would end its whole process, five minutes later.
"""

import warnings

import uvloop


class TellingLoop(uvloop.Loop):
    """A loop that warns of connections left open in it after it has closed them."""

    def close(self) -> None:
        with warnings.catch_warnings(record=True) as left:
            warnings.simplefilter("always", ResourceWarning)
            super().close()
        for one in left:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
