"""Key format and digests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core import keys

_IDS = st.binary(min_size=8, max_size=8)
_SECRETS = st.binary(min_size=32, max_size=32)


@given(_IDS, _SECRETS)
def test_a_minted_key_names_its_id_and_has_the_documented_length(key_id: bytes, secret: bytes) -> None:
    minted = keys.mint(key_id, secret)
    assert len(minted.text) == keys.KEY_CHARS
    assert keys.key_id_of(minted.text) == minted.id == key_id.hex()
    assert minted.text.startswith(minted.prefix)


@given(_IDS, _SECRETS, st.integers(0, keys.KEY_CHARS - 1), st.characters())
def test_one_changed_character_is_seen_without_a_lookup(
    key_id: bytes, secret: bytes, at: int, other: str
) -> None:
    text = keys.mint(key_id, secret).text
    changed = text[:at] + other + text[at + 1 :]
    assert changed == text or keys.key_id_of(changed) is None


@pytest.mark.parametrize("text", ["", "abk_", "abk", "Bearer x", "a" * 73, "abk_" + "0" * 69, "é" * 73])
def test_what_is_no_key_names_none(text: str) -> None:
    assert keys.key_id_of(text) is None


def test_a_digest_matches_its_key_and_pepper_only() -> None:
    first, second = keys.mint(b"a" * 8, b"x" * 32).text, keys.mint(b"a" * 8, b"y" * 32).text
    stored = keys.digest(b"pepper", first)
    assert len(stored) == 32
    assert keys.matches(b"pepper", first, stored)
    assert not keys.matches(b"pepper", second, stored)
    assert not keys.matches(b"salt", first, stored)


def test_parts_of_wrong_length_are_a_fault_of_the_program() -> None:
    with pytest.raises(ValueError):
        keys.mint(b"short", b"x" * 32)


@pytest.mark.parametrize(
    ("given_", "same"), [("key", True), ("kez", False), ("ké", False), ("\udc80", False)]
)
def test_secrets_are_compared_whatever_they_hold(given_: str, same: bool) -> None:
    assert keys.same_text(given_, "key") is same
