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
    CompareTarget,
    Comparison,
    Delete,
    DeleteRange,
    Put,
    Txn,
    TxnCompare,
    TxnOperation,
    encode_command,
)
from syncline.kv.machine import KvMachine
from syncline.kv.sizes import LARGEST_OVERHEAD_BYTES, RECORD_OVERHEAD_BYTES, growth
from syncline.node.fsm import Entry

KEYS = st.sampled_from([b"a", b"b", b"c", b"dd", b"eee"])
VALUES = st.integers(0, 300).map(bytes)
PUTS = st.builds(Put, KEYS, VALUES)
PARTS: st.SearchStrategy[TxnOperation] = st.one_of(PUTS, st.builds(Delete, KEYS))


def branch(parts: list[TxnOperation]) -> tuple[TxnOperation, ...]:
    """The parts of a branch, each with a key of its own: a transaction may write a key once."""
    return tuple({part.key: part for part in parts if isinstance(part, Put | Delete)}.values())


BRANCHES = st.lists(PARTS, max_size=4).map(branch)
GUARDS = st.just((TxnCompare(b"a", CompareTarget.VERSION, Comparison.GREATER, 0),))
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    PUTS,
    st.builds(Delete, KEYS),
    st.builds(DeleteRange, st.just(b"a"), st.sampled_from([None, b"c"])),
    st.builds(Txn, GUARDS, BRANCHES, BRANCHES),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(COMMANDS, max_size=6), max_size=6))
def test_store_growth_is_never_less_than_what_commands_add(groups: list[list[Command]]) -> None:
    """The commands of a group are on their way together: each is counted by the state before all of them."""
    machine, index = KvMachine(), 0
    for group in groups:
        most = machine.size_bytes + sum(growth(machine.store.get, command) for command in group)
        for command in group:
            data = encode_command(command)
            assert growth(machine.store.get, command) <= len(data) + LARGEST_OVERHEAD_BYTES
            index += 1
            machine.apply(Entry(index, 1, data))
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
    ]
    assert [machine.growth(encode_command(command)) for command in deletes] == [0, 0, 0, 0]
    assert machine.growth(encode_command(Put(b"key 1", bytes(130)))) == 30
    assert machine.growth(encode_command(Put(b"new", bytes(130)))) == 133 + RECORD_OVERHEAD_BYTES
    with pytest.raises(Rejected):
        machine.growth(b"rubbish")


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
