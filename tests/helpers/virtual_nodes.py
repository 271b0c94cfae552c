"""A `RaftCluster` whose nodes' own methods can be called: for tests of `Raft` in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from syncline import Raft
from syncline.testing import RaftCluster
from syncline.testing.cluster import SimCluster
from syncline.testing.sim.server import SimServer
from tests.helpers.node_cluster import Listing

__all__ = ["begin", "call", "entries", "inner", "raft_of", "server_of", "until"]

Result = TypeVar("Result")

LIMIT_S: Final = 60.0
"""Of the cluster's time."""


def inner(cluster: RaftCluster) -> SimCluster:
    return cluster._cluster


def server_of(cluster: RaftCluster, node: str) -> SimServer:
    return inner(cluster).server(node)


def raft_of(cluster: RaftCluster, node: str) -> Raft[object]:
    raft = server_of(cluster, node).raft
    assert raft is not None, f"{node} does not run"
    return raft


def entries(cluster: RaftCluster, node: str) -> list[bytes]:
    """The commands that a node's `Listing` has applied."""
    machine = cluster.machine(node)
    assert isinstance(machine, Listing)
    return machine.items


def begin(cluster: RaftCluster, node: str, work: Callable[[Raft[object]], Awaitable[Result]]) -> asyncio.Future[Result]:
    """Begin a call on a node, inside its process. It goes on while the cluster's time passes."""
    server, raft = server_of(cluster, node), raft_of(cluster, node)

    async def run() -> Result:
        return await work(raft)

    async def begun() -> asyncio.Task[Result]:
        return await server.call(lambda: asyncio.ensure_future(run()))

    return cluster._run(begun())


def call(cluster: RaftCluster, node: str, work: Callable[[Raft[object]], Awaitable[Result]]) -> Result:
    """Make a call on a node, and wait for its end."""
    task = begin(cluster, node, work)

    async def ended() -> Result:
        async with asyncio.timeout(LIMIT_S):
            return await task

    return cluster._run(ended())


def until(cluster: RaftCluster, condition: Callable[[], bool], *, timeout_s: float = LIMIT_S) -> None:
    """Let the cluster's time pass until the condition holds."""
    cluster._run(inner(cluster).until(condition, timeout_s=timeout_s))
