"""The leader's stamp on entries: its form, and the times that the applier makes of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import cast

import msgspec
import pytest

from syncline import Entry
from syncline.consensus.types import EntryType, LogEntry, SnapshotMeta
from syncline.node.applier import Applied, Applier, ApplyWork, Outcome, RestoreWork
from syncline.node.entry_stamps import STAMP_BYTES, STAMP_LEVEL, EntryStamps, EntryTimes
from syncline.node.envelope import (
    LATEST_TIME_S,
    Kind,
    Proposal,
    StampedProposal,
    Unreadable,
    decode_proposal,
    encode,
)
from syncline.node.member_registry import MemberRegistry, time_of
from syncline.platform.worker import ThreadWorkers
from syncline.sessions.entries import OnceKey, SessionChange, SessionCommand, encode_change, encode_command
from syncline.storage.snapshots.store import SnapshotReader
from tests.helpers.node_cluster import Listing, LoopListing
from tests.unit.test_node_applier import Reader

ME, SEED, NOW_S = 1, 0x5F4632AA0C1BE7D3, 1_800_000_000.25

PINNED = [
    0.14718094597477627, 9370012315978754098, b"\xcb\x84\x91\xac", 294, 6, "b", [37, 19, 5], 6.847393741837361,
]  # fmt: skip
PINNED_ORDER = [4, 1, 0, 5, 6, 7, 2, 3]


def stamps(now_s: float = NOW_S, level: int = STAMP_LEVEL) -> EntryStamps:
    return EntryStamps(SEED, lambda: level, lambda: now_s)


def proposal(data: bytes = b"data", extensions: bytes = b"") -> Proposal:
    return Proposal(Kind.COMMAND, ME, 7 << 40 | 12, data, extensions)


# -- the form ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 300, 4000, 4096, 100_000])
@pytest.mark.parametrize("extensions", [b"", b"more"])
def test_stamp_is_two_fields_at_the_end(size: int, extensions: bytes) -> None:
    payload = encode(proposal(b"x" * size, extensions))
    (stamped,) = stamps().stamped([payload])
    assert stamped[1:-STAMP_BYTES] == payload[1:], "a version that reads five fields finds them where they were"
    assert msgspec.msgpack.decode(stamped) == [*msgspec.msgpack.decode(payload), NOW_S, SEED]
    read = decode_proposal(stamped)
    assert (read.data, read.extensions, read.time_s, read.seed) == (b"x" * size, extensions, NOW_S, SEED)


def test_stamp_is_not_written_below_its_level() -> None:
    payloads = [encode(proposal())]
    assert stamps(level=STAMP_LEVEL - 1).stamped(payloads) is payloads


def test_stamp_of_an_earlier_attempt_is_replaced() -> None:
    (first,) = stamps(NOW_S).stamped([encode(proposal())])
    assert stamps(NOW_S + 5).stamped([first]) == stamps(NOW_S + 5).stamped([encode(proposal())])


@pytest.mark.parametrize(
    "payload",
    [
        msgspec.msgpack.encode([0, ME, 3, b"x"]),
        msgspec.msgpack.encode([0, ME, 3, b"x", b"", 1.0]),
        msgspec.msgpack.encode([0, ME, 3, b"x", b"", 1.0, 2, "of a later version"]),
        b"\xdc\x00\x05" + msgspec.msgpack.encode([0, ME, 3, b"x", b""])[1:],
    ],
    ids=["four fields", "half a stamp", "eight fields", "a long header"],
)
def test_stamp_of_an_unusual_form_is_the_leaders(payload: bytes) -> None:
    """Another node has encoded it, and the leader's examination has let it pass."""
    (stamped,) = stamps().stamped([payload])
    assert decode_proposal(stamped) == StampedProposal(0, ME, 3, b"x", b"", NOW_S, SEED)


@pytest.mark.parametrize(
    ("clock_s", "written_s"),
    [(math.nan, 0.0), (-5.0, 0.0), (math.inf, LATEST_TIME_S), (1e300, LATEST_TIME_S), (0.0, 0.0)],
)
def test_stamp_of_an_impossible_clock_can_be_read(clock_s: float, written_s: float) -> None:
    (stamped,) = stamps(clock_s).stamped([encode(proposal())])
    assert decode_proposal(stamped).time_s == written_s


@pytest.mark.parametrize("time_s", [-1.0, math.inf, 1e300, "soon"])
def test_stamp_with_an_impossible_time_is_unreadable(time_s: object) -> None:
    with pytest.raises(Unreadable):
        decode_proposal(msgspec.msgpack.encode([0, ME, 3, b"x", b"", time_s, SEED]))


def test_entry_without_a_stamp_has_the_defaults() -> None:
    read = decode_proposal(encode(proposal()))
    assert (read.time_s, read.seed) == (0.0, 0)


# -- times ------------------------------------------------------------------------------------------------------------


def test_times_never_fall() -> None:
    times = EntryTimes(50.0)
    assert [times.of(stamp_s) for stamp_s in (10.0, 60.0, 0.0, 55.0, math.nan, 61.5)] == [50, 60, 60, 60, 60, 61.5]


class Timed(Listing):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, float, int]] = []

    def apply(self, entry: Entry) -> object:
        self.seen.append((entry.index, entry.time_s, entry.seed))
        return super().apply(entry)

    def restore(self, source: object) -> None:
        self.items = []


class TimedOnLoop(Timed, LoopListing):
    pass


class Applying:
    """An applier, and its outcomes."""

    def __init__(self, machine: Timed, time_s: float = 0.0) -> None:
        self.outcomes: asyncio.Queue[Outcome | BaseException] = asyncio.Queue()
        put = self.outcomes.put_nowait
        self.applier = Applier(machine, ME, ThreadWorkers(), put, put, time_s=time_s)

    async def apply(self, entries: Sequence[LogEntry]) -> Applied:
        self.applier.put(ApplyWork(entries, ()))
        outcome = await self.outcomes.get()
        assert isinstance(outcome, Applied), outcome
        return outcome


def entry(index: int, time_s: float | None, kind: Kind = Kind.COMMAND, data: bytes = b"x") -> LogEntry:
    content = Proposal(kind, ME, 100 + index, data)
    payload = encode(content)
    if time_s is not None:
        (payload,) = stamps(time_s).stamped([payload])
    return LogEntry(1, index, EntryType.NORMAL, payload)


MACHINES = [Timed, TimedOnLoop]


@pytest.mark.parametrize("make", MACHINES)
async def test_applier_gives_entries_their_times(make: type[Timed]) -> None:
    """Each entry counts, also one that is not the state machine's; one without a stamp has the time before it."""
    machine = make()
    work = Applying(machine, time_s=20.0)
    done = await work.apply([entry(1, 10.0), entry(2, 30.0), entry(3, 40.0, Kind.BARRIER, b""), entry(4, 35.0)])
    assert done.time_s == 40.0
    done = await work.apply([entry(5, None), entry(6, 41.0)])
    assert done.time_s == 41.0
    assert machine.seen == [(1, 20.0, SEED), (2, 30.0, SEED), (4, 40.0, SEED), (5, 40.0, 0), (6, 41.0, SEED)]
    await work.applier.close()


@pytest.mark.parametrize("make", MACHINES)
async def test_applier_goes_on_from_the_time_of_a_snapshot(make: type[Timed]) -> None:
    machine = make()
    work = Applying(machine)
    await work.apply([entry(1, 90.0)])
    reader = cast("SnapshotReader", Reader())
    work.applier.put(RestoreWork(reader, SnapshotMeta(9, 1), b"registry", 70.0))
    await work.outcomes.get()
    assert (await work.apply([entry(10, 60.0)])).time_s == 70.0, "the snapshot decides, and not what was before it"
    await work.applier.close()


@pytest.mark.parametrize("make", MACHINES)
async def test_applier_gives_commands_of_sessions_their_times(make: type[Timed]) -> None:
    machine = make()
    work = Applying(machine)
    opened = encode_change(SessionChange(opened=7))
    once = encode_command(SessionCommand(OnceKey(7, 1), b"12345678", b"x"))
    await work.apply([entry(1, 10.0, Kind.SESSION, opened), entry(2, 5.0, Kind.SESSION_COMMAND, once)])
    assert machine.seen == [(2, 10.0, SEED)]
    await work.applier.close()


# -- snapshots --------------------------------------------------------------------------------------------------------


def test_registry_has_the_time_once_there_is_one() -> None:
    book = MemberRegistry()
    before = book.dump()
    assert len(msgspec.msgpack.decode(before)) == 4, "the form of level 1, which has no stamps"
    assert time_of(before) == 0.0
    book.time_s = NOW_S
    again = MemberRegistry()
    again.load(book.dump())
    assert again.time_s == time_of(book.dump()) == NOW_S
    again.load(before)
    assert again.time_s == 0.0


# -- random numbers ---------------------------------------------------------------------------------------------------


def test_random_is_of_the_cluster_and_the_index() -> None:
    drawn = {
        (seed, index): Entry(index, 1, b"", seed=seed).random.random() for seed in (0, 1, SEED) for index in (1, 2)
    }
    assert len(set(drawn.values())) == len(drawn)
    assert Entry(2, 9, b"other", seed=SEED).random.random() == drawn[SEED, 2], "nothing else counts"


def test_random_goes_on_within_an_entry() -> None:
    one = Entry(1, 1, b"", seed=SEED)
    first, second = one.random.random(), one.random.random()
    assert first != second
    again = Entry(1, 1, b"", seed=SEED)
    assert one == again, "what was drawn is no part of the entry"
    assert (again.random.random(), again.random.random()) == (first, second)


def test_random_is_the_same_in_each_python() -> None:
    """Nodes may run different versions of Python: the numbers are part of the replicated state."""
    source = Entry(7, 1, b"", seed=SEED).random
    drawn = [
        source.random(), source.getrandbits(64), source.randbytes(4), source.randrange(1000), source.randint(1, 6),
        source.choice("abcdef"), source.sample(range(100), 3), source.uniform(0, 10),
    ]  # fmt: skip
    assert drawn == PINNED
    order = list(range(8))
    Entry(8, 1, b"", seed=SEED).random.shuffle(order)
    assert order == PINNED_ORDER


def test_entry_shows_what_it_has() -> None:
    assert repr(Entry(3, 1, b"x")) == "Entry(index=3, term=1, data=b'x')"
