"""Whether a user may carry out a command: the same check on the node that is asked, and when the command is applied.

Ranges must be allowed as a whole: a range that straddles the end of what is allowed is refused, not cut.

| operation | needs |
| --- | --- |
| put, delete, delete range, touch | write on the key or range |
| put, delete with an expectation or with `previous`; delete range with `previous` | read, too |
| increment | read and write: the answer has the number |
| get, range, compare | read |
| transaction | what each compare and each operation of both branches needs |
| put with a lease that exists | write on all keys of that lease, too |
| end of a lease | write on all its keys |
| compaction | the operation `compact` |
| users, roles, tokens | the role `root` |
| the own password, a new own token | to be known by the password |
| end of an own token | nothing |
"""

from __future__ import annotations

from typing import Final

from syncline.errors import PermissionDenied, Unauthenticated
from syncline.kv.auth.commands import AUTH_COMMANDS, TokenAdd, TokenRemove, UserPassword
from syncline.kv.auth.permissions import UserPermissions, key_end
from syncline.kv.auth.records import ClusterOperation
from syncline.kv.commands import (
    Authorised,
    BatchOperation,
    Command,
    Compact,
    Delete,
    DeleteRange,
    Get,
    Increment,
    LeaseGrant,
    LeaseRevoke,
    OperationBatch,
    Put,
    Range,
    Touch,
    Txn,
    TxnCompare,
)
from syncline.kv.store import KeyStore

__all__ = [
    "check_authorised",
    "check_command",
    "check_lease_readable",
    "check_lease_writable",
    "check_operation",
    "check_read",
    "check_unauthorised",
    "denied",
    "uses_lease",
]

SHOWN_BYTES: Final = 64
"""Bytes of a key that a refusal shows."""


def denied(what: str) -> PermissionDenied:
    """The refusal of something; `what` follows on "no permission to"."""
    return PermissionDenied(f"no permission to {what}")


def _shown(start: bytes, end: bytes | None) -> str:
    if end == key_end(start):
        return f"the key {_text(start)}"
    return f"the keys from {_text(start)} " + ("to the last" if end is None else f"up to {_text(end)}")


def _text(key: bytes) -> str:
    shown = ascii(key[:SHOWN_BYTES].decode("utf-8", "backslashreplace"))
    return shown + ("…" if len(key) > SHOWN_BYTES else "")


def check_read(permissions: UserPermissions, start: bytes, end: bytes | None) -> None:
    """Raise `PermissionDenied` if a key in `[start, end)` may not be read."""
    if not permissions.readable.has_range(start, end):
        raise denied(f"read {_shown(start, end)}")


def _check_write(permissions: UserPermissions, start: bytes, end: bytes | None) -> None:
    if not permissions.writable.has_range(start, end):
        raise denied(f"write {_shown(start, end)}")


def check_lease_readable(permissions: UserPermissions, store: KeyStore, lease: int) -> None:
    """Raise `PermissionDenied` if a key of the lease may not be read."""
    if not permissions.readable.has_all and not all(map(permissions.readable.has_key, store.leases.keys(lease))):
        raise denied(f"read all keys of the lease {lease:016x}")


def check_lease_writable(permissions: UserPermissions, store: KeyStore, lease: int) -> None:
    """Raise `PermissionDenied` if a key of the lease may not be written: its end would delete that key."""
    if not permissions.writable.has_all and not all(map(permissions.writable.has_key, store.leases.keys(lease))):
        raise denied(f"write all keys of the lease {lease:016x}")


def check_operation(permissions: UserPermissions, store: KeyStore, operation: BatchOperation) -> None:
    """Raise `PermissionDenied` if the user may not carry it out."""
    match operation:
        case Put(key, _, lease, expect, ttl_ms, previous):
            _check_key(permissions, key, reads=expect is not None or previous)
            if lease and not ttl_ms:
                check_lease_writable(permissions, store, lease)
        case Delete(key, expect, previous):
            _check_key(permissions, key, reads=expect is not None or previous)
        case DeleteRange(start, end, _, previous):
            _check_write(permissions, start, end)
            if previous:
                check_read(permissions, start, end)
        case Increment(key):
            _check_key(permissions, key, reads=True)
        case Touch(key):
            _check_key(permissions, key, reads=False)
        case Get(key):
            check_read(permissions, key, key_end(key))
        case Range(start, end):
            check_read(permissions, start, end)
        case Txn(compares, then, else_):
            for compare in compares:
                check_read(permissions, *_compared(compare))
            for part in then + else_:
                check_operation(permissions, store, part)


def _check_key(permissions: UserPermissions, key: bytes, *, reads: bool) -> None:
    if not permissions.writable.has_key(key):
        raise denied(f"write {_shown(key, key_end(key))}")
    if reads and not permissions.readable.has_key(key):
        raise denied(f"read {_shown(key, key_end(key))}, which a condition, a previous record or a number tells of")


def _compared(compare: TxnCompare) -> tuple[bytes, bytes | None]:
    if compare.end is None:
        return compare.key, key_end(compare.key)
    return compare.key, None if isinstance(compare.end, bool) else compare.end


def check_command(permissions: UserPermissions, store: KeyStore, command: Command, user: str, token: bytes) -> None:
    """Raise `PermissionDenied` if a client of this user may not propose it. Of a batch each operation is checked by
    itself (`check_operation`), not here. `token`: the id of the token by which the user is known, if it is by one.
    """
    match command:
        case OperationBatch() | LeaseGrant():
            pass
        case LeaseRevoke(lease):
            check_lease_writable(permissions, store, lease)
        case Compact(_, term):
            if term or ClusterOperation.COMPACT not in permissions.operations:
                raise denied("compact the history")
        case Put() | Delete() | DeleteRange() | Increment() | Touch() | Txn():
            check_operation(permissions, store, command)
        case _ if isinstance(command, AUTH_COMMANDS) and permissions.is_admin:
            pass
        case UserPassword(name) | TokenAdd(user=name) if name == user:
            if token:
                raise denied("do this by a token: it takes the user's password")
        case TokenRemove(ended) if (found := store.auth.tokens.get(ended)) is not None and found.user == user:
            pass
        case _:
            raise denied("do this: it takes an administrator, or the cluster itself")


def uses_lease(command: Command | BatchOperation) -> bool:
    """Whether what the command needs depends on the keys of a lease, which may change until it is applied."""
    match command:
        case Put(_, _, lease, _, ttl_ms):
            return bool(lease) and not ttl_ms
        case LeaseRevoke():
            return True
        case Txn(_, then, else_):
            return any(map(uses_lease, then + else_))
        case OperationBatch(ops):
            return any(map(uses_lease, ops))
        case _:
            return False


def check_authorised(store: KeyStore, command: Authorised) -> UserPermissions | None:
    """Check a command again when it is applied: something may have changed since a node let it in.

    Returns the permissions by which each operation of a batch is still to be checked; None if none needs it. Raises
    `Rejected`: the credential, or the permission, was withdrawn in between.
    """
    auth = store.auth
    if not auth.enabled or not command.user:
        return None
    if command.revision != auth.revision:
        if not auth.is_valid(command.user, command.token, command.revision):
            raise Unauthenticated("the user, its password or the token was changed before this command was applied")
    elif (type(command.command) is Put and not command.command.lease) or not uses_lease(command.command):
        return None
    permissions = auth.permissions(command.user)
    check_command(permissions, store, command.command, command.user, command.token)
    return permissions


def check_unauthorised(command: Command) -> None:
    """Raise `Unauthenticated` for a client's command without a user, while clients need credentials.

    What a leader decides by its clock is no client's.
    """
    term = getattr(command, "term", 0)
    if not term:
        raise Unauthenticated("clients need credentials since before this command was applied")
