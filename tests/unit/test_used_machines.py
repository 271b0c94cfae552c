"""One state machine object has one node, from its first start on: a log applied twice would double each command."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import weakref
from pathlib import Path
from typing import BinaryIO

import pytest

import syncline
from syncline import BytesSnapshot, Config, Entry, FSMSnapshot, Raft, blocking
from syncline.errors import UsageError
from syncline.node.used_machines import check_unused, claim
from syncline.testing import RaftCluster
from tests.helpers.ports import free_block

LIMIT_S = 20.0
AGAIN = "object was given to a node before"


class Sum:
    def __init__(self) -> None:
        self.total = 0

    def apply(self, entry: Entry) -> int:
        self.total += int(entry.data)
        return self.total

    def snapshot(self) -> FSMSnapshot:
        return BytesSnapshot(b"%d" % self.total)

    def restore(self, source: BinaryIO) -> None:
        self.total = int(source.read())


@dataclasses.dataclass
class EqualSum(Sum):
    """A dataclass has no hash, and two of them are equal."""

    total: int = 0


class DurableSum(Sum):
    """Stands in for a machine on a disk of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.applied_index = 0

    def apply(self, entry: Entry) -> int:
        self.applied_index = entry.index
        return super().apply(entry)


class Slotted:
    """It can't have a weak reference."""

    __slots__ = ()

    def apply(self, entry: Entry) -> int:
        return entry.index

    def snapshot(self) -> FSMSnapshot:
        return BytesSnapshot(b"")

    def restore(self, source: BinaryIO) -> None:
        source.read()


def config_in(path: Path) -> Config:
    address = f"127.0.0.1:{free_block(1)}"
    return Config(name="a", data_dir=str(path / "a"), listen=address, peers={"a": address}, reserve_bytes=0)


@pytest.mark.parametrize("make", [Sum, EqualSum])
async def test_used_machine_is_refused_by_a_later_start(tmp_path: Path, make: type[Sum]) -> None:
    config, machine = config_in(tmp_path), make()
    async with Raft.open(config, machine) as raft:
        assert await raft.apply(b"5", timeout=LIMIT_S) == 5
    with pytest.raises(UsageError, match=f"this {make.__name__} {AGAIN}"):
        await Raft.open(config, machine)
    async with Raft.open(config, make()) as raft:
        assert await raft.apply(b"1", timeout=LIMIT_S) == 6


async def test_used_machine_of_a_running_node_is_refused_elsewhere(tmp_path: Path) -> None:
    machine = Sum()
    async with Raft.open(config_in(tmp_path), machine) as raft:
        await raft.apply(b"5", timeout=LIMIT_S)
        other = config_in(tmp_path / "other")
        with pytest.raises(UsageError, match=AGAIN):
            await Raft.open(other, machine)
        with pytest.raises(UsageError, match=AGAIN):
            await Raft.join(Config(name="b", data_dir=other.data_dir, listen=other.listen), machine, _never)
        with pytest.raises(UsageError, match=AGAIN):
            await Raft.recover(other, machine)
        with pytest.raises(UsageError, match=AGAIN):
            await syncline.open("memory:", machine)
        assert not await asyncio.to_thread(Path(other.data_dir).exists)
        assert await raft.apply(b"1", timeout=LIMIT_S) == 6


async def _never(_node_id: int) -> int:
    raise AssertionError("no member is asked")


async def test_used_machine_of_two_starts_at_once_gets_one_node(tmp_path: Path) -> None:
    machine = Sum()
    configs = [config_in(tmp_path / name) for name in "xy"]
    opened = await asyncio.gather(*(Raft.open(config, machine) for config in configs), return_exceptions=True)
    assert [type(end) for end in opened].count(UsageError) == 1
    for end in opened:
        if isinstance(end, Raft):
            await end.close()


async def test_used_machine_on_another_engine_is_refused_too() -> None:
    machine = Sum()
    async with syncline.open("memory:", machine) as replica:
        assert await replica.apply(b"5") == 5
    with pytest.raises(UsageError, match=AGAIN):
        await syncline.open("memory:", machine)


def test_used_machine_of_a_blocking_node_is_refused(tmp_path: Path) -> None:
    config, machine = config_in(tmp_path), Sum()
    with blocking.Raft.open(config, machine) as raft:
        raft.apply(b"5", timeout=LIMIT_S)
    with pytest.raises(UsageError, match=AGAIN):
        blocking.Raft.open(config, machine)


def test_used_machine_for_all_nodes_of_a_test_is_refused() -> None:
    machine = Sum()
    with pytest.raises((UsageError, TimeoutError), match=AGAIN):
        RaftCluster(lambda: machine)


async def test_used_machine_may_be_given_again_after_a_failed_start(tmp_path: Path) -> None:
    """A start whose port is taken has applied nothing: a program that tries again need not make a new machine."""
    config, machine = config_in(tmp_path), Sum()
    taken = await asyncio.start_server(_ignore, *config.listen.split(":"))
    with pytest.raises(OSError, match="another process holds the port"):
        await Raft.open(config, machine)
    taken.close()
    await taken.wait_closed()
    async with Raft.open(config, machine) as raft:
        assert await raft.apply(b"5", timeout=LIMIT_S) == 5


def _ignore(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_used_machine_that_is_durable_is_given_again(tmp_path: Path) -> None:
    config, machine = config_in(tmp_path), DurableSum()
    async with Raft.open(config, machine) as raft:
        await raft.apply(b"5", timeout=LIMIT_S)
    async with Raft.open(config, machine) as raft:
        assert await raft.apply(b"1", timeout=LIMIT_S) == 6


def test_used_machine_is_forgotten_with_its_object() -> None:
    """The next object may get the number of one that is gone."""
    for _ in range(100):
        machine = Sum()
        check_unused(machine)
        claim(machine)
        with pytest.raises(UsageError, match=AGAIN):
            claim(machine)
        del machine
        gc.collect(0)


def test_used_machine_without_weak_references_is_let_pass() -> None:
    machine = Slotted()
    with pytest.raises(TypeError, match="weak reference"):
        weakref.ref(machine)
    claim(machine)
    claim(machine)
