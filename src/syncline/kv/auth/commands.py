"""Commands on users, roles and tokens. Their tags are those of `kv.commands`: never reused, never renumbered.

None of them changes a revision of the keys. Those that may change what a client is allowed raise the auth revision.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from syncline.errors import Rejected
from syncline.kv.auth.limits import MAX_ABOUT_BYTES, MAX_NAME_BYTES, MAX_USER_ROLES
from syncline.kv.auth.names import check_role_name, check_user_name
from syncline.kv.auth.records import PasswordVerifier
from syncline.kv.limits import MAX_KEY_BYTES

__all__ = [
    "AUTH_COMMANDS",
    "HASH_BYTES",
    "TOKEN_ID_BYTES",
    "AuthAnswer",
    "AuthCommand",
    "AuthSwitch",
    "KeyAccessChange",
    "OperationAccessChange",
    "RoleAdd",
    "RoleRemove",
    "TokenAdd",
    "TokenRemove",
    "UserAdd",
    "UserPassword",
    "UserRemove",
    "UserRoleChange",
    "check_auth_command",
]

TOKEN_ID_BYTES: Final = 8
HASH_BYTES: Final = 32
LATEST_MS: Final = 2**53

_Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_BYTES)]
_Bound: TypeAlias = Annotated[bytes, Meta(max_length=MAX_KEY_BYTES + 1)]
_Access: TypeAlias = Annotated[int, Meta(ge=0, le=3)]
_Operation: TypeAlias = Annotated[int, Meta(ge=0, le=63)]
_Ms: TypeAlias = Annotated[int, Meta(ge=0, le=LATEST_MS)]
_TokenId: TypeAlias = Annotated[bytes, Meta(min_length=TOKEN_ID_BYTES, max_length=TOKEN_ID_BYTES)]
_Hash: TypeAlias = Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
_Roles: TypeAlias = Annotated[tuple[_Name, ...], Meta(max_length=MAX_USER_ROLES)]


class AuthSwitch(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=14, forbid_unknown_fields=True):
    """Require credentials from clients, or stop it. Needs an administrator with a password."""

    enabled: bool


class UserAdd(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=15, forbid_unknown_fields=True):
    """Add a user. Roles must exist; the role `root` is made if it does not."""

    name: _Name
    password: PasswordVerifier | None = None
    roles: _Roles = ()


class UserRemove(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=16, forbid_unknown_fields=True):
    """Remove a user and its tokens."""

    name: _Name


class UserPassword(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=17, forbid_unknown_fields=True):
    """Change a user's password; None: it has none any more.

    Its tokens stay, but for those of a login (`TokenRecord.login_revision`).
    """

    name: _Name
    password: PasswordVerifier | None = None


class UserRoleChange(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=18, forbid_unknown_fields=True):
    """Give a user a role, or withdraw it."""

    name: _Name
    role: _Name
    granted: bool


class RoleAdd(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=19, forbid_unknown_fields=True):
    """Add a role that allows nothing yet."""

    name: _Name


class RoleRemove(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=20, forbid_unknown_fields=True):
    """Remove a role, also from its users."""

    name: _Name


class KeyAccessChange(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=21, forbid_unknown_fields=True):
    """Set what a role allows on exactly the range `[start, end)`: bits of `READ` and `WRITE`; 0 withdraws it.

    `end` None: to the last key. Other ranges of the role stay, also if they overlap.
    """

    role: _Name
    start: _Bound
    end: _Bound | None
    access: _Access


class OperationAccessChange(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=22, forbid_unknown_fields=True):
    """Let a role allow an operation on the cluster (`ClusterOperation`), or withdraw it."""

    role: _Name
    operation: _Operation
    granted: bool


class TokenAdd(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=23, forbid_unknown_fields=True):
    """Add a token of a user. `now_ms`: the proposer's wall clock; if there is no room, tokens that expired an hour
    before it make room.
    """

    id: _TokenId
    hash: _Hash
    user: _Name
    expires_ms: _Ms
    now_ms: _Ms
    about: Annotated[str, Meta(max_length=MAX_ABOUT_BYTES)] = ""


class TokenRemove(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=24, forbid_unknown_fields=True):
    """End a token."""

    id: _TokenId


class AuthAnswer(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=12):
    """The auth revision after the command, and whether the command changed something."""

    revision: int
    changed: bool


AUTH_COMMANDS: Final = (
    AuthSwitch,
    UserAdd,
    UserRemove,
    UserPassword,
    UserRoleChange,
    RoleAdd,
    RoleRemove,
    KeyAccessChange,
    OperationAccessChange,
    TokenAdd,
    TokenRemove,
)

AuthCommand: TypeAlias = (
    AuthSwitch
    | UserAdd
    | UserRemove
    | UserPassword
    | UserRoleChange
    | RoleAdd
    | RoleRemove
    | KeyAccessChange
    | OperationAccessChange
    | TokenAdd
    | TokenRemove
)


def check_auth_command(command: AuthCommand) -> None:
    """Raise `Rejected` (`bad_command`) for what the types can't say."""
    match command:
        case UserAdd(name, password, roles):
            check_user_name(name)
            _check_password(password)
            for role in roles:
                check_role_name(role)
        case UserRemove(name):
            check_user_name(name)
        case UserPassword(name, password):
            check_user_name(name)
            _check_password(password)
        case UserRoleChange(name, role):
            check_user_name(name)
            check_role_name(role)
        case RoleAdd(name) | RoleRemove(name) | OperationAccessChange(name):
            check_role_name(name)
        case KeyAccessChange(role, start, end):
            check_role_name(role)
            if end is not None and end <= start:
                raise Rejected("the end of the range is not above its start", code="bad_command")
        case TokenAdd(user=user, about=about):
            check_user_name(user)
            if len(about.encode("utf-8", "surrogatepass")) > MAX_ABOUT_BYTES or not (not about or about.isprintable()):
                raise Rejected(
                    f"what a token is for is a printable text of up to {MAX_ABOUT_BYTES} bytes", code="bad_command"
                )
        case _:
            pass


def _check_password(verifier: PasswordVerifier | None) -> None:
    """Refuse parameters that would take a node's memory: a node checks passwords with what stands here."""
    if verifier is None:
        return
    n, r, p = verifier.n, verifier.r, verifier.p
    sound = 1 < n <= 2**20 and n & (n - 1) == 0 and 0 < r <= 32 and 0 < p <= 16 and 128 * n * r <= 2**28
    if not sound or len(verifier.hash) != HASH_BYTES or not 0 < len(verifier.salt) <= 64:
        raise Rejected("the verifier of a password has parameters that no node takes", code="bad_command")
