"""Limits of users, roles and tokens. They are part of the state machine, as those of `kv.limits` are."""

from __future__ import annotations

from typing import Final

__all__ = [
    "MAX_ABOUT_BYTES",
    "MAX_AUTH_BYTES",
    "MAX_NAME_BYTES",
    "MAX_ROLES",
    "MAX_ROLE_KEYS",
    "MAX_TOKENS",
    "MAX_USERS",
    "MAX_USER_ROLES",
    "MAX_USER_TOKENS",
]

MAX_USERS: Final = 1000
MAX_ROLES: Final = 1000
MAX_TOKENS: Final = 10_000
"""Tokens of all users together. Those that have expired make room."""

MAX_USER_TOKENS: Final = 1000
"""Tokens of one user: a user that makes tokens for itself must leave room for those of others."""

MAX_USER_ROLES: Final = 64
MAX_ROLE_KEYS: Final = 256
"""Ranges of keys in one role. A user's ranges are merged once for each revision of the users: some milliseconds."""

MAX_NAME_BYTES: Final = 128
"""Bytes of the name of a user or a role."""

MAX_ABOUT_BYTES: Final = 128
"""Bytes of what a token is for."""

MAX_AUTH_BYTES: Final = 16 * 1024 * 1024
"""All users, roles and tokens, encoded: a snapshot copies their list in one step."""
