"""Names of users and roles."""

from __future__ import annotations

from syncline.errors import Rejected
from syncline.kv.auth.limits import MAX_NAME_BYTES

__all__ = ["check_role_name", "check_user_name"]


def check_user_name(name: str) -> None:
    """Raise `Rejected` (`bad_command`) for a text that can't name a user: HTTP sends it before a colon."""
    _check(name, "a user")
    if ":" in name:
        raise Rejected(f"the name of a user holds no colon: {name!r}", code="bad_command")


def check_role_name(name: str) -> None:
    """Raise `Rejected` (`bad_command`) for a text that can't name a role."""
    _check(name, "a role")


def _check(name: str, what: str) -> None:
    if not name:
        raise Rejected(f"the name of {what} is empty", code="bad_command")
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > MAX_NAME_BYTES:
        raise Rejected(f"the name of {what} has {size} bytes; the limit is {MAX_NAME_BYTES}", code="bad_command")
    if not name.isprintable() or name != name.strip():
        raise Rejected(
            f"the name of {what} holds printable characters alone, and no blank at its ends: {name!r}",
            code="bad_command",
        )
