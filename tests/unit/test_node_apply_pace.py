"""A slow state machine on its thread: pieces, answers in between, and a close that does not wait for a backlog."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from syncline.consensus.types import EntryType, LogEntry, Message, MessageType, SnapshotMeta
from syncline.node.applier import Applied, Applier, ApplyWork, Outcome, RestoreWork, SnapshotWork, Viewed
from syncline.node.apply_pace import FIRST_ENTRIES, MOST_ENTRIES, PIECE_S, Pace
from syncline.node.envelope import Kind, Proposal, encode
from syncline.node.fsm import Entry as Command
from syncline.platform.worker import ThreadWorkers
from tests.helpers.node_cluster import Listing

ME = 1


class Clock(ThreadWorkers):
    """A clock that only the state machine moves."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now_s(self) -> float:
        return self.time_s


class Slow(Listing):
    """Takes a second for an entry, by the clock. Halts at one of them until it is let go on."""

    def __init__(self, clock: Clock, *, halt_at: int = 0) -> None:
        super().__init__()
        self.clock = clock
        self.halt_at = halt_at
        self.halted = threading.Event()
        self.go_on = threading.Event()

    def apply(self, entry: Command) -> object:
        if entry.index == self.halt_at:
            self.halted.set()
            assert self.go_on.wait(20)
        self.clock.time_s += 1.0
        return super().apply(entry)


def work(count: int) -> ApplyWork:
    entries = [
        LogEntry(1, index, EntryType.NORMAL, encode(Proposal(Kind.COMMAND, ME, index, b"%d" % index)))
        for index in range(1, count + 1)
    ]
    return ApplyWork(entries, (Message(MessageType.STORAGE_APPLY_RESP, entries=entries),))


def applier_of(machine: Slow, deliver: Callable[[Outcome], None]) -> Applier:
    failures: list[BaseException] = []
    return Applier(machine, ME, machine.clock, deliver, failures.append)


async def test_applier_of_a_slow_machine_answers_piece_by_piece() -> None:
    """Callers whose entries are applied are answered while others of the same batch wait."""
    outcomes: list[Outcome] = []
    viewed = asyncio.Event()

    def deliver(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if isinstance(outcome, Viewed):
            viewed.set()

    machine = Slow(Clock(), halt_at=FIRST_ENTRIES + 2)
    applier = applier_of(machine, deliver)
    applier.put(work(60))
    await asyncio.to_thread(machine.halted.wait, 20)
    await asyncio.sleep(0)  # what was delivered before it is due by now
    found = [one for one in outcomes if isinstance(one, Applied)]
    assert [(one.first_index, one.last_index) for one in found] == [
        (1, FIRST_ENTRIES),
        (FIRST_ENTRIES + 1, FIRST_ENTRIES + 1),
    ]
    assert [number for one in found for number, _, _, _ in one.answers] == list(range(1, FIRST_ENTRIES + 2))
    assert [response.entries[-1].index for one in found for response in one.responses] == [
        FIRST_ENTRIES,
        FIRST_ENTRIES + 1,
    ]
    machine.go_on.set()
    applier.put(SnapshotWork())
    await viewed.wait()
    await applier.close()
    assert machine.items == [b"%d" % index for index in range(1, 61)], "each once, in order"


class Reader:
    """Stands in for a snapshot in the store."""

    closed = False

    def close(self) -> None:
        self.closed = True


async def test_applier_close_leaves_the_backlog_to_the_next_start() -> None:
    """What is committed is in the log. A close that applied all of it first could take hours."""
    machine = Slow(Clock(), halt_at=3)
    applier = applier_of(machine, lambda _: None)
    applier.put(work(1000))
    reader = Reader()
    applier.put(RestoreWork(reader, SnapshotMeta(), b""))  # type: ignore[arg-type]  # only closed
    await asyncio.to_thread(machine.halted.wait, 20)
    closing = asyncio.ensure_future(applier.close())
    await asyncio.sleep(0)
    machine.go_on.set()
    await closing
    assert machine.items == [b"%d" % index for index in range(1, FIRST_ENTRIES + 1)], "one piece, and no more"
    assert reader.closed


def test_pace_follows_what_an_entry_takes() -> None:
    pace = Pace()
    for _ in range(20):
        pace.took(pace.entries, 0.0)
    assert pace.entries == MOST_ENTRIES
    pace.took(MOST_ENTRIES, 4 * PIECE_S)
    assert pace.entries == MOST_ENTRIES // 4
    pace.took(pace.entries, 3600.0)
    assert pace.entries == 1
    pace.took(1, 1.0)
    assert pace.entries == 1
    pace.took(1, PIECE_S)
    assert pace.entries == 2, "a quick entry makes the next piece larger again"
