"""Pages of a listing, and the opaque cursors between them."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from schema.errors import Rejected

T = TypeVar("T")


class Page(Struct, Generic[T]):
    """Some rows, and the cursor to ask for those behind them with; None when there are none."""

    items: list[T]
    cursor: str | None = None


def cursor_of(position: object) -> str:
    """Return the cursor that stands for the position of a page's last row."""
    return urlsafe_b64encode(msgspec.json.encode(position)).decode().rstrip("=")


def position_of(cursor: str, kind: type[T]) -> T:
    """Return the position a cursor stands for. Raises: Rejected when it is none of ours."""
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(raw, type=kind)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        raise not_ours() from None


def not_ours() -> Rejected:
    """Return the error for a cursor that is none."""
    return Rejected("cursor is not one this API gave out", field="cursor")
