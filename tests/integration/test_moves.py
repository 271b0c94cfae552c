"""Members that come back at other addresses, and data directories that were copied or put back."""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
from pathlib import Path

import pytest

from syncline import Raft
from syncline.consensus.types import ChangeType
from syncline.errors import ConfigError, MembershipError, NodeFailed, RepairNeeded
from syncline.platform.disk import OsDisk
from syncline.platform.network import ProtocolFactory, TcpNetwork
from syncline.platform.world import World
from syncline.storage.datadir import read_identity
from syncline.storage.diagnose import diagnose
from tests.helpers.node_cluster import Cluster, cluster, until

MOVED_PORTS = 8
"""So far from the old ports are the new ones, within the block of a cluster."""


def new_address(nodes: Cluster, name: str) -> str:
    host, _, port = nodes.address(name).rpartition(":")
    return f"{host}:{int(port) + MOVED_PORTS}"


async def known_at(nodes: Cluster, name: str, address: str) -> None:
    """All running nodes have this address of the member in their registry."""
    for raft in nodes.rafts.values():
        await until(raft, lambda: address_of(raft, name) == address)  # noqa: B023 - awaited at once


def address_of(raft: Raft[object], name: str) -> str:
    member = raft.membership().by_name(name)
    return member.address if member is not None else ""


async def works(nodes: Cluster) -> None:
    """A write through each node is applied by all."""
    for raft in nodes.rafts.values():
        await raft.apply(b"after", timeout=15)
    for name, raft in nodes.rafts.items():
        last = max(len(machine.items) for machine in nodes.machines.values())
        await until(raft, lambda: len(nodes.machines[name].items) >= last)  # noqa: B023 - awaited at once


async def restart_moved(nodes: Cluster, names: str, *, stay: str = "") -> None:
    """Stop all `names` and `stay`, then start them again, `names` at new addresses."""
    for name in names + stay:
        await nodes.stop(name)
    starts = [nodes.start(name, listen=new_address(nodes, name)) for name in names]
    starts += [nodes.start(name) for name in stay]
    await asyncio.gather(*starts)


@pytest.mark.parametrize("moved", ["c", "bc", "ab"])
@pytest.mark.parametrize("at_once", [False, True])
async def test_moved_members_are_found_by_their_greetings(tmp_path: Path, moved: str, at_once: bool) -> None:
    """A minority or a majority moves, with the same `peers` as ever, while the others run or are restarted too."""
    async with cluster(tmp_path) as nodes:
        await (await nodes.leader()).apply(b"before")
        stay = "".join(name for name in nodes.peers if name not in moved) if at_once else ""
        await restart_moved(nodes, moved, stay=stay)
        for name in moved:
            await known_at(nodes, name, new_address(nodes, name))
        await works(nodes)


@pytest.mark.parametrize("listed", [True, False])
async def test_all_members_move_with_new_peers(tmp_path: Path, listed: bool) -> None:
    """No member is at its old address. New `peers` are hints at a later start: the cluster stays what it is.

    Of `peers` that name only one other member each, all are found too: greetings tell the rest.
    """
    async with cluster(tmp_path) as nodes:
        leader = await nodes.leader()
        cluster_id = leader.cluster_id
        await leader.apply(b"before")
        peers = {name: new_address(nodes, name) for name in nodes.peers}
        for name in "abc":
            await nodes.stop(name)
        for name in "abc":
            hints = peers if listed else {one: peers[one] for one in {name, "a"}}
            await nodes.start(name, listen=peers[name], peers=hints)
        for name in "abc":
            await known_at(nodes, name, peers[name])
        await works(nodes)
        assert {raft.cluster_id for raft in nodes.rafts.values()} == {cluster_id}
        assert nodes.machines["a"].items[0] == b"before"


async def test_member_that_moved_twice_is_found(tmp_path: Path) -> None:
    """And back again: a greeting beats what was replicated."""
    async with cluster(tmp_path) as nodes:
        await nodes.leader()
        await restart_moved(nodes, "c")
        await known_at(nodes, "c", new_address(nodes, "c"))
        await nodes.stop("c")
        await nodes.start("c")
        await known_at(nodes, "c", nodes.address("c"))
        await works(nodes)


async def test_members_that_swap_addresses_are_found(tmp_path: Path) -> None:
    """Each is dialled at the address where the other one answers now: it is refused there, and no link is taken."""
    async with cluster(tmp_path) as nodes:
        await nodes.leader()
        for name in "bc":
            await nodes.stop(name)
        await nodes.start("b", listen=nodes.address("c"))
        await nodes.start("c", listen=nodes.address("b"))
        await known_at(nodes, "b", nodes.address("c"))
        await known_at(nodes, "c", nodes.address("b"))
        await works(nodes)


async def test_wrong_advertise_is_corrected_at_the_next_start(tmp_path: Path) -> None:
    """Given once, it was replicated; the hint in the others' `peers` is what still worked."""
    async with cluster(tmp_path) as nodes:
        await nodes.leader()
        await nodes.stop("c")
        await nodes.start("c", advertise="127.0.0.1:1")
        await known_at(nodes, "c", "127.0.0.1:1")
        await works(nodes)
        await nodes.stop("c")
        await nodes.start("c")
        await known_at(nodes, "c", nodes.address("c"))
        await works(nodes)


class NetworkWithout(TcpNetwork):
    """No connection to one port comes about from here."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    async def connect(
        self,
        factory: ProtocolFactory,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        timeout_s: float,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        if port == self._port:
            raise OSError(111, "refused by the test")
        return await super().connect(factory, host, port, tls=tls, timeout_s=timeout_s)


async def test_moved_member_without_the_leader_is_announced_by_a_peer(tmp_path: Path) -> None:
    """It reaches one follower alone, which tells the registry, so that the leader can dial it."""
    async with cluster(tmp_path) as nodes:
        leader = await nodes.leader()
        names = sorted(name for name in "abc" if nodes.rafts[name] is not leader)
        moved = names[0]
        node_id = nodes.rafts[moved].node_id
        await nodes.stop(moved)
        hidden = int(nodes.address(leader.config.name).rpartition(":")[2])
        config = nodes.config(moved, listen=new_address(nodes, moved))
        nodes.machines[moved] = nodes.make()
        nodes.rafts[moved] = await Raft.open(config, nodes.machines[moved], world=World(network=NetworkWithout(hidden)))
        await until(leader, lambda: address_of(leader, moved) == new_address(nodes, moved))
        await until(leader, lambda: leader.peers()[node_id].connected)


async def test_update_member_changes_an_address(tmp_path: Path) -> None:
    """For a stopped member, from any node. What makes no sense is refused, and nothing is changed by it."""
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        await nodes.announced()
        stopped = next(name for name, raft in nodes.rafts.items() if raft not in (leader, follower))
        node_id = nodes.rafts[stopped].node_id
        record = leader._driver.parts.book.members[node_id]
        await nodes.stop(stopped)
        index = follower.membership().index
        for wrong in ("nowhere", "127.0.0.1:0", ""):
            with pytest.raises(ConfigError):
                await follower.update_member(node_id, address=wrong)
        with pytest.raises(MembershipError, match="no member"):
            await follower.update_member(12345, address="127.0.0.1:9")
        with pytest.raises(MembershipError, match="already the address"):
            await follower.update_member(node_id, address=nodes.address(leader.config.name))
        with pytest.raises(ConfigError, match="update_member"):
            await follower.change_membership([(ChangeType.UPDATE_NODE, node_id)])
        assert follower.membership().index == index
        updated = await follower.update_member(node_id, address="127.0.0.1:9", expected_index=index)
        assert (updated.id, updated.address) == (node_id, "127.0.0.1:9")
        again = await leader.update_member(node_id, address="127.0.0.1:9")
        assert again == updated
        kept = leader._driver.parts.book.members[node_id]
        assert (kept.directory, kept.incarnation, kept.name) == (record.directory, record.incarnation, record.name)
        await nodes.start(stopped)
        await known_at(nodes, stopped, nodes.address(stopped))


async def test_role_changes_keep_the_data_directory_known(tmp_path: Path) -> None:
    """A demoted and promoted member that comes back with an emptied directory is refused as before."""
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        await nodes.announced()
        node_id = follower.node_id
        directory = leader._driver.parts.book.members[node_id].directory
        await leader.demote(node_id)
        await leader.promote(node_id)
        await leader.change_membership([(ChangeType.ADD_LEARNER_NODE, node_id)])
        assert leader._driver.parts.book.members[node_id].directory == directory != 0


async def test_grown_peers_are_told_what_to_do_instead(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A name that the cluster does not know is no member by being written into `peers`."""

    async def check() -> None:
        async with cluster(tmp_path) as nodes:
            await nodes.leader()
            await nodes.stop("c")
            with caplog.at_level(logging.WARNING, "syncline.node"):
                raft = await nodes.start("c", peers={**nodes.peers, "d": "127.0.0.1:9"})
                await until(raft, lambda: "member add" in caplog.text)
            told = next(record.getMessage() for record in caplog.records if "member add" in record.getMessage())
            assert "name d, which the cluster does not know" in told
            assert "--join" in told
            assert set(await names(raft)) == set("abc")

    async def names(raft: Raft[object]) -> list[str]:
        return [member.name for member in raft.membership().members.values()]

    await check()


async def test_founder_that_never_ran_is_not_started_with_other_peers(tmp_path: Path) -> None:
    """Its first log entries would differ from those of the others."""
    nodes = Cluster(tmp_path, "abc")
    config = nodes.config("a", peers={"a": nodes.address("a"), "b": "127.0.0.1:9"})
    raft = await Raft.open(config, nodes.make())
    await raft.close()
    path = tmp_path / "a"
    shutil.rmtree(path / "wal")
    identity = (path / "identity").read_text()
    for name in ("snapshots", "peers"):
        shutil.rmtree(path / name, ignore_errors=True)
    assert '"started": true' in identity
    import msgspec

    from syncline.storage.datadir import encode_identity

    held = read_identity(OsDisk(), str(path))
    assert held is not None
    (path / "identity").write_bytes(encode_identity(msgspec.structs.replace(held, started=False)))
    with pytest.raises(ConfigError, match="other peers"):
        await nodes.start("a")


async def failure_of(raft: Raft[object]) -> NodeFailed:
    async with asyncio.timeout(20):
        return await raft.failed()


async def test_older_copy_of_a_directory_stops_and_stays_stopped(tmp_path: Path) -> None:
    """A quorum of members knows a start that the copy lacks. It is told the node, the directory and the way out, and
    neither a restart nor many bring it back."""
    async with cluster(tmp_path) as nodes:
        await (await nodes.leader()).apply(b"one")
        await nodes.stop("c")
        shutil.copytree(tmp_path / "c", tmp_path / "older")
        await nodes.start("c")
        await nodes.announced()
        await nodes.stop("c")
        shutil.rmtree(tmp_path / "c")
        shutil.copytree(tmp_path / "older", tmp_path / "c")
        raft = await nodes.start("c")
        failure = await failure_of(raft)
        assert isinstance(failure.__cause__, RepairNeeded)
        for part in ("node c (", str(tmp_path / "c"), "older copy", "syncline repair --replace --data-dir"):
            assert part in str(failure)
        await nodes.stop("c")
        with pytest.raises(RepairNeeded, match="older copy"):
            await nodes.start("c")
        assert "older copy" in diagnose(OsDisk(), str(tmp_path / "c")).problems[0]
        await works(nodes)


async def test_older_copy_is_refused_by_one_member_that_remembers(tmp_path: Path) -> None:
    """The other one is away. One refusal of three voters stops no node, but no leader comes about by it either."""
    async with cluster(tmp_path) as nodes:
        await nodes.leader()
        await nodes.stop("b")
        shutil.copytree(tmp_path / "b", tmp_path / "older")
        raft = await nodes.start("b")
        await until(raft, lambda: all(peer.connected for peer in raft.peers().values()))
        await nodes.stop("c")
        await nodes.rafts["a"].apply(b"precious", timeout=10)
        await nodes.stop("a")
        await nodes.stop("b")
        shutil.rmtree(tmp_path / "b")
        shutil.copytree(tmp_path / "older", tmp_path / "b")
        b, c = await nodes.start("b"), await nodes.start("c")
        await until(b, lambda: any(peer.last_refusal is not None for peer in b.peers().values()))
        assert not b._driver.running.stopped
        assert (b.leader, c.leader) == (None, None)
        a = await nodes.start("a")
        await failure_of(b)
        del nodes.rafts["b"]
        await b.close()
        await until(c, lambda: c.leader is not None)
        assert b"precious" in nodes.machines["a"].items or a.leader is not None
        await c.read_index(timeout=10)
        assert b"precious" in nodes.machines["c"].items


async def test_second_process_on_a_copy_stops(tmp_path: Path) -> None:
    """The members know the first one, and may hold its promises, so the second is refused, whatever its number is."""
    async with cluster(tmp_path) as nodes:
        await (await nodes.leader()).apply(b"one")
        await nodes.stop("c")
        shutil.copytree(tmp_path / "c", tmp_path / "copy")
        first = await nodes.start("c")
        await until(first, lambda: all(peer.connected for peer in first.peers().values()))
        second = await copy_of_c(nodes)
        failure = await failure_of(second)
        assert "copied" in str(failure)
        await second.close()
        await works(nodes)
        assert not first._driver.running.stopped


async def test_two_processes_on_copies_leave_at_most_one(tmp_path: Path) -> None:
    """Both start at once, so each may be known by some member first. Then the log decides which one goes on."""
    async with cluster(tmp_path) as nodes:
        await (await nodes.leader()).apply(b"one")
        await nodes.stop("c")
        shutil.copytree(tmp_path / "c", tmp_path / "copy")
        first, second = await asyncio.gather(nodes.start("c"), copy_of_c(nodes))
        ends = {asyncio.ensure_future(raft.failed()): raft for raft in (first, second)}
        async with asyncio.timeout(20):
            done, others = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        stopped = ends[done.pop()]
        for end in others:
            end.cancel()
        nodes.rafts["c"] = second if stopped is first else first
        await stopped.close()
        assert "copied" in str(stopped._driver.running.stopped_by)
        await nodes.rafts["a"].apply(b"two", timeout=10)
        assert {nodes.rafts[name]._driver.running.stopped for name in "ab"} == {False}


async def copy_of_c(nodes: Cluster) -> Raft[object]:
    config = nodes.config("c", data_dir=str(nodes.path / "copy"), listen=new_address(nodes, "c"))
    return await Raft.open(config, nodes.make())
