"""Secrets at rest: sealed, opened, moved to another key, and never opened by or for the wrong one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.sealing import NONCE_BYTES, Sealer
from schema.agent import SEALED, Agent

OLD, NEW = "o" * 32, "n" * 32
SECRET = "whsec_dGhpcyBpcyBhIHRlc3Qgc2VjcmV0IG9mIDMyIGJ5dGVz"
NONCE = bytes(NONCE_BYTES)


@given(
    st.text(min_size=1).filter(lambda text: not text.startswith(SEALED)), st.binary(min_size=12, max_size=12)
)
def test_what_is_sealed_is_opened_and_shows_nothing(secret: str, nonce: bytes) -> None:
    sealer = Sealer([NEW])
    sealed = sealer.seal(secret, owner="a", nonce=nonce)
    assert sealer.open(sealed, owner="a") == secret
    assert sealed.startswith(sealer.current)
    assert sealed.isascii()
    if len(secret) > 8:
        assert secret not in sealed


def test_the_form_at_rest_is_this_one() -> None:
    assert Sealer([OLD]).seal(SECRET, owner="agent-1", nonce=NONCE) == (
        "sealed:1:3cd126d5:AAAAAAAAAAAAAAAANjVjX7pHj6iVjtUQHVQOX+ZBIe"
        "Mhfmt+HaNkmylbqBCfp4WUk1j+O7v6cfNUrz/tditKe+G6GAO5DC1v3umcaLTE"
    )


def test_the_first_key_seals_and_every_key_opens() -> None:
    sealed = Sealer([OLD]).seal(SECRET, owner="a", nonce=NONCE)
    both = Sealer([NEW, OLD])
    assert both.open(sealed, owner="a") == SECRET
    anew = both.seal(SECRET, owner="a", nonce=NONCE)
    assert Sealer([NEW]).open(anew, owner="a") == SECRET
    assert both.has(sealed[: len(both.current)])
    assert not Sealer([NEW]).has(sealed[: len(both.current)])


@pytest.mark.parametrize("keys", [[], [NEW], [NEW, "x" * 32]])
def test_without_its_key_a_secret_stays_sealed(keys: list[str]) -> None:
    sealed = Sealer([OLD]).seal(SECRET, owner="a", nonce=NONCE)
    assert Sealer(keys).open(sealed, owner="a") == sealed
    assert Sealer(keys).seal(sealed, owner="a", nonce=NONCE) == sealed


def test_a_sealed_secret_opens_for_its_owner_alone() -> None:
    sealer = Sealer([OLD])
    sealed = sealer.seal(SECRET, owner="a", nonce=NONCE)
    assert sealer.open(sealed, owner="b") == sealed


@pytest.mark.parametrize(
    "change", [lambda text: text[:-4], lambda text: text + "AAAA", lambda text: text[:-1] + "!"]
)
def test_what_was_tampered_with_stays_sealed(change) -> None:
    sealer = Sealer([OLD])
    spoilt = change(sealer.seal(SECRET, owner="a", nonce=NONCE))
    assert sealer.open(spoilt, owner="a") == spoilt


def test_what_an_older_release_stored_is_read_as_it_is() -> None:
    assert Sealer([OLD]).open(SECRET, owner="a") == SECRET
    assert Sealer([OLD]).open("", owner="a") == ""
    assert Sealer([]).seal(SECRET, owner="a", nonce=NONCE) == SECRET
    assert Sealer([OLD]).seal("", owner="a", nonce=NONCE) == ""


def test_to_an_agent_whose_secret_is_sealed_nothing_is_pushed() -> None:
    sealed = Sealer([OLD]).seal(SECRET, owner="a", nonce=NONCE)
    assert Agent(id="a", name="a", endpoint="http://a.example/", signing_secret=SECRET).is_pushed_to
    assert not Agent(id="a", name="a", endpoint="http://a.example/", signing_secret=sealed).is_pushed_to
