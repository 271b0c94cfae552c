"""The records of users, roles and tokens. Field order is part of the snapshot format; fields are added at the end."""

from __future__ import annotations

import hashlib
import re
from enum import IntEnum
from typing import Final, TypeAlias

import msgspec

__all__ = [
    "BOTH",
    "LOGIN_PREFIX",
    "READ",
    "ROOT",
    "WRITE",
    "AuthRecord",
    "AuthSettings",
    "ClusterOperation",
    "KeyGrant",
    "PasswordVerifier",
    "RoleRecord",
    "TokenRecord",
    "UserRecord",
    "auth_checksum",
    "encoded_size",
    "login_revision",
    "login_text",
]

READ: Final = 1
WRITE: Final = 2
BOTH: Final = 3
"""What a grant of keys allows: bits."""

ROOT: Final = "root"
"""The role that may do everything. A user with this role is an administrator."""


class ClusterOperation(IntEnum):
    """What a role may allow beside keys. Part of the format: never renumbered."""

    STATUS = 0
    """Look at the nodes, the members, the metrics and the list of leases."""
    MEMBERS = 1
    """Add, remove, promote and demote members, and change their addresses."""
    LEADERSHIP = 2
    """Transfer the leadership, hold and finalize upgrades."""
    SNAPSHOT = 3
    """Have a node take a snapshot."""
    COMPACT = 4
    """Give up old revisions."""


class KeyGrant(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What is allowed on the keys of `[start, end)`; `end` None: to the last key."""

    start: bytes
    end: bytes | None
    access: int


class PasswordVerifier(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What a password is checked with: scrypt with these parameters. The password can't be made of it."""

    n: int
    r: int
    p: int
    salt: bytes
    hash: bytes

    def __repr__(self) -> str:
        return "PasswordVerifier(…)"


class AuthSettings(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=0):
    """Whether clients need credentials, and the revision of the users, roles and tokens."""

    enabled: bool
    revision: int


class RoleRecord(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=1):
    """A role: what it allows. `operations` holds numbers of `ClusterOperation`, in ascending order."""

    name: str
    keys: tuple[KeyGrant, ...] = ()
    operations: tuple[int, ...] = ()


class UserRecord(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=2):
    """A user. `changed`: the auth revision at which it was added, or its password last changed.

    Without a password it has tokens alone. Roles are in ascending order.
    """

    name: str
    password: PasswordVerifier | None = None
    roles: tuple[str, ...] = ()
    changed: int = 0


class TokenRecord(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=3):
    """A token: the SHA-256 of its text, the user that it stands for, and when it ends (milliseconds since 1970)."""

    id: bytes
    hash: bytes
    user: str
    expires_ms: int
    about: str = ""

    def __repr__(self) -> str:
        return f"TokenRecord({self.id.hex()}, of {self.user!r})"

    @property
    def login_revision(self) -> int:
        """The auth revision at which the password was checked that the token was made with (`login_text`); 0: by none.

        Such a token ends when the password is changed.
        """
        return login_revision(self.about)


AuthRecord: TypeAlias = AuthSettings | RoleRecord | UserRecord | TokenRecord

LOGIN_PREFIX: Final = b"login of "
"""Each text of `login_text` begins so."""

_LOGIN: Final = re.compile(r"login of \w+ at revision ([1-9][0-9]{0,18})", re.ASCII)

CHECKSUM_BYTES: Final = 7
"""Bytes of the SHA-256 that a checksum keeps, as a key's does (`kv.digest`)."""

_encode = msgspec.msgpack.Encoder().encode


def login_text(program: str, revision: int) -> str:
    """What a token is for that stands for a password, which was checked at this auth revision."""
    return f"login of {program} at revision {revision}"


def login_revision(about: str) -> int:
    """The auth revision in a text of `login_text`; 0: it is another text."""
    found = _LOGIN.fullmatch(about)
    return int(found[1]) if found is not None else 0


def auth_checksum(record: AuthRecord) -> int:
    """The checksum (56 bits) of a record."""
    return int.from_bytes(hashlib.sha256(_encode(record)).digest()[:CHECKSUM_BYTES], "big")


def encoded_size(record: AuthRecord) -> int:
    """The bytes of a record in a snapshot."""
    return len(_encode(record))
