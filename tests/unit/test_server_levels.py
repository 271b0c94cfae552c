"""The key-value server in a cluster of a lower machine version: it proposes nothing that older members don't know."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import cast

import pytest

from syncline.errors import ConfigError, Rejected
from syncline.kv.commands import Put, encode_command
from syncline.kv.machine import KvMachine
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

    def __init__(self, machine_version: int) -> None:
        self.machine_version = machine_version
        self.proposed: list[bytes] = []

    async def failed(self) -> None:
        await asyncio.Event().wait()

    def _apply_then(self, data: bytes, then: Then, *, timeout: float, checked: bool, frees_space: bool = False) -> None:
        assert checked, "the server has made the command itself"
        self.proposed.append(data)
        then("applied", None)


@pytest.mark.parametrize(("machine_version", "passes"), [(0, False), (1, True), (2, True)])
async def test_server_proposes_a_command_only_at_its_machine_version(machine_version: int, passes: bool) -> None:
    node = Node(machine_version)
    backend = NodeBackend(cast("Raft[object]", node), KvMachine())
    answers: list[tuple[object, BaseException | None]] = []
    command = encode_command(Put(b"k", b"v"))
    backend.propose(command, 1.0, lambda answer, error: answers.append((answer, error)))
    ((answer, error),) = answers
    if passes:
        assert (answer, error, node.proposed) == ("applied", None, [command])
    else:
        assert isinstance(error, Rejected)
        assert (error.code, node.proposed) == ("needs_upgrade", [])
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
