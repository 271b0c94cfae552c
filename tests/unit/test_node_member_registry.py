"""The member registry: what changes and announcements make of it, however the log is cut into batches."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.consensus.membership import Changer, Configuration, ProgressMap, encode_change
from syncline.consensus.types import (
    ChangeType,
    EntryType,
    LogEntry,
    MembershipChange,
    MembershipState,
    SingleChange,
    StateType,
)
from syncline.errors import MembershipError
from syncline.node.applier import Applier, ApplyWork, Outcome
from syncline.node.config import Config
from syncline.node.envelope import ChangeContext, Kind, MemberRecord, Proposal, encode
from syncline.node.member_registry import MemberRegistry
from syncline.node.membership import MembershipCallbacks, MembershipParts, Reconfiguration
from syncline.node.outcomes import on_outcome
from syncline.node.runtime import Driver
from syncline.platform.worker import ThreadWorkers
from syncline.storage.datadir import Identity
from tests.helpers.node_cluster import LoopListing

ME = 1


class Core:
    """The core of a node as far as applied changes concern it."""

    def __init__(self) -> None:
        self.configuration, self.progress = Configuration(), ProgressMap()
        self.id = ME
        self.pending_membership_index = self.applied = 0
        self.state = StateType.FOLLOWER

    @property
    def membership(self) -> MembershipState:
        return self.configuration.state()

    def apply_membership(self, change: MembershipChange, *, index: int) -> MembershipState:
        self.configuration, self.progress = Changer(self.configuration, self.progress, index).change(change)
        return self.configuration.state()


class Node:
    """Applies entries as a node does, with the real applier, outcomes and registry."""

    def __init__(self) -> None:
        def nothing(*_: object, **__: object) -> None:
            pass

        ignored = SimpleNamespace(applied=nothing, resolved=nothing, passed=nothing, applied_term=1 << 60)
        self.failures: list[BaseException] = []
        self.parts = SimpleNamespace(
            book=MemberRegistry(),
            transport=SimpleNamespace(set_peer=nothing, remove_peer=nothing),
            guard=SimpleNamespace(registered=nothing),
            identity=Identity(1, ME, "one"),
            writer=SimpleNamespace(settle_now=nothing, durable_commit=10**9),
        )
        self.core = self.parts.core = Core()
        self.running = SimpleNamespace(stopped=False, wake=nothing)
        self.applied, self.restoring = 0, False
        self.proposals = self.snapshotter = self.reads = ignored
        self.on_applied = nothing
        self.role_watch = SimpleNamespace(look=nothing)
        self.stages = SimpleNamespace(applied=nothing)
        self.fail = self.failures.append
        self.parts.proposals = ignored
        self.parts.settlement = SimpleNamespace(complete=True, look=nothing)
        doors = MembershipCallbacks(
            propose=nothing,
            restoring=lambda: False,
            emit=nothing,
            ignored=nothing,
            changed=nothing,
            look_at_addresses=nothing,
            stopped=lambda: False,
            fail=self.fail,
        )
        parts = cast("MembershipParts", self.parts)
        loop = cast("asyncio.AbstractEventLoop", SimpleNamespace(time=lambda: 0.0, call_soon=nothing))
        self.reconfiguration = Reconfiguration(cast("Config", None), parts, doors, loop, election_ticks=10)

    @property
    def book(self) -> MemberRegistry:
        return cast("MemberRegistry", self.parts.book)

    async def apply(self, batches: list[list[LogEntry]]) -> None:
        def deliver(outcome: Outcome) -> None:
            on_outcome(cast("Driver", self), outcome)

        applier = Applier(LoopListing(), ME, ThreadWorkers(), deliver, self.failures.append)
        for batch in batches:
            applier.put(ApplyWork(batch, ()))
        await applier.close()
        assert self.failures == []


def change(kind: ChangeType, node_id: int, *records: MemberRecord) -> MembershipChange:
    return MembershipChange(changes=(SingleChange(kind, node_id),), context=encode(ChangeContext(9, 9, records)))


def log_of(*items: MembershipChange | MemberRecord) -> list[LogEntry]:
    """A log of changes and announcements, from index 1 on."""
    entries = []
    for index, item in enumerate(items, 1):
        if isinstance(item, MemberRecord):
            data = encode(Proposal(Kind.ANNOUNCE, item.id, index, encode(item)))
            entries.append(LogEntry(1, index, EntryType.NORMAL, data))
        else:
            entries.append(LogEntry(1, index, EntryType.CONF_CHANGE_V2, encode_change(item)))
    return entries


async def registry_after(*items: MembershipChange | MemberRecord) -> dict[int, MemberRecord]:
    node = Node()
    await node.apply([log_of(*items)])
    return node.book.members


MEMBER = MemberRecord(
    2, "two", "two:1", "http://two", False, directory=20, incarnation=3 << 32, level=4, machine_version=5
)

records = st.builds(
    MemberRecord,
    id=st.integers(1, 3),
    name=st.just("n"),
    address=st.sampled_from(["h:1", "h:2", "h:3"]),
    promote=st.booleans(),
    directory=st.integers(0, 2),
    incarnation=st.integers(0, 3),
)
changes = st.builds(
    change, st.sampled_from(list(ChangeType)), st.integers(1, 3), records
)  # the record is of another member at times, as a faulty one might send it


@given(st.lists(st.one_of(records, changes), max_size=25), st.sets(st.integers(1, 25)))
async def test_registry_does_not_depend_on_how_the_log_is_cut(
    items: list[MembershipChange | MemberRecord], cuts: set[int]
) -> None:
    """Batches are cut by time and load, so differently on each node. All at once, one by one, and by chance."""
    first = change(ChangeType.ADD_NODE, ME, MemberRecord(ME, "one", "one:1"))
    log = log_of(first, *items)
    bounds = [0, *sorted(cut for cut in cuts if cut < len(log)), len(log)]
    by_chance = [log[low:high] for low, high in pairwise(bounds) if low < high]
    states = []
    for batches in ([log], [[entry] for entry in log], by_chance):
        node = Node()
        await node.apply(batches)
        states.append((node.book.dump(), node.core.configuration))
    assert states[0] == states[1] == states[2]


@given(st.lists(st.one_of(records, changes), max_size=25))
async def test_registry_never_loses_a_directory_or_goes_back(items: list[MembershipChange | MemberRecord]) -> None:
    """While a node is a member, its directory id stays once it is known, and its incarnation never falls."""
    node = Node()
    before: dict[int, MemberRecord] = {}
    for entry in log_of(change(ChangeType.ADD_NODE, ME, MemberRecord(ME, "one", "one:1")), *items):
        await node.apply([[entry]])
        for node_id, member in node.book.members.items():
            known = before.get(node_id, MemberRecord(node_id, "", ""))
            assert known.directory in (0, member.directory)
            assert known.incarnation <= member.incarnation
        before = dict(node.book.members)


@pytest.mark.parametrize("kind", [ChangeType.ADD_NODE, ChangeType.ADD_LEARNER_NODE])
async def test_registry_keeps_the_record_when_a_role_changes(kind: ChangeType) -> None:
    """Also if the change brings a bare record: a member without its directory id could come back emptied, and vote."""
    add = change(ChangeType.ADD_LEARNER_NODE, 2, MemberRecord(2, "two", "two:0", promote=True))
    one = change(ChangeType.ADD_NODE, ME, MemberRecord(ME, "one", "one:1"))
    after = await registry_after(one, add, MEMBER, change(kind, 2, MemberRecord(2, "two", "two:0")))
    assert after[2] == MEMBER


async def test_registry_ignores_announcements_of_earlier_starts() -> None:
    """Two announcements can be on their way at once, of an old process and of its successor."""
    one = change(ChangeType.ADD_NODE, ME, MemberRecord(ME, "one", "one:1"))
    add = change(ChangeType.ADD_LEARNER_NODE, 2, MemberRecord(2, "two", "two:0"))
    older = MemberRecord(2, "two", "old:1", directory=20, incarnation=2 << 32)
    assert (await registry_after(one, add, MEMBER, older))[2] == MEMBER
    assert (await registry_after(one, add, older, MEMBER))[2] == MEMBER


async def test_registry_keeps_the_first_of_two_forks() -> None:
    """Of two starts with one count, from copies of a directory, the log decides, so that all members agree."""
    one = change(ChangeType.ADD_NODE, ME, MemberRecord(ME, "one", "one:1"))
    add = change(ChangeType.ADD_LEARNER_NODE, 2, MemberRecord(2, "two", "two:0"))
    fork = MemberRecord(2, "two", "copy:1", directory=20, incarnation=(3 << 32) + 1)
    assert (await registry_after(one, add, MEMBER, fork))[2] == MEMBER
    assert (await registry_after(one, add, fork, MEMBER))[2] == fork


async def test_registry_takes_an_updated_address_and_nothing_else() -> None:
    """An update is of one start of the member: what a later start has announced itself is newer."""
    one = change(ChangeType.ADD_NODE, ME, MemberRecord(ME, "one", "one:1"))
    add = change(ChangeType.ADD_LEARNER_NODE, 2, MemberRecord(2, "two", "two:0"))
    moved = MemberRecord(2, "other", "new:1", "http://x", True, directory=20, incarnation=3 << 32)
    after = await registry_after(one, add, MEMBER, change(ChangeType.UPDATE_NODE, 2, moved))
    assert after[2] == MemberRecord(
        2, "two", "new:1", "http://two", False, directory=20, incarnation=3 << 32, level=4, machine_version=5
    )
    late = MemberRecord(2, "two", "new:1", directory=20, incarnation=2 << 32)
    assert (await registry_after(one, add, MEMBER, change(ChangeType.UPDATE_NODE, 2, late)))[2] == MEMBER


async def test_leader_examines_updates_of_addresses() -> None:
    """One record of the member, of its newest start, with an address that no other member has."""
    node = Node()
    await node.apply([log_of(change(ChangeType.ADD_NODE, ME, MemberRecord(ME, "one", "one:1")),
                           change(ChangeType.ADD_LEARNER_NODE, 2, MemberRecord(2, "two", "two:0")),
                           MEMBER)])  # fmt: skip
    node.core.applied = 3
    moved = MemberRecord(2, "two", "new:1", directory=20, incarnation=3 << 32)
    bad = [
        change(ChangeType.UPDATE_NODE, 3, MemberRecord(3, "three", "new:1")),
        change(ChangeType.UPDATE_NODE, 2),
        change(ChangeType.UPDATE_NODE, 2, moved, moved),
        change(ChangeType.UPDATE_NODE, 2, MemberRecord(2, "two", "new:1")),
        change(ChangeType.UPDATE_NODE, 2, MemberRecord(2, "two", "one:1", directory=20, incarnation=3 << 32)),
        MembershipChange(
            changes=(SingleChange(ChangeType.UPDATE_NODE, 2), SingleChange(ChangeType.ADD_NODE, 2)),
            context=encode(ChangeContext(9, 9, (moved,))),
        ),
        MembershipChange(changes=(SingleChange(ChangeType.UPDATE_NODE, 2),)),
    ]
    for wrong in bad:
        with pytest.raises(MembershipError):
            node.reconfiguration.append(encode(wrong), 9, 9)


def test_membership_while_joint_lists_both_halves() -> None:
    """A caller that looks at it in the middle of a change must not think that a voter has left, or has no vote yet."""
    state = MembershipState(voters=(1, 4), voters_outgoing=(1, 2, 3), learners=(5,), learners_next=(3,))
    listed = MemberRegistry().membership(state)
    roles = {node_id: member.voter for node_id, member in listed.members.items()}
    assert roles == {1: True, 2: True, 3: True, 4: True, 5: False}, "both halves vote, and learners are listed"
    assert listed.joint
    assert not MemberRegistry().membership(MembershipState(voters=(1, 4))).joint
