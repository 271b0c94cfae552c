"""The docstrings of the public methods: each has an example that runs, and a list of what it raises."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import io
import itertools
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import pytest

import syncline
import syncline.client
import syncline.testing
from syncline import FSM, Distribution, Entry, Raft
from syncline.client import AsyncClient
from syncline.errors import Rejected
from syncline.node import fsm, ids
from syncline.server import KvServer, Registry, ServerConfig, load_config
from syncline.testing import (
    PutCall,
    RaftCluster,
    Recorder,
    Written,
    assert_linearizable,
    judge,
    read_history,
    write_history,
)
from tests.helpers.node_cluster import Listing, cluster, until
from tests.helpers.ports import free_block

SILENT = {
    "Raft.membership", "Raft.stats", "Raft.timings", "Raft.peers", "Raft.upgrade_status", "AsyncClient.close",
    "AsyncClient.transaction",
    "KvServer.close", "KvServer.drain", "RaftCluster.close",
}  # fmt: skip
"""Methods that raise nothing of their own."""

COMPILED = {
    "Raft.open", "Raft.join", "Raft.until_stopped", "Raft.restore", "Raft.recover", "KvServer.open",
    "KvServer.closed_by_fault", "AsyncClient.enable_auth",
}  # fmt: skip
"""Examples that are compiled only: they start nodes of their own, wait for a signal or a fault, need files, or refuse
the others."""

RAFT_EXAMPLES = (
    "apply", "apply_many", "session", "open_session", "apply_once", "end_session", "barrier", "read_index", "read",
    "verify_leader", "leadership", "every", "reload", "ask_leader", "membership", "stats", "timings", "peers", "failed",
    "events", "snapshot", "upgrade_status", "hold_upgrade", "finalize_upgrade", "demote", "promote",
    "change_membership", "transfer_leadership", "add_learner", "hint", "update_member", "remove", "replace_member",
    "add_voter", "answer_asks", "reach_level", "reach_machine_version", "close",
)  # fmt: skip
"""In the order in which they run, on one cluster."""

CLIENT_EXAMPLES = (
    "put", "get", "touch", "grant_lease", "keep_alive", "lease_details", "leases", "hold_lease", "revoke_lease",
    "lease", "list", "scan", "count", "txn", "transaction", "batch", "increment", "update", "get_many", "put_many",
    "put_json", "get_json", "delete", "watch", "watchers", "status", "members",
    "register", "discover", "services", "mapping", "queue", "counter", "sessions",
    "lock", "elect", "leader", "once", "every", "barrier",
    "compact", "snapshot", "upgrade_status", "session", "hold_upgrade", "finalize_upgrade", "demote_member",
    "promote_member", "transfer_leadership", "add_member", "update_member", "remove_member", "add_role", "allow",
    "role", "roles", "add_user", "user", "users", "set_password", "revoke_role", "grant_role", "new_token",
    "remove_token", "remove_user", "disallow", "remove_role", "auth_status", "disable_auth", "close",
)  # fmt: skip
"""In the order in which they run, on one cluster."""


SERVER_EXAMPLES = ("drain", "close")
"""In the order in which they run, on one server."""

CLUSTER_EXAMPLES = (
    "apply", "read", "run", "settle", "assert_same_state", "machine", "error", "snapshot", "transfer_leadership",
    "partition", "isolate", "slow_disk", "pause", "heal", "crash", "restart", "close",
)  # fmt: skip
"""In the order in which they run, on one cluster."""


def methods(kind: type) -> Iterator[tuple[str, str]]:
    """The public methods of a class, with their docstrings."""
    for name, member in inspect.getmembers(kind):
        function = inspect.unwrap(member) if callable(member) else None
        if not name.startswith("_") and function is not None:
            yield f"{kind.__name__}.{name}", textwrap.dedent(" " * 8 + (function.__doc__ or ""))


METHODS = {name: text for kind in (Raft, AsyncClient, KvServer, RaftCluster) for name, text in methods(kind)}


def example_of(text: str) -> str:
    """The indented blocks of a docstring, without those that list errors."""
    blocks = [part for part in text.split("\n\n") if all(line.startswith("    ") for line in part.splitlines())]
    return textwrap.dedent("\n\n".join(blocks))


@pytest.mark.parametrize("name", METHODS)
def test_public_method_lists_what_it_raises(name: str) -> None:
    assert ("\nRaises:\n    " in METHODS[name]) is (name not in SILENT), METHODS[name]


@pytest.mark.parametrize("name", METHODS)
def test_public_method_has_an_example(name: str) -> None:
    source = example_of(METHODS[name])
    assert source, METHODS[name]
    compile(wrapped(source), name, "exec")


def test_examples_all_run_or_are_named() -> None:
    run_here = {f"Raft.{name}" for name in RAFT_EXAMPLES} | {f"AsyncClient.{name}" for name in CLIENT_EXAMPLES}
    run_here |= {f"RaftCluster.{name}" for name in CLUSTER_EXAMPLES}
    run_here |= {f"KvServer.{name}" for name in SERVER_EXAMPLES}
    assert run_here | COMPILED == set(METHODS)


def test_example_of_node_id_shows_what_python_shows() -> None:
    assert doctest.testmod(ids) == (0, 3)


def test_example_of_fsm_is_a_state_machine() -> None:
    space = {"Rejected": Rejected, "BinaryIO": BinaryIO, **vars(fsm)}
    exec("from __future__ import annotations\n" + example_of(textwrap.dedent("    " + (FSM.__doc__ or ""))), space)
    check_fsm_in_process(space["Counter"])


def class_example(value: object) -> str:
    """The example in the docstring of a class or function."""
    return example_of(inspect.getdoc(value) or "")


def test_example_of_registry_renders_a_page() -> None:
    names: dict[str, object] = {"Registry": Registry}
    exec(class_example(Registry), names)
    page = names["page"]
    assert isinstance(page, bytes)
    assert b'jobs_done_total{result="good"} 1\njobs_waiting' in page.replace(
        b"# HELP jobs_waiting Jobs that wait.\n# TYPE jobs_waiting gauge\n", b""
    )
    for method in (
        "counter",
        "counters",
        "gauge",
        "gauges",
        "histogram",
        "histograms",
        "computed",
        "computed_histogram",
    ):
        registry = Registry()
        exec(class_example(getattr(Registry, method)), {"registry": registry, "Distribution": Distribution})
        assert registry.render().startswith(b"# HELP "), method


def test_examples_of_the_settings_of_a_server_run() -> None:
    names: dict[str, object] = {"ServerConfig": ServerConfig, "load_config": load_config}
    for value in (
        ServerConfig,
        ServerConfig.http_url,
        ServerConfig.http_limits,
        ServerConfig.peer_secrets,
        load_config,
    ):
        exec(class_example(value), names)
    assert names["secrets"] == (b"\x5f" * 32,)
    assert isinstance(names["config"], ServerConfig)


def test_examples_of_files_and_histories_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recorder = Recorder(itertools.count().__next__)
    recorder.returned(recorder.call("c1", PutCall(b"k", b"v")), Written(revision=1))
    names = {**vars(syncline.testing), "recorder": recorder, "read_file": syncline.read_file}
    names |= {name: getattr(syncline.testing, name) for name in syncline.testing.__all__}
    names["replace_file"] = syncline.replace_file
    for value in (syncline.replace_file, syncline.read_file, write_history, read_history, assert_linearizable, judge):
        exec(class_example(value), names)
    assert names["content"] == b"7 42"


def check_fsm_in_process(kind: Callable[[], FSM[int]]) -> None:
    """Apply, refuse, and restore from a snapshot."""
    machine, restored, sink = kind(), kind(), io.BytesIO()
    assert [machine.apply(Entry(index, 1, b"%d" % index)) for index in (2, 3)] == [2, 5]
    with pytest.raises(Rejected):
        machine.apply(Entry(4, 1, b"x"))
    machine.snapshot().persist(sink)
    restored.restore(io.BytesIO(sink.getvalue()))
    assert restored.apply(Entry(5, 1, b"1")) == 6


def wrapped(source: str) -> str:
    return f"async def example():\n{textwrap.indent(source or 'pass', '    ')}\n    return locals()"


async def execute(name: str, names: dict[str, object]) -> dict[str, object]:
    """Run one example with these names, and return its variables. One that watches is ended after its first event."""
    space = {"asyncio": asyncio, **vars(syncline), **vars(syncline.client), **names}
    space |= {public: getattr(syncline, public) for public in syncline.__all__}
    exec(compile(wrapped(example_of(METHODS[name])), name, "exec"), space)
    made: dict[str, object] = await space["example"]()
    for task in made.values():
        if isinstance(task, asyncio.Task):
            task.cancel()
    return made


async def work() -> None:
    """A job, for the examples of `every`."""


async def test_examples_of_raft_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with cluster(tmp_path, election_s=1.0) as nodes:  # a busy machine must not depose the leader
        await nodes.leader()
        await nodes.announced()
        raft = nodes.rafts["a"]
        names: dict[str, object] = {"raft": raft, "machine": nodes.machines["a"], "msgspec": msgspec}
        names |= {"clean_up": work, "report": work}
        await (await nodes.leader()).transfer_leadership("a")
        for name in RAFT_EXAMPLES:
            if name == "events":
                watching = asyncio.create_task(execute("Raft.events", names))
                continue
            if name == "transfer_leadership":
                await raft.promote("b")
            if name == "replace_member":
                await nodes.stop("c")
                await until(raft, lambda: not all(link.connected for link in raft.peers().values()))
            made = await execute(f"Raft.{name}", names)
            if name == "transfer_leadership":
                await until(raft, lambda: nodes.rafts["b"].is_leader)
            if name == "ask_leader":  # each node has one handler
                raft.answer_asks(None)
            if name == "add_learner":
                names["member"] = made["added"]
        assert raft.role == "stopped"
        await asyncio.wait_for(watching, 10)  # the events end with the node
    assert "0000" not in capsys.readouterr().err


def test_examples_of_raft_cluster_run() -> None:
    with RaftCluster(Listing) as nodes:
        for name in CLUSTER_EXAMPLES:
            exec(example_of(METHODS[f"RaftCluster.{name}"]), {"cluster": nodes})
            if name == "slow_disk":  # three nodes: one slow, one paused next
                nodes.heal()


@pytest.mark.deadline(60.0)
async def test_examples_of_the_client_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_block(3)
    members = {name: f"127.0.0.1:{port + at}" for at, name in enumerate("abc")}
    servers = [
        await KvServer.open(
            ServerConfig(
                name=name, data_dir=str(tmp_path / name), http_listen="127.0.0.1:0", peer_listen=address,
                initial_cluster=members, heartbeat_s=0.05, election_s=0.5, reserve_bytes=0,
            )
        )
        for name, address in members.items()
    ]  # fmt: skip
    try:
        kv = AsyncClient([server.http_url for server in servers], timeout=20.0)
        names: dict[str, object] = {"kv": kv, "serve": work, "clean_up": work, "report": work}
        for name in CLIENT_EXAMPLES:
            made = await execute(f"AsyncClient.{name}", names)
            names |= {shared: value for shared, value in made.items() if shared == "granted"}
        for name in SERVER_EXAMPLES:
            await execute(f"KvServer.{name}", {"server": servers[0]})
    finally:
        for server in servers:
            await server.close()
    assert "b'good day'" in capsys.readouterr().out
