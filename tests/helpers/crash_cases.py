"""Crashing the storage at every step: the workloads, what may be found after each crash, and the checks.

A `Node` does to log and snapshots what a running node does, and writes down before each step what a crash may leave:
what was acknowledged, and what is under way. `crash_everywhere` runs a workload once on a simulated disk and, before
each operation of the disk, looks at what crashes at that moment would leave: it starts a node on each of these disks.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from syncline.consensus.types import NO_LIMIT, EntryType, HardState, LogEntry, MembershipState, SnapshotMeta
from syncline.errors import NothingToSnapshot
from syncline.storage.datadir import DataDir, Identity
from syncline.storage.snapshots.store import SnapshotManifest, SnapshotStore
from syncline.storage.stored_log import StoredLog
from syncline.storage.wal.writer import Wal, WalWrite
from syncline.testing.sim.disk import SimDisk, Survival

SEGMENT_BYTES = 4096
CLUSTER = 0xC1
NODE, WAL, SNAPSHOTS = "/node", "/node/wal", "/node/snapshots"
IDENTITY = Identity(cluster_id=CLUSTER, node_id=5, name="a")
MEMBERS = MembershipState((1, 2, 3))
SURVIVALS = list(Survival)

GOES_ON_CHANCE = 0.25
"""How many of the started nodes write something, too."""


class Image(msgspec.Struct, frozen=True):
    """A node's whole durable state, as somebody outside would describe it."""

    state: HardState
    entries: tuple[LogEntry, ...]
    """All that the log must still have: from `first_index` on, without a gap."""
    first_index: int
    """No later than this the log must begin: its snapshot is at `first_index` - 1 or later."""
    snapshot: tuple[int, int, bytes] | None
    """The newest snapshot: index, term, data."""

    @property
    def last_index(self) -> int:
        return self.first_index + len(self.entries) - 1


EMPTY = Image(HardState(), (), 1, None)


class Started:
    """A node that was started on a disk: the whole data directory, in the order in which a real node opens it."""

    def __init__(self, disk: SimDisk, *, retain: int = 2, reserve_bytes: int = 0) -> None:
        self.disk = disk
        self.directory = DataDir.open(disk, NODE)
        if self.directory.identity is None:
            self.directory.write_identity(IDENTITY)
        assert msgspec.structs.replace(self.directory.identity or IDENTITY, started=False) == IDENTITY
        self.wal = Wal.open(
            disk,
            self.directory.wal_path,
            segment_bytes=SEGMENT_BYTES,
            reserve_bytes=reserve_bytes,
            log_id=IDENTITY.node_id,
            must_exist=self.directory.started,
        )
        self.snapshots = SnapshotStore.open(disk, self.directory.snapshots_path, cluster_id=CLUSTER, retain=retain)
        newest = self.snapshots.newest()
        self.log = StoredLog.open(self.wal, newest.meta if newest is not None else None, tail_bytes=2000)
        self.directory.mark_started()

    def image(self, first_index: int) -> Image:
        """What it holds, from `first_index` on (it may have more)."""
        log = self.log
        assert log.first_index() <= first_index, "the log does not reach back far enough"
        entries: list[LogEntry] = []
        if first_index <= log.last_index():
            entries = log.entries(first_index, log.last_index() + 1, NO_LIMIT)
        assert [entry.index for entry in entries] == list(range(first_index, log.last_index() + 1))
        assert [log.term(entry.index) for entry in entries] == [entry.term for entry in entries]
        return Image(log.hard_state, tuple(entries), first_index, self._snapshot())

    def _snapshot(self) -> tuple[int, int, bytes] | None:
        newest = self.snapshots.newest()
        if newest is None:
            return None
        with self.snapshots.read(newest) as reader:
            return newest.index, newest.term, reader.readall()

    def close(self) -> None:
        self.wal.close()
        self.directory.release()


class Node:
    """A node at work. `possible` is what a crash right now may leave: any of these, and nothing else."""

    def __init__(self, disk: SimDisk, *, retain: int = 2) -> None:
        self.disk = disk
        self.possible: tuple[Image, ...] = (EMPTY,)
        self.image = EMPTY
        self.started = Started(disk, retain=retain)

    def write(self, *writes: WalWrite) -> None:
        """One batch: all of it or nothing of it."""
        after = self.image
        for write in writes:
            after = written(after, write)
        self.possible = (self.image, after)
        result = self.started.wal.write(writes)
        for write in writes:
            self.started.log.appended(write, result)
        self._done(after)

    def append(self, first: int, last: int, *, term: int = 1, commit: int | None = None, size: int = 60) -> None:
        old = self.image.state
        vote = old.vote if term <= old.term and old.vote else 1
        state = HardState(max(term, old.term), vote, old.commit if commit is None else commit)
        self.write(WalWrite(entries_of(first, last, term, size), state))

    def snapshot(self, index: int, data: bytes) -> None:
        """A snapshot of its own."""
        term = self.started.log.term(index)
        after = msgspec.structs.replace(self.image, snapshot=(index, term, data))
        self.possible = (self.image, after)
        writer = self.started.snapshots.create(index, term, MEMBERS)
        writer.write(data)
        manifest = writer.commit()
        self.started.log.installed(manifest.meta)
        self._done(after)

    def compact(self) -> None:
        """Give up what the retained snapshots cover."""
        index = self.started.snapshots.compaction_index(log_bytes=0, max_log_bytes=1)
        if index < self.image.first_index:
            return
        keep = max(0, index + 1 - self.image.first_index)
        after = msgspec.structs.replace(self.image, entries=self.image.entries[keep:], first_index=index + 1)
        self.possible = (after,)  # more may be left than must be: `image` looks only from `first_index` on
        self.started.log.compacted(index)
        self.started.wal.compact(index)
        self._done(after)

    def install(self, index: int, term: int, data: bytes) -> None:
        """A snapshot from the leader: durable as a file first, then the log restarts after it."""
        manifest = SnapshotManifest(index, term, MEMBERS, CLUSTER, len(data), sha256(data), "1.0", b"")
        vote = self.image.state.vote if term <= self.image.state.term else 0
        state = HardState(max(term, self.image.state.term), vote, index)
        after = Image(state, (), index + 1, (index, term, data))
        self.possible = (self.image, after)  # a start completes what is durable as a file only
        receiver = self.started.snapshots.receive(manifest)
        for start in range(receiver.received, len(data), 700):
            receiver.write(start, data[start : start + 700])
        receiver.commit()
        self.possible = (after,)
        write = WalWrite((), state, SnapshotMeta(index, term, MEMBERS))
        self.started.log.appended(write, self.started.wal.write([write]))
        self._done(after)

    def overtaken_snapshot(self, index: int, newer: int, term: int, data: bytes) -> None:
        """A snapshot of its own that is slow: one from the leader is installed before it is done. It must not count."""
        writer = self.started.snapshots.create(index, self.started.log.term(index), MEMBERS)
        writer.write(data)
        self.install(newer, term, data[::-1])
        with suppress(NothingToSnapshot):
            writer.commit()
        writer.abort()

    def restart(self, *, reserve_bytes: int = 0) -> None:
        """The process ends and starts again."""
        self.started.close()
        self.disk.kill()
        self.started = Started(self.disk, reserve_bytes=reserve_bytes)
        assert self.started.image(self.image.first_index) == self.image

    def _done(self, image: Image) -> None:
        self.image = image
        self.possible = (image,)


def written(image: Image, write: WalWrite) -> Image:
    entries = image.entries
    if write.entries:
        entries = (*entries[: write.entries[0].index - image.first_index], *write.entries)
    return msgspec.structs.replace(image, entries=entries, state=write.hard_state or image.state)


def entries_of(first: int, last: int, term: int, size: int) -> list[LogEntry]:
    return [
        LogEntry(term, index, EntryType.NORMAL, (b"%d.%d " % (term, index)).ljust(size, b"\0" if index % 2 else b"e"))
        for index in range(first, last + 1)
    ]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Crashes:
    """Starts nodes on crashed disks and checks what they find. Counts the cases."""

    def __init__(self, seed: int, *, each: int, nested: int) -> None:
        self.rng = random.Random(seed)
        self.each = each
        self.nested = nested
        self.cases = 0

    def look(self, disk: SimDisk, possible: Sequence[Image]) -> None:
        """All the crashes of one moment. What two of them leave alike is looked at once."""
        survivals = [*SURVIVALS, *self.rng.choices((Survival.SECTORS, Survival.TORN, Survival.MOST), k=self.each)]
        known = set()
        for survival in survivals:
            crashed = disk.crashed(survival, random.Random(self.rng.getrandbits(64)))
            if crashed.fingerprint() in known:
                continue
            known.add(crashed.fingerprint())
            self.cases += 1
            try:
                self._start(crashed, possible)
            except BaseException as error:
                error.add_note(f"after a crash that left {survival.name}: {survival.value}")
                raise

    def _start(self, disk: SimDisk, possible: Sequence[Image]) -> None:
        """A start, crashed `nested` times on its way, then once it is through."""
        moments: list[SimDisk] = []
        wanted = {self.rng.randrange(1, 12) for _ in range(self.nested)}

        def crash(_operation: str, _path: str) -> None:
            if disk.serial in wanted:
                moments.append(disk.crashed(self.rng.choice(SURVIVALS), random.Random(self.rng.getrandbits(64))))

        disk.before = crash
        found = self.found(disk, possible)
        disk.before = None
        for moment in moments:
            self.cases += 1
            self.found(moment, possible)
        # What a node has found once it must find again, whatever happens: it has acted on it.
        self.cases += 1
        self.found(disk.crashed(self.rng.choice(SURVIVALS), random.Random(self.rng.getrandbits(64))), (found,))
        if self.rng.random() < GOES_ON_CHANCE:
            self.go_on(disk, found)

    def found(self, disk: SimDisk, possible: Sequence[Image]) -> Image:
        """Start a node; what it finds must be one of what is possible."""
        started = Started(disk)
        images = {image.first_index: started.image(image.first_index) for image in possible if _has(started, image)}
        found = next((image for image in possible if images.get(image.first_index) == image), None)
        assert found is not None, f"a start finds what no crash may leave: {images}; possible are {possible}"
        started.close()
        return found

    def go_on(self, disk: SimDisk, found: Image) -> None:
        """A node that was started writes, and crashes while it does and after it."""
        disk.kill()
        started = Started(disk)
        last = started.log.last_index()
        state = HardState(found.state.term + 1, 2, found.state.commit)
        write = WalWrite(entries_of(last + 1, last + 3, state.term, self.rng.choice((20, 200, 600))), state)
        after = written(found, write)

        def crash(_operation: str, _path: str) -> None:
            for survival in (Survival.SECTORS, Survival.TORN):
                self.cases += 1
                self.found(disk.crashed(survival, random.Random(self.rng.getrandbits(64))), (found, after))

        disk.before = crash
        started.wal.write([write])
        disk.before = None
        started.close()
        self.cases += 1
        self.found(disk.crashed(Survival.NOTHING), (after,))


def _has(started: Started, image: Image) -> bool:
    return started.log.first_index() <= image.first_index <= started.log.last_index() + 1


def crash_everywhere(workload: Callable[[Node], None], crashes: Crashes) -> None:
    """Run a workload and crash it before each operation of its disk, and after the last one."""
    disk = SimDisk(random.Random(crashes.rng.getrandbits(64)))
    nodes: list[Node] = []
    busy = False

    def look(operation: str, path: str) -> None:
        nonlocal busy
        if busy:
            return
        busy = True
        try:
            crashes.look(disk, nodes[0].possible if nodes else (EMPTY,))
        except BaseException as error:
            error.add_note(f"crashed before operation {disk.serial}, {operation} of {path}")
            raise
        finally:
            busy = False

    disk.before = look
    node = Node(disk)
    nodes.append(node)
    workload(node)
    look("end", "")
