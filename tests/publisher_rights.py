"""The Redis user of native publishers, as docs/threat-model.md gives it."""

import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

PAGE = Path(__file__).parents[1] / "docs/threat-model.md"


def rights() -> list[str]:
    """Return the rule as the page has it."""
    found = re.search(r"^ACL SETUSER publisher (.+)$", PAGE.read_text(), re.MULTILINE)
    assert found is not None
    return found[1].replace(">a-long-password", ">pw").split()


def url_of(streams_url: str) -> str:
    """Return the URL with which this user connects."""
    parts = urlsplit(streams_url)
    return urlunsplit(parts._replace(netloc=f"publisher:pw@{parts.hostname}:{parts.port}"))
