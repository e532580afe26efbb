"""What is and is not a handler."""

from inspect import iscoroutinefunction


def require_coroutine(handler: object) -> None:
    """Raises: TypeError for a plain function, which would hold up every other message."""
    call = getattr(type(handler), "__call__", None)  # noqa: B004  # an object may be one by its `__call__`
    if not iscoroutinefunction(handler) and not iscoroutinefunction(call):
        raise TypeError(f"a handler is an async function, {handler!r} is not")
