"""The files of the page, read once, each with the hash its browser may keep it by."""

from hashlib import sha256
from importlib.resources import files
from typing import Final

from msgspec import Struct

POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page loads its own two files, calls its own gateway, and nothing else."""
PAGE: Final = "index.html"
_KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}


class Asset(Struct, frozen=True):
    """One file as it is served."""

    body: bytes
    media_type: str
    etag: str


def _read(name: str) -> Asset:
    body = (files(__package__) / name).read_bytes()
    kind = _KINDS["." + name.rpartition(".")[2]]
    return Asset(body, kind, f'"{sha256(body).hexdigest()[:32]}"')


ASSETS: Final = {name: _read(name) for name in (PAGE, "docs.css", "docs.js")}
