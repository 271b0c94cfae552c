"""Poison: no call, no frame and no entry may stop a node, and none may stop it again at its next start."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from syncline import Raft
from syncline.consensus import leader as core_leader
from syncline.consensus.types import ChangeType, EntryType, LogEntry, MembershipChange, NodeId, SingleChange, StateType
from syncline.errors import ConfigError, Rejected
from syncline.node.envelope import DATA, MEMBERSHIP, ChangeContext, Kind, MemberRecord, Proposal, encode
from syncline.node.known_members import known_members
from syncline.platform.disk import OsDisk
from syncline.transport.messages import AcceptedProposal, Forward, ForwardedProposal, ForwardReply, RefusedProposal
from tests.helpers.node_cluster import Cluster, Listing, all_apply, cluster
from tests.helpers.tasks import nothing_reported

ROUNDS = 150
"""Of random poison for one seed: each is a forward, a reply, or an entry that a faulty leader writes."""

STORAGE = 2**64 - 1
"""The id of a node's own storage in the core, which no member may have."""


def write_unexamined(leader: Raft[object], *entries: tuple[EntryType, bytes]) -> None:
    """Have the leader append what a faulty one would: nothing looks at it before it is in the log."""
    driver = leader._driver
    raft = driver.core.raft
    assert raft.state is StateType.LEADER
    first = raft.log.last_index + 1
    made = [LogEntry(raft.term, index, kind, data) for index, (kind, data) in enumerate(entries, first)]
    assert core_leader.replicate(raft, made)
    driver.schedule()


async def restart_all(nodes: Cluster) -> None:
    await nodes.stop_all()
    await nodes.start_all()


# -- calls ------------------------------------------------------------------------------------------------------------

WRONG_CALLS: list[tuple[str, Callable[[Raft[object]], object]]] = [
    ("data of text", lambda raft: raft.apply("7")),  # type: ignore[arg-type]
    ("data of a list", lambda raft: raft.apply([7])),  # type: ignore[arg-type]
    ("data of a dict", lambda raft: raft.apply({})),  # type: ignore[arg-type]
    ("no data", lambda raft: raft.apply(None)),  # type: ignore[arg-type]
    ("extensions of text", lambda raft: raft.apply(b"7", extensions="x")),  # type: ignore[arg-type]
    ("one of many of text", lambda raft: raft.apply_many([b"never", "7"])),  # type: ignore[list-item]
    ("many that are one", lambda raft: raft.apply_many(b"never")),  # type: ignore[arg-type]
    ("many until never", lambda raft: raft.apply_many([b"never"], timeout=-1)),
    ("data of text for a callback", lambda raft: raft._apply_then("7", unreachable)),  # type: ignore[arg-type]
    ("a timeout of text", lambda raft: raft.apply(b"never", timeout="5")),  # type: ignore[arg-type]
    ("a timeout that is no number", lambda raft: raft.apply(b"never", timeout=float("nan"))),
    ("no callback", lambda raft: raft._apply_then(b"never", None)),  # type: ignore[arg-type]
    ("a barrier for text", lambda raft: raft.barrier(timeout="5")),  # type: ignore[arg-type]
    ("a read for nothing", lambda raft: raft.read_index(timeout=None)),  # type: ignore[arg-type]
]


def unreachable(answer: object, error: object) -> None:
    raise AssertionError((answer, error))


async def test_call_with_wrong_arguments_raises_and_queues_nothing(tmp_path: Path) -> None:
    """Each of these was committed, stopped every node, and stopped it again at each start."""
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        await nodes.announced()
        with nothing_reported():
            for raft in (leader, follower):
                for what, call in WRONG_CALLS:
                    with pytest.raises((TypeError, ConfigError)):
                        print(what, call(raft))
                    assert not raft.stats().proposals_pending, what
        data = bytearray(b"copied")
        future = leader.apply(data)  # type: ignore[arg-type]  # it is taken all the same
        data[:] = b"change"
        await future
        await all_apply(nodes, b"alive")
        assert nodes.machine(leader).items == [b"copied", b"alive"]


async def test_add_member_with_wrong_arguments_raises_at_once(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        wrong: list[tuple[type[Exception], dict[str, object]]] = [
            (ConfigError, {"address": "127.0.0.1:0"}),
            (ConfigError, {"address": "nowhere"}),
            (ConfigError, {"address": "0.0.0.0:7100"}),
            (ConfigError, {"node_id": STORAGE}),
            (ConfigError, {"node_id": 2**63}),
            (ConfigError, {"node_id": -3}),
            (ConfigError, {"name": ""}),
            (ConfigError, {"name": "x" * 200}),
            (ConfigError, {"http": "http://h\n"}),
            (ConfigError, {"expected_index": 0}),
            (ConfigError, {"timeout": float("nan")}),
            (TypeError, {"name": 5}),
            (TypeError, {"address": 5}),
            (TypeError, {"http": None}),
            (TypeError, {"node_id": True}),
            (TypeError, {"node_id": "7"}),
            (TypeError, {"expected_index": 1.5}),
        ]
        for error, changes in wrong:
            arguments = {"name": "z", "address": "127.0.0.1:9"} | changes
            for add in (raft.add_learner, raft.add_voter):
                with pytest.raises(error):
                    await add(**arguments)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await raft.add_learner("z", "127.0.0.1:9", promote=1)  # type: ignore[arg-type]
        for call in (raft.promote, raft.demote, raft.remove):
            for node_id in (0, -3, STORAGE):
                with pytest.raises(ConfigError):
                    await call(node_id)
            with pytest.raises(TypeError):
                await call(b"a")  # type: ignore[arg-type]
        with pytest.raises(ConfigError):
            await raft.change_membership([(ChangeType.ADD_NODE, STORAGE)])
        with pytest.raises(TypeError):
            await raft.change_membership([5])  # type: ignore[list-item]
        with pytest.raises(ConfigError):
            await raft.transfer_leadership(-1)
        with pytest.raises(TypeError):
            await raft.transfer_leadership(b"a")  # type: ignore[arg-type]
        assert set(raft.membership().members) == {raft.node_id}
        await all_apply(nodes, b"alive")


# -- what peers send --------------------------------------------------------------------------------------------------


def forward_to(leader: Raft[object], sender: Raft[object], *items: ForwardedProposal) -> None:
    leader._driver.on_messages(sender.node_id, [Forward(list(items), leader._driver.core.term)])


async def test_forward_of_poison_is_refused_and_no_node_stops(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        await nodes.announced()
        before = leader.stats().last_index
        me = follower.node_id
        poisoned = MemberRecord(me, follower.config.name, "127.0.0.1:0")
        new = MemberRecord(77, "z", "127.0.0.1:9")
        add = (SingleChange(ChangeType.ADD_LEARNER_NODE, STORAGE),)
        forward_to(
            leader,
            follower,
            ForwardedProposal(1, DATA, b"rubbish"),
            ForwardedProposal(2, DATA, b"\x91" * 100_000),
            ForwardedProposal(-3, DATA, encode(Proposal(Kind.COMMAND, me, -3, b"x"))),
            ForwardedProposal(2**64 - 1, DATA, encode(Proposal(Kind.COMMAND, me, 2**64 - 1, b"x"))),
            ForwardedProposal(4, -1, b""),
            ForwardedProposal(5, 2**63, b""),
            ForwardedProposal(6, DATA, encode(Proposal(9, me, 6, b"x"))),
            ForwardedProposal(7, DATA, encode(Proposal(Kind.ANNOUNCE, me, 7, b"rubbish"))),
            ForwardedProposal(8, DATA, encode(Proposal(Kind.ANNOUNCE, me, 8, encode(poisoned)))),
            ForwardedProposal(9, MEMBERSHIP, b"rubbish"),
            ForwardedProposal(10, MEMBERSHIP, encode(MembershipChange(changes=add, context=b"rubbish"))),
            ForwardedProposal(
                11, MEMBERSHIP, encode(MembershipChange(changes=add, context=encode(ChangeContext(me, 11, (new,)))))
            ),
        )
        assert leader.stats().last_index == before, "nothing of it entered the log"
        await all_apply(nodes, b"alive")


async def test_reply_of_nonsense_to_a_forward_is_ignored(tmp_path: Path) -> None:
    """Numbers that this node never gave, and positions that no log has."""
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        future = follower.apply(b"mine")
        number = future.number
        accepted = [
            AcceptedProposal(number, index, term)
            for index, term in ((-1, 1), (0, 1), (2**64 - 1, 1), (2**63, 1), (5, 0), (5, -1))
        ]
        strange = [AcceptedProposal(-5, 1, 1), AcceptedProposal(2**64 - 1, 1, 1)]
        refused = [RefusedProposal(-5, "not_leader", ""), RefusedProposal(0, "nonsense", "x")]
        answer = ForwardReply([*strange, *accepted], refused, -7, follower._driver.core.term)
        follower._driver.on_messages(leader.node_id, [answer])
        assert await future == 1
        await all_apply(nodes, b"alive")
        placed = follower._driver.proposals._placed  # an announcement of the node may stand in it
        assert not placed.keys() & {-1, 0, 1, 2**63, 2**64 - 1}


class Checking(Listing):
    def check(self, data: bytes) -> None:
        if data.startswith(b"poison"):
            raise Rejected("poison", code="poisoned")
        if data.startswith(b"bug"):
            raise ZeroDivisionError


async def test_check_keeps_commands_of_any_node_out_of_the_log(tmp_path: Path) -> None:
    """The leader examines what others forward, whatever these have or have not examined themselves."""
    nodes = Cluster(tmp_path, "abc")
    nodes.make = Checking
    try:
        await nodes.start_all()
        leader, follower = await nodes.pair()
        await nodes.announced()
        for raft in (leader, follower, follower):
            before = leader.stats().last_index
            with pytest.raises(Rejected, match="poison") as refusal:
                await raft.apply(b"poison")
            assert (refusal.value.code, refusal.value.outcome) == ("poisoned", "not_applied")
            with pytest.raises(Rejected, match="ZeroDivisionError") as failed:
                await raft.apply(b"bug")
            assert failed.value.code == "check_failed"
            assert leader.stats().last_index == before
            follower._driver.parts.check = None  # as a member whose program examines nothing
        await all_apply(nodes, b"alive")
    finally:
        await nodes.stop_all()


# -- what is in the log -----------------------------------------------------------------------------------------------


def poisoned_entries(me: NodeId, member: MemberRecord) -> list[tuple[EntryType, bytes]]:
    def normal(proposal: Proposal) -> tuple[EntryType, bytes]:
        return EntryType.NORMAL, encode(proposal)

    def change(node_id: NodeId, context: bytes = b"") -> tuple[EntryType, bytes]:
        singles = (SingleChange(ChangeType.ADD_LEARNER_NODE, node_id),)
        return EntryType.CONF_CHANGE_V2, encode(MembershipChange(changes=singles, context=context))

    other = member.id
    unreachable_member = msgspec.structs.replace(member, address="nowhere")
    return [
        (EntryType.NORMAL, b"rubbish"),
        (EntryType.NORMAL, b"\x91" * 100_000),
        normal(Proposal(-1, me, 1, b"")),
        normal(Proposal(2**64 - 1, me, 1, b"")),
        normal(Proposal(Kind.ANNOUNCE, me, 1, b"rubbish")),
        normal(Proposal(Kind.ANNOUNCE, me, 1, encode(MemberRecord(other, "x", "h:1")))),
        normal(Proposal(Kind.ANNOUNCE, 12345, 1, encode(MemberRecord(12345, "stranger", "h:1")))),
        (EntryType.CONF_CHANGE_V2, b"rubbish"),
        (EntryType.CONF_CHANGE_V2, b"\x91" * 100_000),
        (EntryType.CONF_CHANGE, b""),
        change(77, b"rubbish"),
        change(STORAGE),
        change(STORAGE - 1),
        change(2**63),
        change(-3),
        # A member that is there, at an address that can't be dialled: replicated by an earlier version.
        normal(Proposal(Kind.ANNOUNCE, other, 1, encode(unreachable_member))),
    ]


async def test_entries_of_poison_have_no_effect_on_any_node(tmp_path: Path) -> None:
    """A faulty leader wrote them. A node that stopped would stop again at each start, and so would all others."""
    async with cluster(tmp_path, snapshot_entries=10) as nodes:
        leader, follower = await nodes.pair()
        await nodes.announced()
        voters = leader._driver.core.raft.tracker.configuration.state()
        member = leader._driver.parts.book.members[follower.node_id]
        follower._driver.reconfiguration._announce = lambda: None  # type: ignore[method-assign]  # corrects nothing
        write_unexamined(leader, *poisoned_entries(leader.node_id, member))
        await all_apply(nodes, b"alive")
        assert leader.membership().members[follower.node_id].address == "nowhere"
        for raft in nodes.rafts.values():
            assert raft.stats().entries_ignored >= 8
            assert raft._driver.core.raft.tracker.configuration.state() == voters
        await nodes.stop_all()
        for name in nodes.peers:
            found = known_members(OsDisk(), str(tmp_path / name))
            assert set(voters.voters) <= set(found), "tools read past the poison too"
        await nodes.start_all()
        await all_apply(nodes, b"alive again")


async def test_member_with_the_id_of_the_storage_never_erases_a_vote(tmp_path: Path) -> None:
    """It was sent what is addressed to the node's own storage, with a hard state that has no vote."""
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        singles = (SingleChange(ChangeType.ADD_LEARNER_NODE, STORAGE),)
        write_unexamined(raft, (EntryType.CONF_CHANGE_V2, encode(MembershipChange(changes=singles))))
        await all_apply(nodes, b"alive")
        vote = raft.stats().vote
        assert vote == raft.node_id
        assert STORAGE not in raft._driver.core.raft.tracker.progress
        await restart_all(nodes)
        assert nodes.rafts["a"]._driver.parts.wal.recovery.hard_state.vote == vote


def random_poison(rng: random.Random, me: NodeId, other: NodeId) -> bytes:
    """Bytes for an entry or a proposal: garbage, or something sound with one thing wrong."""
    number = rng.choice([-1, 0, 1, rng.getrandbits(62), 2**63, 2**64 - 1])
    member: object = MemberRecord(
        rng.choice([me, other, 0, 5, STORAGE]),
        rng.choice(["", "x", "x" * 1000]),
        rng.choice(["", "h:1", "h:0", "nowhere", "0.0.0.0:1"]),
        directory=rng.choice([0, 1, 2**64 - 1]),
    )
    if rng.random() < 0.2:
        member = rng.choice([b"", None, [], "x"])
    kind = rng.choice([Kind.BARRIER, Kind.ANNOUNCE, -1, 256, 2**63])  # a later kind would rightly stop the node
    change = (SingleChange(rng.choice(list(ChangeType)), rng.choice([0, 5, -3, 2**63, STORAGE])),)
    context = rng.choice([b"", rng.randbytes(5), encode(ChangeContext(rng.choice([me, 0]), number))])
    return rng.choice(
        [
            rng.randbytes(rng.randrange(1, 30)),
            b"\x91" * rng.randrange(1, 50_000),
            encode(Proposal(kind, rng.choice([me, other, 5]), number, encode(member))),
            encode(MembershipChange(changes=change, context=context)),
            encode([kind, me, number, b"", b"", "more"]),
        ]
    )


@pytest.mark.deadline(120.0)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_random_poison_stops_no_node_and_a_restart_works(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    async with cluster(tmp_path, snapshot_entries=40) as nodes:
        await nodes.announced()
        for number in range(ROUNDS):
            leader = await nodes.leader()
            others = [raft for raft in nodes.rafts.values() if raft is not leader]
            sender = rng.choice(others)
            me, other = sender.node_id, leader.node_id
            data = random_poison(rng, me, other)
            given = rng.choice([number, -1, 0, 2**63])
            kind = rng.choice([EntryType.NORMAL, EntryType.CONF_CHANGE_V2, EntryType.CONF_CHANGE])
            match rng.randrange(4):
                case 0:
                    forward_to(leader, sender, ForwardedProposal(given, rng.choice([DATA, MEMBERSHIP, 7, -1]), data))
                case 1:
                    forward_to(sender, leader, ForwardedProposal(given, DATA, data))
                case 2:
                    placed, refused = AcceptedProposal(given, given, 1), RefusedProposal(given, "x", "y")
                    reply = ForwardReply([placed], [refused], 5, sender._driver.core.term)
                    sender._driver.on_messages(leader.node_id, [reply])
                case _ if not sound_change(kind, data):
                    write_unexamined(leader, (kind, data))
            if number % 50 == 0:
                await all_apply(nodes, b"%d" % number)
        await all_apply(nodes, b"alive")
        await restart_all(nodes)
        await all_apply(nodes, b"alive again")
        assert len(nodes.rafts) == 3


def sound_change(kind: EntryType, data: bytes) -> bool:
    """Whether a faulty leader could really change the membership with it: no poison, but the end of this test."""
    if kind is EntryType.NORMAL:
        return False
    try:
        change = msgspec.msgpack.decode(data, type=MembershipChange)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return any(single.node_id == 5 for single in change.changes)
