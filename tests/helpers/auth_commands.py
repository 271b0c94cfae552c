"""Commands on users, roles and tokens: one of each kind, and a store that has some."""

from __future__ import annotations

from typing import Final

from syncline.kv.auth.commands import (
    AuthCommand,
    AuthSwitch,
    KeyAccessChange,
    OperationAccessChange,
    RoleAdd,
    RoleRemove,
    TokenAdd,
    TokenRemove,
    UserAdd,
    UserPassword,
    UserRemove,
    UserRoleChange,
)
from syncline.kv.auth.records import ClusterOperation, PasswordVerifier
from syncline.kv.commands import Authorised, Command, Put
from syncline.kv.store import KeyStore

VERIFIER: Final = PasswordVerifier(2, 1, 1, b"salt", bytes(range(32)))
TOKEN: Final = TokenAdd(b"8 bytes.", bytes(32), "ann", 2_000_000, 1_000_000, "for tests")

AUTH_COMMANDS: Final[dict[str, Command]] = {
    "auth switch": AuthSwitch(True),
    "add a user": UserAdd("ann", VERIFIER, ("root",)),
    "remove a user": UserRemove("ann"),
    "change a password": UserPassword("ann", VERIFIER),
    "change the role of a user": UserRoleChange("ann", "reader", True),
    "add a role": RoleAdd("reader"),
    "remove a role": RoleRemove("reader"),
    "change the keys of a role": KeyAccessChange("reader", b"a", None, 1),
    "change an operation of a role": OperationAccessChange("reader", 4, True),
    "add a token": TOKEN,
    "remove a token": TokenRemove(b"8 bytes."),
    "command of a user": Authorised("ann", b"8 bytes.", 7, Put(b"k", b"v")),
}
USERS: Final[tuple[AuthCommand, ...]] = (
    UserAdd("root", VERIFIER, ("root",)),
    RoleAdd("reader"),
    KeyAccessChange("reader", b"a/", b"a0", 1),
    KeyAccessChange("reader", b"b", b"b\0", 3),
    OperationAccessChange("reader", ClusterOperation.STATUS, True),
    RoleAdd("none"),
    UserAdd("ann", None, ("none", "reader")),
    TOKEN,
    AuthSwitch(True),
)


def add_users(store: KeyStore) -> KeyStore:
    """Give the store an administrator, a user with a token, and two roles."""
    for command in USERS:
        store.auth.apply(command)
    return store
