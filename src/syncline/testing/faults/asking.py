"""Calls of clients that are no part of the workload: on any node, and never for longer than they are patient."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from syncline.errors import NodeFailed, SynclineError
from syncline.kv.lease_caller import LeaseCaller
from syncline.node.raft import Raft
from syncline.server.http.request import Request
from syncline.server.http.response import Response
from syncline.testing.faults.base import Trouble
from syncline.testing.sim.server import SimServer

__all__ = ["ask_node", "ask_server", "lease_calls"]

CALL_S: Final = 2.0
ANSWER_S: Final = 3.0

Answer = TypeVar("Answer")


async def ask_node(
    trouble: Trouble, rng: random.Random, work: Callable[[Raft[object]], Awaitable[Answer]], *, home: int | None = None
) -> tuple[Answer, int] | None:
    """Run `work` on some node, or on that of a client that stays at its `home`.

    Returns its answer, and the index that the node had applied by then; None: no answer.
    """
    server = _some(trouble, rng, home)
    raft = server.raft if server is not None else None
    if server is None or raft is None:
        return None
    called = server.call(lambda: asyncio.ensure_future(work(raft)))
    await asyncio.wait([called], timeout=CALL_S)
    if not called.done():
        return None
    task = called.result()
    task.add_done_callback(_retrieve)
    await asyncio.wait([task], timeout=ANSWER_S)
    if not task.done() or task.cancelled() or server.raft is not raft or server.driver is None:
        return None
    try:
        return task.result(), server.driver.applied
    except (SynclineError, NodeFailed):
        return None


def lease_calls(trouble: Trouble, raft: Raft[object]) -> LeaseCaller:
    """What keeps leases alive for the clients of a node."""
    for server in trouble.cluster.running:
        if server.raft is raft and server.lease_calls is not None:
            return server.lease_calls
    return LeaseCaller(raft)  # it is about to serve


async def ask_server(trouble: Trouble, rng: random.Random, request: Request) -> Response | None:
    """The answer of some server to an HTTP request; None if none came."""
    server = _some(trouble, rng)
    if server is None:
        return None
    future = server.serve(request)
    await asyncio.wait([future], timeout=ANSWER_S)
    return future.result() if future.done() else None


def _some(trouble: Trouble, rng: random.Random, home: int | None = None) -> SimServer | None:
    servers = [server for server in trouble.cluster.running if not server.retired and not server.paused]
    if not servers:
        return None
    return rng.choice(servers) if home is None else servers[home % len(servers)]


def _retrieve(task: asyncio.Future[Any]) -> None:
    """A caller that has given up does not look any more."""
    if not task.cancelled():
        task.exception()
