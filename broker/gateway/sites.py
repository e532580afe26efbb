"""Whose page a browser's request comes from, where no key says who calls.

Without authentication only being on this machine protects, and a browser is on it: any page it shows could
send requests here. So what another site's page sends is refused, and what is addressed to another name than
this machine's, which is how a page reaches us under a name of its own (DNS rebinding). Programs send none of
these headers but `Host`.
"""

from typing import Final
from urllib.parse import urlsplit

import falcon.asgi

from broker.settings import is_loopback
from schema.errors import Forbidden

_OWN: Final = frozenset((None, "same-origin", "none"))
"""`Sec-Fetch-Site` of our own pages and of addresses that a person typed; other ports are not our pages."""


def check_site(req: falcon.asgi.Request) -> None:
    """Refuse what another site's page sends. Raises: Forbidden."""
    host, origin = req.get_header("Host"), req.get_header("Origin")
    if host is not None and not is_loopback(_name_in(f"//{host}")):
        raise Forbidden("without authentication only this machine is served, under a loopback name")
    is_foreign = origin is not None and _authority_of(origin) != host
    if is_foreign or req.get_header("Sec-Fetch-Site") not in _OWN:
        raise Forbidden("this page comes from another site")


def _authority_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _name_in(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
