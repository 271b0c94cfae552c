"""`Raft.join` and `Raft.until_stopped`: how a service built on the library starts and stops."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from syncline import Raft
from syncline.errors import Closed, ConfigError, CorruptionError, MembershipError, NodeFailed
from syncline.platform.disk import OsDisk
from syncline.platform.world import World
from syncline.storage.datadir import JOINING_NAME
from tests.helpers.node_cluster import Cluster, Listing, cluster, until


class Asked:
    """Asks a member as a service would, and remembers with which ids."""

    def __init__(self, nodes: Cluster, name: str) -> None:
        self._nodes = nodes
        self._name = name
        self.ids: list[int] = []

    async def __call__(self, node_id: int) -> int:
        self.ids.append(node_id)
        member = self._nodes.rafts["a"]
        await member.add_learner(self._name, self._nodes.address(self._name), node_id=node_id)
        return member.cluster_id

    async def join(self) -> Raft[object]:
        self._nodes.machines[self._name] = machine = Listing()
        raft = self._nodes.rafts[self._name] = await Raft.join(self._nodes.config(self._name), machine, self)
        return raft


def threads() -> set[threading.Thread]:
    """The threads of nodes."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("syncline-")}


async def test_a_node_joins_asks_once_and_knows_itself_from_then_on(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        assert await nodes.rafts["a"].apply(b"first") == 1
        asked = Asked(nodes, "d")
        joined = await asked.join()
        assert [joined.node_id] == asked.ids
        await until(joined, lambda: joined.role == "follower")
        assert await joined.apply(b"second") == 2
        assert not (tmp_path / "d" / JOINING_NAME).exists()
        await nodes.stop("d")
        again = await asked.join()
        assert [again.node_id] == asked.ids, "it asks nobody any more"


class NoteStays(OsDisk):
    """A disk that does not remove the note of the chosen id."""

    def remove(self, path: str) -> None:
        if path.endswith(JOINING_NAME):
            raise OSError(errno.EIO, "input/output error", path)
        super().remove(path)


async def test_join_that_cannot_remove_its_note_closes_the_node(tmp_path: Path) -> None:
    """The caller gets no node, so that it could not close one: threads, port and lock stayed."""
    async with cluster(tmp_path, "a") as nodes:
        asked, before = Asked(nodes, "d"), threads()
        with pytest.raises(OSError, match="input/output error"):
            await Raft.join(nodes.config("d"), Listing(), asked, world=World(disk=NoteStays()))
        for thread in threads() - before:
            thread.join(10.0)  # it was told to end
        assert threads() <= before
        assert [(await asked.join()).node_id] == asked.ids, "the directory is not locked"


async def test_one_that_fails_half_way_comes_back_as_the_same(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        ids: list[int] = []

        async def unlucky(node_id: int) -> int:
            ids.append(node_id)
            await nodes.rafts["a"].add_learner("d", nodes.address("d"), node_id=node_id)
            raise ConnectionError("the answer was lost")

        with pytest.raises(ConnectionError, match="the answer was lost"):
            await Raft.join(nodes.config("d"), Listing(), unlucky)
        asked = Asked(nodes, "d")
        assert (await asked.join()).node_id == ids[0]
        assert asked.ids == ids


async def test_one_whose_directory_was_emptied_comes_as_a_stranger(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        asked = Asked(nodes, "d")
        await asked.join()
        await nodes.stop("d")
        shutil.rmtree(tmp_path / "d")
        with pytest.raises(MembershipError, match="already the name of member"):
            await asked.join()
        assert len(set(asked.ids)) == 2


async def test_join_with_a_damaged_note_names_it_and_asks_no_member(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / JOINING_NAME).write_bytes(b'{"node_id":"\xff')
        asked = Asked(nodes, "d")
        with pytest.raises(CorruptionError, match="is damaged"):
            await asked.join()
        assert asked.ids == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_waits_until_it_is_told_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    async with cluster(tmp_path, "a") as nodes:
        stopped = asyncio.create_task(nodes.rafts["a"].until_stopped())
        await nodes.rafts["a"].apply(b"it runs")
        assert not stopped.done()
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stopped, 20)
        assert await nodes.rafts["a"].apply(b"to close it is the caller's business") == 2
    assert signal.getsignal(number) in (before, signal.SIG_DFL, signal.default_int_handler)


async def test_it_raises_what_ends_the_node_by_itself(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        stopped = asyncio.create_task(nodes.rafts["a"].until_stopped())
        broken = nodes.rafts["a"].apply(b"break")
        with pytest.raises(NodeFailed, match="the state machine is broken"):
            await asyncio.wait_for(stopped, 20)
        with pytest.raises(NodeFailed):
            await broken
    async with cluster(tmp_path / "other", "a") as nodes:
        stopped = asyncio.create_task(nodes.rafts["a"].until_stopped())
        await nodes.rafts["a"].apply(b"it runs")
        await nodes.rafts["a"].close()
        with pytest.raises(Closed):
            await asyncio.wait_for(stopped, 20)


async def test_joiner_without_a_log_finds_members_by_hints(tmp_path: Path) -> None:
    """Its first address was wrong, so no member could dial it. Names in `peers` are taken for initial members then."""
    async with cluster(tmp_path, "a") as nodes:
        a = nodes.rafts["a"]
        info = await a.add_learner("d", "127.0.0.1:1", promote=False)
        await nodes.start("d", advertise="127.0.0.1:1", cluster_id=a.cluster_id, node_id=info.id)
        await nodes.stop("d")
        peers = {"a": nodes.address("a"), "d": nodes.address("d")}
        d = await nodes.start("d", peers=peers)
        await until(d, lambda: d.leader is not None)
        await until(a, lambda: a.membership().members[info.id].address == nodes.address("d"))
        await nodes.stop("d")
        await nodes.stop("a")


async def test_raft_hint_has_a_node_dialled(tmp_path: Path) -> None:
    """A hint that is no address is refused; one for a node that is no member costs nothing for long."""
    async with cluster(tmp_path, "a") as nodes:
        a = nodes.rafts["a"]
        info = await a.add_learner("d", "127.0.0.1:1", promote=False)
        d = await nodes.start("d", cluster_id=a.cluster_id, node_id=info.id)
        with pytest.raises(ConfigError):
            d.hint(a.node_id, "nowhere")
        d.hint(12345, "127.0.0.1:1")
        d.hint(a.node_id, nodes.address("a"))
        await until(d, lambda: d.leader is not None)
        await until(d, lambda: 12345 not in d.peers())


async def test_joiner_that_failed_half_way_may_come_with_another_address(tmp_path: Path) -> None:
    """It is a member already, under the id that it chose: its address in the registry is corrected by itself."""
    async with cluster(tmp_path, "a") as nodes:

        async def unlucky(node_id: int) -> int:
            await nodes.rafts["a"].add_learner("d", "127.0.0.1:1", node_id=node_id)
            raise ConnectionError("the answer was lost")

        with pytest.raises(ConnectionError, match="the answer was lost"):
            await Raft.join(nodes.config("d"), Listing(), unlucky)
        joined = await Asked(nodes, "d").join()
        joined.hint(nodes.rafts["a"].node_id, nodes.address("a"))
        await until(joined, lambda: joined.role == "follower")
