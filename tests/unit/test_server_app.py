"""`KvServer`: the whole server in this process, on real files and loopback sockets, with short timers."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from syncline.client.client import AsyncClient
from syncline.errors import (
    ConfigError,
    CorruptionError,
    DirectoryLocked,
    MembershipError,
    NodeFailed,
    PermissionDenied,
    Unauthenticated,
    Unreachable,
    WrongDirectory,
)
from syncline.platform.disk import OsDisk
from syncline.server.app import KvServer
from syncline.server.asgi import AsgiApp
from syncline.server.config import ServerConfig
from syncline.storage.datadir import DataDir
from tests.helpers.node_cluster import until
from tests.helpers.ports import free_block

MEMBERSHIP_TIMEOUT_S = 20.0
TLS_FILES = Path(__file__).parent / "tls"


def free_ports(count: int) -> list[int]:
    first = free_block(count)
    return list(range(first, first + count))


def settings(tmp_path: Path, name: str = "a", peer_port: int | None = None, **more: object) -> ServerConfig:
    values: dict[str, object] = {
        "name": name,
        "data_dir": str(tmp_path / name),
        "http_listen": "127.0.0.1:0",
        "peer_listen": f"127.0.0.1:{peer_port or free_ports(1)[0]}",
        "heartbeat_s": 0.02,
        "election_s": 0.2,
        "reserve_bytes": 0,
        **more,
    }
    return ServerConfig(**values)  # type: ignore[arg-type]


@asynccontextmanager
async def cluster(tmp_path: Path, names: str = "abc") -> AsyncIterator[dict[str, KvServer]]:
    ports = free_ports(len(names))
    members = {name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
    servers: dict[str, KvServer] = {}
    try:
        for name, port in zip(names, ports, strict=True):
            servers[name] = await KvServer.open(settings(tmp_path, name, port, initial_cluster=members))
        for server in servers.values():  # one that has not met all others would wait for them, and so would a quorum
            await server.raft.read_index(timeout=MEMBERSHIP_TIMEOUT_S)
        yield servers
    finally:
        for server in servers.values():
            await server.close(drain_s=1.0)


async def raw(url: str, request: bytes) -> bytes:
    """Send bytes and read until the server closes."""
    host, port = url.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_cluster_of_one_serves_and_keeps_its_data(tmp_path: Path) -> None:
    config = settings(tmp_path)
    async with await KvServer.open(config) as server, AsyncClient(server.http_url) as client:
        await client.put("key", b"value")
        status = await client.status()
        assert (status.role, status.name, status.http) == ("leader", "a", server.http_url)
    async with await KvServer.open(config) as server, AsyncClient(server.http_url) as client:
        found = await client.get("key")
        assert found is not None
        assert found.value == b"value"


async def test_new_cluster_of_one_is_told_at_its_first_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A repair was refused, and the next command began a cluster without a word, at the address of the old one."""
    caplog.set_level(logging.INFO)
    told = f"node a begins a new cluster in {tmp_path / 'a'}, as its only member"
    for starts in (1, 1):
        await (await KvServer.open(settings(tmp_path))).close(drain_s=0.0)
        assert sum(told in line for line in caplog.messages) == starts


async def test_every_node_takes_writes_and_reads_what_the_others_wrote(tmp_path: Path) -> None:
    async with cluster(tmp_path) as servers:
        clients = [AsyncClient(server.http_url) for server in servers.values()]
        for number in range(30):
            writer, reader = clients[number % 3], clients[(number + 1) % 3]
            await writer.put("counter", str(number))
            found = await reader.get("counter")
            assert found is not None
            assert found.value == b"%d" % number
        members = await clients[0].members()
        assert sorted(member.name for member in members.members) == ["a", "b", "c"]
        for client in clients:
            await client.close()


async def test_a_node_joins_through_any_member_and_becomes_a_voter(tmp_path: Path) -> None:
    async with cluster(tmp_path) as servers:
        url = servers["b"].http_url
        async with await KvServer.open(settings(tmp_path, "d", join=(url,))) as joined, AsyncClient(url) as client:
            await client.put("key", b"value")
            async with AsyncClient(joined.http_url) as own:
                found = await own.get("key")
                assert found is not None
                assert found.value == b"value"
            await until_voter(client, "d")
            assert not (tmp_path / "d" / "joining").exists()


async def until_voter(client: AsyncClient, name: str) -> None:
    """Wait for a promotion: a linearizable read paces the loop, the deadline is the test's."""
    while True:
        members = await client.members()
        if any(member.name == name and member.role == "voter" for member in members.members):
            return
        await client.get("pace")


async def test_a_restarted_node_needs_to_be_told_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as servers:
        url = servers["a"].http_url
        config = settings(tmp_path, "d", join=(url,), join_as_learner=True)
        async with await KvServer.open(config) as joined:
            first = joined.raft.node_id
        async with await KvServer.open(config) as again:
            assert again.raft.node_id == first


async def test_a_node_that_crashed_while_it_joined_comes_back_as_the_same(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as servers, AsyncClient(servers["a"].http_url) as client:
        config = settings(tmp_path, "d", join=(servers["a"].http_url,), join_as_learner=True)
        blocked = socket.create_server(("127.0.0.1", int(config.peer_listen.rsplit(":", 1)[1])))
        with pytest.raises(OSError, match="can't listen"):
            await KvServer.open(config)  # added to the cluster, but not opened
        blocked.close()
        added = {member.name: member.id for member in (await client.members()).members}
        async with await KvServer.open(config) as server:
            assert f"{server.raft.node_id:016x}" == added["d"]
        assert len((await client.members()).members) == 2


async def test_node_that_crashed_before_its_first_log_starts_as_new(tmp_path: Path) -> None:
    config = settings(tmp_path)
    async with await KvServer.open(config) as server:
        identity = server.raft._driver.parts.identity
    shutil.rmtree(config.data_dir)
    directory = DataDir.open(OsDisk(), config.data_dir)
    directory.write_identity(msgspec.structs.replace(identity, started=False))
    directory.release()
    async with await KvServer.open(config) as server, AsyncClient(server.http_url) as client:
        assert server.raft.node_id == identity.node_id
        await client.put("a", b"v")


async def test_initial_member_that_never_ran_may_not_join_and_is_told_why(tmp_path: Path) -> None:
    config = settings(tmp_path)
    async with await KvServer.open(config) as server:
        identity = server.raft._driver.parts.identity
    shutil.rmtree(config.data_dir)
    directory = DataDir.open(OsDisk(), config.data_dir)
    directory.write_identity(msgspec.structs.replace(identity, started=False))
    directory.release()
    with pytest.raises(ConfigError, match="never ran: give the same peers again, or empty"):
        await KvServer.open(msgspec.structs.replace(config, join=("http://127.0.0.1:1",)))


async def test_a_node_whose_disk_was_lost_is_refused_under_its_old_name(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as servers:
        config = settings(tmp_path, "d", join=(servers["a"].http_url,), join_as_learner=True)
        async with await KvServer.open(config):
            pass
        emptied = settings(
            tmp_path / "new", "d", int(config.peer_listen.rsplit(":", 1)[1]), join=(servers["a"].http_url,)
        )
        with pytest.raises(MembershipError, match="syncline repair --name"):
            await KvServer.open(emptied)


async def test_joining_a_cluster_that_is_not_there_fails_in_words(tmp_path: Path) -> None:
    config = settings(tmp_path, "d", join=(f"http://127.0.0.1:{free_ports(1)[0]}",), join_timeout_s=0.3)
    with pytest.raises(Unreachable, match="can't reach"):
        await KvServer.open(config)


async def test_joiner_without_the_right_token_learns_which_setting(tmp_path: Path) -> None:
    token = tmp_path / "token"
    async with await KvServer.open(settings(tmp_path)) as server:
        async with AsyncClient(server.http_url) as kv:
            await kv.add_user("root", "a long password", admin=True)
            await kv.add_role("reader")
            await kv.add_user("ann", roles=["reader"])
            token.write_text((await kv.new_token("ann")).token)
            token.chmod(0o600)
            await kv.enable_auth()
        with pytest.raises(Unauthenticated, match=r"needs a credential.*give --join-token-file a token"):
            await KvServer.open(settings(tmp_path, "d", join=(server.http_url,)))
        with pytest.raises(PermissionDenied, match="give --join-token-file a token of a user that may do"):
            await KvServer.open(settings(tmp_path, "d", join=(server.http_url,), join_token_file=str(token)))


async def test_whom_to_trust_when_joining_over_https_is_a_setting(tmp_path: Path) -> None:
    member = settings(tmp_path, http_tls_cert=str(TLS_FILES / "node1.pem"), http_tls_key=str(TLS_FILES / "node1.key"))
    async with await KvServer.open(member) as server:
        joining = settings(tmp_path, "d", join=(server.http_url,), join_timeout_s=1.0)
        with pytest.raises(Unreachable, match="local issuer"):
            await KvServer.open(joining)
        trusting = msgspec.structs.replace(joining, join_tls_ca=str(TLS_FILES / "cluster-ca.pem"))
        with pytest.raises(Unreachable, match="not valid for"):  # as far as the test's certificate goes
            await KvServer.open(trusting)
        with pytest.raises(ConfigError, match=r"join_tls_ca '/no\.pem'"):
            await KvServer.open(msgspec.structs.replace(joining, join_tls_ca="/no.pem"))


async def test_a_damaged_note_of_joining_is_named(tmp_path: Path) -> None:
    config = settings(tmp_path, "d", join=("http://127.0.0.1:1",))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "joining").write_text("{")
    with pytest.raises(CorruptionError, match="joining is damaged"):
        await KvServer.open(config)


async def test_a_port_in_use_is_said_before_the_data_is_touched(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = settings(tmp_path, http_listen=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(OSError, match="another process holds the port"):
            await KvServer.open(config)
    assert not (tmp_path / "a").exists()


async def test_open_of_a_foreign_directory_frees_the_port(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    async with await KvServer.open(settings(tmp_path)):
        with pytest.raises(DirectoryLocked):
            await KvServer.open(settings(tmp_path, http_listen=f"127.0.0.1:{port}"))
    other = settings(tmp_path, "b", http_listen=f"127.0.0.1:{port}", data_dir=str(tmp_path / "a"))
    with pytest.raises(WrongDirectory):
        await KvServer.open(other)
    async with await KvServer.open(settings(tmp_path, http_listen=f"127.0.0.1:{port}")):
        pass


async def test_a_node_without_a_door_of_its_own_can_be_mounted(tmp_path: Path) -> None:
    async with await KvServer.open(settings(tmp_path, http_listen="")) as server:
        assert server.http_url == ""
        sent: list[MutableMapping[str, object]] = []

        async def receive() -> MutableMapping[str, object]:
            return {"type": "http.request", "body": b"v"}

        async def send(message: MutableMapping[str, object]) -> None:
            sent.append(message)

        scope: MutableMapping[str, object] = {
            "type": "http",
            "method": "PUT",
            "path": "/key/a",
            "headers": [],
            "query_string": b"",
        }
        await AsgiApp(server.site)(scope, receive, send)
        assert sent[0]["status"] == 200


SAMPLE = re.compile(r'[a-z_]+(\{([a-z]+="([^"\\\n]|\\.)*",?)*\})? (\+Inf|-?[0-9.]+(e[+-]?[0-9]+)?)')


async def test_metrics_show_requests_the_node_and_the_store(tmp_path: Path) -> None:
    async with await KvServer.open(settings(tmp_path)) as server, AsyncClient(server.http_url) as client:
        await client.put("a", b"v")
        await client.get("a")
        await client.get("missing")
        text = (await raw(server.http_url, b"GET /metrics HTTP/1.0\r\n\r\n")).partition(b"\r\n\r\n")[2].decode()
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(SAMPLE.fullmatch(line) for line in samples), [s for s in samples if not SAMPLE.fullmatch(s)]
    values = dict(line.rsplit(" ", 1) for line in samples)
    assert values['syncline_http_requests_total{route="PUT /key/{key...}",status="200"}'] == "1"
    assert values['syncline_http_requests_total{route="GET /key/{key...}",status="404"}'] == "1"
    assert values['syncline_http_request_duration_seconds_count{route="GET /key/{key...}"}'] == "2"
    assert values["syncline_server_is_leader"] == values["syncline_server_has_leader"] == "1"
    assert values["syncline_mvcc_current_revision"] == "1"
    assert int(values["syncline_http_connections"]) >= 1


async def test_clients_are_served_over_tls(tmp_path: Path) -> None:
    config = settings(tmp_path, http_tls_cert=str(TLS_FILES / "node1.pem"), http_tls_key=str(TLS_FILES / "node1.key"))
    trusting = ssl.create_default_context(cafile=str(TLS_FILES / "cluster-ca.pem"))
    trusting.check_hostname = False
    async with await KvServer.open(config) as server, AsyncClient(server.http_url, tls=trusting) as client:
        assert server.http_url.startswith("https://")
        await client.put("a", b"x" * 500_000)
        found = await client.get("a")
        assert found is not None
        assert found.value == b"x" * 500_000
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", int(server.http_url.rsplit(":", 1)[1]), ssl=trusting
        )
        writer.write(b"rubbish\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_bad_tls_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"http_tls_cert 'no\.pem'"):
        await KvServer.open(settings(tmp_path, http_tls_cert="no.pem", http_tls_key="no.key"))


async def test_a_wildcard_needs_an_address_that_others_can_reach(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="every interface"):
        await KvServer.open(settings(tmp_path, peer_listen=f"0.0.0.0:{free_ports(1)[0]}", insecure_peers=True))


async def test_writes_without_a_quorum_end_at_their_deadline(tmp_path: Path) -> None:
    ports = free_ports(3)
    members = {name: f"127.0.0.1:{port}" for name, port in zip("abc", ports, strict=True)}
    async with await KvServer.open(settings(tmp_path, "a", ports[0], initial_cluster=members)) as server:
        put = b"PUT /key/a?timeout=200ms HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\nv"
        head, _, body = (await raw(server.http_url, put)).partition(b"\r\n\r\n")
        error = json.loads(body)["error"]
        assert head.split()[1] in {b"503", b"504"}
        assert error["outcome"] == "not_applied"
        ready = await raw(server.http_url, b"GET /readyz?timeout=200ms HTTP/1.0\r\n\r\n")
        assert b"[-]linearizable_read failed" in ready
        assert b"200 OK" in await raw(server.http_url, b"GET /livez HTTP/1.0\r\n\r\n")
        stale = await raw(server.http_url, b"GET /key/a?consistency=stale HTTP/1.0\r\n\r\n")
        assert b"not_found" in stale


async def test_requests_before_the_node_is_open_are_told_so(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    waiting = settings(
        tmp_path, http_listen=f"127.0.0.1:{port}", join=(f"http://127.0.0.1:{free_ports(1)[0]}",), join_timeout_s=30
    )
    opening = asyncio.ensure_future(KvServer.open(waiting))
    answer = b""
    while not answer:
        try:
            answer = await raw(f"http://127.0.0.1:{port}", b"GET /readyz HTTP/1.0\r\n\r\n")
        except ConnectionRefusedError:
            assert not opening.done()
    assert b'"code":"starting"' in answer
    lives = await raw(f"http://127.0.0.1:{port}", b"GET /livez HTTP/1.0\r\n\r\n")
    assert b" 200 OK" in lives, "a supervisor must not kill a node that loads its state"
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening


async def test_closing_answers_what_was_asked(tmp_path: Path) -> None:
    server = await KvServer.open(settings(tmp_path))
    async with AsyncClient(server.http_url) as client:
        await client.put("a", b"1")
        writes = [asyncio.ensure_future(client.put(f"k{number}", b"v")) for number in range(20)]
        await client.get("a")
        closing = asyncio.ensure_future(server.close())
        done = await asyncio.gather(*writes, return_exceptions=True)
        await closing
        await server.close()  # again does nothing
    # What was taken is answered; what came after the port was closed could not be sent.
    assert all(not isinstance(one, BaseException) or isinstance(one, Unreachable) for one in done), done
    acknowledged = [number for number, one in enumerate(done) if not isinstance(one, BaseException)]
    async with await KvServer.open(settings(tmp_path)) as again, AsyncClient(again.http_url) as client:
        for number in acknowledged:
            assert await client.get(f"k{number}") is not None


async def test_a_removed_node_stops_and_says_why(tmp_path: Path) -> None:
    async with cluster(tmp_path) as servers, AsyncClient(servers["a"].http_url) as client:
        await client.put("a", b"1")
        await client.remove_member("c", timeout=MEMBERSHIP_TIMEOUT_S)
        failure = await servers["c"].closed_by_fault()
        assert isinstance(failure, NodeFailed)
        assert "was removed from the cluster" in str(failure)
        assert b"[-]node failed" in await raw(servers["c"].http_url, b"GET /livez HTTP/1.0\r\n\r\n")
        await client.put("a", b"2")


async def test_joiner_with_a_wrong_address_works_once_it_is_corrected(tmp_path: Path) -> None:
    """It got no log, because no member could dial it, so it knows none: it asks at `join` where they are."""
    async with cluster(tmp_path, "a") as servers:
        wrong = f"127.0.0.1:{free_ports(1)[0]}"
        config = settings(tmp_path, "d", join=(servers["a"].http_url,), join_as_learner=True)
        joined = await KvServer.open(msgspec.structs.replace(config, peer_advertise=wrong))
        node_id = joined.raft.node_id
        assert joined.raft.stats().applied == 0
        await joined.close(drain_s=0)
        async with await KvServer.open(config) as mended, AsyncClient(mended.http_url) as client:
            assert mended.raft.node_id == node_id
            await client.put("k", "v", timeout=MEMBERSHIP_TIMEOUT_S)
            raft = mended.raft
            await until(raft, lambda: raft.membership().members[node_id].address == config.peer_listen)


async def test_initial_cluster_holds_hints_at_a_later_start(tmp_path: Path) -> None:
    """All three move at once, and each is told where the others are now."""
    async with cluster(tmp_path) as servers:
        cluster_id = servers["a"].raft.cluster_id
        async with AsyncClient(servers["a"].http_url) as client:
            await client.put("k", "before", timeout=MEMBERSHIP_TIMEOUT_S)
        for server in servers.values():
            await server.close(drain_s=0)
        moved = dict(zip("abc", free_ports(3), strict=True))
        members = {name: f"127.0.0.1:{port}" for name, port in moved.items()}
        for name, port in moved.items():
            servers[name] = await KvServer.open(settings(tmp_path, name, port, initial_cluster=members))
        async with AsyncClient(servers["b"].http_url) as client:
            found = await client.get("k", timeout=MEMBERSHIP_TIMEOUT_S)
            assert found is not None
            assert found.value == b"before"
            await client.put("k", "after", timeout=MEMBERSHIP_TIMEOUT_S)
        assert servers["c"].raft.cluster_id == cluster_id


async def test_update_through_http_changes_an_address(tmp_path: Path) -> None:
    """Of a member that is stopped: it can't announce anything itself."""
    async with cluster(tmp_path) as servers, AsyncClient(servers["a"].http_url) as client:
        await client.put("k", "v", timeout=MEMBERSHIP_TIMEOUT_S)
        await servers.pop("c").close(drain_s=0)
        members = await client.update_member("c", address="127.0.0.1:9", timeout=MEMBERSHIP_TIMEOUT_S)
        assert {member.name: member.peer for member in members.members}["c"] == "127.0.0.1:9"
        taken = servers["b"].raft.advertised
        with pytest.raises(MembershipError, match="already the address"):
            await client.update_member("c", address=taken, timeout=MEMBERSHIP_TIMEOUT_S)
