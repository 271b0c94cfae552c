"""The levels of a cluster: what makes them rise, and what never does."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.consensus.types import MembershipState, NodeId
from syncline.errors import ConfigError, NodeFailed
from syncline.node.envelope import ClusterLevels, Hold, LevelChange, MemberRecord, Unreadable, decode_level, encode
from syncline.node.levels import MOST_NEEDED, Ability, Levels, ability_of, agreed, check_start, risen
from syncline.node.member_registry import MemberRegistry, RegistryState
from syncline.transport.messages import PeerStats, Refusal, RefusalCode

TELLING = st.builds(Ability, st.integers(0, 4), st.integers(0, 4))
CHANGE = st.builds(LevelChange, st.integers(0, 5), st.integers(0, 5), st.sampled_from(Hold), st.just("9.9"))


def member(node_id: NodeId, level: int, machine_version: int) -> MemberRecord:
    return MemberRecord(node_id, f"n{node_id}", f"10.0.0.{node_id}:7100", level=level, machine_version=machine_version)


@dataclass
class Setup:
    """A node's levels, and what they asked for."""

    can: Ability = field(default_factory=lambda: Ability(2, 2))
    hold_level: int = 0
    book: MemberRegistry = field(default_factory=MemberRegistry)
    ids: set[NodeId] = field(default_factory=set)
    proposed: list[LevelChange] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.levels = Levels(
            self.book,
            self.can,
            name="a",
            node_id=1,
            hold_level=self.hold_level,
            membership=lambda: MembershipState(tuple(sorted(self.ids))),
            propose=self.propose,
            fail=self.failures.append,
        )

    def propose(self, change: LevelChange) -> bool:
        self.proposed.append(change)
        return True

    def told(self, node_id: NodeId, level: int, machine_version: int) -> None:
        self.ids.add(node_id)
        self.book.members[node_id] = member(node_id, level, machine_version)


@settings(max_examples=500, deadline=None)
@given(st.lists(TELLING, min_size=1, max_size=5), CHANGE, TELLING)
def test_level_entry_never_passes_a_member(tells: list[Ability], change: LevelChange, now: Ability) -> None:
    before = ClusterLevels(max(1, now.level), max(1, now.machine_version))
    members = [member(number, tell.level, tell.machine_version) for number, tell in enumerate(tells, 1)]
    after = risen(before, change, agreed(members))
    assert before.level <= after.level
    assert before.machine_version <= after.machine_version
    if after.level > before.level:
        assert all(after.level <= told.level for told in members)
        assert after.level == change.level
    if after.machine_version > before.machine_version:
        assert all(after.machine_version <= told.machine_version for told in members)
        assert after.machine_version == change.machine_version


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False))
def test_level_never_rises_while_a_member_can_do_less(rng: random.Random) -> None:
    """Any order of announcements (going back included), joins, leaves, proposals, holds; entries apply late."""
    node = Setup()
    log: list[LevelChange | MemberRecord | tuple[str, NodeId]] = []
    for _ in range(60):
        event = rng.randrange(7)
        node_id = rng.randrange(1, 6)
        if event == 0:
            log.append(member(node_id, rng.randrange(4), rng.randrange(4)))
        elif event == 1:
            log.append(("add", node_id))
        elif event == 2 and len(node.ids) > 1:
            log.append(("remove", node_id))
        elif event == 3:
            node.levels.raise_if_due()  # by what is applied so far: later entries may void it
        elif event == 4:
            log.append(rng.choice([node.levels.hold, node.levels.finalize])())
        elif event == 5:
            log.append(LevelChange(rng.randrange(6), rng.randrange(6)))  # of a leader that knows less, or lies
        log += node.proposed
        node.proposed.clear()
        while log and rng.random() < 0.5:
            apply(node, log.pop(0))
    for entry in log:
        apply(node, entry)
    levels = node.book.levels
    assert max(levels.level, levels.machine_version) <= 3, "no member can do more, whatever a leader said"


def apply(node: Setup, entry: LevelChange | MemberRecord | tuple[str, NodeId]) -> None:
    before = node.book.levels
    if isinstance(entry, LevelChange):
        node.levels.applied(entry)
    elif isinstance(entry, MemberRecord):
        if entry.id in node.ids:
            node.book.announce(entry)
    elif entry[0] == "add":
        if entry[1] not in node.ids:
            node.told(entry[1], 0, 0)
    else:
        node.ids.discard(entry[1])
        node.book.members.pop(entry[1], None)
    after = node.book.levels
    assert (before.level, before.machine_version) <= (after.level, after.machine_version)
    if after.level > before.level:
        assert all(node.book.members[node_id].level >= after.level for node_id in node.ids)
    if after.machine_version > before.machine_version:
        assert all(node.book.members[node_id].machine_version >= after.machine_version for node_id in node.ids)


def test_levels_rise_to_what_all_members_can_do() -> None:
    node = Setup()
    node.told(1, 3, 5)
    node.told(2, 2, 5)
    node.levels.raise_if_due()
    (change,) = node.proposed
    assert (change.level, change.machine_version) == (2, 5)


def test_leader_proposes_no_level_for_a_member_that_has_not_told() -> None:
    node = Setup()
    node.told(1, 2, 2)
    node.told(2, 0, 0)
    node.levels.raise_if_due()
    node.ids.add(3)  # of this one the registry knows nothing
    node.told(2, 2, 2)
    node.levels.raise_if_due()
    assert node.proposed == []


def test_leader_minds_a_greeting_that_is_newer_than_the_announcement() -> None:
    """A member went back to the older version and has not announced it yet: a rise would stop it."""
    node = Setup()
    node.told(1, 2, 2)
    node.told(2, 2, 2)
    assert node.levels.refuse(2, "b", 1, 2) is None
    node.levels.raise_if_due()
    (change,) = node.proposed
    assert (change.level, change.machine_version) == (1, 2)
    node.levels.refuse(2, "b", 2, 2)
    node.levels.raise_if_due()
    assert (node.proposed[-1].level, node.proposed[-1].machine_version) == (2, 2)


@pytest.mark.parametrize(("hold_level", "expected"), [(1, []), (2, [(2, 1)]), (5, [(3, 1)]), (0, [(3, 3)])])
def test_hold_level_caps_the_level_and_keeps_the_machine_version(
    hold_level: int, expected: list[tuple[int, int]]
) -> None:
    node = Setup(hold_level=hold_level)
    node.told(1, 3, 3)
    node.levels.raise_if_due()
    assert [(change.level, change.machine_version) for change in node.proposed] == expected


def test_replicated_hold_keeps_the_leader_from_proposing() -> None:
    node = Setup()
    node.told(1, 2, 2)
    node.levels.applied(node.levels.hold())
    node.levels.raise_if_due()
    assert node.proposed == []
    assert node.levels.status().held


def test_finalize_passes_the_hold_and_the_setting() -> None:
    node = Setup(hold_level=1)
    node.told(1, 2, 2)
    node.levels.applied(node.levels.hold())
    node.levels.applied(node.levels.finalize())
    assert (node.levels.level, node.levels.machine_version) == (2, 2), "whatever the setting says"
    assert not node.levels.status().held


def test_node_stops_when_the_level_passes_it() -> None:
    """It announced a later version, went back, and the entry was committed before it could say so."""
    node = Setup(can=Ability(1, 1))
    node.told(1, 2, 1)
    node.levels.applied(LevelChange(2, 1, written_by="9.9.0"))
    (failure,) = node.failures
    assert isinstance(failure, NodeFailed)
    assert "needs level 2, and it can do level 1" in str(failure)
    assert "Syncline 9.9.0" in str(failure)


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ((2, 3), None),
        ((3, 3), None),
        ((1, 3), "needs level 2"),
        ((2, 2), "needs machine version 3"),
        ((0, 0), "level 2"),
    ],
)
def test_greeting_below_the_levels_is_refused(told: tuple[int, int], text: str | None) -> None:
    node = Setup()
    node.book.levels = ClusterLevels(2, 3)
    refusal = node.levels.refuse(9, "z", *told)
    if text is None:
        assert refusal is None
        return
    assert refusal is not None
    assert refusal.code == RefusalCode.LEVEL
    assert "node z (0000000000000009)" in refusal.reason
    assert text in refusal.reason
    assert "upgrade this node first" in refusal.reason


def refusing(code: str = RefusalCode.LEVEL, reason: str = "needs level 2") -> PeerStats:
    return PeerStats(
        connected=False, connected_since_s=None, last_contact_s=None, address="h:1", sent_bytes=0, received_bytes=0,
        sent_messages=0, received_messages=0, dropped_messages=0, reconnects=0, rtt_s=None, last_error=None,
        last_refusal=Refusal(reason, code),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("voters", "refused_by", "stops"),
    [
        ({1, 2, 3}, {2, 3}, True),
        ({1, 2, 3}, {2}, False),
        ({1, 2, 3}, {2, 9}, False),
        ({1, 2}, {2}, True),
        ({1, 2, 3, 4, 5}, {2, 3}, False),
        ({1, 2, 3, 4, 5}, {2, 3, 4}, True),
        (set(), {2}, False),
        ({1, 2, 3}, set(), False),
        ({1}, {2, 3}, False),
    ],
)
def test_node_stops_if_a_quorum_refuses_its_level(voters: set[NodeId], refused_by: set[NodeId], stops: bool) -> None:
    """One faulty member can't stop another by a refusal, and none can stop the only voter."""
    node = Setup(ids=set(voters))
    node.levels.look({peer: refusing() for peer in refused_by}, nothing_to_lose=False)
    assert bool(node.failures) == stops
    if stops:
        assert "needs level 2" in str(node.failures[0])
    other = Setup(ids=set(voters))
    other.levels.look({peer: refusing(RefusalCode.DIRECTORY) for peer in refused_by}, nothing_to_lose=False)
    assert other.failures == []


def test_node_without_a_log_stops_at_the_first_refusal() -> None:
    """It is no member yet."""
    node = Setup()
    node.levels.look({}, nothing_to_lose=True)
    assert node.failures == []
    node.levels.look({2: refusing()}, nothing_to_lose=True)
    assert len(node.failures) == 1


def test_node_stops_if_a_quorum_dials_from_a_higher_level() -> None:
    """The others leave a node that welcomes them with too low a level: their greeting is all that it hears."""
    node = Setup(ids={1, 2, 3})
    assert node.levels.refuse_to_take_part(2, 2, 2) is None
    refusal = node.levels.refuse_to_take_part(2, 3, 2)
    assert refusal is not None
    assert "node a (0000000000000001) needs level 3, and it can do level 2" in refusal.reason
    assert refusal.code != RefusalCode.LEVEL, "the dialler can do enough"
    node.levels.look({}, nothing_to_lose=False)
    assert node.failures == []
    node.levels.refuse_to_take_part(3, 2, 7)
    node.levels.look({}, nothing_to_lose=False)
    assert len(node.failures) == 1
    back = Setup(ids={1, 2, 3})
    for levels in ((9, 9), (1, 1)):
        for peer in (2, 3):
            back.levels.refuse_to_take_part(peer, *levels)
    back.levels.look({}, nothing_to_lose=False)
    assert back.failures == [], "the newest word of each counts"


def test_made_up_nodes_do_not_crowd_out_the_word_of_members() -> None:
    """Without a secret anyone can dial under made-up ids."""
    node = Setup(ids={1, 2, 3})
    for stranger in range(100, 100 + 2 * MOST_NEEDED):
        node.levels.refuse_to_take_part(stranger, 3, 2)
    node.levels.look({}, nothing_to_lose=False)
    assert node.failures == []
    for peer in (2, 3):
        node.levels.refuse_to_take_part(peer, 3, 2)
    assert len(node.levels._needed) == MOST_NEEDED
    node.levels.look({}, nothing_to_lose=False)
    assert len(node.failures) == 1


def test_greeting_without_levels_passes_at_the_first_level() -> None:
    assert Setup().levels.refuse(9, "z", 0, 0) is None


def test_member_of_a_known_lower_level_is_not_added() -> None:
    node = Setup()
    node.book.levels = ClusterLevels(2, 1)
    assert "needs level 2" in str(node.levels.refuse_member(member(9, 1, 1)))
    assert node.levels.refuse_member(member(9, 2, 1)) is None
    assert node.levels.refuse_member(member(9, 0, 0)) is None, "it is judged when it greets"


def test_start_below_the_level_names_the_version_that_rose() -> None:
    check_start("a", 1, Ability(2, 1), ClusterLevels(2, 1))
    with pytest.raises(NodeFailed, match=r"node a \(0000000000000001\) needs level 2.*Syncline 9\.9\.0"):
        check_start("a", 1, Ability(1, 1), ClusterLevels(2, 1, written_by="9.9.0"))


def test_snapshot_carries_the_levels() -> None:
    book = MemberRegistry()
    book.levels = ClusterLevels(3, 4, True, "9.9.0")
    other = MemberRegistry()
    other.load(book.dump())
    assert other.levels == book.levels


def test_registry_of_an_older_snapshot_has_the_first_levels() -> None:
    old = msgspec.msgpack.encode([7, [[1, "a", "10.0.0.1:7100"]], []])
    assert msgspec.msgpack.decode(old, type=RegistryState).levels == ClusterLevels(1, 1, False, "")


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"\x93\x01", encode([1]), encode([-1, 0]), encode([2**40, 0]), encode(["2", 2]), encode([2, 2, 9])],
)
def test_content_that_is_no_change_of_levels_has_no_effect(data: bytes) -> None:
    """Such an entry is ignored on every node alike."""
    with pytest.raises(Unreadable):
        decode_level(data)


def test_change_of_levels_is_read_as_it_was_written() -> None:
    change = LevelChange(2, 3, Hold.RELEASE, "0.2.0")
    assert decode_level(encode(change)) == change


class Versioned:
    def __init__(self, version: object) -> None:
        self.machine_version = version


@pytest.mark.parametrize("version", [0, -1, "2", 2.0, True, None, 2**40])
def test_machine_version_of_a_wrong_kind_is_refused(version: object) -> None:
    with pytest.raises(ConfigError, match="machine_version of Versioned"):
        ability_of(Versioned(version), 1)


def test_machine_without_a_version_is_of_the_first() -> None:
    assert ability_of(object(), 2) == Ability(2, 1)
    assert ability_of(Versioned(4), 2) == Ability(2, 4)
