"""The library without async: a node on a thread of its own, for Flask, Django, Celery and scripts (docs/blocking.md).

    with blocking.Raft.open(config, fsm) as raft:
        answer = raft.apply(b"a command")

`Raft` and `Machine` have the calls of `syncline.Raft` and `syncline.Machine`, which carry them out. In place of
`await`, `async with` and `async for` stand a plain call, `with` and `for`.
"""

from __future__ import annotations

from syncline.blocking.futures import BlockingFuture
from syncline.blocking.leadership import BlockingLeaderTerm
from syncline.blocking.machine import BlockingMachine as Machine
from syncline.blocking.raft import BlockingRaft as Raft
from syncline.blocking.session import BlockingSession

__all__ = ["BlockingFuture", "BlockingLeaderTerm", "BlockingSession", "Machine", "Raft"]
