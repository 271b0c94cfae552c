"""What the store counts for, what a command can add to it, and a snapshot that does not fit into memory."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline import Config, Raft
from syncline.errors import NodeFailed, Rejected
from syncline.kv.commands import (
    Command,
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
    TxnOperation,
    encode_command,
)
from syncline.kv.growth import LARGEST_GROWTH_FACTOR, LARGEST_OVERHEAD_BYTES, growth
from syncline.kv.leases import ATTACHED_KEY_BYTES, LEASE_OVERHEAD_BYTES
from syncline.kv.machine import KvMachine
from syncline.kv.sizes import RECORD_OVERHEAD_BYTES, record_size
from syncline.node.fsm import Entry

KEYS = st.sampled_from([b"a", b"b", b"c", b"dd", b"eee"])
VALUES = st.integers(0, 300).map(bytes)
PUTS = st.builds(Put, KEYS, VALUES)
LEASED = st.builds(Put, KEYS, VALUES, st.integers(1, 4)) | st.builds(
    Put, KEYS, VALUES, st.integers(1, 9), ttl_ms=st.just(5)
)
OTHERS = st.builds(Increment, KEYS, st.integers(-9, 9)) | st.builds(Touch, KEYS, st.just(5), st.integers(1, 9))
PARTS: st.SearchStrategy[TxnOperation] = st.one_of(PUTS, st.builds(Delete, KEYS), LEASED, OTHERS)


def branch(parts: list[TxnOperation]) -> tuple[TxnOperation, ...]:
    """The parts of a branch, each with a key of its own: a transaction may write a key once."""
    return tuple({part.key: part for part in parts if not isinstance(part, DeleteRange | Get | Range | Txn)}.values())


BRANCHES = st.lists(PARTS, max_size=4).map(branch)
GUARDS = st.just((TxnCompare(b"a", CompareTarget.VERSION, Comparison.GREATER, 0),))
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    PUTS,
    st.builds(Delete, KEYS),
    st.builds(DeleteRange, st.just(b"a"), st.sampled_from([None, b"c"])),
    st.builds(Txn, GUARDS, BRANCHES, BRANCHES),
    LEASED,
    OTHERS,
    st.builds(LeaseGrant, st.integers(1, 4), st.just(5)),
    st.builds(LeaseRevoke, st.integers(1, 9)),
    st.lists(PARTS, max_size=4).map(lambda parts: OperationBatch(tuple(parts))),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(COMMANDS, max_size=6), max_size=6))
def test_store_growth_is_never_less_than_what_commands_add(groups: list[list[Command]]) -> None:
    """The commands of a group are on their way together: each is counted by the state before all of them."""
    machine, index = KvMachine(), 0
    for group in groups:
        most = machine.size_bytes + sum(growth(machine.store, command) for command in group)
        for command in group:
            data = encode_command(command)
            assert growth(machine.store, command) <= len(data) + LARGEST_OVERHEAD_BYTES
            assert growth(machine.store, command) <= len(data) * LARGEST_GROWTH_FACTOR
            index += 1
            machine.apply_batch([Entry(index, 1, data)])
            assert machine.size_bytes <= most
        machine.store.check()
    machine.store.check()


def test_store_growth_of_what_only_deletes_is_zero() -> None:
    machine = machine_with(3)
    deletes: list[Command] = [
        Delete(b"key 1"),
        DeleteRange(b"", None),
        Txn((), (Delete(b"key 1"), DeleteRange(b"x", None)), ()),
        Put(b"key 1", bytes(99)),
        Increment(b"key 1"),
        LeaseRevoke(1),
        LeaseEnd((1,), 1),
        LeaseCheckpoint(((1, 1),), 1),
        Compact(1),
        OperationBatch((Delete(b"key 1"), Put(b"key 1", bytes(99)))),
    ]
    assert {machine.growth(encode_command(command)) for command in deletes} == {0}
    assert machine.growth(encode_command(Put(b"key 1", bytes(130)))) == 30
    assert machine.growth(encode_command(Put(b"new", bytes(130)))) == 133 + RECORD_OVERHEAD_BYTES
    with pytest.raises(Rejected):
        machine.growth(b"rubbish")


def test_store_growth_counts_leases_and_each_part_of_a_batch() -> None:
    machine = machine_with(3)
    own = LEASE_OVERHEAD_BYTES + ATTACHED_KEY_BYTES
    machine.apply(Entry(4, 1, encode_command(Put(b"key 2", b"", 9, ttl_ms=5))))
    expected: dict[Command, int] = {
        LeaseGrant(1, 5): LEASE_OVERHEAD_BYTES,
        Touch(b"key 1", 5, 1): own,
        Touch(b"new", 5, 1): own,  # a put of it may be on its way
        Touch(b"key 2", 5, 1): 0,
        Put(b"key 1", b"", 1, ttl_ms=5): own,
        Put(b"key 2", b"", 1, ttl_ms=5): 0,
        Put(b"key 1", b"", 1): ATTACHED_KEY_BYTES,
        Increment(b"new"): record_size(b"new", bytes(20)),
        Increment(b"key 2"): 20,
        OperationBatch((Put(b"new", b""), Put(b"new", b""), Get(b"new"))): 2 * record_size(b"new", b""),
    }
    assert {command: machine.growth(encode_command(command)) for command in expected} == expected


def machine_with(count: int, **limits: int) -> KvMachine:
    machine = KvMachine(**limits)
    for number in range(count):
        machine.apply(Entry(number + 1, 1, encode_command(Put(b"key %d" % number, bytes(100)))))
    return machine


class Sink(io.BytesIO):
    """Takes a snapshot."""


def snapshot_of(machine: KvMachine) -> bytes:
    sink, view = Sink(), machine.snapshot()
    view.persist(sink)
    view.release()
    return sink.getvalue()


def test_store_restored_from_a_snapshot_has_the_same_size() -> None:
    machine, other = machine_with(5), KvMachine()
    other.restore(io.BytesIO(snapshot_of(machine)))
    assert other.size_bytes == machine.size_bytes == 5 * (105 + RECORD_OVERHEAD_BYTES)


def test_store_above_its_limit_is_loaded_if_memory_holds_it() -> None:
    """It must start, so that something can be deleted."""
    content = snapshot_of(machine_with(5))
    other = KvMachine(max_bytes=500, memory_bytes=10_000)
    other.restore(io.BytesIO(content))
    assert other.size_bytes > other.max_bytes
    by_order = KvMachine(max_bytes=10_000, memory_bytes=500)
    by_order.restore(io.BytesIO(content))
    assert len(by_order.store) == 5


def test_store_at_its_limit_is_loaded_with_its_history() -> None:
    """The limit does not count the history: a node must be able to load what it has accepted."""
    machine = machine_with(5)
    limit = machine.size_bytes
    for number in range(6, 66):
        machine.apply(Entry(number, 1, encode_command(Put(b"key 1", bytes(100)))))
    assert machine.size_bytes == limit
    history_bytes = machine.store.history_bytes
    other = KvMachine(max_bytes=limit, memory_bytes=limit, history_bytes=history_bytes)
    other.restore(io.BytesIO(snapshot_of(machine)))
    assert other.digest() == machine.digest()
    with pytest.raises(NodeFailed):
        KvMachine(max_bytes=limit, memory_bytes=limit).restore(io.BytesIO(snapshot_of(machine)))


async def test_node_start_says_that_a_snapshot_does_not_fit(tmp_path: Path) -> None:
    """Else the kernel ends the process, and again at each start."""
    config = Config(name="a", data_dir=str(tmp_path / "a"), listen="127.0.0.1:0", peers={"a": "127.0.0.1:7100"})
    async with await Raft.open(config, KvMachine()) as raft:
        for number in range(5):
            await raft.apply(encode_command(Put(b"key %d" % number, bytes(100))))
        await raft.snapshot()
    small = KvMachine(max_bytes=500, memory_bytes=1000)
    with pytest.raises(NodeFailed, match=r"does not fit into memory.*1000 bytes.*--max-store-bytes"):
        await Raft.open(config, small)
    assert len(small.store) == 0
    async with await Raft.open(config, KvMachine(max_bytes=500, memory_bytes=100_000)) as raft:
        await raft.apply(encode_command(DeleteRange(b"", None)))
