"""Commands of programs during a change of leader: bursts, late forwards, and snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

from syncline.consensus.types import NodeId
from syncline.kv.commands import Put, encode_command
from syncline.node.futures import ApplyFuture
from syncline.node.raft import Raft
from syncline.node.runtime import Driver
from syncline.testing.cluster import LOOK_S
from syncline.testing.faults.base import Trouble
from syncline.testing.faults.snapshots import LINK_S, fall_behind
from syncline.testing.invariants.proposals import Proposed, fenced_in
from syncline.testing.sim.server import SimServer
from syncline.transport.messages import Forward, ForwardReply, PeerMessage

__all__ = ["bursts", "late_forwards", "late_refusals", "snapshot_over_forwards"]

Send: TypeAlias = Callable[[NodeId, PeerMessage], bool]

KEY: Final = b"burst"

NEVER: Final = 2**62
"""A revision that no key has: the condition fails, so the command changes nothing that clients see."""

PATIENT_S: Final = 10.0
"""The deadline of commands that must still wait when a snapshot arrives."""


async def bursts(trouble: Trouble) -> None:
    """Not a fault: a program that has several commands under way at once, and expects their order to stay."""
    count = 0
    while True:
        await trouble.wait(0.3)
        server = trouble.some()
        if server is None or server.raft is None or not server.running or server.paused:
            continue
        raft, rng = server.raft, trouble.rng
        fenced = [rng.random() < 0.2 for _ in range(rng.randint(1, 5))]
        timeout_s = rng.choice([0.3, 1.0, 3.0])
        first, count = count, count + len(fenced)

        server.call(partial(_propose_all, trouble, raft, fenced, first, timeout_s))


def _propose_all(trouble: Trouble, raft: Raft[object], fenced: Sequence[bool], first: int, timeout_s: float) -> None:
    """Propose several commands on one node, numbered from `first`, and record the answer to each."""
    if raft._driver.running.stopped:
        return
    for number, fence in enumerate(fenced, first):
        term = raft._driver.core.term if fence else 0
        future = _propose(raft, number, term, timeout_s)
        if future.number:
            trouble.proposed.append(Proposed(raft.node_id, future.number, future))


def _propose(raft: Raft[object], number: int, term: int, timeout_s: float) -> ApplyFuture[object]:
    value = fenced_in(term) + b"%d" % number if term else b"%d" % number
    return raft.apply(encode_command(Put(KEY, value, expect=NEVER)), timeout=timeout_s, term=term or None)


class _Held:
    """Messages of a server that stay under way from now on until `release`. Then all pass, even if others wrap this."""

    def __init__(self, driver: Driver, wanted: Callable[[NodeId, PeerMessage], bool]) -> None:
        self._transport = driver.parts.transport
        self._original: Send = self._transport.send
        self._wanted = wanted
        self._messages: list[tuple[NodeId, PeerMessage]] = []
        self._over = False
        self._own: Send = self._send
        setattr(self._transport, "send", self._own)  # noqa: B010 - as the simulation's observer does

    def _send(self, to: NodeId, message: PeerMessage) -> bool:
        if not self._over and self._wanted(to, message):
            self._messages.append((to, message))
            return True
        return self._original(to, message)

    def release(self) -> None:
        """Send what was held, in its order."""
        self._over = True
        while self._messages:
            self._original(*self._messages.pop(0))

    def end(self, server: SimServer, driver: Driver) -> None:
        """Have the server send what was held, and then let messages pass, if its process is still the same.

        Both in one call of the process, which may be paused: in between, a newer message would overtake.
        """
        if server.driver is driver:
            server.call(self._pass)

    def _pass(self) -> None:
        self.release()
        if self._transport.send is self._own:
            setattr(self._transport, "send", self._original)  # noqa: B010


async def late_forwards(trouble: Trouble) -> None:
    """What a server forwards, and its answers to forwards, stays under way for a while; its other messages do not.

    Messages of one kind keep their order, and between the kinds no order is promised: so this may happen to any link.
    """
    while True:
        await trouble.wait(1.0)
        server = trouble.some()
        driver = server.driver if server is not None and server.running else None
        if server is None or driver is None:
            continue
        held = _Held(driver, lambda _to, message: isinstance(message, Forward | ForwardReply))
        try:
            await trouble.last(0.3, 4.0)
        finally:
            held.end(server, driver)


async def late_refusals(trouble: Trouble) -> None:
    """A forward reaches its leader after a transfer, just before the new leader is sent the same proposals.

    So the old leader's refusal arrives while the second attempt is under way, and says nothing about that one.
    """
    cluster, count = trouble.cluster, 0
    while True:
        await trouble.wait(1.0)
        leader, server = cluster.current_leader(), trouble.some()
        if leader is None or server is None or leader is server or server.paused:
            continue
        raft, driver = server.raft, server.driver
        others = [one for one in trouble.up() if one.running and one not in (leader, server)]
        if raft is None or driver is None or not others:
            continue
        held = _hold_forwards_to(cluster.node_id(leader), driver)
        commands = trouble.rng.randint(1, 4)
        server.call(partial(_propose_all, trouble, raft, [False] * commands, count, PATIENT_S))
        count += commands
        try:
            await asyncio.sleep(LOOK_S * trouble.rng.uniform(0.1, 1.0))
            await trouble.operator.transfer(cluster.node_id(trouble.rng.choice(others)))
            await trouble.last(0.1, 0.5)
        finally:
            held.end(server, driver)


def _hold_forwards_to(leader: NodeId, driver: Driver) -> _Held:
    """Hold what is forwarded to this leader, until another one is sent a forward."""

    def wanted(to: NodeId, message: PeerMessage) -> bool:
        if isinstance(message, Forward) and to != leader:
            held.release()
        return isinstance(message, Forward) and to == leader

    held = _Held(driver, wanted)
    return held


async def snapshot_over_forwards(trouble: Trouble) -> None:
    """The leader takes what a member forwards; the member gets a snapshot in place of the entries, and a new leader.

    So it never meets its proposals in the log, and must not conclude that they are in none.
    """
    cluster, count = trouble.cluster, 0
    while True:
        await trouble.wait(3.0)
        leader, behind = cluster.current_leader(), trouble.some()
        if leader is None or behind is None or leader is behind or not trouble.is_free(leader):
            continue
        raft = behind.raft
        if raft is None or not behind.running or behind.paused:
            continue
        for name in trouble.names():
            if name != behind.name:
                cluster.network.cut(name, behind.name, one_way=True)
        cluster.note("network", f"{behind.name} receives nothing; what it sends arrives")
        commands = trouble.rng.randint(1, 4)
        behind.call(partial(_propose_all, trouble, raft, [False] * commands, count, PATIENT_S))
        count += commands
        await asyncio.sleep(LOOK_S * trouble.rng.uniform(0.5, 3.0))
        await fall_behind(trouble, leader, behind)
        before = _applied(behind)
        cluster.heal()
        await _moved_on(trouble, behind, before)
        await trouble.operator.transfer(0)


async def _moved_on(trouble: Trouble, server: SimServer, before: int) -> None:
    """Wait until the server has applied more than `before`, but not for long."""
    loop = trouble.cluster.loop
    end_s = loop.true_time() + LINK_S
    while loop.true_time() < end_s and server.running and _applied(server) == before:  # noqa: ASYNC110 - simulated
        await asyncio.sleep(LOOK_S)


def _applied(server: SimServer) -> int:
    return server.driver.applied if server.driver is not None else 0
