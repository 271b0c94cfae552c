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
from syncline.kv.commands import CompareTarget, Comparison, Delete, DeleteRange, Get, Put, Range, Txn, TxnCompare

__all__ = ["MACHINE_VERSION", "SINCE", "check_version", "is_later"]

MACHINE_VERSION: Final = 1
"""The version of the key-value machine. It rises with each command, or field of a command, that older ones don't know.

1: put, delete, delete range, transactions.
"""

KNOWN: Final = (Put, Delete, DeleteRange, Get, Range, Txn)

FIELDS: Final = {kind.__struct_config__.tag: len(kind.__struct_fields__) for kind in KNOWN}
"""By tag, how many fields follow it at most."""

SINCE: Final[Mapping[int, int]] = {0: 1, 1: 1, 2: 1, 5: 1}
"""By tag of a command, the machine version since which it may stand in the log."""

TXN_TAG: Final = 5

LARGEST_TAG: Final = 127
"""Tags of commands are one byte. Above it is garbage, and no later version's."""


def check_version(command: bytes, machine_version: int, since: Mapping[int, int] = SINCE) -> None:
    """Raise `Rejected` (code `needs_upgrade`) for a command that members of the cluster may not know yet.

    `command` is an encoded one. `machine_version` is the cluster's.
    """
    needed = since.get(command[1], machine_version + 1)
    if needed > machine_version:
        raise Rejected(
            f"this command needs machine version {needed}, and the cluster is at version {machine_version}: upgrade all"
            " members, then finalize the upgrade if it is held (`syncline upgrade status`)",
            code="needs_upgrade",
            details={"needed": needed, "machine_version": machine_version},
        )


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
