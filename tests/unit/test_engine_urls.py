"""URLs of engines: what is understood, and what the errors say. Nothing is connected here."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import syncline
from syncline import Machine, command, query
from syncline.engines.backends import make_backend
from syncline.engines.memory import MemoryBackend
from syncline.engines.urls import EtcdUrl, is_url, parse_etcd, parse_postgres, raft_file
from syncline.errors import Closed, ConfigError, NodeFailed, Outcome, Unreachable, UsageError
from tests.helpers.engine_programs import run_agents, run_control_plane
from tests.helpers.node_cluster import Listing
from tests.helpers.ports import free_block
from tests.helpers.store_holders import raft_urls


class Tasks(Machine):
    waiting: list[str]

    @command
    def put(self, task: str) -> int:
        self.waiting.append(task)
        return len(self.waiting)

    @query
    def count(self) -> int:
        return len(self.waiting)


def test_url_etcd_is_read() -> None:
    assert parse_etcd("etcd://h1:2379,h2/jobs") == EtcdUrl(("h1:2379", "h2:2379"), "jobs")
    full = parse_etcd("etcds://me:a%40b@[::1]:23/jobs?ca=ca.pem&cert=c.pem&key=k.pem")
    assert full == EtcdUrl(("[::1]:23",), "jobs", "me", "a@b", True, "ca.pem", "c.pem", "k.pem")
    assert full.shown == "etcds://me@[::1]:23/jobs", "no text has the password"


def test_url_postgres_is_read() -> None:
    url = parse_postgres("postgresql://me:secret@h1:5432,h2/db?log=jobs&sslmode=require&consistency=leader")
    assert url.conninfo == "postgresql://me:secret@h1:5432,h2/db?sslmode=require"
    assert (url.log, url.primary_reads) == ("jobs", True)
    assert url.shown == "postgresql://me@h1:5432,h2/db?log=jobs"
    assert parse_postgres("postgres:///db?log=a").log == "a"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("etcd://h1:2379", "names no log: write etcd://HOST:PORT"),
        ("etcd://h1:2379/", "names no log"),
        ("etcd:///jobs", "'' is no HOST:PORT"),
        ("etcd://h1:0/jobs", "'h1:0' is no HOST:PORT"),
        ("etcd://h1:99999/jobs", "is no HOST:PORT"),
        ("etcd://h1,,h2/jobs", "is no HOST:PORT"),
        ("etcd://h1/a/b", "the name of the log is 'a/b'"),
        ("etcd://h1/jobs?tls=1", "'tls' is no parameter"),
        ("etcd://h1/jobs?ca=x.pem", "write etcds://"),
        ("etcd://me@h1/jobs", "a user needs a password"),
        ("etcds://h1/jobs?ca=a&ca=b", "the URL has 'ca' 2 times"),
        ("postgresql://h/db?log=a&log=b", "the URL has 'log' 2 times"),
        ("postgresql://h/db?log=a&consistency=leader&consistency=leader", "the URL has 'consistency' 2 times"),
        ("postgresql://h/db?log=a#b", "write %23 for '#'"),
        ("postgresql://h/db?log=a#", "write %23 for '#'"),
        ("etcds://h1/jobs?cert=c.pem", "cert and key belong together"),
        ("etcds://h1/jobs?key=k.pem&ca=ca.pem", "cert and key belong together"),
        ("postgresql://h/db", "names no log: write postgresql://"),
        ("postgresql://h/db?log=a%20b", "the name of the log is 'a b'"),
        ("postgresql://h/db?log=a&consistency=eventual", "must be linearizable or leader"),
        ("redis://h/0", "redis is no engine: it loses acknowledged entries"),
        ("kafka://h/jobs", "kafka is no engine: it has no conditional append"),
        ("nats://h/jobs", "nats is no engine"),
        ("raft:", "names no file"),
        ("http://h/jobs", "is no URL of an engine"),
        ("cluster.toml", "write raft:cluster.toml"),
        ("", "is no URL of an engine"),
    ],
)
async def test_open_refuses_a_wrong_url(url: str, text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        await syncline.open(url, Listing())
    assert text in str(raised.value)
    assert raised.value.outcome is Outcome.NOT_APPLIED


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:top/secret@h/db?log=a",
        "postgresql://me:top?secret@h/db?log=a",
        "postgresql://me:top?secret@h/db&log=a",
        "postgresql://me:top#secret@h/db?log=a",
        "postgresql://me:1/secret@h/db?log=a",
        "postgresql://me:top%secret@h/db?log=a",
        "postgresql://me:top%00secret@h/db?log=a",
        "etcd://me:top/secret@h/a",
        "etcd://me:top?secret@h/a",
        "etcds://me:1/secret@h/a?ca=x",
    ],
)
async def test_open_shows_no_password_that_is_not_encoded(url: str) -> None:
    """Its rest looks like a path or a parameter, and those are shown."""
    with pytest.raises(ConfigError, match=r"must be encoded|write %25") as raised:
        await syncline.open(url, Listing())
    assert "top" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_url_with_an_at_sign_elsewhere_is_read() -> None:
    assert parse_postgres("postgresql://h:5432,[::1]:1/db?log=a&user=me@realm").log == "a"
    assert parse_postgres("postgresql://me:pass%40@h/db?log=a&user=me@realm").log == "a"
    assert parse_etcd("etcds://[::1]:23/jobs?ca=a@b.pem").ca == "a@b.pem"
    assert parse_etcd("etcd://me:top#secret@h/jobs").password == "top#secret"


async def test_open_refuses_what_is_no_text_or_no_machine() -> None:
    with pytest.raises(ConfigError, match="url must be a text"):
        await syncline.open(None, Listing())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is no state machine"):
        await syncline.open("memory:", object())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no-such-file"):
        await syncline.open("raft:no-such-file.toml", Listing())


async def test_open_refuses_a_machine_with_a_state_on_disk() -> None:
    class Durable(Listing):
        applied_index = 0

    with pytest.raises(ConfigError, match="keeps its own state on disk"):
        await syncline.open("memory:", Durable())


@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [("etcd://h/jobs", "aetcd", "etcd"), ("postgresql://h/db?log=jobs", "psycopg", "postgres")],
)
def test_engine_without_its_library_names_the_extra(
    url: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for module in [name for name in sys.modules if name.startswith(("syncline.engines.etcd", "syncline.engines.post"))]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(ConfigError, match=rf"pip install 'syncline\[{extra}\]'"):
        make_backend(url, random.Random(1))


def test_url_of_a_file_is_none() -> None:
    assert not is_url("cluster.toml")
    assert not is_url(Path("memory:"))
    assert is_url("memory:a")
    assert raft_file("raft:etc/cluster.toml") == "etc/cluster.toml"
    assert raft_file("raft:///etc/cluster.toml") == "/etc/cluster.toml"
    assert isinstance(make_backend("memory:", random.Random(1)), MemoryBackend)


async def test_machine_opens_on_an_engine_by_its_url() -> None:
    async with Tasks.open("memory:tasks") as one, Tasks.open("memory:tasks") as two:
        assert await one.put("a") == 1
        assert await two.put("b") == 2
        assert await one.count() == 2
        async with one.session() as once:
            assert await once.put("c") == 3
        assert [await one.count(), await two.count()] == [3, 3]  # each has applied all of it
        assert one.replica.stats().applied == two.replica.stats().applied
        with pytest.raises(UsageError, match="not on Raft"):
            one.raft  # noqa: B018 - the access is what is tested
    async with Tasks.open("memory:tasks") as fresh:
        assert await fresh.count() == 0, "the log went with its last node"


async def test_machine_refuses_the_log_of_another_machine() -> None:
    class Others(Machine, name="Others"):
        @command
        def put(self) -> None: ...

    async with Tasks.open("memory:mine") as tasks:
        await tasks.put("a")
        head = tasks.replica.stats().applied
        with pytest.raises(NodeFailed, match="this log is of the machine 'Tasks'"):
            await Others.open("memory:mine")
        await tasks.replica.read_index()
        assert tasks.replica.stats().applied == head, "nothing was written"


async def test_open_raft_by_url_is_a_node_of_raft(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    address = f"127.0.0.1:{free_block(1)}"
    settings = [f'data_dir = "{tmp_path}/data"', f'peer_listen = "{address}"', "insecure = true"]
    file.write_text("\n".join(['name = "a"', *settings, "[initial_cluster]", f'a = "{address}"']))
    async with syncline.open(f"raft:{file}", Listing()) as node:
        assert isinstance(node, syncline.Raft)
        assert await node.apply(b"one", timeout=20) == 1
        figures: syncline.EngineFigures = node.stats()
        assert figures.applied >= 1


def test_blocking_machine_refuses_the_url_of_an_engine() -> None:
    class Blocking(syncline.blocking.Machine, Tasks):
        pass

    with pytest.raises(ConfigError, match="opens on Raft alone"):
        Blocking.open("etcd://h/jobs")


async def test_snapshot_of_a_node_that_closes_ends_with_closed() -> None:
    machine, entered, leave = Listing(), threading.Event(), threading.Event()

    def gate() -> None:
        entered.set()
        leave.wait(20)

    machine.gate = gate
    node = await syncline.open("memory:", machine)
    await node.apply(b"one")
    taking = asyncio.ensure_future(node.snapshot())
    await asyncio.to_thread(entered.wait, 20)
    closing = asyncio.ensure_future(node.close())
    [error] = await asyncio.gather(taking, return_exceptions=True)
    leave.set()
    await closing
    assert isinstance(error, Closed)


async def test_open_without_a_server_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a memory that does not answer: the servers' own words are tested by `make compat`."""
    from syncline.engines import driver
    from syncline.engines.backend import BackendLost

    async def start(self: MemoryBackend) -> int:
        raise BackendLost("connection refused", sent=False)

    monkeypatch.setattr(MemoryBackend, "start", start)
    monkeypatch.setattr(driver, "OPEN_S", 0.2)
    with pytest.raises(Unreachable, match="connection refused") as raised:
        await syncline.open("memory:", Listing())
    assert raised.value.outcome is Outcome.NOT_APPLIED


@pytest.mark.parametrize("program", [run_control_plane, run_agents], ids=lambda program: program.__name__)
async def test_program_runs_on_memory(program: Callable[[list[str]], Awaitable[None]]) -> None:
    await program([f"memory:{program.__name__}"] * 3)


@pytest.mark.parametrize("program", [run_control_plane, run_agents], ids=lambda program: program.__name__)
async def test_program_runs_on_raft(program: Callable[[list[str]], Awaitable[None]], tmp_path: Path) -> None:
    """Each node has a file of its own."""
    await program(raft_urls(tmp_path))
