"""`Raft.reload`: which settings a running node takes, and which not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from syncline import Config, Raft
from syncline.errors import Closed, ConfigError, Dropped, TooLarge
from syncline.node.reload import RELOADABLE
from tests.helpers.leading import Leading, leading, raft_of
from tests.helpers.node_cluster import cluster, until

LIMIT_S = 20.0

OTHER: dict[str, Any] = {
    "heartbeat_s": 0.04,
    "election_s": 0.4,
    "session_idle_s": 60.0,
    "max_entry_bytes": 1000,
    "max_message_bytes": 1 << 19,
    "max_inflight_messages": 7,
    "max_inflight_bytes": 1 << 22,
    "max_uncommitted_bytes": 1 << 21,
    "max_pending_bytes": 1 << 20,
    "snapshot_entries": 5,
    "snapshot_bytes": 1 << 20,
    "snapshots_retained": 3,
    "trailing_entries": 2,
    "segment_bytes": 1 << 18,
    "reserve_bytes": 1 << 10,
    "hold_level": 1,
    "http": "http://a:80",
    "name": "z",
    "data_dir": "elsewhere",
    "listen": "127.0.0.1:1",
    "advertise": "127.0.0.1:2",
    "peers": {"a": "127.0.0.1:3"},
    "cluster": "other",
    "cluster_id": 5,
    "node_id": 6,
    "peer_tls": None,
    "secret": b"s" * 32,
    "insecure_peers": True,
    "peer_auth": "accept",
    "log_sync": "thread",
}
"""Another value of each setting."""


def changed(config: Config, **settings: Any) -> Config:
    return msgspec.structs.replace(config, **settings)


def test_reload_knows_each_setting() -> None:
    """A new setting is either one that can change, or is named in the error."""
    assert set(OTHER) == set(Config.__struct_fields__)
    assert set(RELOADABLE) < set(OTHER)


async def test_reload_takes_all_that_can_change_together(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft = nodes.rafts["a"]
        settings = {field: OTHER[field] for field in RELOADABLE}
        assert raft.reload(changed(raft.config, **settings)) == tuple(
            field for field in Config.__struct_fields__ if field in RELOADABLE
        )
        assert {field: getattr(raft.config, field) for field in RELOADABLE} == settings
        assert raft.reload(raft.config) == ()
        with pytest.raises(TooLarge, match="the limit is 1000"):
            await raft.apply(bytes(1001), timeout=LIMIT_S)
        futures = raft.apply_many([bytes(900)] * 800, timeout=LIMIT_S)
        ends = await asyncio.gather(*futures, return_exceptions=True)
        assert any(isinstance(one, Dropped) for one in ends)
        await until(raft, lambda: raft.stats().snapshot_index > 0)
        await until(raft, lambda: raft.membership().members[raft.node_id].http == "http://a:80")
        for number in range(20):
            await raft.apply(b"%d" % number, timeout=LIMIT_S)
        assert raft.upgrade_status().hold_level == 1


async def test_reload_refuses_what_can_not_change_and_changes_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft = nodes.rafts["a"]
        before = raft.config
        for field in ("data_dir", "listen", "secret", "peer_auth", "log_sync", "cluster"):
            with pytest.raises(ConfigError, match=f"reload can't change {field} of node a") as refused:
                raft.reload(changed(before, snapshot_entries=5, **{field: OTHER[field]}))
            assert "ssss" not in str(refused.value), "no secret in a text"
        with pytest.raises(ConfigError, match="data_dir, listen"):
            raft.reload(changed(before, data_dir="x", listen="127.0.0.1:1"))
        with pytest.raises(TypeError, match=r"config must be a syncline\.Config"):
            raft.reload({"snapshot_entries": 5})  # type: ignore[arg-type]
        assert raft.config is before
    with pytest.raises(Closed):
        raft.reload(before)


async def test_reload_of_a_node_that_joined_takes_its_file_without_ids(tmp_path: Path) -> None:
    """The file from which it joined names no ids: they are in its data directory."""
    async with cluster(tmp_path, "a") as nodes:
        through = nodes.rafts["a"]
        _, joined = await nodes.join(through, "b", promote=False)
        file = changed(joined.config, cluster_id=0, node_id=0, snapshot_entries=77)
        assert joined.reload(file) == ("snapshot_entries",)
        assert joined.config.node_id == joined.node_id
        with pytest.raises(ConfigError, match="node_id"):
            joined.reload(changed(joined.config, node_id=9))


def test_reload_of_timers_moves_elections_and_heartbeats() -> None:
    """In virtual time: with a shorter election timeout the next leader comes sooner."""

    async def scenario(at: Leading) -> None:
        for server in at.cluster.running:
            raft = raft_of(server)
            timers = changed(raft.config, heartbeat_s=0.1, election_s=5.0)
            await server.call(lambda raft=raft, timers=timers: raft.reload(timers))  # type: ignore[misc]
        leader = await at.leader()
        await asyncio.sleep(20)
        assert (await at.leader()) is leader, "nothing else has changed"
        begun_s = at.cluster.loop.true_time()
        leader.crash()
        await asyncio.sleep(4.0)
        assert at.cluster.current_leader() is None, "not before the new election timeout"
        leader = await at.leader()
        assert at.cluster.loop.true_time() - begun_s <= 30.0
        for server in at.cluster.running:
            raft = raft_of(server)
            timers = changed(raft.config, heartbeat_s=0.05, election_s=0.5)
            await server.call(lambda raft=raft, timers=timers: raft.reload(timers))  # type: ignore[misc]
        await asyncio.sleep(5)
        assert (await at.leader()) is leader

    leading(scenario)


def test_reload_keeps_deadlines_that_are_under_way() -> None:
    """Deadlines are kept in steps of the first heartbeat: another one must not make them early, late or lost."""

    async def scenario(at: Leading) -> None:
        leader = await at.leader()
        raft: Raft[Any] = raft_of(leader)
        others = [server.name for server in at.cluster.running if server is not leader]
        at.cluster.partition([leader.name], others)

        async def apply(timeout_s: float) -> float:
            begun_s = at.cluster.loop.true_time()
            with pytest.raises(Exception):  # noqa: B017 - its time counts, not its kind
                await raft.apply(b"x", timeout=timeout_s)
            return at.cluster.loop.true_time() - begun_s

        first = await at.start(leader, lambda: apply(3.0))
        await leader.call(lambda: raft.reload(changed(raft.config, heartbeat_s=0.2, election_s=2.0)))
        second = await at.start(leader, lambda: apply(3.0))
        for one in (first, second):
            await asyncio.wait([one], timeout=10)
            assert 2.9 <= one.result() <= 3.5

    leading(scenario)
