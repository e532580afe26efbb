"""The frames a WebSocket may send, and how what is none of them is refused."""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from broker.gateway.errors import error_body
from broker.gateway.json_bounds import check_json
from schema.codec import encode
from schema.errors import BrokerError, Malformed, Rejected

Ref = Annotated[str, Meta(max_length=128)] | int | None
"""What a client puts on a frame to find the answer to it."""
NO_JSON: Final = Raw(b"null")


class AckFrame(Struct, tag_field="type", tag="ack"):
    """The agent has a message, has processed it (`result`), or failed at it (`reason`)."""

    message_id: str
    status: Literal["delivered", "processed", "failed"] = "delivered"
    result: Raw = NO_JSON
    reason: str | None = None
    ref: Ref = None


class SendFrame(Struct, tag_field="type", tag="send"):
    """Send a message: the body of `POST /api/messages`."""

    message: Raw
    ref: Ref = None


class ReplyFrame(Struct, tag_field="type", tag="reply"):
    """Answer a message: content for its sender."""

    message_id: str
    content: Raw
    message_type: str = "response"
    ref: Ref = None


class HeartbeatFrame(Struct, tag_field="type", tag="heartbeat"):
    """The agent is there, beyond its connection."""

    ref: Ref = None


Frame = AckFrame | SendFrame | ReplyFrame | HeartbeatFrame


class _Any(Struct):
    ref: Ref = None
    message_id: str | None = None


_frame = msgspec.json.Decoder(Frame)
_any = msgspec.json.Decoder(_Any)


def read_frame(data: bytes) -> Frame:
    """Return the frame. Raises: Malformed when it is no JSON, Rejected when it is no frame we know."""
    try:
        frame: Frame = _frame.decode(data)
    except msgspec.ValidationError as error:
        raise Rejected(f"not a frame: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"the frame is not JSON: {error}") from None
    except RecursionError:
        raise Rejected("not a frame: nested too deeply") from None
    check_json(data)
    return frame


def answer(name: str, ref: Ref = None, **fields: object) -> bytes:
    """Return the answer to a frame, with the `ref` it came with."""
    return encode({"type": name, **fields} if ref is None else {"type": name, **fields, "ref": ref})


def refusal(error: BrokerError, data: bytes) -> bytes:
    """Return the answer to a frame that was not done, naming what it was about as far as that can be read."""
    about: dict[str, Any] = {}  # as many types as the fields of a frame
    try:
        frame = _any.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        frame = _Any()
    if frame.message_id is not None:
        about["message_id"] = frame.message_id[:64]
    return answer("error", frame.ref, error=error_body(error), **about)
