"""Signatures of native publishers: derived as RFC 5869 says, of exactly these messages, by this key."""

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from broker.core.signing import Refusal, Signer, is_signed, publishing_key
from broker.telemetry import metrics
from schema.errors import Rejected

OURS, THEIRS = "our-" * 10, "their-" * 10
KEY_ID = "0011223344556677"


def sign(messages: list[bytes], *, secrets_key: str = OURS, key_id: str = KEY_ID) -> bytes:
    name, named, field, signature = Signer(publishing_key([secrets_key], key_id)).fields(messages)
    assert (name, named, field) == ("k", key_id, "sig")
    return signature.encode()


def test_a_signature_is_what_another_implementation_makes_of_the_standards() -> None:
    info = b"agent-broker native publishing, version 1\x00" + KEY_ID.encode()
    secret = HKDF(SHA256(), 32, salt=None, info=info).derive(OURS.encode())
    expected = HMAC(secret, SHA256())
    expected.update(b'{"id":"1"}{"id":"2"}')
    assert sign([b'{"id":"1"}', b'{"id":"2"}']).decode() == expected.finalize().hex()


def test_it_is_accepted_with_any_of_the_deployments_keys_and_with_no_other() -> None:
    messages, signature = [b"{}"], sign([b"{}"])
    assert is_signed([OURS], KEY_ID.encode(), signature, messages)
    assert is_signed([THEIRS, OURS], KEY_ID.encode(), signature, messages)
    assert not is_signed([THEIRS], KEY_ID.encode(), signature, messages)
    assert not is_signed([], KEY_ID.encode(), signature, messages)


@pytest.mark.parametrize(
    "key_id", [b"", b"0011223344556678", b"operator", b"\xff" * 16, KEY_ID.encode() + b"\n"]
)
def test_a_signature_by_one_key_is_none_by_another(key_id: bytes) -> None:
    assert not is_signed([OURS], key_id, sign([b"{}"]), [b"{}"])


@given(st.lists(st.binary(), min_size=1), st.data())
def test_nothing_but_what_was_signed_is_signed(messages: list[bytes], data: st.DataObject) -> None:
    signature = sign(messages)
    assert is_signed([OURS], KEY_ID.encode(), signature, messages)
    other = data.draw(st.lists(st.binary()).filter(lambda other: b"".join(other) != b"".join(messages)))
    assert not is_signed([OURS], KEY_ID.encode(), signature, other)
    broken = data.draw(st.binary().filter(lambda other: other != signature))
    assert not is_signed([OURS], KEY_ID.encode(), broken, messages)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abp_",
        publishing_key([OURS], KEY_ID)[:-1] + "z",
        publishing_key([OURS], KEY_ID).replace("abp_", "abk_"),
        publishing_key([OURS], KEY_ID) + "\n",
    ],
    ids=["empty", "cut", "mistyped", "an API key", "a line"],
)
def test_what_is_no_publishing_key_is_refused_where_it_is_given(text: str) -> None:
    with pytest.raises(Rejected) as caught:
        Signer(text)
    assert text[8:] not in caught.value.message or not text[8:]


def test_every_refusal_is_counted_under_its_name() -> None:
    assert {refusal.value for refusal in Refusal} == set(metrics.SIGNATURE_REFUSALS)
