"""Bad input and faults, on real processes: each is told in one line that helps, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline.cli.exits import EXIT_DAMAGED
from syncline.client import AsyncClient
from syncline.errors import OperationError, Outcome
from tests.helpers.ports import free_block
from tests.helpers.process_cluster import Node, eventually, running_cluster

IDLE_SHARE = 0.03
"""Of one processor, that a node without a quorum may use."""
IDLE_WATCHED_S = 3.0


def serve(*flags: str, timeout_s: float = 20.0) -> tuple[int, str]:
    """Run `syncline serve FLAGS…`, which is to fail; its exit status, and the last line of its error output."""
    ran = subprocess.run(
        [sys.executable, "-m", "syncline", "serve", "--log-level", "error", *flags],
        capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    assert "Traceback" not in ran.stderr, ran.stderr
    lines = ran.stderr.splitlines()
    assert lines, "it failed without a word"
    return ran.returncode, lines[-1]


def single(tmp_path: Path, **changes: str) -> list[str]:
    """Flags of a node that would run well alone."""
    port = free_block(2)
    flags = {
        "name": "a",
        "data_dir": str(tmp_path / "data"),
        "http_listen": f"127.0.0.1:{port}",
        "peer_listen": f"127.0.0.1:{port + 1}",
        **changes,
    }
    return [part for name, value in flags.items() for part in ("--" + name.replace("_", "-"), value)]


# Flags and files


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "a b"}, "name"),
        ({"data_dir": ""}, "data_dir is empty"),
        ({"http_listen": "nonsense"}, "http_listen"),
        ({"http_listen": "127.0.0.1:99999"}, "http_listen"),
        ({"initial_cluster": "b=127.0.0.1:1"}, "not this node"),
        ({"initial_cluster": "a"}, "name=host:port"),
        ({"join": "ftp://x"}, "join"),
        ({"join": "http://x:1", "initial_cluster": "a=127.0.0.1:1"}, "not both"),
        ({"election_s": "0.1"}, "election_s"),
        ({"heartbeat_s": "soon"}, "heartbeat-s"),
        ({"log_level": "loud"}, "log-level"),
        ({"http_tls_cert": "x"}, "go together"),
        ({"http_tls_cert": "/no/cert", "http_tls_key": "/no/key"}, "/no/cert"),
        ({"data_dir": "/proc/nothing/here"}, "/proc/nothing/here"),
    ],
)
def test_a_setting_that_can_not_be_used_is_named(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    status, line = serve(*single(tmp_path, **changes))
    assert status in {1, 2}
    assert line.startswith("syncline: ")
    assert words in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name = ", "not TOML"),
        ("nmae = 'a'", "did you mean name"),
        ("heartbeat_s = 'x'", "heartbeat_s"),
        ("\0", "TOML"),
    ],
)
def test_a_bad_configuration_file_is_named(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(content)
    status, line = serve("--config", str(path), *single(tmp_path))
    assert (status, str(path) in line, words in line) == (2, True, True), line


def test_a_configuration_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    status, line = serve("--config", str(tmp_path / "none.toml"))
    assert status == 2
    assert "none.toml" in line


def test_an_unknown_flag_is_a_matter_of_usage(tmp_path: Path) -> None:
    status, line = serve("--bad-flag", "x")
    assert status == 2
    assert "No such option" in line
    assert "see 'syncline serve --help'" in line


@pytest.mark.parametrize("which", ["http_listen", "peer_listen"])
def test_a_port_in_use_is_named(tmp_path: Path, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, line = serve(*single(tmp_path, **{which: address}))
    assert status == 1
    assert address in line
    assert "in use" in line or "holds the port" in line


def test_join_without_a_reachable_member_is_reported(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_block(1)}"
    status, line = serve(*single(tmp_path, join=url, join_timeout_s="1"))
    assert status != 0
    assert url in line


# Data directories


@pytest.mark.deadline(60.0)
async def test_second_process_on_a_directory_is_told_the_pid(tmp_path: Path) -> None:
    async with running_cluster(str(tmp_path), size=1) as cluster:
        (node,) = cluster.nodes
        status, line = await asyncio.to_thread(serve, *single(tmp_path, name="n1", data_dir=node.data_dir))
        assert status == 1
        assert f"pid {node.pid}" in line
        assert node.data_dir in line
        await cluster.wait_ready()


@pytest.mark.deadline(60.0)
async def test_another_clusters_data_is_refused_and_left_alone(tmp_path: Path) -> None:
    async with running_cluster(str(tmp_path / "one"), size=1) as one:
        (node,) = one.nodes
        async with node.client() as client:
            await client.put("k", "of the first cluster")
        assert node.stop() == 0
        foreign = single(tmp_path, name="other", data_dir=node.data_dir)
        status, line = await asyncio.to_thread(serve, *foreign)
        assert status == 1
        assert "n1" in line
        assert "other" in line
        node.start()
        await one.wait_ready()
        async with node.client() as client:
            found = await client.get("k")
            assert found is not None
            assert found.value == b"of the first cluster"


@pytest.mark.deadline(90.0)
@pytest.mark.parametrize("lost", ["a follower", "the leader"])
async def test_initial_member_without_its_data_stops_and_names_the_repair(tmp_path: Path, lost: str) -> None:
    async with running_cluster(str(tmp_path)) as cluster:
        node = await cluster.leader() if lost == "the leader" else (await cluster.followers())[0]
        async with cluster.client() as client:
            await client.put("k", "before")
            node.kill()
            shutil.rmtree(node.data_dir)
            node.start()  # just as it was started before: by --initial-cluster
            assert await asyncio.to_thread(node.wait) == EXIT_DAMAGED
            last = node.log().splitlines()[-1]
            assert last.startswith(f"syncline: node {node.name} stopped itself")
            assert node.data_dir in last
            assert f"`syncline repair --replace --data-dir {node.data_dir}`" in last
            assert "Traceback" not in node.log()

            others = ",".join(other.url for other in cluster.nodes if other is not node)
            repair = ("repair", "--replace", "--data-dir", node.data_dir, "--endpoints", others, "--yes")
            await asyncio.to_thread(syncline, *repair)
            node.start()  # again just as it was started before
            await cluster.wait_ready()
            found = await client.get("k")
            assert found is not None
            assert found.value == b"before"


@pytest.mark.deadline(60.0)
async def test_a_founder_alone_says_whom_it_waits_for_idles_and_stops_when_told(tmp_path: Path) -> None:
    port = free_block(110)
    others = {"n2": f"127.0.0.1:{port + 101}", "n3": f"127.0.0.1:{port + 102}"}
    node = Node("n1", str(tmp_path), port, {})
    node.settings["initial-cluster"] = ",".join(f"{n}={a}" for n, a in {"n1": node.peer, **others}.items())
    node.start()
    try:
        async with node.client(timeout=1.0) as client:

            async def waits() -> bool:
                told = (await client.status()).no_leader
                return all(f"{name} at {address}" in told for name, address in others.items())

            await eventually("it says whom it waits for", waits)

            async def put_is_refused_with_the_reason() -> bool:
                with pytest.raises(OperationError) as caught:
                    await client.put("k", "v")
                # On a slow machine the last attempt may have no time for its answer.
                return "waiting for n2 at" in str(caught.value) and caught.value.outcome is Outcome.NOT_APPLIED

            await eventually("a put says whom it waits for", put_is_refused_with_the_reason)
        table = await asyncio.to_thread(syncline, "status", "--endpoints", node.url)
        assert "at the cluster's first start all its members must be up once; waiting for n2 at" in table
        loop = asyncio.get_running_loop()
        begun_s, used_s = loop.time(), node.cpu_s()
        await asyncio.sleep(IDLE_WATCHED_S)  # the time to measure over, not a wait for something
        assert (node.cpu_s() - used_s) / (loop.time() - begun_s) < IDLE_SHARE
        assert node.stop() == 0
    finally:
        if node.running:
            node.kill()


def syncline(*arguments: str) -> str:
    """What a `syncline` command prints."""
    command = [sys.executable, "-m", "syncline", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30.0, check=True).stdout


# Strangers


@pytest.mark.deadline(60.0)
async def test_strangers_on_either_port_do_no_harm(tmp_path: Path) -> None:
    async with running_cluster(str(tmp_path)) as cluster:
        leader = await cluster.leader()
        rng = random.Random(7)
        for port in (leader.peer_port, leader.http_port):
            for size in (1, 10, 1000, 100_000):
                await asyncio.to_thread(throw, port, rng.randbytes(size))
            await asyncio.to_thread(throw, port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with leader.client() as client:
            await client.put("k", "still here")
        assert (await cluster.leader()) is leader
        assert "Traceback" not in leader.log()


def throw(port: int, data: bytes) -> None:
    """Send bytes and see the connection ended by the other side, or end it."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as stranger:
        try:
            stranger.sendall(data)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(65536):
                pass
        except ConnectionError:
            return


@pytest.mark.deadline(60.0)
async def test_a_node_of_another_cluster_is_not_let_in(tmp_path: Path) -> None:
    async with running_cluster(str(tmp_path / "one"), size=1, cluster="one") as one:
        settings = {**one.nodes[0].settings, "cluster": "two"}
        target = one.nodes[0].peer
        wrong = Node("n2", str(tmp_path / "two"), free_block(101), settings)
        wrong.settings["initial-cluster"] = f"n1={target},n2={wrong.peer}"
        os.makedirs(tmp_path / "two")
        wrong.start()
        try:

            async def said() -> bool:
                return "cluster" in wrong.log().lower() and "refused" in wrong.log().lower()

            await eventually("the refusal is in the log of the one that is refused", said)
            async with one.nodes[0].client() as client:
                await client.put("k", "v")
                assert len((await client.members()).members) == 1
        finally:
            wrong.kill()


# No quorum


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node whose two peers are gone."""
    loop = asyncio.new_event_loop()
    context = running_cluster(str(tmp_path_factory.mktemp("lonely")))
    cluster = loop.run_until_complete(context.__aenter__())

    async def leave_alone() -> Node:
        leader = await cluster.leader()
        async with leader.client() as client:
            await client.put("k", "v")
        for node in cluster.nodes:
            if node is not leader:
                node.kill()

        async def noticed() -> bool:
            return (await cluster.status(leader)).role != "leader"

        await eventually("it notices that it has no quorum", noticed)
        return leader

    yield loop.run_until_complete(leave_alone())
    loop.run_until_complete(context.__aexit__(None, None, None))
    loop.close()


async def test_a_write_without_a_quorum_ends_at_its_deadline_and_was_not_applied(lonely: Node) -> None:
    async with lonely.client() as client:

        async def ends_not_applied() -> bool:
            with pytest.raises(OperationError) as caught:
                async with asyncio.timeout(4.0):  # without its own deadline it would take 5 s
                    await client.put("k", "never", timeout=1.0)
            # On a slow machine the last attempt may have no time for its answer.
            return caught.value.outcome is Outcome.NOT_APPLIED

        await eventually("the node has the time to answer", ends_not_applied)


async def test_reads_without_a_quorum_are_refused_unless_they_may_be_stale(lonely: Node) -> None:
    async with lonely.client() as client:
        with pytest.raises(OperationError):
            await client.get("k", timeout=1.0)
        found = await client.get("k", consistency="stale")
        assert found is not None
        assert found.value == b"v"
        with pytest.raises(OperationError) as caught:
            await client.get("k", consistency="stale", max_stale_s=0.001, timeout=2.0)
        assert caught.value.code == "too_stale"


async def test_a_node_without_a_quorum_is_idle(lonely: Node) -> None:
    loop = asyncio.get_running_loop()
    begun_s, used_s = loop.time(), lonely.cpu_s()
    await asyncio.sleep(IDLE_WATCHED_S)  # the time to measure over, not a wait for something
    assert ((lonely.cpu_s() - used_s) / (loop.time() - begun_s)) < IDLE_SHARE


def test_readiness_and_liveness_tell_the_difference(lonely: Node) -> None:
    assert probe(lonely, "/livez")[0] == 200
    status, body = probe(lonely, "/readyz")
    assert status == 503
    assert "[-]linearizable_read failed" in body


def probe(node: Node, path: str) -> tuple[int, str]:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=15)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


# Values, keys, HTTP


@pytest.mark.deadline(60.0)
async def test_limits_are_kept_and_told(tmp_path: Path) -> None:
    async with running_cluster(str(tmp_path), size=1, max_value_bytes="1000") as cluster:
        (node,) = cluster.nodes
        async with node.client() as client:
            await client.put("k", b"x" * 1000)
            for key, value in (("k", b"x" * 1001), ("k", b"x" * 10_000_000), ("x" * 1025, b"v")):
                with pytest.raises(OperationError) as caught:
                    await client.put(key, value)
                assert (caught.value.code, caught.value.outcome) == ("too_large", Outcome.NOT_APPLIED)
            found = await client.get("k")
            assert found is not None
            assert found.value == b"x" * 1000
            assert await client.count() == 1


# Stopping


@pytest.mark.deadline(60.0)
async def test_a_signal_stops_a_node_in_order_and_its_data_is_there_again(tmp_path: Path) -> None:
    async with running_cluster(str(tmp_path), size=1) as cluster:
        (node,) = cluster.nodes
        for number in (signal.SIGTERM, signal.SIGINT):
            async with node.client() as client:
                await client.put("k", number.name)
            node.send(number)
            assert await asyncio.to_thread(node.wait) == 0
            node.start()
            await cluster.wait_ready()
            async with node.client() as client:
                found = await client.get("k")
                assert found is not None
                assert found.value == number.name.encode()
        assert "Traceback" not in node.log()


@pytest.mark.deadline(90.0)
async def test_leader_that_closes_transfers_first(tmp_path: Path) -> None:
    async with running_cluster(str(tmp_path), heartbeat_s="0.2", election_s="4") as cluster:
        leader = await cluster.leader()
        others = [node for node in cluster.nodes if node is not leader]
        leader.send(signal.SIGTERM)
        async with AsyncClient([node.url for node in others], timeout=3.5) as client:
            await client.put("k", "v", idempotent=True)  # no election could have been held by then
        assert await asyncio.to_thread(leader.wait) == 0


@pytest.mark.deadline(60.0)
async def test_a_paused_leader_is_replaced_and_follows_when_it_is_back(tmp_path: Path) -> None:
    async with running_cluster(str(tmp_path)) as cluster:
        leader = await cluster.leader()
        others = [node for node in cluster.nodes if node is not leader]
        leader.pause()
        async with AsyncClient([node.url for node in others], timeout=15.0) as client:
            await client.put("k", "without it", idempotent=True)
        leader.resume()
        async with leader.client(timeout=15.0) as client:
            found = await client.get("k")
            assert found is not None
            assert found.value == b"without it", "a deposed leader must not answer from memory"
