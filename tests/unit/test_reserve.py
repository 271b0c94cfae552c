"""The reserve of a full disk: commands that free space may use a quarter of it, and a snapshot gives the space back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from syncline import Raft
from syncline.errors import DiskFull
from syncline.kv.commands import (
    Command,
    CompareTarget,
    Comparison,
    Delete,
    DeleteRange,
    Get,
    Put,
    Range,
    Txn,
    TxnCompare,
    encode_command,
    frees_space,
)
from syncline.kv.compactor import Compactor
from syncline.kv.machine import KvMachine
from syncline.storage.space import SpaceGuard
from tests.helpers.kv_node import KvWire
from tests.helpers.node_cluster import Cluster, until
from tests.helpers.storage import TroubledDisk

MIB = 1 << 20
RESERVE = 8 * MIB
PLENTY = 1 << 40


async def on_disk(
    path: Path, names: str, check: Callable[[Cluster, TroubledDisk], Awaitable[None]], make: type = KvMachine
) -> None:
    """Run nodes whose disks say how much is free, all the same."""
    disk = TroubledDisk()
    disk.free = PLENTY
    nodes = Cluster(path, names, reserve_bytes=RESERVE)
    nodes.make = make
    try:
        await asyncio.gather(*(nodes.start(name, disk=disk) for name in names))
        await check(nodes, disk)
    finally:
        await nodes.stop_all()


def put(key: bytes, size: int) -> bytes:
    return encode_command(Put(key, bytes(size)))


async def until_refused(raft: Raft[object]) -> None:
    """A node asks its disk now and then only: some writes may still be taken."""
    with pytest.raises(DiskFull, match="Delete keys, make room on the disk"):  # noqa: PT012
        for _ in range(100):
            await raft.apply(put(b"more", 100_000))


def test_space_freeing_commands_may_use_a_quarter_of_the_reserve(tmp_path: Path) -> None:
    disk = TroubledDisk()
    guard = SpaceGuard(disk, str(tmp_path), reserve_bytes=1000)
    disk.free = 760
    with pytest.raises(DiskFull, match=r"760 bytes left and 1000 are kept in reserve.*; 250 bytes are missing"):
        guard.check(10)
    guard.check(10, frees_space=True)
    with pytest.raises(DiskFull, match=r"even deletes are refused.*; 1 bytes are missing.*--reserve-bytes"):
        guard.check(11, frees_space=True)
    disk.free = 2000
    guard.check(10, frees_space=True)


@pytest.mark.parametrize("names", ["a", "abc"])
async def test_full_disk_takes_commands_that_free_space(tmp_path: Path, names: str) -> None:
    """Through a follower too: the leader must hear that it is such a command."""

    async def check(nodes: Cluster, disk: TroubledDisk) -> None:
        leader = await nodes.leader()
        asked = nodes.rafts[names[-1]] if not nodes.rafts[names[-1]].is_leader else nodes.rafts[names[0]]
        await asked.apply(put(b"big", 1000), timeout=20)
        disk.free = RESERVE - 1000
        await until_refused(leader)
        await until_refused(asked)
        delete = encode_command(Delete(b"big"))
        with pytest.raises(DiskFull):
            await asked.apply(delete)
        await asked.apply(delete, frees_space=True)
        disk.free = RESERVE * 3 // 4 - 1
        with pytest.raises(DiskFull, match="even deletes"):
            await asked.apply(delete, frees_space=True)
        disk.free = PLENTY
        await asked.apply(put(b"big", 1000), timeout=20)

    await on_disk(tmp_path, names, check)


async def test_full_disk_gets_deleted_space_back_by_a_snapshot(tmp_path: Path) -> None:
    """Two snapshots are kept usually; the older one still holds what was deleted, and goes as well.

    So does the history: the leader compacts it before the snapshot. The last revision always stays readable, with what
    it deleted.
    """

    async def check(nodes: Cluster, disk: TroubledDisk) -> None:
        raft = await nodes.leader()
        machine: object = nodes.machines["a"]
        assert isinstance(machine, KvMachine)
        compactor = Compactor(raft, machine, history_bytes=MIB)
        await raft.apply(put(b"big", 900_000))
        await raft.snapshot()
        await raft.apply(put(b"small", 100))
        await raft.snapshot()
        store = raft._driver.parts.snapshots
        assert [manifest.size_bytes > 900_000 for manifest in store.list()] == [True, True]
        disk.free = RESERVE - 1000
        await until(raft, lambda: len(store.list()) == 1)
        assert raft.stats().snapshots_taken == 2, "nothing that a snapshot would give back"
        await raft.apply(encode_command(Delete(b"big")), frees_space=True)
        await raft.apply(encode_command(Delete(b"small")), frees_space=True)
        compactor.start()
        await until(raft, lambda: [manifest.size_bytes < 1000 for manifest in store.list()] == [True])
        await compactor.close()

    await on_disk(tmp_path, "a", check)


GUARD = (TxnCompare(b"k", CompareTarget.VERSION, Comparison.GREATER, 0),)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (Put(b"k", b""), False),
        (Delete(b"k"), True),
        (DeleteRange(b"a", None), True),
        (Txn(GUARD, (Delete(b"k"),), ()), True),
        (Txn(GUARD, (Delete(b"k"),), (DeleteRange(b"a", b"b"), Get(b"c"))), True),
        (Txn(GUARD, (Delete(b"k"),), (Put(b"l", b""),)), False),
        (Txn(GUARD, (Delete(b"k"), Txn((), (Put(b"l", b""),), ())), ()), False),
        (Txn(GUARD, (Txn((), (Delete(b"l"),), ()),), ()), True),
        (Txn(GUARD, (Get(b"k"), Range(b"a", None)), ()), False),
        (Txn(), False),
    ],
)
def test_command_frees_space_if_all_its_writes_delete(command: Command, expected: bool) -> None:
    assert frees_space(command) is expected


async def test_routes_say_which_commands_free_space() -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"1")
    await wire.ask("DELETE", "/key/a")
    for operation in ({"op": "delete_range", "prefix": "a"}, {"op": "put", "key": "a", "value": "1"}):
        await wire.ask("POST", "/txn", json.dumps({"then": [operation]}).encode())
    assert wire.backend.freeing == [False, True, True, False]
