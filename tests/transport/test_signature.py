"""Signatures: golden bytes, and agreement both ways with the public `standardwebhooks` package."""

import base64
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from broker.transport.signature import Signer, new_secret, verify
from schema.errors import Rejected, Unauthenticated

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = 1_614_265_330


def headers(signature: bytes | str, *, message_id: str = "msg_1", at: int | str = NOW) -> dict[str, str]:
    text = signature.decode() if isinstance(signature, bytes) else signature
    return {"webhook-id": message_id, "webhook-timestamp": str(at), "webhook-signature": text}


def test_signature_is_the_one_of_the_specification() -> None:
    # The example that the reference libraries carry in their own tests.
    signature = Signer(SECRET).sign("msg_p5jXN8AQM9LWM0D4loKWxJek", NOW, b'{"test": 2432232314}')
    assert signature == b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(st.binary(min_size=24, max_size=64), st.uuids(), st.integers(0, 2**32), st.text())
def test_signature_equals_the_public_package(key: bytes, message_id: object, at: int, text: str) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    body = text.encode("utf-8", "replace")
    theirs = Webhook(secret).sign(str(message_id), datetime.fromtimestamp(at, UTC), body.decode())
    assert Signer(secret).sign(str(message_id), at, body) == theirs.encode()


def test_public_package_verifies_what_we_sign() -> None:
    secret, body, at = new_secret(), '{"content": "grüß"}'.encode(), int(time.time())
    signed = headers(Signer(secret).sign("id", at, body), message_id="id", at=at)
    assert Webhook(secret).verify(body, signed) == {"content": "grüß"}
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body + b" ", signed)


def test_we_verify_what_the_public_package_signs() -> None:
    secret, at = new_secret(), datetime.fromtimestamp(NOW, UTC)
    signed = headers(Webhook(secret).sign("msg_1", at, '{"a": 1}'))
    verify(secret, signed, b'{"a": 1}', now_s=NOW + 299)
    with pytest.raises(Unauthenticated):
        verify(secret, signed, b'{"a": 2}', now_s=NOW)


def test_secrets_without_padding_verify_as_with() -> None:
    padded = "whsec_" + base64.b64encode(b"k" * 25).decode()
    signed = headers(Signer(padded.rstrip("=")).sign("msg_1", NOW, b"x"))
    verify(padded, signed, b"x", now_s=NOW)


def test_any_matching_signature_suffices_during_a_rotation() -> None:
    old, new = new_secret(), new_secret()
    both = b" ".join(Signer(secret).sign("msg_1", NOW, b"x") for secret in (old, new))
    for secret in (old, new):
        verify(secret, headers(b"v1a,other v2,abc " + both), b"x", now_s=NOW)


def test_header_names_are_matched_in_any_case() -> None:
    signed = {name.title(): value for name, value in headers(Signer(SECRET).sign("msg_1", NOW, b"x")).items()}
    verify(SECRET, signed, b"x", now_s=NOW)


GOOD = Signer(SECRET).sign("msg_1", NOW, b"x").decode()


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (headers(GOOD, at=NOW - 301), "away"),
        (headers(GOOD, at=NOW + 301), "away"),
        (headers(GOOD, at=NOW + 1), "no signature"),
        (headers(GOOD, at=f"+{NOW}"), "whole number"),
        (headers(GOOD, at=f"{NOW}.0"), "whole number"),
        (headers(GOOD, at=""), "whole number"),
        (headers(GOOD, at="١٦١٤٢٦٥٣٣٠"), "whole number"),
        (headers(GOOD, message_id="msg_2"), "no signature"),
        (headers(""), "no signature"),
        (headers("v1,"), "no signature"),
        (headers("é,ü"), "no signature"),
        (headers(GOOD.replace("v1,", "v2,")), "no signature"),
        (headers(GOOD.removeprefix("v1,")), "no signature"),
        (headers("v1,x " * 16 + GOOD), "no signature"),
        ({"webhook-timestamp": str(NOW), "webhook-signature": GOOD}, "webhook-id is missing"),
        ({"webhook-id": "msg_1", "webhook-signature": GOOD}, "webhook-timestamp is missing"),
        ({"webhook-id": "msg_1", "webhook-timestamp": str(NOW)}, "webhook-signature is missing"),
    ],
)
def test_push_that_is_not_signed_as_it_should_be_is_refused(changed: dict[str, str], complaint: str) -> None:
    with pytest.raises(Unauthenticated, match=complaint):
        verify(SECRET, changed, b"x", now_s=NOW)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_!!!",
        "whsec_a",
        "whsec_" + "A" * 31,
        "whsec_" + "A" * 88,
    ],
)
def test_malformed_secret_is_rejected_naming_its_field(secret: str) -> None:
    with pytest.raises(Rejected) as caught:
        Signer(secret)
    assert caught.value.field == "signing_secret"
    assert secret.removeprefix("whsec_") == "" or secret not in caught.value.message


def test_new_secrets_differ_and_sign() -> None:
    assert len({new_secret() for _ in range(100)}) == 100
    Signer(new_secret())
