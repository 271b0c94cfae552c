"""The JSON of `/auth`, `/user…`, `/role…` and `/token…`: see `schemas.py`, which has the rules."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET

from syncline.client.schemas import MaybeBytes, MaybeText

__all__ = [
    "AccessName",
    "AuthReply",
    "AuthStatusReply",
    "KeyAccessItem",
    "OperationName",
    "PasswordBody",
    "RoleAddBody",
    "RoleChangeBody",
    "RoleGrantBody",
    "RoleItem",
    "RoleReply",
    "RoleRevokeBody",
    "RolesReply",
    "TokenBody",
    "TokenItem",
    "TokenReply",
    "UserAddBody",
    "UserItem",
    "UserReply",
    "UsersReply",
]

AccessName: TypeAlias = Literal["read", "write", "readwrite"]
OperationName: TypeAlias = Literal["status", "members", "leadership", "snapshot", "compact"]


class AuthReply(msgspec.Struct, tag_field="status", tag="success"):
    """The answer to a change. `revision` is the auth revision after it; `changed` is false if it was so already."""

    revision: int
    changed: bool


class AuthStatusReply(msgspec.Struct, tag_field="status", tag="success"):
    """The answer of `GET /auth`. `user` is the user that asks, if clients need credentials."""

    enabled: bool
    revision: int
    users: int
    roles: int
    tokens: int
    user: str | None = None


class UserAddBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /user`. Without a password the user has tokens alone. `admin`: with the role `root`."""

    name: str
    password: str | None = None
    roles: list[str] = []
    admin: bool = False


class PasswordBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /user/{name}/password`; null: the user has no password any more."""

    password: str | None


class RoleChangeBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /user/{name}/grant` and `/revoke`."""

    role: str


class TokenBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /user/{name}/token`. `ttl`: a time such as `24h`; 30 days without. `about`: what it is for."""

    ttl: str = "720h"
    about: str = ""


class TokenItem(msgspec.Struct):
    """A token in the answer about a user. `expires` is a time in UTC."""

    id: str
    expires: str
    about: str


class TokenReply(msgspec.Struct, tag_field="status", tag="success"):
    """A new token. Its text is in no other answer."""

    token: str
    id: str
    user: str
    expires: str


class UserItem(msgspec.Struct):
    """A user in a list."""

    name: str
    roles: list[str]
    has_password: bool


class UsersReply(msgspec.Struct, tag_field="status", tag="success"):
    """The answer of `GET /user`."""

    users: list[UserItem]


class UserReply(msgspec.Struct, tag_field="status", tag="success"):
    """The answer of `GET /user/{name}`."""

    name: str
    roles: list[str]
    has_password: bool
    tokens: list[TokenItem]


class RoleAddBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /role`."""

    name: str


class _GrantedRange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    key: MaybeText = UNSET
    key_base64: MaybeBytes = UNSET
    prefix: MaybeText = UNSET
    prefix_base64: MaybeBytes = UNSET
    start: MaybeText = UNSET
    start_base64: MaybeBytes = UNSET
    end: MaybeText = UNSET
    end_base64: MaybeBytes = UNSET


class RoleGrantBody(_GrantedRange, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /role/{name}/grant`: an operation, or `access` to a key, a prefix or a range."""

    operation: OperationName | None = None
    access: AccessName | None = None


class RoleRevokeBody(_GrantedRange, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /role/{name}/revoke`: an operation, or exactly a range that was granted."""

    operation: OperationName | None = None


class KeyAccessItem(msgspec.Struct, omit_defaults=True):
    """A range of keys and what a role allows on it. Without `end` it goes to the last key."""

    access: AccessName
    start: MaybeText = UNSET
    start_base64: MaybeBytes = UNSET
    end: MaybeText = UNSET
    end_base64: MaybeBytes = UNSET


class RoleItem(msgspec.Struct):
    """A role. The role `root` allows everything, whatever stands here."""

    name: str
    keys: list[KeyAccessItem]
    operations: list[str]


class RolesReply(msgspec.Struct, tag_field="status", tag="success"):
    """The answer of `GET /role`."""

    roles: list[RoleItem]


class RoleReply(msgspec.Struct, tag_field="status", tag="success"):
    """The answer of `GET /role/{name}`."""

    name: str
    keys: list[KeyAccessItem]
    operations: list[str]
