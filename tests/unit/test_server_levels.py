"""The key-value server in a cluster of a lower machine version: it proposes nothing that older members don't know."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import cast

import pytest

from syncline.errors import Closed, ConfigError, Dropped, NoLeader, OperationError, Rejected
from syncline.kv.commands import Put, encode_command
from syncline.kv.machine import KvMachine
from syncline.kv.serving.kv_node import MOST_WAITING_BYTES
from syncline.kv.versions import MACHINE_VERSION
from syncline.node.futures import Then
from syncline.node.raft import Raft
from syncline.platform.network import TcpNetwork
from syncline.platform.world import World
from syncline.server.api.raft_backend import NodeBackend
from syncline.server.config import ServerConfig
from syncline.server.join import ask_members
from syncline.version import FEATURE_LEVEL
from tests.helpers.http_server import KeyDouble, in_thread, json_reply


class Node:
    """As much of a node as proposals need."""

    def __init__(self, machine_version: int, *, becomes: int = 0, unknown: OperationError | None = None) -> None:
        self.machine_version = machine_version
        self.becomes = becomes
        self.unknown = unknown
        self.proposed: list[bytes] = []

    def _not_known_yet(self, version: int) -> OperationError | None:
        return self.unknown

    async def failed(self) -> None:
        await asyncio.Event().wait()

    async def reach_machine_version(self, version: int, *, timeout: float) -> bool:
        await asyncio.sleep(0)
        self.machine_version = max(self.machine_version, self.becomes)
        return self.machine_version >= version

    def _apply_then(self, data: bytes, then: Then, *, timeout: float, checked: bool, frees_space: bool = False) -> None:
        assert checked, "the server has made the command itself"
        self.proposed.append(data)
        then("applied", None)


class Answers:
    """The errors of commands, and an event for when so many have come."""

    def __init__(self, count: int) -> None:
        self.errors: list[BaseException | None] = []
        self.all = asyncio.Event()
        self._count = count

    def then(self, _: object, error: BaseException | None) -> None:
        self.errors.append(error)
        if len(self.errors) == self._count:
            self.all.set()


@pytest.mark.parametrize(
    ("machine_version", "becomes", "passes"), [(0, 0, False), (1, 1, True), (2, 2, True), (0, 1, True)]
)
async def test_server_proposes_a_command_only_at_its_machine_version(
    machine_version: int, becomes: int, passes: bool
) -> None:
    node = Node(machine_version, becomes=becomes)
    backend = NodeBackend(cast("Raft[object]", node), KvMachine())
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[tuple[object, BaseException | None]] = loop.create_future()
    command = encode_command(Put(b"k", b"v"))
    backend.propose(command, 1.0, lambda answer, error: answered.set_result((answer, error)))
    answer, error = await answered
    if passes:
        assert (answer, error, node.proposed) == ("applied", None, [command])
    else:
        assert isinstance(error, Rejected)
        assert (error.code, node.proposed) == ("needs_upgrade", [])
    await backend.close()


async def test_server_that_closes_refuses_the_commands_that_wait() -> None:
    node = Node(0, becomes=1)
    backend = NodeBackend(cast("Raft[object]", node), KvMachine())
    errors: list[BaseException | None] = []
    backend.propose(encode_command(Put(b"k", b"v")), 1.0, lambda _, error: errors.append(error))
    await backend.close()
    await asyncio.sleep(0)
    (error,) = errors
    assert isinstance(error, Closed), "the client goes to another node: nothing needs an upgrade"
    assert node.proposed == []


async def test_server_that_does_not_know_its_members_asks_for_no_upgrade() -> None:
    """A new cluster without a quorum: the client has to wait, and not to upgrade anything."""
    unknown = NoLeader("it is not known yet what the members can do")
    node = Node(0, unknown=unknown)
    backend = NodeBackend(cast("Raft[object]", node), KvMachine())
    answers = Answers(1)
    backend.propose(encode_command(Put(b"k", b"v")), 1.0, answers.then)
    await answers.all.wait()
    assert answers.errors == [unknown]
    assert node.proposed == []
    await backend.close()


async def test_server_bounds_the_commands_that_wait_for_a_version() -> None:
    node = Node(0, becomes=1)
    backend = NodeBackend(cast("Raft[object]", node), KvMachine())
    answers = Answers(6)
    command = encode_command(Put(b"k", bytes(MOST_WAITING_BYTES // 4)))
    for _ in range(6):
        backend.propose(command, 1.0, answers.then)
    assert [type(error) for error in answers.errors] == [Dropped] * 3
    await answers.all.wait()
    assert node.proposed == [command] * 3
    backend.propose(command, 1.0, answers.then)
    assert len(node.proposed) == 4, "those that have ended take no room"
    await backend.close()


@pytest.mark.parametrize(("level", "machine_version"), [(FEATURE_LEVEL + 1, 1), (1, MACHINE_VERSION + 1)])
async def test_join_to_a_cluster_of_higher_levels_asks_for_nothing(
    level: int, machine_version: int, tmp_path: Path
) -> None:
    """Added, the node could not take part, and would keep the levels from rising until it was removed."""
    node = KeyDouble()
    node.answers["/raft/upgrade"] = json_reply(
        {"level": level, "machine_version": machine_version, "possible_level": level, "held": False, "hold_level": 0,
         "possible_machine_version": machine_version, "members": []}
    )  # fmt: skip

    with in_thread(node) as (double,):
        config = ServerConfig(name="d", data_dir=str(tmp_path), join=(double.url,))

        async def scenario() -> None:
            with pytest.raises(ConfigError, match=r"node d \(0000000000000009\) needs .*; upgrade this node first"):
                await ask_members(config, 9, http="", world=World(network=TcpNetwork(), rng=random.Random(1)))

        await scenario()
        assert [request.path for request in double.requests] == ["/raft/upgrade"]
