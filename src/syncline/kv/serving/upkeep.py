"""What a node does for its store beside the commands: it ends leases and compacts the history while it leads."""

from __future__ import annotations

from syncline.kv.compactor import DEFAULT_HISTORY_BYTES, DEFAULT_HISTORY_REVISIONS, Compactor
from syncline.kv.lessor import Lessor
from syncline.kv.machine import KvMachine
from syncline.node.raft import Raft

__all__ = ["Upkeep"]


class Upkeep:
    """The lessor and the compactor of one node. Made on the event loop when the node is open; `close` it before it."""

    def __init__(
        self,
        raft: Raft[object],
        machine: KvMachine,
        *,
        history_revisions: int = DEFAULT_HISTORY_REVISIONS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> None:
        self.lessor: Lessor = Lessor(raft, machine)
        self.compactor: Compactor = Compactor(
            raft, machine, history_revisions=history_revisions, history_bytes=history_bytes
        )

    def start(self) -> None:
        """Take up the work."""
        self.lessor.start()
        self.compactor.start()

    async def close(self) -> None:
        """End the work. What was proposed goes on."""
        await self.compactor.close()
        await self.lessor.close()
