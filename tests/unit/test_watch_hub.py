"""Watches of a node: what they are told, when they end, and what they may cost. The clock is a virtual one."""

from __future__ import annotations

import asyncio
import time

import pytest

from syncline.errors import LimitReached, NoLeader, RevisionCompacted, WatchEnded
from syncline.kv import watch_hub
from syncline.kv.commands import Compact, Delete, Put, Txn
from syncline.kv.watch import WatchLimits
from syncline.testing.sim.loop import SimLoop
from tests.helpers.async_tests import LoopFactory
from tests.helpers.watches import EVENT_BYTES, WatchedNode, WatchReader, settle

pytestmark = [pytest.mark.usefixtures("loop_factory"), pytest.mark.deadline(1000.0)]


@pytest.fixture
def loop_factory() -> LoopFactory:
    """Virtual time: an hour passes at once."""
    return SimLoop


def put(key: bytes, value: bytes = b"v") -> Put:
    return Put(key, value)


async def test_watch_of_a_key_is_told_of_that_key_alone() -> None:
    node = WatchedNode()
    reader = WatchReader(node, key=b"a")
    node.apply(put(b"a"), put(b"a\0"), put(b"ab"), put(b"b"), Delete(b"a"))
    await settle()
    assert reader.read() == [(1, (("put", b"a", b"v", None),)), (5, (("delete", b"a", b"", b"v"),))]


async def test_watch_without_a_revision_begins_with_the_next_one() -> None:
    node = WatchedNode()
    node.apply(put(b"a"))
    reader = WatchReader(node)
    await settle()
    assert reader.read() == []
    node.apply(put(b"b"))
    await settle()
    assert [told[0] for told in reader.read()] == [2]


async def test_number_of_watches_of_a_key_counts_those_that_catch_up() -> None:
    node = WatchedNode()
    node.apply(*[put(b"a")] * 5)
    readers = [WatchReader(node, key=b"a", from_revision=revision) for revision in (0, 2, 9)]
    assert (node.hub.number_at(b"a"), node.hub.number_at(b"b")) == (3, 0)
    await settle()
    assert (node.hub.number_at(b"a"), node.hub.number_at(b"b")) == (3, 0)
    readers[1].watch.close()
    assert node.hub.number_at(b"a") == 2


async def test_watch_from_the_past_is_told_of_it_and_then_of_the_present() -> None:
    node = WatchedNode()
    node.apply(*[put(b"a", b"%d" % number) for number in range(5)])
    reader = WatchReader(node, from_revision=3)
    node.apply(put(b"a", b"x"))
    await settle()
    node.apply(put(b"a", b"y"))
    await settle()
    assert [told[0] for told in reader.read()] == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("behind", [0, 1, 2, 3])
async def test_watch_that_resumes_misses_nothing_and_is_told_nothing_twice(behind: int) -> None:
    node = WatchedNode()
    reader = WatchReader(node)
    node.apply(*[put(b"a")] * 3)
    await settle()
    told = [told[0] for told in reader.read()]
    reader.watch.close()
    node.apply(*[put(b"a")] * behind)
    other = WatchReader(node)
    again = WatchReader(node, from_revision=told[-1] + 1)
    node.apply(put(b"a"))
    await settle()
    revisions = told + [told[0] for told in again.read()]
    assert revisions == [*range(1, 5 + behind)], "none is missed, and none comes twice"
    assert len(other.read()) == 1


async def test_watch_from_the_future_is_told_of_nothing_before() -> None:
    node = WatchedNode()
    reader = WatchReader(node, from_revision=4)
    for _ in range(5):
        node.apply(put(b"a"))
        await settle()
    assert [told[0] for told in reader.read()] == [4, 5], "nothing before its first revision"


async def test_revision_of_several_changes_is_one_message() -> None:
    node = WatchedNode()
    every, some = WatchReader(node), WatchReader(node, prefix=b"b")
    node.apply(Txn((), (put(b"a"), put(b"b1"), put(b"b2"))))
    await settle()
    [(revision, events)] = every.read()
    assert (revision, len(events)) == (1, 3)
    [(revision, events)] = some.read()
    assert [event[1] for event in events] == [b"b1", b"b2"]


async def test_watch_with_a_filter_is_told_of_puts_or_of_deletes_alone() -> None:
    node = WatchedNode()
    puts, deletes = WatchReader(node, deletes=False), WatchReader(node, puts=False)
    node.apply(put(b"a"), Delete(b"a"), put(b"b"))
    await settle()
    assert [told[0] for told in puts.read()] == [1, 3]
    assert [told[0] for told in deletes.read()] == [2]


async def test_watch_from_a_compacted_revision_is_refused_with_the_oldest() -> None:
    node = WatchedNode()
    node.apply(*[put(b"a")] * 5, Compact(4))
    with pytest.raises(RevisionCompacted) as refusal:
        WatchReader(node, from_revision=3)
    assert (refusal.value.oldest, refusal.value.details) == (4, {"oldest": 4})
    assert len(node.hub) == 0
    assert WatchReader(node, from_revision=4).error is None


async def test_watch_that_catches_up_ends_when_compaction_overtakes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_hub, "FULL_BYTES", 2 * EVENT_BYTES)
    node = WatchedNode()
    node.apply(*[put(b"a")] * 50)
    reader = WatchReader(node, from_revision=1)
    await settle()
    told = len(reader.read(1))
    node.apply(Compact(40))
    await settle()
    told += len(reader.read())
    await settle()
    told += len(reader.read())
    assert told < 39
    assert isinstance(reader.error, RevisionCompacted)
    assert reader.error.oldest == 40


async def test_messages_are_made_once_for_all_watches_of_a_form() -> None:
    node = WatchedNode()
    readers = [WatchReader(node, prefix=b"a") for _ in range(100)]
    node.apply(put(b"a1"), Txn((), (put(b"a2"), put(b"a3"))))
    await settle()
    told = [reader.read() for reader in readers]
    assert node.form.made == 2
    assert all(one[0] is told[0][0] for one in told)


async def test_watch_that_is_not_read_is_cut_off_with_where_to_resume() -> None:
    node = WatchedNode(limits=WatchLimits(max_unread_bytes=3 * EVENT_BYTES))
    slow, quick = WatchReader(node), WatchReader(node)
    for _ in range(5):
        node.apply(put(b"a"))
        await settle()
        quick.read()
    assert isinstance(slow.error, WatchEnded)
    assert (slow.error.code, slow.error.resume) == ("slow_watcher", 1)
    assert "watch again from revision 1" in str(slow.error)
    assert node.hub.number_at(b"a") == 1, "it watches no more, though its reader has not left"
    assert slow.read() == []
    assert node.hub.cut_off == 1
    assert len(quick.told) == 5
    assert quick.error is None
    slow.watch.close()
    again = WatchReader(node, from_revision=slow.error.resume)
    await settle()
    assert len(again.read()) == 5


async def test_revision_above_the_limit_is_delivered_to_a_reader_that_keeps_up() -> None:
    """The limit counts what waits behind the message under way."""
    node = WatchedNode(limits=WatchLimits(max_unread_bytes=3 * EVENT_BYTES))
    reader = WatchReader(node)
    node.apply(Txn((), tuple(put(b"%d" % number) for number in range(10))))
    await settle()
    assert len(reader.read()) == 1
    assert reader.error is None


async def test_watches_together_are_cut_off_at_the_limit_of_the_node() -> None:
    node = WatchedNode(limits=WatchLimits(max_total_unread_bytes=10 * EVENT_BYTES))
    readers = [WatchReader(node) for _ in range(5)]
    for _ in range(3):
        node.apply(put(b"a"))
        await settle()
    assert [reader.error is not None for reader in readers].count(True) >= 2
    assert node.hub.unread_bytes <= 10 * EVENT_BYTES


async def test_watches_that_are_not_read_cut_off_no_watch_of_others() -> None:
    """While they catch up they hold more than all watches may: the others have their share of it all the same."""
    node = WatchedNode(limits=WatchLimits(max_total_unread_bytes=40 * EVENT_BYTES))
    node.apply(*[put(b"a")] * 100)
    idle = [WatchReader(node, from_revision=1) for _ in range(9)]
    await settle()
    other = WatchReader(node)
    assert 40 * EVENT_BYTES <= node.hub.unread_bytes <= 50 * EVENT_BYTES
    node.apply(put(b"a"), put(b"a"), put(b"a"))
    assert len(other.read()) == 3
    assert other.error is None
    assert all(reader.error is None for reader in idle)
    assert node.hub.unread_bytes <= 50 * EVENT_BYTES


async def test_reader_that_is_slow_while_it_catches_up_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_hub, "FULL_BYTES", 2 * EVENT_BYTES)
    node = WatchedNode(limits=WatchLimits(max_unread_bytes=3 * EVENT_BYTES))
    node.apply(*[put(b"a")] * 50)
    reader = WatchReader(node, from_revision=1)
    for _ in range(60):
        await settle()
        assert node.hub.unread_bytes <= 3 * EVENT_BYTES
        reader.read(1)
    assert [told[0] for told in reader.told] == [*range(1, 51)]
    assert reader.error is None


async def test_catching_up_goes_on_in_slices() -> None:
    """100,000 changes must not hold the loop."""
    node = WatchedNode()
    for _ in range(20):
        node.apply(*[put(b"b")] * 1000)
    reader = WatchReader(node, key=b"a", from_revision=1)
    node.apply(put(b"a"))
    turns = 0
    while not reader.read():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 20


async def test_hundreds_of_watches_from_the_past_share_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    node = WatchedNode()
    node.apply(*[put(b"a")] * 2000)
    passed = 0
    original = watch_hub.WatchHub._tell

    def counted(self: watch_hub.WatchHub, *arguments: object) -> int:
        nonlocal passed
        passed += 1
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(watch_hub.WatchHub, "_tell", counted)
    readers = [WatchReader(node, key=b"%d" % number, from_revision=1) for number in range(300)]
    await settle()
    node.apply(put(b"7"))
    await settle()
    assert [reader.read() for reader in readers].count([]) == 299
    assert passed <= 2001 + 10


async def test_too_many_watches_are_refused_with_limit() -> None:
    node = WatchedNode(limits=WatchLimits(max_watches=3, max_owner_watches=2))
    first = WatchReader(node, owner="one")
    WatchReader(node, owner="one")
    with pytest.raises(LimitReached, match="this connection has 2") as refusal:
        WatchReader(node, owner="one")
    assert refusal.value.code == "limit"
    WatchReader(node, owner="other")
    with pytest.raises(LimitReached, match="this node has 3"):
        WatchReader(node)
    first.watch.close()
    first.watch.close()
    assert WatchReader(node, owner="one").error is None


async def test_watches_of_one_group_leave_room_for_others() -> None:
    """A group has as many as are free, however many owners it has."""
    node = WatchedNode(limits=WatchLimits(max_watches=6, max_owner_watches=2))
    held = [WatchReader(node, owner=number, group="10.0.0.1") for number in range(3)]
    with pytest.raises(LimitReached, match=r"the clients of 10\.0\.0\.1 have 3 watches here") as refusal:
        WatchReader(node, owner=3, group="10.0.0.1")
    assert refusal.value.code == "limit"
    assert WatchReader(node, group="10.0.0.2").error is None
    held[0].watch.close()
    held.append(WatchReader(node, owner=0, group="10.0.0.1"))
    node.hub.check()
    for reader in held:
        reader.watch.close()
    node.hub.check()
    assert WatchReader(node, owner=0, group="10.0.0.1").error is None


async def test_closed_hub_ends_watches_with_where_to_resume() -> None:
    node = WatchedNode()
    reader, future = WatchReader(node), WatchReader(node, from_revision=100)
    node.apply(put(b"a"))
    await settle()
    node.hub.close()
    node.apply(put(b"b"))
    assert len(reader.read()) == 1
    assert isinstance(reader.error, WatchEnded)
    assert (reader.error.code, reader.error.resume) == ("closed", 2)
    assert isinstance(future.error, WatchEnded)
    assert future.error.resume == 100
    with pytest.raises(WatchEnded):
        WatchReader(node)
    await settle()
    assert reader.wakes == 2


async def test_change_is_given_and_sent_before_its_apply_returns() -> None:
    """So an event leaves together with the acknowledgement of the write."""
    node = WatchedNode()
    reader, waiting = WatchReader(node), WatchReader(node, from_revision=100)
    sent: list[int] = []
    node.hub.given = lambda: sent.append(len(reader.read()))
    node.apply(put(b"a"), put(b"b"))
    assert sent == [2]
    assert waiting.wakes == 0


async def test_change_with_very_many_watches_is_given_in_a_later_turn() -> None:
    """The client that has made it must not wait for all of them."""
    node = WatchedNode()
    readers = [WatchReader(node) for _ in range(watch_hub.AT_ONCE_WATCHES + 1)]
    node.apply(put(b"a"))
    assert not any(reader.read() for reader in readers)
    await settle()
    assert all(reader.read() for reader in readers)


async def test_change_that_can_not_be_told_disturbs_no_command(caplog: pytest.LogCaptureFixture) -> None:
    node = WatchedNode()
    WatchReader(node)

    def fail() -> None:
        raise OSError("no more")

    node.hub.given = fail
    node.apply(put(b"a"))
    assert node.revision == 1
    assert "watches could not be told" in caplog.text


async def test_node_without_a_leader_ends_its_watches_after_two_elections() -> None:
    node = WatchedNode(election_s=1.0)
    reader, stale = WatchReader(node), WatchReader(node, stale=True)
    errors = []
    for has_leader, seconds in ((False, 1.5), (True, 1.0), (False, 2.0), (False, 1.0)):
        node.has_leader = has_leader
        await asyncio.sleep(seconds)
        errors.append(reader.error)
    assert errors[:3] == [None] * 3, "an election counts from its own start"
    assert isinstance(reader.error, WatchEnded)
    assert (reader.error.code, reader.error.resume) == ("no_leader", 1)
    assert stale.error is None
    with pytest.raises(NoLeader):
        WatchReader(node)
    node.apply(put(b"a"))
    await settle()
    assert len(stale.read()) == 1


async def test_progress_marks_come_at_their_interval_by_one_confirmation() -> None:
    node = WatchedNode()
    node.apply(put(b"a"))
    readers = [WatchReader(node, progress_s=10.0) for _ in range(50)]
    await asyncio.sleep(9.0)
    assert [reader.read() for reader in readers] == [[]] * 50
    await asyncio.sleep(3.0)
    assert [reader.read() for reader in readers] == [[("progress", 1, True)]] * 50
    assert node.confirmations == 1
    await asyncio.sleep(10.0)
    assert node.confirmations == 2


async def test_progress_marks_stop_while_no_quorum_confirms() -> None:
    """A node that is cut off must not tell that nothing happens."""
    node = WatchedNode()
    node.quorum = False
    reader = WatchReader(node, progress_s=5.0)
    await asyncio.sleep(60.0)
    assert reader.read() == []
    node.quorum = True
    await asyncio.sleep(3.0)
    assert reader.read() == [("progress", 0, True)]


async def test_progress_mark_follows_all_that_it_speaks_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_hub, "SLICE_CHANGES", 1)
    node = WatchedNode()
    reader = WatchReader(node, progress_s=1.0)
    node.apply(put(b"a"))
    await asyncio.sleep(1.5)
    node.apply(*[put(b"a")] * 10)
    for _ in range(40):
        await asyncio.sleep(0.1)
        reader.read()
    assert ("progress", 11, True) in reader.told
    revisions = [told[1] if told[0] == "progress" else told[0] for told in reader.told]
    assert revisions == sorted(revisions)
    assert set(range(1, 12)) <= set(revisions)


async def test_progress_mark_of_a_watch_from_the_future_can_not_be_resumed_from() -> None:
    """It would be resumed from the past."""
    node = WatchedNode()
    reader = WatchReader(node, from_revision=100, progress_s=1.0)
    await asyncio.sleep(3.0)
    assert reader.read()[0] == ("progress", 0, False)
    assert reader.watch.next == 100


async def test_watch_goes_on_after_an_installed_snapshot() -> None:
    leader, node = WatchedNode(), WatchedNode()
    for one in (leader, node):
        one.apply(*[put(b"a")] * 3)
    live, late = WatchReader(node), WatchReader(node, from_revision=2)
    leader.apply(*[put(b"a")] * 4)
    node.install(leader)
    await settle()
    node.apply(put(b"a"))
    await settle()
    assert [told[0] for told in live.read()] == [4, 5, 6, 7, 8], "each revision once"
    assert [told[0] for told in late.read()] == [*range(2, 9)]


async def test_watch_below_the_floor_of_an_installed_snapshot_ends() -> None:
    leader, node = WatchedNode(), WatchedNode()
    for one in (leader, node):
        one.apply(*[put(b"a")] * 3)
    live, future = WatchReader(node), WatchReader(node, from_revision=7)
    leader.apply(*[put(b"a")] * 4, Compact(6))
    node.install(leader)
    await settle()
    assert isinstance(live.error, RevisionCompacted)
    assert live.error.oldest == 6
    assert live.read() == []
    assert [told[0] for told in future.read()] == [7]


async def test_watch_ends_if_an_older_state_takes_the_place_of_a_newer_one() -> None:
    """What it was told may be no part of the history any more."""
    older, node = WatchedNode(), WatchedNode()
    older.apply(put(b"a"))
    node.apply(*[put(b"a")] * 5)
    live, future = WatchReader(node), WatchReader(node, from_revision=50)
    await settle()
    node.apply(put(b"a"))
    await settle()
    node.install(older)
    await settle()
    assert isinstance(live.error, RevisionCompacted)
    assert future.error is None


async def test_hub_without_watches_holds_no_store_and_runs_no_timer() -> None:
    node = WatchedNode()
    reader = WatchReader(node, progress_s=1.0)
    node.apply(put(b"a"))
    await settle()
    reader.watch.close()
    assert node.hub._known is None
    node.apply(put(b"a"))
    await asyncio.sleep(100.0)
    assert node.confirmations == 0
    assert len(node.hub) == 0


async def test_write_costs_no_more_with_a_thousand_watches_of_other_keys() -> None:
    """The index finds the watches that a key concerns: the others are not looked at."""

    async def cost_s(watches: int) -> float:
        node = WatchedNode()
        readers = [WatchReader(node, key=b"%d" % number) for number in range(watches)]
        readers += [WatchReader(node, prefix=b"p%d/" % number) for number in range(watches)]
        best_s = 1.0
        for _ in range(10):
            began_s = time.thread_time()
            for number in range(100):
                node.apply(put(b"%d" % (number % 10)))
                await asyncio.sleep(0)
            best_s = min(best_s, time.thread_time() - began_s)
        assert sum(len(reader.read()) for reader in readers) == 1000
        return best_s

    assert await cost_s(2000) < 3 * await cost_s(10)
