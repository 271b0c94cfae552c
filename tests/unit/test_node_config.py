"""A node's settings, and the member book."""

from __future__ import annotations

import asyncio
import math
import pathlib

import msgspec
import pytest

from syncline.consensus.types import MembershipState
from syncline.errors import Closed, ConfigError
from syncline.node.calls import Calls
from syncline.node.config import Config
from syncline.node.envelope import MemberRecord
from syncline.node.events import Events, LeaderChanged, PeerUp, RoleChanged
from syncline.node.ids import NodeId
from syncline.node.member_registry import (
    REMOVED_KEPT,
    MemberRegistry,
    derive_cluster_id,
    derive_node_id,
    format_id,
    parse_id,
)
from syncline.platform.worker import ThreadWorkers

PEERS = {"a": "127.0.0.1:1", "b": "127.0.0.1:2"}
GOOD: dict[str, object] = {"name": "a", "data_dir": "x", "listen": "127.0.0.1:7100", "peers": PEERS}


def config(**changes: object) -> Config:
    return Config(**(GOOD | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": ""}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "a=b"}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"data_dir": ""}, "data_dir"),
        ({"listen": "nowhere"}, "listen"),
        ({"advertise": "127.0.0.1"}, "advertise"),
        ({"peers": {"a": "nowhere"}}, r"peers\[a\]"),
        ({"peers": {"b": "127.0.0.1:1"}}, "not this node"),
        ({"cluster_id": 3, "node_id": 4}, "either"),
        ({"peers": {}, "cluster_id": 3}, "go together"),
        ({"heartbeat_s": 0.0}, "heartbeat_s"),
        ({"heartbeat_s": 0.6}, "election_s"),
        ({"max_entry_bytes": 0}, "max_entry_bytes"),
        ({"max_entry_bytes": 64 << 20}, "frame"),
        ({"max_message_bytes": 64 << 20, "max_inflight_bytes": 99 << 20}, "frame"),
        ({"max_pending_bytes": 1 << 20}, "max_pending_bytes"),
        ({"max_pending_bytes": 300 << 20}, "one write to the log"),
        ({"max_inflight_bytes": 1000}, "max_inflight_bytes"),
        ({"snapshots_retained": 0}, "snapshots_retained"),
        ({"trailing_entries": -1}, "trailing_entries"),
        ({"segment_bytes": 100}, "segment_bytes"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        config(**changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": 5}, "name must be a str, not 5"),
        ({"data_dir": None}, "data_dir must be a str"),
        ({"data_dir": b"x"}, "data_dir must be a str"),
        ({"listen": 7100}, "listen must be a str"),
        ({"advertise": None}, "advertise must be a str"),
        ({"http": 8080}, "http must be a str"),
        ({"peers": ["127.0.0.1:1"]}, "peers must be a dict"),
        ({"peers": {"a": 5}}, "peers must be a dict"),
        ({"cluster": b"x"}, "cluster must be a str"),
        ({"cluster_id": "5"}, "cluster_id must be an int"),
        ({"node_id": True}, "node_id must be an int"),
        ({"heartbeat_s": "1"}, "heartbeat_s must be a number"),
        ({"election_s": None}, "election_s must be a number"),
        ({"snapshot_entries": 1e5}, "snapshot_entries must be an int"),
        ({"peer_tls": "tls.pem"}, "peer_tls must be a PeerTls"),
        ({"secret": bytearray(32)}, "secret must be bytes, or a tuple of bytes, not bytearray"),
        ({"secret": [b"x" * 32]}, "secret must be bytes, or a tuple of bytes, not list"),
        ({"secret": (b"x" * 32, 5)}, "secret must be bytes, or a tuple of bytes, not int"),
        ({"insecure_peers": "no"}, "insecure_peers must be a bool, not 'no'"),
        ({"peer_auth": None}, "peer_auth must be a str"),
        ({"hold_level": True}, "hold_level must be an int"),
        ({"log_sync": None}, "log_sync must be a str"),
    ],
)
def test_config_field_of_a_wrong_type_is_named(changes: dict[str, object], named: str) -> None:
    """A struct does not look at its own fields: the mistake showed later, as an AttributeError or on another node."""
    with pytest.raises(TypeError, match=named):
        Config(**(GOOD | changes))  # type: ignore[arg-type]


def test_config_secret_of_a_wrong_type_is_not_shown() -> None:
    with pytest.raises(TypeError, match="not str: read it as bytes") as caught:
        Config(**(GOOD | {"secret": "correct horse"}))  # type: ignore[arg-type]
    assert "horse" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"peers": {"a": "127.0.0.1:1", "b": "127.0.0.1:1"}}, "the same address, 127.0.0.1:1"),
        ({"peers": {"a": "0.0.0.0:1", "b": "127.0.0.1:1"}}, r"peers\[a\] '0.0.0.0:1' means every interface"),
        ({"peers": {"a": "127.0.0.1:0", "b": "127.0.0.1:1"}}, "port 0"),
        ({"peers": {"a": "127.0.0.1:1", "b c": "127.0.0.1:2"}}, "a name in peers"),
        ({"advertise": "host:0"}, "advertise 'host:0': other nodes can't dial port 0"),
        ({"advertise": "[::]:7100"}, "every interface"),
        ({"peers": {}, "cluster_id": 5, "node_id": 6, "listen": "0.0.0.0:7100"}, "give advertise"),
        ({"peers": {}, "cluster_id": 5, "node_id": 6, "listen": "127.0.0.1:0"}, "give advertise"),
        ({"peers": {}, "cluster_id": 2**63, "node_id": 6}, "cluster_id is 9223372036854775808"),
        ({"peers": {}, "cluster_id": 5, "node_id": -6}, "node_id is -6"),
        ({"peers": {}, "cluster_id": 5, "node_id": 2**64 - 1}, "node_id is 18446744073709551615"),
        ({"heartbeat_s": math.nan}, "heartbeat_s is nan"),
        ({"heartbeat_s": math.inf}, "heartbeat_s is inf"),
        ({"election_s": math.nan}, "election_s is nan"),
        ({"election_s": math.inf}, "election_s is inf"),
        ({"http": "http://h\n"}, "http"),
        ({"cluster": ""}, "cluster is empty"),
        ({"data_dir": "a\0b"}, "data_dir"),
    ],
)
def test_config_value_that_can_only_be_a_mistake_is_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Config(**(GOOD | changes))  # type: ignore[arg-type]


def test_config_data_dir_may_be_a_path() -> None:
    made = Config(**(GOOD | {"data_dir": pathlib.Path("data") / "a"}))  # type: ignore[arg-type]
    assert made.data_dir == "data/a"
    assert msgspec.structs.replace(made, name="b", peers={}).data_dir == "data/a"


def test_config_listens_on_all_interfaces_with_an_address_for_others() -> None:
    for changes in ({"listen": "0.0.0.0:7100"}, {"peers": {}, "listen": "0.0.0.0:0", "advertise": "host:7100"}):
        assert config(**changes).address in ("127.0.0.1:1", "host:7100")


def test_config_address_prefers_what_is_newer() -> None:
    """`peers` is of the first start. The node may listen elsewhere since then."""
    assert config(advertise="host:9").address == "host:9"
    assert config().address == "127.0.0.1:7100"
    assert config(listen="0.0.0.0:7100").address == PEERS["a"], "others can't dial a wildcard"
    assert config(listen="[::]:7100", advertise="host:9").address == "host:9"
    assert config(peers={}, cluster_id=1, node_id=2).address == "127.0.0.1:7100"


def test_ids_are_derived_from_what_all_first_members_share() -> None:
    assert derive_cluster_id("t", PEERS) == derive_cluster_id("t", dict(reversed(PEERS.items())))
    assert derive_cluster_id("t", PEERS) != derive_cluster_id("u", PEERS)
    assert derive_node_id(1, "a") not in (derive_node_id(1, "b"), derive_node_id(2, "a"))
    assert parse_id(format_id(77)) == 77
    with pytest.raises(ValueError, match="not an id"):
        parse_id("0")


def test_the_book_follows_changes_and_survives_a_snapshot() -> None:
    book = MemberRegistry()
    a, b = MemberRecord(1, "a", "h:1"), MemberRecord(2, "b", "h:2", promote=True)
    book.changed(5, MembershipState(voters=(1,), learners=(2,)), (a, b, MemberRecord(9, "stranger", "h:9")))
    assert set(book.members) == {1, 2}, "who is not in the membership is not in the book"
    assert book.announce(MemberRecord(1, "a", "h:11", "http://h"))
    assert not book.announce(MemberRecord(1, "a", "h:11", "http://h"))
    copy = MemberRegistry()
    copy.load(book.dump())
    assert copy.dump() == book.dump()
    membership = copy.membership(MembershipState(voters=(1,), learners=(2,)))
    assert (membership.index, membership.members[1].role, membership.members[2].role) == (5, "voter", "learner")
    assert membership.by_name("a") == membership.members[1]
    assert membership.by_name("none") is None


def test_the_book_remembers_the_removed_within_a_bound() -> None:
    book = MemberRegistry()
    for node_id in range(1, REMOVED_KEPT + 10):
        book.changed(node_id, MembershipState(voters=(node_id,)), (MemberRecord(node_id, f"n{node_id}", "h:1"),))
    assert len(book.removed) == REMOVED_KEPT
    gone = REMOVED_KEPT + 8
    assert gone in book.removed
    assert not book.announce(MemberRecord(gone, "ghost", "h:3")), "a removed member's late word changes nothing"


def test_a_joint_membership_counts_both_halves() -> None:
    book = MemberRegistry()
    state = MembershipState(voters=(1,), voters_outgoing=(2,))
    book.changed(3, state, (MemberRecord(1, "a", "h:1"), MemberRecord(2, "b", "h:2")))
    membership = book.membership(state)
    assert membership.joint
    assert all(member.voter for member in membership.members.values())
    assert not book.removed


async def test_events_are_filtered_and_end_with_the_node() -> None:
    events = Events()
    some, two = events.watch(LeaderChanged), events.watch(LeaderChanged, PeerUp)
    every = events.watch()
    happened = [RoleChanged("leader"), LeaderChanged(NodeId(7)), PeerUp(NodeId(8))]
    for event in happened:
        events.emit(event, term=1, index=2)
    events.close()
    events.emit(PeerUp(NodeId(9)), term=1, index=3)  # a link that comes up while the node is closed
    assert [one async for one in some] == [LeaderChanged(NodeId(7), term=1, index=2)]
    assert [type(one) async for one in two] == [LeaderChanged, PeerUp]
    assert [type(one) async for one in every] == [RoleChanged, LeaderChanged, PeerUp]
    assert [one async for one in events.watch()] == [], "a watch of a closed node ends at once"


async def test_a_slow_watcher_loses_the_oldest_and_is_told() -> None:
    events = Events()
    watcher = events.watch()
    for index in range(1030):
        events.emit(RoleChanged("leader"), term=1, index=index)
    first = await anext(watcher)
    assert (first.index, first.missed) == (6, 6)
    assert (await anext(watcher)).missed == 0


def test_a_watch_that_was_never_used_is_not_kept() -> None:
    events = Events()
    watcher = events.watch()
    assert len(events._watchers) == 1
    del watcher
    assert len(events._watchers) == 0


async def test_calls_answer_or_fail_and_never_hang_after_close() -> None:
    failures: list[BaseException] = []
    calls = Calls("calls", ThreadWorkers(), failures.append)

    def broken() -> int:
        raise ValueError("broken")

    assert await calls.run(lambda: 3) == 3
    with pytest.raises(ValueError, match="broken"):
        await calls.run(broken)
    pending = calls.start(lambda: 4)
    await calls.close()
    assert await pending == 4, "what was queued is done"
    with pytest.raises(Closed):
        await asyncio.wait_for(calls.run(lambda: 5), 5)
    assert failures == []
