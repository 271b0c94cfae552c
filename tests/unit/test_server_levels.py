"""The key-value server in a cluster of a lower machine version: it proposes nothing that older members don't know."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from syncline.errors import Rejected
from syncline.kv.commands import Put, encode_command
from syncline.kv.machine import KvMachine
from syncline.node.futures import Then
from syncline.node.raft import Raft
from syncline.server.adapter import NodeBackend
from tests.support import run


class Node:
    """As much of a node as proposals need."""

    def __init__(self, machine_version: int) -> None:
        self.machine_version = machine_version
        self.proposed: list[bytes] = []

    async def failed(self) -> None:
        await asyncio.Event().wait()

    def apply_then(self, data: bytes, then: Then, *, timeout: float) -> None:
        self.proposed.append(data)
        then("applied", None)


@pytest.mark.parametrize(("machine_version", "passes"), [(0, False), (1, True), (2, True)])
def test_server_proposes_a_command_only_at_its_machine_version(machine_version: int, passes: bool) -> None:
    async def scenario() -> None:
        node = Node(machine_version)
        backend = NodeBackend(cast("Raft", node), KvMachine())
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

    run(scenario())
