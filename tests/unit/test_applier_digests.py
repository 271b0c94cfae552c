"""Where the applier cuts the log for the digest: batches of any size give the same digests at the same points."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from syncline.consensus.types import EntryType, LogEntry, Message, MessageType
from syncline.node.applier import Applied, Applier, ApplyWork, Outcome, SnapshotWork, Viewed
from syncline.node.envelope import Kind, Proposal, encode
from syncline.node.session_snapshots import SessionsView
from syncline.platform.worker import ThreadWorkers
from tests.helpers.digests import LoopTally, Tally

INTERVAL = 4
MACHINES = [Tally, LoopTally]


class DurableTally(Tally):
    applied_index = 6


def entry(index: int, kind: Kind = Kind.COMMAND) -> LogEntry:
    return LogEntry(1, index, EntryType.NORMAL, encode(Proposal(kind, 1, index, b"%d" % index)))


async def outcomes(
    machine: Tally, batches: list[list[LogEntry]], *, deliver: Callable[[Outcome, Applier], None] | None = None
) -> list[Outcome]:
    found: list[Outcome] = []
    failures: list[BaseException] = []
    changed = asyncio.Event()

    def delivered(outcome: Outcome) -> None:
        found.append(outcome)
        if deliver is not None:
            deliver(outcome, applier)
        changed.set()

    def failed(error: BaseException) -> None:
        failures.append(error)
        changed.set()

    applier = Applier(machine, 1, ThreadWorkers(), delivered, failed, INTERVAL)
    for batch in batches:
        applier.put(ApplyWork(batch, (Message(MessageType.HUP),)))
    last = batches[-1][-1].index
    while not failures and not any(isinstance(one, Applied) and one.last_index == last for one in found):
        changed.clear()
        await changed.wait()
    await applier.close()
    assert failures == []
    return found


def applied(found: list[Outcome]) -> list[Applied]:
    return [one for one in found if isinstance(one, Applied)]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 11])
async def test_applier_digests_do_not_depend_on_the_batches(machine: type[Tally], size: int) -> None:
    entries = [entry(index) for index in range(1, 12)]
    alone = await outcomes(machine(), [[one] for one in entries])
    batches = [entries[start : start + size] for start in range(0, 11, size)]
    found = applied(await outcomes(machine(), batches))
    points = {one.last_index: one.digest for one in found if one.at_point}
    assert points == {one.last_index: one.digest for one in applied(alone) if one.at_point}
    assert list(points) == [4, 8]
    assert [number for one in found for number, _, _, _ in one.answers] == list(range(1, 12))
    assert all(one.digest is None for one in found if not one.at_point)


@pytest.mark.parametrize("machine", MACHINES)
async def test_applier_tells_the_core_of_each_piece_alone(machine: type[Tally]) -> None:
    """The core must not hear that all of a batch is applied before it is, nor hear of a change only at the end."""
    found = applied(await outcomes(machine(), [[entry(index) for index in range(1, 12)]]))
    assert [(one.first_index, one.last_index) for one in found] == [(1, 4), (5, 8), (9, 11)]
    told = [[entry.index for response in one.responses for entry in response.entries] for one in found]
    assert told == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize("machine", MACHINES)
async def test_applier_cuts_behind_an_entry_that_compares_digests(machine: type[Tally]) -> None:
    """A change of the membership behind it must not be in force when it is compared."""
    change = LogEntry(1, 3, EntryType.CONF_CHANGE_V2, b"")
    found = applied(await outcomes(machine(), [[entry(1), entry(2, Kind.DIGEST), change]]))
    assert [(one.first_index, one.last_index, one.compared) for one in found] == [(1, 2, b"2"), (3, 3, None)]
    assert [one.runtime for one in found] == [[], [change]]
    assert [one.answers for one in found] == [[(1, 1, 1, 32)], []]


@pytest.mark.parametrize("machine", MACHINES)
async def test_applier_cuts_once_if_the_point_compares_digests(machine: type[Tally]) -> None:
    batch = [entry(1), entry(2), entry(3), entry(4, Kind.DIGEST), entry(5)]
    found = applied(await outcomes(machine(), [batch]))
    assert [(one.last_index, one.at_point, one.compared) for one in found] == [(4, True, b"4"), (5, False, None)]


@pytest.mark.parametrize("machine", MACHINES)
async def test_applier_view_between_pieces_is_of_the_piece_before(machine: type[Tally]) -> None:
    """A snapshot is named by what the node has heard of: on the loop that is the piece just delivered."""
    states: dict[int, bytes] = {}
    fsm = machine()

    def deliver(outcome: Outcome, applier: Applier) -> None:
        if isinstance(outcome, Applied):
            states[outcome.last_index] = outcome.digest or b""
            if outcome.last_index == INTERVAL:
                applier.put(SnapshotWork())

    found = await outcomes(fsm, [[entry(index) for index in range(1, 10)]], deliver=deliver)
    last = 0
    for outcome in found:
        if isinstance(outcome, Viewed):
            assert isinstance(outcome.view, SessionsView)
            assert outcome.view.view._content == (states[last] if last < 9 else fsm.state)  # type: ignore[attr-defined]
            outcome.view.release()
        else:
            assert isinstance(outcome, Applied)
            last = outcome.last_index


async def test_applier_of_a_durable_machine_ahead_gives_no_digest_below_it() -> None:
    """Its state is of entry 6 while the node applies entry 4 again."""
    found = applied(await outcomes(DurableTally(), [[entry(index) for index in range(1, 12)]]))
    assert [(one.last_index, one.digest is not None) for one in found if one.at_point] == [(4, False), (8, True)]


@pytest.mark.parametrize("machine", MACHINES)
async def test_applier_goes_on_if_the_digest_raises(machine: type[Tally]) -> None:
    fsm = machine()
    fsm.fault = RuntimeError("no digest")
    found = applied(await outcomes(fsm, [[entry(index) for index in range(1, 12)]]))
    assert found[-1].last_index == 11
    assert [one.digest for one in found] == [None, None, None]
    assert fsm.digests == 1, "it is not asked again"
