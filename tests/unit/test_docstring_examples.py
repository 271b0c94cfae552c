"""The docstrings of the public methods: each has an example that runs, and a list of what it raises."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import io
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

import syncline
import syncline.client
from syncline import FSM, Entry, Raft
from syncline.client import AsyncClient
from syncline.errors import Rejected
from syncline.node import fsm, ids
from syncline.server import KvServer, ServerConfig
from syncline.testing import RaftCluster
from tests.helpers.node_cluster import Listing, cluster, until
from tests.helpers.ports import free_block

SILENT = {
    "Raft.membership", "Raft.stats", "Raft.peers", "Raft.upgrade_status", "Raft.close", "AsyncClient.close",
    "KvServer.close", "KvServer.drain", "KvServer.closed_by_fault", "RaftCluster.close", "RaftCluster.heal",
    "RaftCluster.slow_disk",
}  # fmt: skip
"""Methods that raise nothing of their own."""

PLAIN = {"KvServer.close", "KvServer.drain", "KvServer.closed_by_fault"}
"""Methods without an example: there is nothing to show but the call."""

COMPILED = {"Raft.open", "Raft.join", "Raft.until_stopped", "KvServer.open"}
"""Examples that are compiled only: they start nodes of their own, or wait for a signal."""

RAFT_EXAMPLES = (
    "apply", "apply_many", "barrier", "read_index", "read", "verify_leader", "membership", "stats", "peers", "failed",
    "events", "snapshot", "upgrade_status", "hold_upgrade", "finalize_upgrade", "demote", "promote",
    "change_membership", "transfer_leadership", "add_learner", "hint", "update_member", "remove", "add_voter", "close",
)  # fmt: skip
"""In the order in which they run, on one cluster."""

CLIENT_EXAMPLES = (
    "put", "get", "list", "scan", "count", "txn", "delete", "status", "members", "snapshot", "upgrade_status",
    "hold_upgrade", "finalize_upgrade", "demote_member", "promote_member", "transfer_leadership", "add_member",
    "update_member", "remove_member", "close",
)  # fmt: skip
"""In the order in which they run, on one cluster."""


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
    assert bool(source) is (name not in PLAIN), METHODS[name]
    compile(wrapped(source), name, "exec")


def test_examples_all_run_or_are_named() -> None:
    run_here = {f"Raft.{name}" for name in RAFT_EXAMPLES} | {f"AsyncClient.{name}" for name in CLIENT_EXAMPLES}
    run_here |= {f"RaftCluster.{name}" for name in CLUSTER_EXAMPLES}
    assert run_here | COMPILED | PLAIN == set(METHODS)


def test_example_of_node_id_shows_what_python_shows() -> None:
    assert doctest.testmod(ids) == (0, 3)


def test_example_of_fsm_is_a_state_machine() -> None:
    space = {"Rejected": Rejected, "BinaryIO": BinaryIO, **vars(fsm)}
    exec("from __future__ import annotations\n" + example_of(textwrap.dedent("    " + (FSM.__doc__ or ""))), space)
    check_fsm_in_process(space["Counter"])


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


async def test_examples_of_raft_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with cluster(tmp_path) as nodes:
        await nodes.leader()
        await nodes.announced()
        raft = nodes.rafts["a"]
        names: dict[str, object] = {"raft": raft, "machine": nodes.machines["a"]}
        await (await nodes.leader()).transfer_leadership("a")
        for name in RAFT_EXAMPLES:
            if name == "events":
                watching = asyncio.create_task(execute("Raft.events", names))
                continue
            if name == "transfer_leadership":
                await raft.promote("b")
            made = await execute(f"Raft.{name}", names)
            if name == "transfer_leadership":
                await until(raft, lambda: nodes.rafts["b"].is_leader)
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
        for name in CLIENT_EXAMPLES:
            await execute(f"AsyncClient.{name}", {"kv": kv})
    finally:
        for server in servers:
            await server.close()
    assert "b'good day'" in capsys.readouterr().out
