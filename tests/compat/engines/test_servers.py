"""Programs on real servers by their URL alone, and servers that are none, refuse, or may lose data."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg
import pytest
from aetcd import rpc

import syncline
from syncline import LogReplica, Machine, OnceKey, command
from syncline.engines import driver
from syncline.errors import ConfigError, DeadlineExceeded, NodeFailed, NoSpace, Outcome, Unreachable
from syncline.machines.copying import copy_machine
from tests.compat.engines.servers import EtcdServers, PostgresServer, etcd_servers
from tests.helpers.engine_programs import run_agents, run_control_plane
from tests.helpers.node_cluster import Listing
from tests.helpers.ports import free_block

PROGRAMS = pytest.mark.parametrize("program", [run_control_plane, run_agents], ids=lambda program: program.__name__)
Program = Callable[[list[str]], Awaitable[None]]

pytestmark = [pytest.mark.timeout(180), pytest.mark.deadline(90.0)]


@PROGRAMS
async def test_program_runs_on_etcd(program: Program, etcd_alone: EtcdServers) -> None:
    await program([f"etcd://{etcd_alone.hosts}/{program.__name__}"] * 3)


@PROGRAMS
async def test_program_runs_on_postgres(program: Program, postgres: PostgresServer) -> None:
    await program([postgres.url(program.__name__)] * 3)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "OPEN_S", 3.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("url", ["etcd://127.0.0.1:{}/jobs", "postgresql://postgres@127.0.0.1:{}/postgres?log=jobs"])
async def test_open_tells_that_no_server_is_there(url: str) -> None:
    with pytest.raises(Unreachable, match="did not answer within") as raised:
        await syncline.open(url.format(free_block(1)), Listing())
    assert raised.value.outcome is Outcome.NOT_APPLIED
    assert "onnect" in str(raised.value), "the reason of the system"


@pytest.mark.usefixtures("impatient")
async def test_open_tells_that_the_server_is_another_one(etcd_alone: EtcdServers, postgres: PostgresServer) -> None:
    with pytest.raises((Unreachable, ConfigError)):
        await syncline.open(f"etcd://127.0.0.1:{postgres.port}/jobs", Listing())
    with pytest.raises((Unreachable, ConfigError)):
        await syncline.open(f"postgresql://postgres@{etcd_alone.hosts}/postgres?log=jobs", Listing())


async def test_open_postgres_refuses_a_wrong_user_or_database(postgres: PostgresServer) -> None:
    with pytest.raises(ConfigError, match='role "nobody" does not exist') as raised:
        await syncline.open(postgres.url("jobs", user="nobody"), Listing())
    assert raised.value.outcome is Outcome.NOT_APPLIED
    with pytest.raises(ConfigError, match='database "none" does not exist'):
        await syncline.open(postgres.url("jobs").replace("/postgres?", "/none?"), Listing())
    with psycopg.connect(postgres.url("x").partition("?")[0], autocommit=True) as connection:
        connection.execute("CREATE ROLE guest LOGIN")
    with pytest.raises(ConfigError, match="permission denied"):
        await syncline.open(postgres.url("jobs", user="guest"), Listing())


async def test_open_postgres_refuses_a_server_that_may_lose_data(postgres: PostgresServer) -> None:
    await asyncio.to_thread(postgres.stop)
    await asyncio.to_thread(postgres.start, "fsync=off")
    try:
        with pytest.raises(ConfigError, match="fsync=off, so it may lose what it has acknowledged"):
            await syncline.open(postgres.url("unsafe"), Listing())
        url = postgres.url("unsafe") + "&options=-csynchronous_commit%3Doff"
    finally:
        await asyncio.to_thread(postgres.stop)
        await asyncio.to_thread(postgres.start)
    with pytest.raises(ConfigError, match="synchronous_commit=off"):
        await syncline.open(url, Listing())
    with psycopg.connect(postgres.url("x").partition("?")[0]) as connection:
        table = connection.execute("SELECT to_regclass('syncline_head')").fetchone()
        assert table is not None
        if table[0] is not None:
            rows = connection.execute("SELECT count(*) FROM syncline_head WHERE log = 'unsafe'").fetchone()
            assert rows == (0,), "nothing was written"


async def test_open_etcd_with_users(tmp_path: Path) -> None:
    """A wrong password and a missing one are refused; with the right one it runs."""
    with etcd_servers(tmp_path) as servers:
        async with rpc.insecure_channel(servers.hosts) as channel:
            auth = rpc.AuthStub(channel)
            await auth.UserAdd(rpc.AuthUserAddRequest(name="root", password="secret"))
            await auth.RoleAdd(rpc.AuthRoleAddRequest(name="root"))
            await auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="root", role="root"))
            await auth.AuthEnable(rpc.AuthEnableRequest())
        with pytest.raises(ConfigError, match="authentication failed") as raised:
            await syncline.open(f"etcd://root:wrong@{servers.hosts}/jobs", Listing())
        assert "wrong" not in str(raised.value)
        with pytest.raises(ConfigError, match="user name is empty"):
            await syncline.open(f"etcd://{servers.hosts}/jobs", Listing())
        async with syncline.open(f"etcd://root:secret@{servers.hosts}/jobs", Listing()) as node:
            assert await node.apply(b"one", timeout=20) == 1
            async with node.leadership(timeout=20) as term:
                assert await term.apply(b"two", timeout=20) == 2


async def test_engine_etcd_without_space_refuses_commands(tmp_path: Path) -> None:
    """The quota is reached: `no_space`, and nothing is applied. Reads go on."""
    with etcd_servers(tmp_path, quota=16 << 20) as servers:
        machine = Listing()
        async with syncline.open(f"etcd://{servers.hosts}/jobs", machine) as node:
            answers = await asyncio.gather(
                *(node.apply(bytes(1 << 19), timeout=60) for _ in range(100)), return_exceptions=True
            )
            refused = [answer for answer in answers if isinstance(answer, BaseException)]
            assert {type(error) for error in refused} == {NoSpace}
            assert all(error.outcome is Outcome.NOT_APPLIED for error in refused if isinstance(error, NoSpace))
            await node.read_index(timeout=20)
            assert len(machine.items) == 100 - len(refused) > 5


async def test_engine_etcd_leaves_a_member_that_hangs(etcd_three: EtcdServers) -> None:
    """The member that the node talks to is stopped by a signal: its connection stays, and is silent."""
    machine = Listing()
    async with syncline.open(f"etcd://{etcd_three.hosts}/hangs", machine) as node:
        assert await node.apply(b"one", timeout=20) == 1
        etcd_three.signal(0, signal.SIGSTOP)
        try:
            assert await node.apply(b"two", timeout=60) == 2
            await node.read_index(timeout=60)
        finally:
            etcd_three.signal(0, signal.SIGCONT)
    assert machine.items == [b"one", b"two"]


async def test_engine_etcd_without_a_quorum_tells_and_goes_on(etcd_three: EtcdServers) -> None:
    machine = Listing()
    async with syncline.open(f"etcd://{etcd_three.hosts}/quorum", machine) as node:
        assert await node.apply(b"one", timeout=20) == 1
        etcd_three.kill(1)
        etcd_three.kill(2)
        with pytest.raises(DeadlineExceeded):
            await node.read_index(timeout=1.0)
        with pytest.raises(DeadlineExceeded) as raised:
            await node.apply(b"two", timeout=1.0)
        etcd_three.start_node(1)
        etcd_three.start_node(2)
        await node.apply(b"three", timeout=60)
        await node.read_index(timeout=60)
        kept = [item for item in machine.items if item != b"two"]
        assert kept == [b"one", b"three"]
        assert len(machine.items) == 2 or raised.value.outcome is Outcome.UNKNOWN


async def test_machine_is_copied_between_servers(etcd_alone: EtcdServers, postgres: PostgresServer) -> None:
    """From etcd to PostgreSQL and back, with a session and a state of several parts."""
    etcd, back = f"etcd://{etcd_alone.hosts}/copied", f"etcd://{etcd_alone.hosts}/copied-back"
    machine, other = Listing(), Listing()
    async with syncline.open(etcd, machine) as node:
        assert isinstance(node, LogReplica)
        await asyncio.gather(*node.apply_many([bytes(1 << 19)] * 5, timeout=30))
        session = await node.session(timeout=20)
        assert await session.apply(b"once", timeout=20) == 6
        await node.snapshot()
        await node.apply(b"behind", timeout=20)
    await copy_machine(etcd, postgres.url("copied"), Listing)
    await copy_machine(postgres.url("copied"), back, Listing)
    async with syncline.open(back, other) as node:
        assert isinstance(node, LogReplica)
        assert other.items == machine.items
        repeated = node.apply_once(b"once", OnceKey(session.id, 1), timeout=20)
        assert (await repeated, repeated.repeated) == (6, True)
        assert await node.apply(b"more", timeout=20) == 8
    with pytest.raises(ConfigError, match="is not empty"):
        await copy_machine(etcd, postgres.url("copied"), Listing)


class Others(Machine):
    @command
    def go(self) -> None: ...


async def test_open_refuses_what_is_not_its_log(etcd_alone: EtcdServers) -> None:
    """A foreign key in the place of the log, and a record that is damaged."""
    url = f"etcd://{etcd_alone.hosts}/foreign"
    async with syncline.open(url, Listing()) as node:
        await node.apply(b"one", timeout=20)
    async with rpc.insecure_channel(etcd_alone.hosts) as channel:
        kv = rpc.KVStub(channel)
        await kv.Put(rpc.PutRequest(key=b"foreign/log/0000000000000001/000000000001", value=b"not ours"))
        with pytest.raises(NodeFailed, match="damaged, or was written by another program"):
            await syncline.open(url, Listing())
        await kv.DeleteRange(rpc.DeleteRangeRequest(key=b"foreign/log/0000000000000001/000000000001"))
        await kv.Put(rpc.PutRequest(key=b"foreign/log/what", value=b"not ours"))
        with pytest.raises(NodeFailed, match="is not one of Syncline's"):
            await syncline.open(url, Listing())
        await kv.DeleteRange(rpc.DeleteRangeRequest(key=b"foreign/log/what"))
        await kv.Put(rpc.PutRequest(key=b"other/id", value=b"{}"))
        with pytest.raises(NodeFailed, match="is of another program"):
            await syncline.open(f"etcd://{etcd_alone.hosts}/other", Others())
    machine = Listing()
    async with syncline.open(url, machine):
        assert machine.items == [b"one"]
