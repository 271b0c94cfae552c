"""Several real nodes in one process, on loopback and in a temporary directory: for tests of the runtime."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from syncline import FSM, Config, Entry, FSMSnapshot, Member, Raft, SnapshotSink
from syncline.errors import Rejected
from syncline.node.events import AnyEvent
from syncline.platform.disk import Disk, OsDisk
from syncline.platform.world import World
from syncline.version import FEATURE_LEVEL
from tests.helpers.ports import free_block

__all__ = ["Cluster", "Listing", "all_apply", "cluster", "first_event", "see_kept", "until"]

LIMIT_S = 20.0


class Listing:
    """A state machine: the list of all commands. `apply` answers with how many there are."""

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.indexes: list[int] = []
        self.restored = 0
        self.views = 0
        self.released = 0
        self.gate: Callable[[], object] | None = None
        """Called before a view is written, on the thread that writes it."""

    def apply(self, entry: Entry) -> object:
        if entry.data.startswith(b"refuse"):
            raise Rejected("not this one", code="refused", details={"at": entry.index})
        if entry.data == b"break":
            raise RuntimeError("the state machine is broken")
        self.items.append(entry.data)
        self.indexes.append(entry.index)
        return len(self.items)

    def snapshot(self) -> FSMSnapshot:
        self.views += 1
        return View(self, list(self.items))

    def restore(self, source: BinaryIO) -> None:
        self.restored += 1
        self.items = msgspec.msgpack.decode(source.read(), type=list[bytes])


class LoopListing(Listing):
    """The same, applied on the event loop."""

    apply_on_loop = True


class View:
    def __init__(self, owner: Listing, items: list[bytes]) -> None:
        self._owner = owner
        self._items = items

    def persist(self, sink: SnapshotSink, /) -> None:
        if self._owner.gate is not None:
            self._owner.gate()
        sink.write(msgspec.msgpack.encode(self._items))

    def release(self) -> None:
        self._owner.released += 1


async def until(raft: Raft[object], condition: Callable[[], bool]) -> None:
    """Wait until it holds: looked at with every change of the node, and at least with every tick."""
    driver = raft._driver
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await raft._driver.running.wait(driver.loop.time() + driver.config.heartbeat_s)


class Cluster:
    """Nodes by name. Ports and directories stay with their name."""

    def __init__(self, path: Path, names: str, **settings: object) -> None:
        self.path = path
        self.settings: dict[str, object] = {
            "heartbeat_s": 0.02,
            "election_s": 0.2,
            "segment_bytes": 1 << 20,
            "reserve_bytes": 0,
        } | settings
        self.first_port = free_block(16)
        self.peers = {name: self.address(name) for name in names}
        self.rafts: dict[str, Raft[object]] = {}
        self.machines: dict[str, Listing] = {}
        self.make: Callable[[], Listing] = Listing

    def address(self, name: str) -> str:
        return f"127.0.0.1:{self.first_port + ord(name) - ord('a')}"

    def config(self, name: str, **settings: object) -> Config:
        values = {"name": name, "data_dir": str(self.path / name), "listen": self.address(name)} | self.settings
        if "cluster_id" not in settings and name in self.peers:
            values["peers"] = self.peers
        return msgspec.convert(values | settings, Config)

    async def start(
        self, name: str, *, disk: Disk | None = None, feature_level: int = FEATURE_LEVEL, **settings: object
    ) -> Raft[object]:
        machine = self.make()
        fsm: FSM[object] = machine
        world = World(disk=disk or OsDisk(), feature_level=feature_level)
        raft = await Raft.open(self.config(name, **settings), fsm, world=world)
        self.rafts[name], self.machines[name] = raft, machine
        return raft

    async def start_all(self) -> None:
        await asyncio.gather(*(self.start(name) for name in self.peers))

    async def join(self, through: Raft[object], name: str, *, promote: bool = True) -> tuple[Member, Raft[object]]:
        info = await through.add_learner(name, self.address(name), promote=promote)
        return info, await self.start(name, cluster_id=through.cluster_id, node_id=info.id)

    async def leader(self) -> Raft[object]:
        """The leader, as all that run agree."""
        running = [raft for raft in self.rafts.values() if not raft._driver.running.stopped]

        def agreed() -> bool:
            leaders = {raft.stats().leader for raft in running}
            return len(leaders) == 1 and None not in leaders and any(raft.is_leader for raft in running)

        await until(running[0], agreed)
        return next(raft for raft in running if raft.is_leader)

    async def pair(self) -> tuple[Raft[object], Raft[object]]:
        """The leader and a follower."""
        leader = await self.leader()
        return leader, next(raft for raft in self.rafts.values() if raft is not leader)

    async def announced(self) -> None:
        """All members have told all others their data directories, and the level has risen: the nodes have nothing more
        to say by themselves.
        """
        for raft in self.rafts.values():
            book = raft._driver.parts.book.members
            await until(raft, lambda: all(member.directory for member in book.values()))  # noqa: B023 - awaited at once
            if not raft.config.hold_level:
                await until(raft, lambda: raft.level == raft.upgrade_status().possible_level)  # noqa: B023 - as above

    def machine(self, raft: Raft[object]) -> Listing:
        return self.machines[raft.config.name]

    async def stop(self, name: str) -> None:
        await self.rafts.pop(name).close()

    async def stop_all(self) -> None:
        rafts, self.rafts = self.rafts, {}
        await asyncio.gather(*(raft.close() for raft in rafts.values()))


@contextlib.asynccontextmanager
async def cluster(path: Path, names: str = "abc", **settings: object) -> AsyncIterator[Cluster]:
    """A running cluster, closed at the end."""
    nodes = Cluster(path, names, **settings)
    try:
        await nodes.start_all()
        yield nodes
    finally:
        await nodes.stop_all()


async def all_apply(nodes: Cluster, data: bytes) -> None:
    """Have every node apply one more command, as the last so far: all run, and hold the same."""
    leader = await nodes.leader()
    await leader.apply(data, timeout=20.0)
    for name, raft in nodes.rafts.items():
        await until(raft, lambda name=name: nodes.machines[name].items[-1:] == [data])  # type: ignore[misc]
    assert len({tuple(machine.items) for machine in nodes.machines.values()}) == 1
    books = [raft._driver.parts.book for raft in nodes.rafts.values()]
    await until(leader, lambda: len({book.dump() for book in books}) == 1)


async def first_event(raft: Raft[object], kind: type[AnyEvent], trigger: Awaitable[object]) -> AnyEvent:
    """The first event of a kind that follows from `trigger`."""
    watch = raft.events(kind)
    await trigger
    async with asyncio.timeout(LIMIT_S):
        return await anext(watch)


async def see_kept(nodes: Cluster) -> None:
    """After a restart the node still has what it acknowledged."""
    await nodes.start("a")
    assert nodes.machines["a"].items[:1] == [b"kept"]
    await nodes.stop_all()
