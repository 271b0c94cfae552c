"""Faults of disks: failing operations, full disks, slow syncs, corrupt bits, lost files, swapped disks."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

import msgspec

from syncline.node.raft import Raft
from syncline.storage.atomic_file import read_file, replace_file
from syncline.storage.datadir import FORMAT_VERSION, IDENTITY_LIMIT_BYTES, IDENTITY_NAME
from syncline.testing.faults.base import Trouble
from syncline.testing.faults.snapshots import fall_behind, ignored
from syncline.testing.sim.disk import CAPACITY_BYTES, SimDisk, Survival
from syncline.testing.sim.server import Condition, SimServer
from syncline.testing.sim.workers import Delay, usual_delay

__all__ = [
    "downgrade",
    "failed_snapshot",
    "failed_sync",
    "failed_write",
    "foreign_disk",
    "full_disk",
    "lost_file",
    "lost_log",
    "rot",
    "rot_in_snapshot",
    "second_process",
    "slow_disk",
    "wipe",
]

Damage: TypeAlias = Callable[[Trouble, SimDisk, str], str]
"""Damages a file; returns what it did."""

FILE_ERRORS: Final = (errno.EIO, errno.EIO, errno.EROFS)


class _Order(msgspec.Struct, frozen=True):
    """Which operation fails: so many of its kind go well before it at most, and the order stands so long."""

    operation: str
    suffixes: tuple[str, ...] = ("",)
    skip: int = 0
    elections: tuple[float, float] = (1.0, 4.0)


ARRIVING: Final = ".part"
"""A snapshot that a leader sends has this suffix until all of it is here."""

SYNCS: Final = (
    _Order("sync", (".wal",), skip=10),
    _Order("sync", (".snap.tmp", ".snap.tmp"), elections=(3.0, 10.0)),
    _Order("sync", (ARRIVING,), elections=(8.0, 20.0)),
    _Order("sync_dir", ("",), skip=1, elections=(2.0, 8.0)),
    _Order("sync_dir", ("/wal", "/snapshots"), elections=(2.0, 8.0)),
)
WRITES: Final = (
    _Order("write_at", (".wal",), skip=10),
    _Order("write_at", ("", ".snap.tmp"), skip=1, elections=(2.0, 8.0)),
    _Order("write_at", (ARRIVING,), elections=(8.0, 20.0)),
    _Order("create", ("", ".snap.tmp"), elections=(3.0, 10.0)),
    _Order("create", (ARRIVING,), elections=(8.0, 20.0)),
    _Order("allocate", (".wal.tmp",), elections=(3.0, 10.0)),
    _Order("rename", ("", ".wal"), elections=(3.0, 10.0)),
    _Order("rename", (".snap",), elections=(3.0, 10.0)),
    _Order("remove", ("", ".wal", ".snap"), elections=(3.0, 10.0)),
)
"""Frequent operations may go well some times before one fails. Rare ones fail at once, and the order stands longer."""

OF_A_SNAPSHOT: Final = (
    _Order("sync", (".snap.tmp",), elections=(1.0, 3.0)),
    _Order("rename", (".snap",), elections=(1.0, 3.0)),
    _Order("sync_dir", ("/snapshots",), elections=(1.0, 3.0)),
)
FEW_ENTRIES: Final = 3
SOON_S: Final = 0.05
"""After so long they are mostly applied."""


async def failed_sync(trouble: Trouble) -> None:
    """A sync of the log, of a snapshot or of a directory fails. Of the log: the node must stop, and not try again."""
    while True:
        await trouble.wait(8.0)
        await _fail(trouble, trouble.rng.choice(SYNCS))


async def failed_write(trouble: Trouble) -> None:
    """A write or another operation on files fails."""
    while True:
        await trouble.wait(8.0)
        await _fail(trouble, trouble.rng.choice(WRITES))


def _take(raft: Raft[object]) -> None:
    ignored(asyncio.ensure_future(raft.snapshot()))


async def failed_snapshot(trouble: Trouble) -> None:
    """While a server takes a snapshot, its sync, its rename or the sync of its directory fails: it must not count."""
    while True:
        await trouble.wait(5.0)
        server = trouble.some()
        if server is None or server.raft is None:
            continue
        raft = server.raft
        for _ in range(FEW_ENTRIES):
            server.call(lambda raft=raft: ignored(raft.barrier()))  # type: ignore[misc]  # else there is nothing new
        server.call(lambda raft=raft: asyncio.get_running_loop().call_later(SOON_S, _take, raft))  # type: ignore[misc]
        await _fail(trouble, trouble.rng.choice(OF_A_SNAPSHOT), server)


async def _fail(trouble: Trouble, order: _Order, server: SimServer | None = None) -> None:
    server = server or trouble.some()
    if server is None:
        return
    suffix, skip = trouble.rng.choice(order.suffixes), trouble.rng.randint(0, order.skip)
    leader = trouble.cluster.current_leader()
    if suffix == ARRIVING and leader is not None and leader is not server:
        await fall_behind(trouble, leader, server)  # else hardly any snapshot arrives while the order stands
        trouble.cluster.heal()
    fault = trouble.fail(server, order.operation, suffix=suffix, error=trouble.rng.choice(FILE_ERRORS), skip=skip)
    trouble.cluster.note(server.name, f"disk: the next {order.operation} of a file *{suffix} but {skip} fails")
    with trouble.damage(server):
        await trouble.last(*order.elections)
        fault.times = 0
    trouble.start_again(server)


async def full_disk(trouble: Trouble) -> None:
    """The disk is full for a while."""
    while True:
        await trouble.wait(10.0)
        server = trouble.some()
        if server is None:
            continue
        left = trouble.rng.choice([0, 100, 2000, 10_000])
        trouble.cluster.note(server.name, f"disk: {left} bytes are left")
        with trouble.damage(server):
            server.disk.capacity_bytes = server.disk.used_bytes() + left
            await trouble.last(1.0, 6.0)
            server.disk.capacity_bytes = CAPACITY_BYTES
        trouble.cluster.note(server.name, "disk: there is space again")
        trouble.start_again(server)


async def slow_disk(trouble: Trouble) -> None:
    """Every write takes long: up to more than an election timeout."""
    while True:
        await trouble.wait(8.0)
        server = trouble.some()
        if server is None:
            continue
        slowest_s = trouble.rng.choice([0.05, 0.3, 2.0]) * trouble.election_s
        trouble.cluster.note(server.name, f"disk: a sync takes up to {slowest_s:.3f} s")
        trouble.cluster.delays[server.name] = _slow(slowest_s)
        await trouble.last(1.0, 8.0)
        trouble.cluster.delays.pop(server.name, None)


def _slow(slowest_s: float) -> Delay:
    def delay(worker: str, rng: random.Random) -> float:
        return rng.uniform(0.0, slowest_s) if rng.random() < 0.5 else usual_delay(worker, rng)

    return delay


async def rot(trouble: Trouble) -> None:
    """A bit of the log flips, at its end or anywhere: the node starts with all durable data, or not at all."""
    await trouble.strike(15.0, partial(_damage, trouble, ".wal", _flip))


async def rot_in_snapshot(trouble: Trouble) -> None:
    """A bit of a snapshot flips."""
    await trouble.strike(15.0, partial(_damage, trouble, ".snap", _flip))


async def lost_file(trouble: Trouble) -> None:
    """A file of the data directory vanishes, or is empty."""
    await trouble.strike(15.0, partial(_damage, trouble, "", _lose))


async def lost_log(trouble: Trouble) -> None:
    """All files of the log vanish: the node must not take its directory for that of a first start."""
    await trouble.strike(8.0, partial(_damage, trouble, ".wal", _lose_all))


async def _damage(trouble: Trouble, suffix: str, damage: Damage, server: SimServer) -> None:
    """Damage a file, and start the server. If it refuses, its operator replaces it."""
    paths = [path for path in server.disk.paths() if path.endswith(suffix)]
    if paths:
        path = trouble.rng.choice(paths)
        server.damages += 1
        trouble.cluster.note(server.name, f"disk: {damage(trouble, server.disk, path)}")
    await trouble.last(0.0, 3.0)
    server.start()
    await trouble.settled(server)
    if server.condition is Condition.REFUSED:
        await trouble.operator.replace(server)


def _flip(trouble: Trouble, disk: SimDisk, path: str) -> str:
    data = disk.read_file(path)
    used = len(data.rstrip(b"\0"))
    if not used:
        return f"{path} holds nothing that could rot"
    offset = max(0, used - trouble.rng.randint(1, 40)) if trouble.rng.random() < 0.4 else trouble.rng.randrange(used)
    disk.flip_bit(path, offset)
    return f"a bit of {path} at {offset} of {used} flips"


def _lose(trouble: Trouble, disk: SimDisk, path: str) -> str:
    if trouble.rng.random() < 0.5:
        disk.lose(path)
        return f"{path} vanishes"
    disk.empty(path)
    return f"{path} is empty"


def _lose_all(_: Trouble, disk: SimDisk, path: str) -> str:
    folder = path.rpartition("/")[0]
    for other in disk.paths():
        if other.startswith(f"{folder}/"):
            disk.lose(other)
    return f"all files of {folder} vanish"


async def wipe(trouble: Trouble) -> None:
    """A disk is replaced by an empty one, and the server started as if nothing had been, under its old id."""

    async def harm(server: SimServer) -> None:
        server.wipe()
        await trouble.last(0.0, 3.0)
        server.start()
        await trouble.last(1.0, 6.0)
        await trouble.operator.replace(server)

    await trouble.strike(15.0, harm)


async def foreign_disk(trouble: Trouble) -> None:
    """A server is started on another one's disk: it must refuse."""
    while True:
        await trouble.wait(15.0)
        server, other = trouble.expendable(), trouble.some()
        if server is None or other is None or server is other:
            continue
        with trouble.hold(server):
            trouble.crash(server)
            trouble.cluster.note(server.name, f"is started on a copy of the disk of {other.name}")
            copy = other.disk.crashed(Survival.EVERYTHING)
            await _must_refuse(trouble, server, copy, "a foreign disk is refused", f"the disk of {other.name}")


async def downgrade(trouble: Trouble) -> None:
    """A server is started with an older version than its directory was written by: it must refuse."""

    async def harm(server: SimServer) -> None:
        copy = server.disk.crashed(Survival.EVERYTHING)
        copy.capacity_bytes = CAPACITY_BYTES  # a full disk would refuse what is written here, too
        if _written_by_a_later_version(copy, f"{server.config.data_dir}/{IDENTITY_NAME}"):
            trouble.cluster.note(server.name, "is started with an older version than wrote its directory")
            await _must_refuse(trouble, server, copy, "a later version's directory is refused", "such a directory")
        else:
            server.start()

    await trouble.strike(15.0, harm)


async def _must_refuse(trouble: Trouble, server: SimServer, disk: SimDisk, promise: str, what: str) -> None:
    """Start a server on this disk in place of its own, and then on its own again."""
    own, server.disk = server.disk, disk
    try:
        with trouble.damage(server):
            server.start()
            await trouble.settled(server)
        if server.condition is not Condition.REFUSED:
            trouble.broken(promise, f"{server.name} runs on {what}")
    finally:
        if server.up:  # the run ends while the server still opens that disk
            trouble.crash(server)
        server.disk = own
    server.start()


def _written_by_a_later_version(disk: SimDisk, path: str) -> bool:
    """Raise the version in a directory's identity; False if there is no identity yet."""
    if not disk.exists(path):
        return False
    written = read_file(disk, path, limit_bytes=IDENTITY_LIMIT_BYTES)
    ours, later = (b'"format_version": %d,' % version for version in (FORMAT_VERSION, FORMAT_VERSION + 1))
    assert ours in written, written
    replace_file(disk, path, written.replace(ours, later))
    return True


async def second_process(trouble: Trouble) -> None:
    """A second process is started on the data directory of one that runs: it must refuse."""
    while True:
        await trouble.wait(12.0)
        running = [server for server in trouble.cluster.running if not server.paused]
        if running:
            server = trouble.rng.choice(running)
            trouble.cluster.note(server.name, "a second process is started on its directory")
            if not server.is_locked():
                trouble.broken("one process at a time", f"the directory of {server.name} is not locked")
