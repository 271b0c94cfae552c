"""Commands of the key-value state machine, and their form as log entries.

A command is a tagged array of MessagePack; its bytes are the data of one log entry. Tags are part of the log format:
never reused, never renumbered. The limits (`kv.limits`) are part of the state machine too.

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
from syncline.kv.auth.commands import AUTH_COMMANDS, TOKEN_ID_BYTES, AuthCommand, check_auth_command
from syncline.kv.auth.limits import MAX_NAME_BYTES
from syncline.kv.limits import (
    MAX_BATCH_OPS,
    MAX_BATCH_PARTS,
    MAX_COMMAND_BYTES,
    MAX_DELETED_KEYS,
    MAX_KEY_BYTES,
    MAX_LEASE_ID,
    MAX_LEASES_AT_ONCE,
    MAX_RANGE_BYTES,
    MAX_RANGE_ITEMS,
    MAX_TTL_MS,
    MAX_TXN_DEPTH,
    MAX_TXN_OPS,
    MAX_TXN_READ_BYTES,
    MAX_VALUE_BYTES,
    check_counts,
    check_depth,
)

__all__ = [
    "ABSENT",
    "EXISTS",
    "LARGEST_NUMBER",
    "LEAST_NUMBER",
    "MAX_COMMAND_BYTES",
    "MAX_DELETED_KEYS",
    "MAX_KEY_BYTES",
    "MAX_RANGE_BYTES",
    "MAX_RANGE_ITEMS",
    "MAX_TXN_DEPTH",
    "MAX_TXN_OPS",
    "MAX_TXN_READ_BYTES",
    "MAX_VALUE_BYTES",
    "Authorised",
    "BatchOperation",
    "Command",
    "Compact",
    "CompareTarget",
    "Comparison",
    "Delete",
    "DeleteRange",
    "Get",
    "Increment",
    "LeaseCheckpoint",
    "LeaseEnd",
    "LeaseGrant",
    "LeaseRevoke",
    "OperationBatch",
    "Put",
    "Range",
    "Touch",
    "Txn",
    "TxnCompare",
    "TxnOperation",
    "authorised",
    "check_batch",
    "check_key",
    "check_txn",
    "check_value",
    "decode_command",
    "encode_command",
    "encode_put",
    "encode_user_put",
    "frees_space",
]

ABSENT: Final = 0
"""An `expect` that holds when the key does not exist (its revision is 0)."""

EXISTS: Final = -1
"""An `expect` that holds when the key exists, whatever its revision."""

LEAST_NUMBER: Final = -(2**63)
"""Least number that `Increment` can read and write."""

LARGEST_NUMBER: Final = 2**63 - 1
"""Largest number that `Increment` can read and write."""

_Key: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=MAX_KEY_BYTES)]
_Value: TypeAlias = Annotated[bytes, Meta(max_length=MAX_VALUE_BYTES)]
# A range may start just after the longest key: that key and a zero byte.
_Bound: TypeAlias = Annotated[bytes, Meta(max_length=MAX_KEY_BYTES + 1)]
_Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Expect: TypeAlias = Annotated[int, Meta(ge=EXISTS, le=2**63 - 1)]
_Lease: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_LEASE_ID)]
_LeaseOrNone: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_LEASE_ID)]
_Ttl: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_TTL_MS)]
_TtlOrNone: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_TTL_MS)]
_Number: TypeAlias = Annotated[int, Meta(ge=LEAST_NUMBER, le=LARGEST_NUMBER)]


class CompareTarget(IntEnum):
    """The number or value that a compare reads. For an absent key every number is 0, and a compare of its value never
    holds."""

    MOD_REVISION = 0
    CREATE_REVISION = 1
    VERSION = 2
    VALUE = 3
    LEASE = 4


class Comparison(IntEnum):
    """How the record's side relates to the operand."""

    EQUAL = 0
    NOT_EQUAL = 1
    GREATER = 2
    LESS = 3


class TxnCompare(msgspec.Struct, array_like=True, gc=False, frozen=True, forbid_unknown_fields=True):
    """One condition of a transaction. `operand` is bytes for `CompareTarget.VALUE`, else a number.

    `end` None: it reads `key`. Otherwise it reads every key of `[key, end)`, or from `key` to the last if `end` is
    True. It holds if it holds for each of them. If there is none, it holds as for an absent key (etcd's rules).
    """

    key: _Key
    target: CompareTarget
    comparison: Comparison
    operand: int | bytes
    end: _Bound | bool | None = None


class Put(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=0, forbid_unknown_fields=True):
    """Set a key. `lease` 0: none. `expect`: the mod_revision the key must have, or `ABSENT`, or `EXISTS`.

    `ttl_ms` above 0: grant a new lease with the id `lease`, of this key alone. It is gone as soon as the key is deleted
    or gets another lease. The proposer draws the id at random.
    `previous`: the answer holds the record that was replaced.
    """

    key: _Key
    value: _Value
    lease: _LeaseOrNone = 0
    expect: _Expect | None = None
    ttl_ms: _TtlOrNone = 0
    previous: bool = False


class Delete(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=1, forbid_unknown_fields=True):
    """Remove a key. Removing an absent key changes nothing and takes no revision. `expect`, `previous` as in `Put`."""

    key: _Key
    expect: _Expect | None = None
    previous: bool = False


class DeleteRange(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=2, forbid_unknown_fields=True):
    """Remove every key in `[start, end)`; `end` None: to the last key.

    `limit` 0: all of them, refused if they are more than `MAX_DELETED_KEYS`. Otherwise the first `limit` ones, and
    the answer's `more` says whether others are left. `previous`: the answer holds the removed records.
    """

    start: _Bound
    end: _Bound | None
    limit: _Count = 0
    previous: bool = False


class Get(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=3, forbid_unknown_fields=True):
    """Read a key inside a transaction or batch. `revision` 0: as it is then; otherwise as it was at that revision."""

    key: _Key
    revision: _Count = 0


class Range(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=4, forbid_unknown_fields=True):
    """Read the keys in `[start, end)` inside a transaction or batch; `end` None: to the last key. `revision` as in
    `Get`."""

    start: _Bound
    end: _Bound | None
    limit: _Count = 0
    reverse: bool = False
    keys_only: bool = False
    count_only: bool = False
    revision: _Count = 0


class Txn(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=5, forbid_unknown_fields=True):
    """If all `compares` hold run `then`, else `else_`: all of it in one revision, or nothing.

    Compares, nested ones included, look at the state before the transaction; reads see the writes before them.
    A transaction that could write one key twice is refused: a revision holds at most one change of a key.
    """

    compares: tuple[TxnCompare, ...] = ()
    then: tuple[TxnOperation, ...] = ()
    else_: tuple[TxnOperation, ...] = ()


class LeaseGrant(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=6, forbid_unknown_fields=True):
    """Grant a lease. The caller chooses the id, or the proposer draws it at random."""

    lease: _Lease
    ttl_ms: _Ttl


class LeaseRevoke(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=7, forbid_unknown_fields=True):
    """End a lease on request, and delete its keys in one revision."""

    lease: _Lease


class LeaseEnd(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=8, forbid_unknown_fields=True):
    """End leases whose time is over, and delete their keys in one revision a lease.

    Only the leader of `term` may decide that: in an entry of another term the command is refused. A lease that is gone
    is passed over.

    `renewed`: `LeaseRecord.renewed` of each lease when the leader decided. A lease that got its full time once more
    since then, by a touch or as another one with this id, is passed over. Empty: they are ended in any case.
    """

    leases: Annotated[tuple[_Lease, ...], Meta(max_length=MAX_LEASES_AT_ONCE)]
    term: _Count
    renewed: Annotated[tuple[_Count, ...], Meta(max_length=MAX_LEASES_AT_ONCE)] = ()


class LeaseCheckpoint(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=9, forbid_unknown_fields=True):
    """Record how many milliseconds leases have left: the next leader counts from there. `term` as in `LeaseEnd`.

    Each of `rests` is a lease and its rest. A rest above the TTL counts as the TTL. A lease that is gone is passed
    over. `renewed` as in `LeaseEnd`.
    """

    rests: Annotated[tuple[tuple[_Lease, _Ttl], ...], Meta(max_length=MAX_LEASES_AT_ONCE)]
    term: _Count
    renewed: Annotated[tuple[_Count, ...], Meta(max_length=MAX_LEASES_AT_ONCE)] = ()


class Increment(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=10, forbid_unknown_fields=True):
    """Add `by` to the decimal number that is the key's value; an absent key counts as `initial`. The key keeps its
    lease."""

    key: _Key
    by: _Number = 1
    initial: _Number = 0
    previous: bool = False


class Touch(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=11, forbid_unknown_fields=True):
    """Give a key a TTL without sending its value.

    If the key has a lease of its own, that lease gets this TTL and starts again, and there is no new revision.
    Otherwise the key gets a new lease of its own with the id `lease`, in a new revision. `lease` as in `Put`.
    """

    key: _Key
    ttl_ms: _Ttl
    lease: _Lease


class Compact(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=12, forbid_unknown_fields=True):
    """Make `revision` the oldest one that can be read. `term` above 0: as in `LeaseEnd`."""

    revision: _Count
    term: _Count = 0


class OperationBatch(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=13, forbid_unknown_fields=True):
    """Carry out independent operations in order: each has its own revision, and its own answer or refusal."""

    ops: Annotated[tuple[BatchOperation, ...], Meta(max_length=MAX_BATCH_OPS)]


TxnOperation: TypeAlias = Put | Delete | DeleteRange | Get | Range | Txn | Increment | Touch
"""The parts of a transaction."""

BatchOperation: TypeAlias = Put | Delete | DeleteRange | Get | Range | Txn | Increment | Touch
"""The parts of a batch."""

PlainCommand: TypeAlias = (
    Put
    | Delete
    | DeleteRange
    | Txn
    | LeaseGrant
    | LeaseRevoke
    | LeaseEnd
    | LeaseCheckpoint
    | Increment
    | Touch
    | Compact
    | OperationBatch
    | AuthCommand
)
"""The commands of clients, and those of the leader."""


class Authorised(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=25, forbid_unknown_fields=True):
    """A command of a user, as a node has allowed it at the auth revision `revision`. It is checked again when it is
    applied, if something it depends on may have changed since.

    `token`: the id of the token by which the user was known; empty: its password. An empty `user` is a program within
    a member, such as `Store`: it is trusted as the member is.
    """

    user: Annotated[str, Meta(max_length=MAX_NAME_BYTES)]
    token: Annotated[bytes, Meta(max_length=TOKEN_ID_BYTES)]
    revision: _Count
    command: PlainCommand


Command: TypeAlias = PlainCommand | Authorised
"""The commands in the log."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)


def encode_command(command: Command, *, checked: bool = False) -> bytes:
    """Encode a command as the data of a log entry. `checked`: it is known to be valid, but for its length.

    Raises `TooLarge` above a limit and `Rejected` (code `bad_command`) for an invalid command: every node would
    refuse it, so it need not reach the log.
    """
    if type(command) is Put and _is_plain(command):
        return _encoder.encode((0, command.key, command.value))  # the other fields have their defaults
    try:
        data = _encoder.encode(command)
    except (OverflowError, RecursionError, TypeError) as error:  # a number of more than 64 bits, or another type
        raise _bad(str(error)) from error
    if len(data) > MAX_COMMAND_BYTES:
        raise TooLarge(f"the command has {len(data)} bytes; the limit is {MAX_COMMAND_BYTES}")
    if checked:
        return data
    try:
        _check_parts(_decoder.decode(data))
    except UNDECODABLE as error:
        _check_sizes(command)
        raise _bad(str(error)) from error
    return data


def encode_put(key: bytes, value: bytes) -> bytes:
    """`encode_command` of a `Put` with nothing but a key and a value, which most commands are."""
    if 0 < len(key) <= MAX_KEY_BYTES and len(value) <= MAX_VALUE_BYTES:
        return _encoder.encode((0, key, value))
    return encode_command(Put(key, value))


def encode_user_put(key: bytes, value: bytes, user: str, token: bytes, revision: int) -> bytes:
    """`authorised` of an encoded `Put` with nothing but a key and a value, in one step. Raises `TooLarge`."""
    if 0 < len(key) <= MAX_KEY_BYTES and len(value) <= MAX_VALUE_BYTES:
        data = _encoder.encode((25, user, token, revision, (0, key, value)))
        if len(data) <= MAX_COMMAND_BYTES:
            return data
    return authorised(encode_command(Put(key, value)), user, token, revision)


def authorised(command: bytes, user: str, token: bytes, revision: int) -> bytes:
    """An encoded command as one of a user (`Authorised`). Raises `TooLarge`."""
    data = _encoder.encode((25, user, token, revision, msgspec.Raw(command)))
    if len(data) > MAX_COMMAND_BYTES:
        raise TooLarge(f"the command has {len(data)} bytes; the limit is {MAX_COMMAND_BYTES}")
    return data


def decode_command(data: bytes) -> Command:
    """Read a log entry back. Raises `Rejected` (code `bad_command`), the same on every node, for anything else."""
    if len(data) > MAX_COMMAND_BYTES:
        raise _bad(f"{len(data)} bytes; the limit is {MAX_COMMAND_BYTES}")
    try:
        command = _decoder.decode(data)
        if type(command) is Put and not command.ttl_ms:
            return command
        inner = command.command if type(command) is Authorised else command
        if type(inner) is not Put or inner.ttl_ms:
            _check_parts(inner)
    except (*UNDECODABLE, TooLarge) as error:
        raise _bad(str(error)) from error
    return command


def frees_space(command: Command) -> bool:
    """Whether the command only makes the store smaller: it deletes, ends leases or compacts, and puts nothing."""
    match command:
        case Txn(_, then, else_):
            return _only_deletes(then + else_)
        case OperationBatch(ops):
            return _only_deletes(ops)
        case Authorised(command=inner):
            return frees_space(inner)
        case _:
            return isinstance(command, Delete | DeleteRange | LeaseRevoke | LeaseEnd | Compact)


def _only_deletes(parts: tuple[TxnOperation, ...]) -> bool:
    writes = _writes_of(parts)
    return bool(writes) and all(isinstance(part, Delete | DeleteRange) for part in writes)


def _writes_of(parts: tuple[TxnOperation, ...]) -> list[TxnOperation]:
    writes: list[TxnOperation] = []
    for part in parts:
        if isinstance(part, Txn):
            writes += _writes_of(part.then + part.else_)
        elif not isinstance(part, Get | Range):
            writes.append(part)
    return writes


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
    _checked_txn(txn)


def check_batch(batch: OperationBatch) -> None:
    """Raise for a batch above its limits, or one with an operation that no node would carry out."""
    compares, operations = 0, len(batch.ops)
    if operations > MAX_BATCH_OPS:
        raise TooLarge(f"the batch has {operations} operations; the limit is {MAX_BATCH_OPS}")
    for part in batch.ops:
        if type(part) is Put:
            if part.ttl_ms:
                _check_put(part)
        elif type(part) is Txn:
            txn_compares, txn_operations = _checked_txn(part)
            compares += txn_compares
            operations += txn_operations
    check_counts("batch", compares, operations, MAX_BATCH_PARTS)


def _bad(message: str) -> Rejected:
    return Rejected(f"bad command: {message}", code="bad_command")


def _is_plain(put: Put) -> bool:
    """Whether the command is valid and of the most frequent form: most commands need no other check."""
    sound = 0 < len(put.key) <= MAX_KEY_BYTES and len(put.value) <= MAX_VALUE_BYTES
    return sound and put.lease == 0 and put.expect is None and put.ttl_ms == 0 and not put.previous


def _check_parts(command: Command) -> None:
    """Check what the decoder can't see; all else is said by the types."""
    if type(command) is Put:
        _check_put(command)
    elif type(command) is Txn:
        check_txn(command)
    elif type(command) is OperationBatch:
        check_batch(command)
    elif type(command) is LeaseEnd:
        _check_renewed(command.renewed, len(command.leases))
    elif type(command) is LeaseCheckpoint:
        _check_renewed(command.renewed, len(command.rests))
    elif isinstance(command, Authorised):
        _check_parts(command.command)
    elif isinstance(command, AUTH_COMMANDS):
        check_auth_command(command)


def _check_renewed(renewed: tuple[int, ...], leases: int) -> None:
    if renewed and len(renewed) != leases:
        raise _bad(f"{len(renewed)} renewals of {leases} leases")


def _check_put(put: Put) -> None:
    if put.ttl_ms and not put.lease:
        raise _bad("a put with a TTL and no id for its lease")


def _check_sizes(part: Command | TxnOperation) -> None:
    """Raise `TooLarge` for a key, value or bound that is too large."""
    match part:
        case Put(key, value):
            check_key(key)
            check_value(value)
        case Delete(key) | Get(key) | Increment(key) | Touch(key):
            check_key(key)
        case DeleteRange(start, end) | Range(start, end):
            for bound in (start, end or b""):
                if len(bound) > MAX_KEY_BYTES + 1:
                    raise TooLarge(f"the bound of a range has {len(bound)} bytes; the limit is {MAX_KEY_BYTES + 1}")
        case Txn(compares, then, else_):
            for compare in compares:
                check_key(compare.key)
            for operation in then + else_:
                _check_sizes(operation)
        case OperationBatch(ops):
            for operation in ops:
                _check_sizes(operation)
        case _:
            pass


def _checked_txn(txn: Txn) -> tuple[int, int]:
    """Check each part, and that no key could be written twice; return the compares and operations of the whole tree."""
    compares, operations = _measure(txn, 1)
    check_counts("transaction", compares, operations, MAX_TXN_OPS)
    _written(txn)  # after the counts: its time grows with their product
    return compares, operations


def _measure(txn: Txn, depth: int) -> tuple[int, int]:
    """Count the compares and operations of the whole tree, and check each part."""
    check_depth(depth)
    compares = len(txn.compares)
    for compare in txn.compares:
        if (compare.target is CompareTarget.VALUE) != isinstance(compare.operand, bytes):
            raise _bad(f"a compare of {compare.target.name.lower()} with {type(compare.operand).__name__}")
        if compare.end is False:
            raise _bad("a compare with the end False; expected True, bytes or None")
    operations = len(txn.then) + len(txn.else_)
    for part in txn.then + txn.else_:
        if isinstance(part, Txn):
            nested_compares, nested_operations = _measure(part, depth + 1)
            compares += nested_compares
            operations += nested_operations
        elif isinstance(part, Put | Delete):
            if part.expect is not None:
                raise _bad("an expectation inside a transaction; say it as a compare")
            if isinstance(part, Put):
                _check_put(part)
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
        if twice := keys & part_keys | _within(keys, part_ranges) | _within(part_keys, ranges):
            raise _bad(f"a transaction that could write one key twice: {min(twice)[:64]!r}")
        keys |= part_keys
        ranges += part_ranges
    return keys, ranges


def _part_written(part: TxnOperation) -> _Written:
    match part:
        case Put(key) | Delete(key) | Increment(key) | Touch(key):
            return {key}, []
        case DeleteRange(start, end):
            return set(), [(start, end)]
        case Txn():
            return _written(part)
        case _:
            return set(), []


def _within(keys: set[bytes], ranges: list[tuple[bytes, bytes | None]]) -> set[bytes]:
    return {key for start, end in ranges for key in keys if start <= key and (end is None or key < end)}
