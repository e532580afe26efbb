"""How a list says where its next page is: the cursor by itself, and as a link (RFC 8288)."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlencode

from schema.limits import PAGE_ROWS_DEFAULT

LIMIT_DEFAULT: Final = PAGE_ROWS_DEFAULT


def page_headers(
    path: str, parameters: Sequence[tuple[str, str]], cursor: str | None
) -> tuple[tuple[str, str], ...]:
    """Return the headers that lead to the next page; none on the last one."""
    if cursor is None:
        return ()
    query = urlencode([*parameters, ("cursor", cursor)])
    return (("X-Next-Cursor", cursor), ("Link", f'<{path}?{query}>; rel="next"'))
