"""Crash consistency: each workload is crashed before every operation of its disk, in many ways, and started again.

What is crashed and started is the whole data directory: identity, log and snapshots together. After each crash:
everything acknowledged is there, nothing is that was not written, a batch is there as a whole or not at all, and term,
vote and commit are those of the last acknowledged write or of the one under way. Then the recovery is crashed, too, and
what one recovery has found the next one finds again. Crashes of one moment that leave the same are counted once.

`SYNCLINE_CRASH_CASES=20` runs twenty times as many cases.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import msgspec
import pytest

from syncline.consensus.types import HardState, SnapshotMeta
from syncline.errors import StorageError
from syncline.storage.datadir import DataDir, Identity
from syncline.storage.wal import recovery as wal_recovery
from syncline.storage.wal.format import SegmentHeader
from syncline.storage.wal.segment import ActiveSegment
from syncline.storage.wal.writer import Wal, WalWrite
from syncline.testing.sim.disk import SimDisk, SimFile
from tests.helpers.crash_cases import NODE, SEGMENT_BYTES, SNAPSHOTS, WAL, Crashes, Node, crash_everywhere, entries_of

SCALE = int(os.environ.get("SYNCLINE_CRASH_CASES", "1"))

CASES: dict[str, int] = {}


def append(node: Node) -> None:
    """Batches of one entry and of many, smaller than a sector and larger than several."""
    node.append(1, 1)
    node.append(2, 9, commit=1)
    node.append(10, 10, size=1)
    node.append(11, 14, size=400, commit=9)
    node.write(
        WalWrite(entries_of(15, 16, 1, 30), HardState(1, 1, 12)),
        WalWrite(entries_of(17, 19, 2, 30), HardState(2, 1, 14)),
        WalWrite((), HardState(3, 2, 15)),
    )
    node.append(20, 20, term=3, commit=19)


def overwrite_a_conflicting_suffix(node: Node) -> None:
    node.append(1, 8)
    node.append(9, 12, commit=3)
    node.append(6, 7, term=2)
    node.append(8, 8, term=2, commit=6)
    node.append(7, 12, term=3, size=150)
    node.write(
        WalWrite(entries_of(13, 20, 3, 20), HardState(3, 1, 8)), WalWrite(entries_of(10, 11, 4, 20), HardState(4, 0, 9))
    )
    node.append(12, 30, term=4, commit=11)
    node.append(20, 21, term=5)


def rotate(node: Node) -> None:
    for first in range(1, 60, 6):
        node.append(first, first + 5, term=1 + first // 20, commit=first - 1, size=130)
    node.append(61, 61, term=4, size=9000)
    node.append(62, 63, term=4)


def overwrite_over_segments(node: Node) -> None:
    node.append(1, 20, size=170)
    node.append(21, 40, size=170, commit=15)
    node.append(18, 30, term=2, size=170)
    node.append(31, 45, term=2, size=170, commit=30)
    node.append(40, 41, term=3)


def snapshot_and_compact(node: Node) -> None:
    for turn in range(1, 6):
        first = turn * 20 - 19
        node.append(first, first + 19, term=turn, commit=first + 12, size=110)
        node.snapshot(first + 10, b"state %d " % turn * 100)
        node.compact()
    node.append(101, 102, term=5)


def compact_several_segments(node: Node) -> None:
    for first in range(1, 90, 6):
        node.append(first, first + 5, commit=first - 1, size=150)
    node.snapshot(20, b"early")
    node.snapshot(80, b"late")
    node.compact()
    node.append(91, 91, commit=89)
    node.snapshot(85, b"later")
    node.compact()


def compact_soon(node: Node) -> None:
    """The same in short."""
    for first in range(1, 22, 3):
        node.append(first, first + 2, commit=first - 1, size=1000)
    node.snapshot(17, b"early")
    node.snapshot(18, b"late")
    node.compact()


def give_up_the_whole_log(node: Node) -> None:
    node.append(1, 40, commit=40, size=80)
    node.snapshot(40, b"forty")
    node.compact()
    node.append(41, 41)
    node.append(42, 80, commit=80, size=80)
    node.snapshot(80, b"eighty" * 300)
    node.compact()


def hard_state(node: Node) -> None:
    node.write(WalWrite((), HardState(1, 0, 0)))
    node.write(WalWrite((), HardState(1, 2, 0)))
    node.append(1, 5, term=1)
    for term in range(2, 12):
        commit = min(5, term // 2)
        node.write(WalWrite((), HardState(2 * term, 0, commit)))
        node.write(WalWrite((), HardState(2 * term, term % 3, commit)))
        node.write(WalWrite((), HardState(2 * term + 1, 0, commit)), WalWrite((), HardState(2 * term + 1, 3, commit)))


def install(node: Node) -> None:
    node.append(1, 10, commit=4)
    node.install(30, 3, b"from a leader " * 90)
    node.append(31, 33, term=3, commit=31)
    node.install(90, 3, b"and again " * 200)
    node.started.wal.compact(90)
    node.append(91, 91, term=4)
    node.append(92, 110, term=4, commit=91, size=150)
    node.snapshot(91, b"own")
    node.compact()


def install_over_a_conflicting_suffix(node: Node) -> None:
    node.append(1, 20, commit=4)
    node.install(12, 5, b"x" * 1500)
    node.append(13, 14, term=5)
    node.install(14, 6, b"y")
    node.append(15, 40, term=6, size=120)


def a_snapshot_is_overtaken(node: Node) -> None:
    node.append(1, 20, commit=12)
    node.snapshot(4, b"four " * 50)
    node.overtaken_snapshot(10, 50, 2, b"ten " * 200)
    node.append(51, 53, term=2, commit=51)
    node.restart()
    node.snapshot(51, b"own")
    node.compact()


def restart_between(node: Node) -> None:
    node.append(1, 5)
    node.restart()
    node.append(6, 30, commit=5, size=120)
    node.restart()
    node.append(20, 33, term=2, size=120)
    node.snapshot(5, b"five")
    node.restart()
    node.append(34, 34, term=2, commit=30)
    node.snapshot(30, b"thirty")
    node.compact()
    node.restart()
    node.install(200, 7, b"z" * 3000)
    node.restart()
    node.append(201, 202, term=7)


def rotate_on_a_full_disk(node: Node) -> None:
    """Not a byte is free: the log goes on in the space that was kept for it, and a torn tail is cut without a copy."""
    node.append(1, 5)
    node.restart(reserve_bytes=96 << 10)
    node.disk.capacity_bytes = node.disk.used_bytes()
    for first in range(6, 60, 6):
        node.append(first, first + 5, commit=first - 1, size=150)
    assert not node.disk.exists(f"{WAL}/spare")


def anything(node: Node) -> None:
    rng = random.Random(node.disk.rng.getrandbits(64))
    for _ in range(14):
        image = node.image
        term = max(1, image.state.term + rng.randrange(2))
        last = image.last_index
        match rng.choice(["append", "append", "append", "overwrite", "state", "snapshot", "install", "restart"]):
            case "append":
                node.append(last + 1, last + rng.randrange(1, 12), term=term, size=rng.randrange(1, 300))
            case "overwrite" if last > image.state.commit and last >= image.first_index:
                first = rng.randint(max(image.state.commit + 1, image.first_index), last)
                node.append(first, first + rng.randrange(6), term=image.state.term + 1, size=rng.randrange(1, 300))
            case "state":
                node.write(WalWrite((), HardState(image.state.term + 1, rng.randrange(4), last)))
            case "snapshot" if image.state.commit >= image.first_index:
                index = rng.randint(image.first_index, image.state.commit)
                if image.snapshot is None or index > image.snapshot[0]:
                    node.snapshot(index, rng.randbytes(rng.randrange(2000)))
                    node.compact()
            case "install":
                node.install(last + rng.randrange(1, 50), image.state.term + 1, rng.randbytes(rng.randrange(2000)))
            case "restart":
                node.restart()


WORKLOADS: list[Callable[[Node], None]] = [
    append,
    overwrite_a_conflicting_suffix,
    rotate,
    overwrite_over_segments,
    snapshot_and_compact,
    compact_several_segments,
    give_up_the_whole_log,
    hard_state,
    install,
    install_over_a_conflicting_suffix,
    a_snapshot_is_overtaken,
    restart_between,
    rotate_on_a_full_disk,
]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: str(workload.__name__))
def test_a_crash_at_every_step(workload: Callable[[Node], None]) -> None:
    for turn in range(SCALE):
        crashes = Crashes(turn, each=2, nested=1)
        crash_everywhere(workload, crashes)
        CASES[workload.__name__] = CASES.get(workload.__name__, 0) + crashes.cases


@pytest.mark.parametrize("seed", range(4))
def test_a_crash_at_every_step_of_anything(seed: int) -> None:
    for turn in range(SCALE):
        crashes = Crashes(seed + 1000 * turn, each=0, nested=1)
        crash_everywhere(anything, crashes)
        CASES["anything"] = CASES.get("anything", 0) + crashes.cases


# Known bugs, put back in: the cases above must notice each of them.


def no_sync_of_frames(patch: pytest.MonkeyPatch) -> None:
    """Acknowledging before the sync."""
    plain = SimFile.sync
    patch.setattr(SimFile, "sync", lambda self: None if self.size() == SEGMENT_BYTES else plain(self))


def no_sync_of_the_directory(patch: pytest.MonkeyPatch) -> None:
    """A new segment whose name is not durable."""
    plain = SimDisk.sync_dir
    patch.setattr(SimDisk, "sync_dir", lambda self, path: None if path == WAL else plain(self, path))


def named_before_it_was_synced(patch: pytest.MonkeyPatch) -> None:
    """A new segment that is renamed first and synced with its first frame."""
    plain = SimFile.sync
    patch.setattr(SimFile, "sync", lambda self: None if self.path.endswith(".tmp") and starts(self) else plain(self))

    def starts(file: SimFile) -> bool:
        return not file.read_at(512, 64).strip(b"\0")


def removed_newest_first(patch: pytest.MonkeyPatch) -> None:
    """Compaction that leaves a gap in the row of segments."""

    def compact(self: Wal, index: int) -> None:
        for segment in reversed(self._segments[: self._droppable(index)]):
            self._disk.remove(segment.path)
        self._segments = self._segments[self._droppable(index) :]

    patch.setattr(Wal, "compact", compact)


def marker_before_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    """A snapshot whose name is not durable when the log restarts after it."""
    plain = SimDisk.sync_dir
    patch.setattr(SimDisk, "sync_dir", lambda self, path: None if path == SNAPSHOTS else plain(self, path))


def snapshot_not_synced(patch: pytest.MonkeyPatch) -> None:
    plain = SimFile.sync
    patch.setattr(SimFile, "sync", lambda self: None if "snapshots" in self.path else plain(self))


def identity_not_durable(patch: pytest.MonkeyPatch) -> None:
    """A log that is begun while its node's identity has no durable name."""
    plain = SimDisk.sync_dir
    patch.setattr(SimDisk, "sync_dir", lambda self, path: None if path == NODE else plain(self, path))


def started_before_its_log(patch: pytest.MonkeyPatch) -> None:
    """An identity that says that there is a log before there is one."""
    plain = DataDir.write_identity

    def write_identity(self: DataDir, identity: Identity) -> None:
        plain(self, msgspec.structs.replace(identity, started=True))

    patch.setattr(DataDir, "write_identity", write_identity)


def hard_state_not_repeated(patch: pytest.MonkeyPatch) -> None:
    """Dropping the segment that holds the vote."""
    plain = ActiveSegment.create.__func__  # type: ignore[attr-defined]

    def create(
        cls: type[ActiveSegment],
        disk: SimDisk,
        directory: str,
        header: SegmentHeader,
        _state: HardState,
        marker: SnapshotMeta | None,
    ) -> ActiveSegment:
        made: ActiveSegment = plain(cls, disk, directory, header, HardState(), marker)
        return made

    patch.setattr(ActiveSegment, "create", classmethod(create))


def torn_tail_left_in_place(patch: pytest.MonkeyPatch) -> None:
    """A recovery that cuts the torn frame in memory only: its rest is under and behind the next one."""
    patch.setattr(wal_recovery._LogReader, "_cut", lambda *_arguments: "cut in thought only")


BUGS: list[tuple[Callable[[pytest.MonkeyPatch], None], Callable[[Node], None]]] = [
    (no_sync_of_frames, append),
    (no_sync_of_the_directory, rotate),
    (named_before_it_was_synced, rotate),
    (removed_newest_first, compact_soon),
    (identity_not_durable, append),
    (started_before_its_log, append),
    (marker_before_the_snapshot, install),
    (snapshot_not_synced, snapshot_and_compact),
    (hard_state_not_repeated, snapshot_and_compact),
    (torn_tail_left_in_place, append),
]


@pytest.mark.parametrize(("bug", "workload"), BUGS, ids=lambda case: str(case.__name__))
def test_a_known_bug_is_noticed(
    bug: Callable[[pytest.MonkeyPatch], None], workload: Callable[[Node], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)

    def search() -> None:
        for seed in range(5):
            crash_everywhere(workload, Crashes(seed, each=4, nested=1))

    with pytest.raises((AssertionError, StorageError)):
        search()


def test_there_were_tens_of_thousands_of_cases() -> None:
    if set(CASES) != {"anything", *(workload.__name__ for workload in WORKLOADS)}:
        pytest.skip("counts what the tests above did, when all of them ran")
    assert sum(CASES.values()) > 25_000, CASES
    print(CASES, sum(CASES.values()))
