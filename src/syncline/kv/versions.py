"""The machine version that each key-value command needs, and the test for commands of a later version.

A command that older nodes don't know must not enter the log before all members do: `check_version` refuses it while
the cluster's machine version is lower. If the log holds one all the same, the node stops: nodes of two versions would
have two states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from syncline.errors import Rejected
from syncline.kv.auth.commands import AUTH_COMMANDS, TokenAdd
from syncline.kv.auth.records import LOGIN_PREFIX, login_revision
from syncline.kv.commands import (
    Authorised,
    Compact,
    CompareTarget,
    Comparison,
    Delete,
    DeleteRange,
    Get,
    Increment,
    LeaseCheckpoint,
    LeaseEnd,
    LeaseGrant,
    LeaseRevoke,
    OperationBatch,
    Put,
    Range,
    Touch,
    Txn,
    TxnCompare,
    decode_command,
)

__all__ = ["LOGIN_VERSION", "MACHINE_VERSION", "SINCE", "USERS_VERSION", "check_version", "is_later"]

MACHINE_VERSION: Final = 3
"""The version of the key-value machine. It rises with each command, field, or meaning of a field, that older ones don't
know.

1: put, delete, delete range, transactions, leases, increment, touch, compaction, batches.
2: users, roles and tokens, and commands of users.
3: tokens of a login, which end with the password (`TokenRecord.login_revision`).
"""

USERS_VERSION: Final = 2
LOGIN_VERSION: Final = 3

KNOWN: Final = (
    Put,
    Delete,
    DeleteRange,
    Get,
    Range,
    Txn,
    LeaseGrant,
    LeaseRevoke,
    LeaseEnd,
    LeaseCheckpoint,
    Increment,
    Touch,
    Compact,
    OperationBatch,
    *AUTH_COMMANDS,
    Authorised,
)

FIELDS: Final = {kind.__struct_config__.tag: len(kind.__struct_fields__) for kind in KNOWN}
"""By tag, how many fields follow it at most."""

SINCE: Final[Mapping[int, int]] = {
    **dict.fromkeys((0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13), 1),
    **dict.fromkeys(range(14, 26), USERS_VERSION),
}
"""By tag of a command, the machine version since which it may stand in the log."""

TXN_TAG: Final = 5
BATCH_TAG: Final = 13
TOKEN_TAG: Final = TokenAdd.__struct_config__.tag
AUTHORISED_TAG: Final = 25

LARGEST_TAG: Final = 127
"""Tags of commands are one byte. Above it is garbage, and no later version's."""


def check_version(command: bytes, machine_version: int, since: Mapping[int, int] = SINCE) -> None:
    """Raise `Rejected` (code `needs_upgrade`) for a command that members of the cluster may not know yet.

    `command` is an encoded one. `machine_version` is the cluster's.
    """
    needed = since.get(command[1], machine_version + 1)
    if needed <= machine_version < LOGIN_VERSION and LOGIN_PREFIX in command and _is_login(command):
        needed = LOGIN_VERSION
    if needed > machine_version:
        raise Rejected(
            f"this command needs machine version {needed}, and the cluster is at version {machine_version}: upgrade all"
            " members, then finalize the upgrade if it is held (`syncline upgrade status`)",
            code="needs_upgrade",
            details={"needed": needed, "machine_version": machine_version},
        )


def _is_login(data: bytes) -> bool:
    """Whether an encoded command makes the token of a login. Older members take it for one that outlives the password:
    they would carry out commands that newer ones refuse, and the states would differ.
    """
    if data[1] not in (TOKEN_TAG, AUTHORISED_TAG):
        return False
    command = decode_command(data)
    inner = command.command if type(command) is Authorised else command
    return isinstance(inner, TokenAdd) and login_revision(inner.about) > 0


def is_later(data: bytes) -> bool:
    """Whether bytes that are no command of this version may be one of a later version: new tags, or further fields."""
    try:
        return _is_later(msgspec.msgpack.decode(data))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError):
        return False


def _is_later(command: object) -> bool:
    if not isinstance(command, list) or not command or type(command[0]) is not int:
        return False
    tag, fields = command[0], command[1:]
    if tag not in FIELDS:
        return 0 <= tag <= LARGEST_TAG
    if len(fields) > FIELDS[tag]:
        return True
    if tag == BATCH_TAG:
        return bool(fields) and isinstance(fields[0], list) and any(map(_is_later, fields[0]))
    if tag == AUTHORISED_TAG:
        return len(fields) == FIELDS[tag] and _is_later(fields[-1])
    if tag != TXN_TAG:
        return False
    compares, *branches = fields or [()]
    if isinstance(compares, list) and any(map(_is_later_compare, compares)):
        return True
    return any(_is_later(part) for branch in branches if isinstance(branch, list) for part in branch)


def _is_later_compare(compare: object) -> bool:
    if not isinstance(compare, list):
        return False
    if len(compare) > len(TxnCompare.__struct_fields__):
        return True
    return any(
        type(number) is int and max(known) < number <= LARGEST_TAG
        for number, known in zip(compare[1:3], (CompareTarget, Comparison), strict=False)
    )
