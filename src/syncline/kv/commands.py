"""Commands of the key-value state machine: their limits, and their form as log entries.

A command is a tagged array of MessagePack; its bytes are the data of one log entry. Tags are part of the log format:
never reused, never renumbered. The limits are part of the state machine too: every node must refuse the same
commands, so they are constants and not settings (a server may ask for less, never for more).

A command that can't be read, or is above a limit, is refused by every node in the same way:
`Rejected(code="bad_command")`, state unchanged. One of a later version stops the node instead (`kv.versions`):
newer nodes have applied it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from syncline.decoding import UNDECODABLE
from syncline.errors import Rejected, TooLarge

__all__ = [
    "ABSENT",
    "EXISTS",
    "MAX_COMMAND_BYTES",
    "MAX_DELETED_KEYS",
    "MAX_KEY_BYTES",
    "MAX_RANGE_BYTES",
    "MAX_RANGE_ITEMS",
    "MAX_TXN_DEPTH",
    "MAX_TXN_OPS",
    "MAX_TXN_READ_BYTES",
    "MAX_VALUE_BYTES",
    "Command",
    "TxnCompare",
    "Comparison",
    "Delete",
    "DeleteRange",
    "Get",
    "TxnOperation",
    "Put",
    "Range",
    "CompareTarget",
    "Txn",
    "check_key",
    "check_value",
    "decode_command",
    "encode_command",
    "frees_space",
]

MAX_KEY_BYTES: Final = 4096
"""Longest key. Even percent-encoded in full it fits into the request line that HTTP servers commonly accept."""

MAX_VALUE_BYTES: Final = 16 * 1024 * 1024
"""Largest value. A command travels in one message and is held in memory by every node several times over."""

MAX_COMMAND_BYTES: Final = 20 * 1024 * 1024
"""Largest encoded command: the largest value and key, and room for a transaction around them."""

MAX_TXN_OPS: Final = 128
"""Operations, and likewise compares, of one transaction with all that is nested in it (etcd's and Consul's figure)."""

MAX_TXN_DEPTH: Final = 4
"""Transactions inside one another, the outermost counted."""

MAX_RANGE_ITEMS: Final = 10_000
"""Records in one page of a range, so that no read holds up the node."""

MAX_RANGE_BYTES: Final = 16 * 1024 * 1024
"""Keys and values in one page of a range; a single larger record is still returned, alone."""

MAX_TXN_READ_BYTES: Final = 16 * 1024 * 1024
"""Keys and values that the reads of one transaction may come to: they are held and sent as one answer."""

MAX_DELETED_KEYS: Final = 10_000
"""Keys that one command deletes: about 20 ms of apply, far below a heartbeat interval."""

LARGEST_TAG: Final = 127
"""No version gives a command a tag above it: such bytes are garbage, and not of a later version."""

ABSENT: Final = 0
"""An `expect` that holds when the key does not exist (its revision is 0)."""

EXISTS: Final = -1
"""An `expect` that holds when the key exists, whatever its revision."""

_Key: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=MAX_KEY_BYTES)]
_Value: TypeAlias = Annotated[bytes, Meta(max_length=MAX_VALUE_BYTES)]
# A range may start just after the longest key: that key and a zero byte.
_Bound: TypeAlias = Annotated[bytes, Meta(max_length=MAX_KEY_BYTES + 1)]
_Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Expect: TypeAlias = Annotated[int, Meta(ge=EXISTS, le=2**63 - 1)]


class CompareTarget(IntEnum):
    """The number or value that a compare reads. For an absent key every number is 0, and a compare of its value never
    holds."""

    MOD_REVISION = 0
    CREATE_REVISION = 1
    VERSION = 2
    VALUE = 3


class Comparison(IntEnum):
    """How the record's side relates to the operand."""

    EQUAL = 0
    NOT_EQUAL = 1
    GREATER = 2
    LESS = 3


class TxnCompare(msgspec.Struct, array_like=True, gc=False, frozen=True, forbid_unknown_fields=True):
    """One condition of a transaction. `operand` is bytes for `CompareTarget.VALUE`, else a number."""

    key: _Key
    target: CompareTarget
    comparison: Comparison
    operand: int | bytes


class Put(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=0, forbid_unknown_fields=True):
    """Set a key. `lease` 0: none. `expect`: the mod_revision the key must have, or `ABSENT`, or `EXISTS`."""

    key: _Key
    value: _Value
    lease: _Count = 0
    expect: _Expect | None = None


class Delete(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=1, forbid_unknown_fields=True):
    """Remove a key. Removing an absent key changes nothing and takes no revision. `expect` as in `Put`."""

    key: _Key
    expect: _Expect | None = None


class DeleteRange(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=2, forbid_unknown_fields=True):
    """Remove every key in `[start, end)`; `end` None: to the last key.

    `limit` 0: all of them, refused if they are more than `MAX_DELETED_KEYS`. Otherwise the first `limit` ones, and
    the answer's `more` says whether others are left.
    """

    start: _Bound
    end: _Bound | None
    limit: _Count = 0


class Get(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=3, forbid_unknown_fields=True):
    """Read a key inside a transaction."""

    key: _Key


class Range(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=4, forbid_unknown_fields=True):
    """Read the keys in `[start, end)` inside a transaction; `end` None: to the last key."""

    start: _Bound
    end: _Bound | None
    limit: _Count = 0
    reverse: bool = False
    keys_only: bool = False
    count_only: bool = False


class Txn(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=5, forbid_unknown_fields=True):
    """If all `compares` hold run `then`, else `else_`: all of it in one revision, or nothing.

    Compares, nested ones included, look at the state before the transaction; reads see the writes before them.
    A transaction that could write one key twice is refused: a revision holds at most one change of a key.
    """

    compares: tuple[TxnCompare, ...] = ()
    then: tuple[TxnOperation, ...] = ()
    else_: tuple[TxnOperation, ...] = ()


TxnOperation: TypeAlias = Put | Delete | DeleteRange | Get | Range | Txn
"""The parts of a transaction."""

Command: TypeAlias = Put | Delete | DeleteRange | Txn
"""The commands in the log."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)


def encode_command(command: Command) -> bytes:
    """Encode a command as the data of a log entry.

    Raises `TooLarge` above a limit and `Rejected` (code `bad_command`) for an invalid command: every node would
    refuse it, so it need not reach the log.
    """
    if type(command) is not Put or not _is_plain(command):
        _check(command)
    data = _encoder.encode(command)
    if len(data) > MAX_COMMAND_BYTES:
        raise TooLarge(f"the command has {len(data)} bytes; the limit is {MAX_COMMAND_BYTES}")
    return data


def frees_space(command: Command) -> bool:
    """Whether the command only makes the store smaller: it deletes, and puts nothing."""
    if type(command) is not Txn:
        return type(command) is not Put
    writes = _writes_of(command)
    return bool(writes) and not any(type(part) is Put for part in writes)


def _writes_of(txn: Txn) -> list[TxnOperation]:
    writes: list[TxnOperation] = []
    for part in txn.then + txn.else_:
        if isinstance(part, Txn):
            writes += _writes_of(part)
        elif not isinstance(part, Get | Range):
            writes.append(part)
    return writes


def decode_command(data: bytes) -> Command:
    """Read a log entry back. Raises `Rejected` (code `bad_command`), the same on every node, for anything else."""
    if len(data) > MAX_COMMAND_BYTES:
        raise _bad(f"{len(data)} bytes; the limit is {MAX_COMMAND_BYTES}")
    try:
        command = _decoder.decode(data)
    except UNDECODABLE as error:
        raise _bad(str(error)) from error
    if type(command) is Txn:  # what the decoder can't see; the other commands are fully checked by their types
        try:
            check_txn(command)
        except TooLarge as error:
            raise _bad(str(error)) from error
    return command


_KINDS: Final[dict[int, type[TxnOperation]]] = {0: Put, 1: Delete, 2: DeleteRange, 3: Get, 4: Range, 5: Txn}
"""Commands by tag."""


def check_key(key: bytes) -> None:
    """Raise for a key that can't be stored: `TooLarge`, or `Rejected` for the empty one."""
    if len(key) > MAX_KEY_BYTES:
        raise TooLarge(f"the key has {len(key)} bytes; the limit is {MAX_KEY_BYTES}")
    if not key:
        raise _bad("the key is empty")


def check_value(value: bytes) -> None:
    """Raise `TooLarge` for a value that can't be stored."""
    if len(value) > MAX_VALUE_BYTES:
        raise TooLarge(f"the value has {len(value)} bytes; the limit is {MAX_VALUE_BYTES}")


def check_txn(txn: Txn) -> None:
    """Raise for a transaction above its limits, or one that could write a key twice."""
    compares, operations = _measure(txn, 1)
    if compares > MAX_TXN_OPS:
        raise TooLarge(f"the transaction has {compares} compares; the limit is {MAX_TXN_OPS}")
    if operations > MAX_TXN_OPS:
        raise TooLarge(f"the transaction has {operations} operations; the limit is {MAX_TXN_OPS}")
    _written(txn)


def _bad(message: str) -> Rejected:
    return Rejected(f"bad command: {message}", code="bad_command")


def _is_plain(put: Put) -> bool:
    """Whether the command is valid and of the most frequent form: most commands need no other check."""
    sound = 0 < len(put.key) <= MAX_KEY_BYTES and len(put.value) <= MAX_VALUE_BYTES
    return sound and put.lease == 0 and put.expect is None


def _check(operation: TxnOperation) -> None:
    match operation:
        case Put(key, value, lease, expect):
            check_key(key)
            check_value(value)
            _check_number(lease, 0, "lease")
            _check_number(expect or 0, EXISTS, "expect")
        case Delete(key, expect):
            check_key(key)
            _check_number(expect or 0, EXISTS, "expect")
        case Get(key):
            check_key(key)
        case DeleteRange(start, end, limit) | Range(start, end, limit):
            for bound in (start, end or b""):
                if len(bound) > MAX_KEY_BYTES + 1:
                    raise TooLarge(f"the bound of a range has {len(bound)} bytes; the limit is {MAX_KEY_BYTES + 1}")
            _check_number(limit, 0, "limit")
        case Txn(compares, then, else_):
            check_txn(operation)
            for compare in compares:
                check_key(compare.key)
            for part in then + else_:
                _check(part)


def _check_number(number: int, least: int, name: str) -> None:
    if not least <= number < 2**63:
        raise _bad(f"{name} is {number}; expected {least} .. 2**63 - 1")


def _measure(txn: Txn, depth: int) -> tuple[int, int]:
    """Count the compares and operations of the whole tree, and check each part."""
    if depth > MAX_TXN_DEPTH:
        raise TooLarge(f"transactions are nested deeper than {MAX_TXN_DEPTH}")
    compares = len(txn.compares)
    for compare in txn.compares:
        if (compare.target is CompareTarget.VALUE) != isinstance(compare.operand, bytes):
            raise _bad(f"a compare of {compare.target.name.lower()} with {type(compare.operand).__name__}")
    operations = len(txn.then) + len(txn.else_)
    for part in txn.then + txn.else_:
        if isinstance(part, Txn):
            nested_compares, nested_operations = _measure(part, depth + 1)
            compares += nested_compares
            operations += nested_operations
        elif isinstance(part, Put | Delete) and part.expect is not None:
            raise _bad("an expectation inside a transaction; say it as a compare")
    return compares, operations


_Written: TypeAlias = tuple[set[bytes], list[tuple[bytes, bytes | None]]]


def _written(txn: Txn) -> _Written:
    """The keys and ranges that either branch may write; raises if one branch may write a key twice."""
    keys, ranges = _branch_written(txn.then)
    else_keys, else_ranges = _branch_written(txn.else_)
    return keys | else_keys, ranges + else_ranges


def _branch_written(branch: tuple[TxnOperation, ...]) -> _Written:
    keys: set[bytes] = set()
    ranges: list[tuple[bytes, bytes | None]] = []
    for part in branch:
        part_keys, part_ranges = _part_written(part)
        # Ranges may overlap: what the first deleted the second does not find.
        if keys & part_keys or _any_within(keys, part_ranges) or _any_within(part_keys, ranges):
            raise _bad("a transaction that could write one key twice")
        keys |= part_keys
        ranges += part_ranges
    return keys, ranges


def _part_written(part: TxnOperation) -> _Written:
    match part:
        case Put(key) | Delete(key):
            return {key}, []
        case DeleteRange(start, end):
            return set(), [(start, end)]
        case Txn():
            return _written(part)
        case _:
            return set(), []


def _any_within(keys: set[bytes], ranges: list[tuple[bytes, bytes | None]]) -> bool:
    return any(start <= key and (end is None or key < end) for start, end in ranges for key in keys)
