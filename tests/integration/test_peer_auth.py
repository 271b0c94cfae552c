"""Nodes with a cluster secret, and what a program that has it, or has it not, can do to them."""

from __future__ import annotations

import asyncio
import stat
import urllib.request
from pathlib import Path

import pytest

from syncline import Raft
from syncline.cli.up.plan import make_plan, write_plan
from syncline.consensus.types import Message, MessageType
from syncline.errors import ConfigError
from syncline.node.secret_file import read_secret_file, write_secret_file
from syncline.platform.disk import OsDisk
from syncline.transport.handshake import PROTOCOL_VERSION, Hello, Purpose, Refusal, Welcome
from syncline.transport.messages import Forward, ForwardedProposal
from syncline.transport.wire import Batch
from syncline.version import FEATURE_LEVEL
from tests.helpers.command import syncline
from tests.helpers.node_cluster import Cluster, cluster, until
from tests.helpers.process_cluster import running_cluster
from tests.helpers.transport import RawEnd

SECRET = b"\x07" * 32


async def enter(
    nodes: Cluster, target: Raft[object], member: Raft[object], *, known: int = 0, secret: bytes = SECRET
) -> RawEnd:
    """Greet a node as the very process of another member would. If that one runs, its next greeting ends this link."""
    identity = member._driver.parts.identity
    end = await RawEnd.dial(nodes.address(target.config.name))
    hello = Hello(
        PROTOCOL_VERSION,
        PROTOCOL_VERSION,
        target.cluster_id,
        member.node_id,
        target.node_id,
        Purpose.MESSAGES,
        member._driver.parts.transport._acceptor._facts.incarnation,
        "",
        identity.directory_id,
        known,
        level=FEATURE_LEVEL,
        machine_version=1,
    )
    answer = await end.introduce(hello, secret)
    assert isinstance(answer, Refusal if known else Welcome), answer
    return end


async def echo(end: RawEnd) -> None:
    """What was sent before has been dealt with."""
    end.write(Batch(ping=9))
    assert (await end.read_batch()).pong == 9


async def test_cluster_with_a_secret_commits_and_catches_up(tmp_path: Path) -> None:
    async with cluster(tmp_path, secret=SECRET) as nodes:
        leader, follower = await nodes.pair()
        await follower.apply(b"from a follower", timeout=10)
        await nodes.stop(follower.config.name)
        await leader.apply(b"meanwhile", timeout=10)
        again = await nodes.start(follower.config.name)
        await until(again, lambda: nodes.machine(again).items == [b"from a follower", b"meanwhile"])


async def test_node_with_another_secret_stays_outside(tmp_path: Path) -> None:
    async with cluster(tmp_path, secret=SECRET) as nodes:
        leader, follower = await nodes.pair()
        name = follower.config.name
        await nodes.stop(name)
        for secret in (b"\x08" * 32, None):
            other = await nodes.start(name, secret=secret)
            link = other._driver.parts.transport.stats
            await until(other, lambda: all(peer.last_error for peer in link().values()))  # noqa: B023
            assert other.stats().leader is None
            await nodes.stop(name)
        await leader.apply(b"unharmed", timeout=10)


@pytest.mark.deadline(60)
async def test_secret_enters_a_running_cluster_node_by_node(tmp_path: Path) -> None:
    """With `peer_auth="accept"` for one rolling restart; a quorum is there at each step."""
    async with cluster(tmp_path) as nodes:
        await nodes.announced()
        steps: list[dict[str, object]] = [{"secret": SECRET, "peer_auth": "accept"}, {"secret": SECRET}]
        for step in steps:
            for name in "abc":
                await nodes.stop(name)
                await nodes.start(name, **step)  # type: ignore[arg-type]
                await (await nodes.leader()).apply(name.encode(), timeout=20)
        for raft in list(nodes.rafts.values()):
            await until(raft, lambda: nodes.machine(raft).items == [b"a", b"b", b"c"] * 2)  # noqa: B023 - awaited at once


async def test_heartbeat_of_the_last_term_is_never_persisted(tmp_path: Path) -> None:
    """With that term on disk there could be no election ever again."""
    async with cluster(tmp_path, secret=SECRET) as nodes:
        leader, follower = await nodes.pair()
        await nodes.stop(follower.config.name)
        term = leader.stats().term
        for kind in (MessageType.HEARTBEAT, MessageType.VOTE, MessageType.APP_RESP, MessageType.TIMEOUT_NOW):
            end = await enter(nodes, leader, follower)
            end.write(Batch([Message(kind, to=leader.node_id, sender=follower.node_id, term=2**63 - 1)]))
            await echo(end)
            await end.close()
        assert leader._driver.term_guard.refused == 4
        assert leader.stats().term == term
        await leader.apply(b"goes on", timeout=10)


@pytest.mark.parametrize("number", [-1, 2**63, 2**64 - 1])
async def test_forward_with_an_impossible_number_ends_the_link_alone(tmp_path: Path, number: int) -> None:
    async with cluster(tmp_path, secret=SECRET) as nodes:
        leader, follower = await nodes.pair()
        await nodes.stop(follower.config.name)
        end = await enter(nodes, leader, follower)
        end.write(Batch([], [Forward([ForwardedProposal(number, 0, b"")])]))
        await end.closed_by_other_end()
        await leader.apply(b"goes on", timeout=10)
        assert leader.is_leader


async def test_greeting_of_one_member_stops_no_sound_node(tmp_path: Path) -> None:
    """It says that the node has lost its data directory. One that says the opposite later takes the word back."""
    async with cluster(tmp_path, secret=SECRET) as nodes:
        await nodes.announced()
        leader, follower = await nodes.pair()
        await nodes.stop(follower.config.name)
        for _ in range(5):
            await (await enter(nodes, leader, follower, known=1)).close()
        await leader.apply(b"goes on", timeout=10)
        assert leader._driver.bootstrap._doubting
        await (await enter(nodes, leader, follower)).close()
        assert not leader._driver.bootstrap._doubting


async def test_port_beyond_loopback_without_a_secret_does_not_open(tmp_path: Path) -> None:
    nodes = Cluster(tmp_path, "a")
    port = nodes.address("a").rpartition(":")[2]
    with pytest.raises(ConfigError, match="insecure_peers=True"):
        await nodes.start("a", listen=f"0.0.0.0:{port}")
    assert not (tmp_path / "a").exists(), "nothing was made"
    await nodes.start("a", listen=f"0.0.0.0:{port}", insecure_peers=True)
    await nodes.stop_all()


@pytest.mark.deadline(60)
async def test_secret_of_a_served_cluster_is_shown_nowhere(tmp_path: Path) -> None:
    path = str(tmp_path / "peer-secret")
    write_secret_file(path)
    secret = read_secret_file(path)[0]
    async with running_cluster(str(tmp_path / "nodes"), 3, peer_secret_file=path, log_level="debug") as nodes:
        async with nodes.client() as client:
            await client.put("a", b"1")

        def read(url: str) -> bytes:
            with urllib.request.urlopen(url, timeout=10) as answer:
                found: bytes = answer.read()
            return found

        for node in nodes.nodes:
            for page in ("/raft/status", "/metrics"):
                shown = await asyncio.to_thread(read, node.url + page)
                assert secret.hex().encode() not in shown
                assert secret not in shown
            assert secret.hex() not in node.log()
            assert repr(secret) not in node.log()


def test_secret_new_makes_a_private_file_and_tells_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    ran = syncline("secret", "new", "--output", str(path))
    assert (ran.status, ran.out) == (0, b"")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = read_secret_file(str(path))[0]
    assert secret.hex() not in ran.err
    again = syncline("secret", "new", "--output", str(path))
    assert again.status == 2
    assert "never overwritten" in again.error()
    assert read_secret_file(str(path))[0] == secret


def test_secret_new_prints_only_when_asked() -> None:
    ran = syncline("secret", "new", "--output", "-")
    assert ran.status == 0
    assert len(bytes.fromhex(ran.text)) == 32


def test_serve_has_no_flag_for_the_secret_itself() -> None:
    """Every user of the machine can read a command line."""
    assert "--peer-secret " not in syncline("serve", "--help").text
    assert "--peer-secret-file" in syncline("serve", "--help").text


def test_serve_beyond_loopback_asks_for_a_secret(tmp_path: Path) -> None:
    members = "a=10.0.0.1:7100,b=10.0.0.2:7100"
    ran = syncline("serve", "--name", "a", "--data-dir", str(tmp_path / "a"), "--initial-cluster", members)
    assert ran.status == 2
    assert "syncline secret new" in ran.error()


def test_up_makes_one_secret_and_keeps_it(tmp_path: Path) -> None:
    data_dir = str(tmp_path / "data")
    for _ in range(2):
        plan = make_plan(data_dir, nodes=3, port=9000)
        write_plan(plan, OsDisk())
        secret = read_secret_file(plan.secret_path)
        for node in plan.nodes:
            settings = Path(node.config_path).read_text()
            assert f'peer_secret_file = "{plan.secret_path}"' in settings
            assert secret[0].hex() not in settings
    assert Path(plan.secret_path).parent == Path(data_dir)
