"""Secrets that only this run has, and the search for them in everything the system wrote.

What is looked for: the operator's key, the pepper, the agents' keys and signing secrets, the passwords of the
stores, the token in the endpoints' URLs, and the mark in every message body. Where: the output of every
process of the broker, the servers' logs, and the metrics as they were scraped.
"""

import secrets
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit


class Canaries:
    """Secrets by name, and where each was seen."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.hits: Counter[str] = Counter()
        self.searched_bytes = 0

    def make(self, name: str) -> str:
        """Make a secret and remember it."""
        return self.note(name, f"canary{secrets.token_hex(16)}")

    def note(self, name: str, value: str) -> str:
        """Remember a secret that somebody else made."""
        self.values[name] = value
        return value

    def note_password(self, name: str, url: str) -> None:
        """Remember the password in a URL, if it has one."""
        if password := urlsplit(url).password:
            self.note(name, password)

    def search(self, place: str, text: bytes) -> None:
        """Count which secrets a text holds."""
        self.searched_bytes += len(text)
        for name, value in self.values.items():
            if value.encode() in text:
                self.hits[f"{name} in {place}"] += text.count(value.encode())

    def search_files(self, files: Mapping[str, Path]) -> None:
        for place, path in files.items():
            self.search(place, path.read_bytes())
