"""Operations: API keys and signing secrets of agents."""

from collections.abc import Sequence
from datetime import datetime

from broker.client.request import Request, given, path_of
from broker.client.subject import ShellT, Subject, operation
from schema.agent import SigningSecret
from schema.keys import IssuedKey, KeyView
from schema.limits import KEY_OVERLAP_S_DEFAULT

# Outside the class, because inside it `list` is the operation.
_Rows = list[KeyView]


class Keys(Subject[ShellT]):
    """An agent's keys: its own to manage, or an operator's. What is new is shown once."""

    @operation("listKeys")
    def list(self, reference: str) -> Request[_Rows]:
        """Return an agent's keys, the newest first, never the key itself. Raises: NotFound."""
        return Request(method="GET", path=_path(reference), reply=_Rows)

    __call__ = list

    @operation("addKey")
    def add(
        self,
        reference: str,
        *,
        scopes: Sequence[str] | None = None,
        expires_at: datetime | None = None,
    ) -> Request[IssuedKey]:
        """Add a key. Raises: NotFound, Forbidden for more than the caller may pass on, TooManyKeys."""
        body = given(scopes=None if scopes is None else tuple(scopes), expires_at=expires_at)
        # Not repeatable: it would leave a second one that nobody has seen. So are the rotations.
        return Request(method="POST", path=_path(reference), reply=IssuedKey, body=body, repeatable=False)

    @operation("rotateKeys")
    def rotate(self, reference: str, *, overlap_s: int = KEY_OVERLAP_S_DEFAULT) -> Request[IssuedKey]:
        """Replace the key this is asked with (an operator: the newest one); the old one works on for
        `overlap_s`. Raises: NotFound, TooManyKeys."""
        return Request(
            method="POST",
            path=f"{_path(reference)}/rotate",
            reply=IssuedKey,
            body={"overlap_s": overlap_s},
            repeatable=False,
        )

    @operation("revokeKey")
    def revoke(self, reference: str, key_id: str) -> Request[KeyView]:
        """Make a key work no more, within 30 s everywhere. Raises: NotFound."""
        return Request(method="DELETE", path=f"{_path(reference)}/{path_of(key_id)}", reply=KeyView)

    @operation("rotateSigningSecret")
    def rotate_signing_secret(self, reference: str) -> Request[SigningSecret]:
        """Sign pushes with a new secret, and for a while with the former as well. Raises: NotFound."""
        path = f"/api/agents/{path_of(reference)}/signing-secret/rotate"
        return Request(method="POST", path=path, reply=SigningSecret, repeatable=False)


def _path(reference: str) -> str:
    return f"/api/agents/{path_of(reference)}/keys"
