"""A client that has shown a credential: what it may do, by the users as they are at the moment of the question.

The permissions are kept for as long as the auth revision stays. So a check costs a comparison and a bisection.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Protocol

from syncline.errors import PermissionDenied, Rejected, Unauthenticated
from syncline.kv.auth.checks import (
    check_command,
    check_lease_readable,
    check_lease_writable,
    check_operation,
    check_read,
)
from syncline.kv.auth.flag import AuthFlag
from syncline.kv.auth.permissions import UserPermissions
from syncline.kv.auth.state import AuthState
from syncline.kv.commands import BatchOperation, Put, authorised, decode_command, encode_user_put
from syncline.kv.store import KeyStore
from syncline.sessions.entries import OnceKey

__all__ = ["NoUser", "Principal"]


class StoreOwner(Protocol):
    """Has the node's present store."""

    @property
    def store(self) -> KeyStore: ...


class NoUser:
    """Stands for the user of a request that came while clients needed no credential. It may do everything until they
    need one: what it began then is refused, or ends.
    """

    __slots__ = ("_flag", "expires_ms")

    def __init__(self, flag: AuthFlag) -> None:
        self._flag = flag
        self.expires_ms: int = 0

    @property
    def permissions(self) -> UserPermissions | None:
        """None: everything. Raises `Unauthenticated`."""
        if self._flag.on:
            raise _needed_now()
        return None

    def read_refusal(self, start: bytes, end: bytes | None) -> Rejected | None:
        """Why a key in `[start, end)` may not be read; None if all may."""
        del start, end
        return _needed_now() if self._flag.on else None

    def check_lease_readable(self, lease: int) -> None:
        """Raise `Unauthenticated` if clients need credentials by now."""
        del lease
        if self._flag.on:
            raise _needed_now()

    def check_lease_writable(self, lease: int) -> None:
        """Raise `Unauthenticated` if clients need credentials by now."""
        self.check_lease_readable(lease)


def _needed_now() -> Unauthenticated:
    return Unauthenticated("clients need credentials since after this request was sent")


class Principal:
    """The user behind a credential. `wall` gives the time since 1970 in seconds."""

    __slots__ = (
        "_auth",
        "_backend",
        "_expires_s",
        "_revision",
        "_wall",
        "by_password",
        "expires_ms",
        "looked_up",
        "token",
        "user",
        "verified",
    )

    def __init__(
        self,
        user: str,
        token: bytes,
        *,
        expires_ms: int,
        verified: int,
        backend: StoreOwner,
        wall: Callable[[], float],
    ) -> None:
        self.user: str = user
        self.token: bytes = token
        """The id of the token; empty: it has shown the password."""
        self.by_password: bool = not token
        self.expires_ms: int = expires_ms
        """0: it does not expire."""
        self.verified: int = verified
        """The auth revision at which the credential was checked."""
        self._backend = backend
        self._wall = wall
        self._expires_s = expires_ms / 1000 if expires_ms else math.inf
        self._revision = -1
        self._auth: AuthState | None = None
        self.looked_up: UserPermissions | None = None
        """What `permissions` has found last. It never changes: it is replaced when a user or a role was changed."""

    @property
    def permissions(self) -> UserPermissions:
        """What the user may do now. Raises `Unauthenticated` if the credential is not good any more."""
        if self._wall() >= self._expires_s:
            raise Unauthenticated("the token has expired")
        auth = self._backend.store.auth
        found = self.looked_up
        if found is None or self._revision != auth.revision or self._auth is not auth:
            if not auth.is_valid(self.user, self.token, self.verified):
                raise Unauthenticated("the user, its password or the token was changed or removed")
            found = self.looked_up = auth.permissions(self.user)
            self._revision, self._auth = auth.revision, auth
        return found

    @property
    def is_valid(self) -> bool:
        """Whether the credential is still good."""
        try:
            return self.permissions is not None
        except Unauthenticated:
            return False

    def check_read(self, start: bytes, end: bytes | None) -> None:
        """Raise `PermissionDenied` or `Unauthenticated` if a key in `[start, end)` may not be read."""
        check_read(self.permissions, start, end)

    def may_read_key(self, key: bytes) -> bool:
        """Whether one key may be read. Raises `Unauthenticated`."""
        return self.permissions.readable.has_key(key)

    def unchanged(self) -> UserPermissions | None:
        """What the user may do now, if it is known: no user has changed since it was looked up, and the token has not
        expired. None: ask `permissions`. In one call, for the fast paths.

        Any request of the user may have looked it up. It may be newer than what a request was let in by.
        """
        auth = self._backend.store.auth
        if self._revision != auth.revision or self._auth is not auth:
            return None
        return self.looked_up if self._wall() < self._expires_s else None

    def check_key_readable(self, key: bytes) -> None:
        """`check_read` for one key."""
        if not self.may_read_key(key):
            self.check_read(key, key + b"\0")

    def read_refusal(self, start: bytes, end: bytes | None) -> Rejected | None:
        """Why a key in `[start, end)` may not be read; None if all may."""
        try:
            self.check_read(start, end)
        except (PermissionDenied, Unauthenticated) as refusal:
            return refusal
        return None

    def check_operation(self, operation: BatchOperation) -> None:
        """Raise `PermissionDenied` or `Unauthenticated` if the operation may not be carried out."""
        check_operation(self.permissions, self._backend.store, operation)

    def check_lease_readable(self, lease: int) -> None:
        """Raise `PermissionDenied` or `Unauthenticated` if a key of the lease may not be read."""
        check_lease_readable(self.permissions, self._backend.store, lease)

    def check_lease_writable(self, lease: int) -> None:
        """Raise `PermissionDenied` or `Unauthenticated` if a key of the lease may not be written."""
        check_lease_writable(self.permissions, self._backend.store, lease)

    def authorised(self, command: bytes) -> bytes:
        """An encoded command as one of this user, after the check. Raises `PermissionDenied` or `Unauthenticated`."""
        permissions, store, decoded = self.permissions, self._backend.store, decode_command(command)
        if not (
            type(decoded) is Put
            and not decoded.lease
            and decoded.expect is None
            and not decoded.previous
            and permissions.writable.has_key(decoded.key)
        ):  # most writes need no more than that
            check_command(permissions, store, decoded, self.user, self.token)
        return authorised(command, self.user, self.token, store.auth.revision)

    def authorised_put(self, key: bytes, value: bytes) -> bytes:
        """`authorised` for a plain put of a key that `unchanged` lets it write."""
        return encode_user_put(key, value, self.user, self.token, self._revision)

    def scoped(self, key: OnceKey) -> OnceKey:
        """The key of a command that takes effect once, apart from the same text of other users."""
        if not key.text:
            return key  # the id of a session is drawn at random; `fingerprint` tells its users apart
        hashed = hashlib.blake2b(self.user.encode() + b"\0" + key.text, digest_size=32).digest()
        return OnceKey(text=b"\0" + hashed)  # no free text begins with a zero byte

    def fingerprint(self, data: bytes) -> bytes:
        """What tells a request from others, and from those of other users: they never get its recorded answer."""
        return self.user.encode() + b"\0" + data
