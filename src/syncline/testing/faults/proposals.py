"""Commands of programs that a change of leader meets: bursts of them, some fenced, and forwards that come late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from syncline.consensus.types import NodeId
from syncline.kv.commands import Put, encode_command
from syncline.node.futures import ApplyFuture
from syncline.node.raft import Raft
from syncline.testing.faults.base import Trouble
from syncline.testing.invariants.proposals import Proposed, fenced_in
from syncline.transport.messages import Forward, ForwardReply, PeerMessage

__all__ = ["bursts", "late_forwards"]

Send: TypeAlias = Callable[[NodeId, PeerMessage], bool]

KEY: Final = b"burst"

NEVER: Final = 2**62
"""A revision that no key has: the condition fails, so the command changes nothing that clients see."""


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

        def propose(
            raft: Raft = raft, fenced: list[bool] = fenced, first: int = first, timeout_s: float = timeout_s
        ) -> None:
            if raft._driver.stopped:
                return
            for number, fence in enumerate(fenced, first):
                term = raft._driver.core.term if fence else 0
                future = _propose(raft, number, term, timeout_s)
                if future.number:
                    trouble.proposed.append(Proposed(raft.node_id, future.number, future))

        server.call(propose)


def _propose(raft: Raft, number: int, term: int, timeout_s: float) -> ApplyFuture:
    value = fenced_in(term) + b"%d" % number if term else b"%d" % number
    return raft.apply(encode_command(Put(KEY, value, expect=NEVER)), timeout=timeout_s, term=term or None)


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
        transport = driver.parts.transport
        original, held = transport.send, list[tuple[NodeId, PeerMessage]]()

        def send(
            to: NodeId,
            message: PeerMessage,
            original: Send = original,
            held: list[tuple[NodeId, PeerMessage]] = held,
        ) -> bool:
            if isinstance(message, Forward | ForwardReply):
                held.append((to, message))
                return True
            return original(to, message)

        def release(original: Send = original, held: list[tuple[NodeId, PeerMessage]] = held) -> None:
            for to, message in held:
                original(to, message)

        setattr(transport, "send", send)  # noqa: B010 - as the simulation's observer does
        try:
            await trouble.last(0.3, 4.0)
        finally:
            setattr(transport, "send", original)  # noqa: B010
            if server.driver is driver:
                server.call(release)
