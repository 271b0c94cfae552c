"""What the consensus core costs: entries through three raw nodes in one process, with storage in memory.

    python -m bench.core [--seconds 2] [--size 100] [--repeats 3]

Per batch size: entries per second through the whole cluster (proposed, replicated, committed and applied on all three
nodes), and the cost per entry and node in µs, which is the time of the cluster divided by three. The best of the
repeats is shown: what is slower was disturbed. Messages go from node to node as objects, so encoding, disks and
networks are not in it.

Each batch is proposed when the one before is applied everywhere: a node does everything once per batch, so the table
shows what a batch costs and what an entry in it costs.
"""

from __future__ import annotations

import argparse
import gc
import platform
import random
import time
from collections import deque
from dataclasses import dataclass

from syncline.consensus.config import RaftConfig
from syncline.consensus.rawnode import RawNode
from syncline.consensus.storage import MemoryStorage
from syncline.consensus.types import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    HardState,
    MembershipState,
    Message,
    NodeId,
    Snapshot,
    SnapshotMeta,
    StateType,
)

NODES = 3
BATCHES = (1, 16, 256)
COMPACT_EVERY = 20_000
"""Entries kept in memory, so that a long run does not measure the memory's growth."""

MAX_MESSAGE_BYTES = 1 << 20
MAX_INFLIGHT_BYTES = 16 << 20


@dataclass(slots=True)
class Node:
    raw: RawNode
    storage: MemoryStorage
    applied: int = 1


class Cluster:
    """Three nodes, driven until nothing is left to do. Nothing is lost, and everything arrives in order."""

    def __init__(self, *, asynchronous: bool) -> None:
        self._asynchronous = asynchronous
        self._network: deque[Message] = deque()
        self.nodes: dict[NodeId, Node] = {}
        members = MembershipState(tuple(range(1, NODES + 1)))
        for node_id in members.voters:
            storage = MemoryStorage()
            storage.apply_snapshot(Snapshot(SnapshotMeta(1, 1, members)))
            storage.set_hard_state(HardState(1, 0, 1))
            config = RaftConfig(
                id=node_id,
                storage=storage,
                applied=1,
                async_storage_writes=asynchronous,
                max_message_bytes=MAX_MESSAGE_BYTES,
                max_inflight_bytes=MAX_INFLIGHT_BYTES,
                check_quorum=True,
                pre_vote=True,
                rng=random.Random(node_id),
            )
            self.nodes[node_id] = Node(RawNode(config), storage)
        self.leader = self.nodes[1]
        self.leader.raw.campaign()
        self.settle()
        assert self.leader.raw.state is StateType.LEADER

    def settle(self) -> None:
        """Work and deliver until everything is done."""
        network, nodes = self._network, self.nodes
        handle = self._handle_asynchronously if self._asynchronous else self._handle
        busy = True
        while busy:
            busy = False
            for node in nodes.values():
                while node.raw.has_ready():
                    busy = True
                    handle(node)
            while network:
                busy = True
                message = network.popleft()
                nodes[message.to].raw.step(message)

    def _handle(self, node: Node) -> None:
        ready = node.raw.ready()
        if ready.hard_state is not None:
            node.storage.set_hard_state(ready.hard_state)
        node.storage.append(ready.entries)
        self._network.extend(ready.messages)
        if ready.committed_entries:
            node.applied = ready.committed_entries[-1].index
        node.raw.advance()

    def _handle_asynchronously(self, node: Node) -> None:
        raw = node.raw
        for message in raw.ready().messages:
            if message.to == LOCAL_APPEND:
                if message.term:
                    node.storage.set_hard_state(HardState(message.term, message.vote, message.commit))
                node.storage.append(message.entries)
            elif message.to == LOCAL_APPLY:
                node.applied = message.entries[-1].index
            else:
                self._network.append(message)
                continue
            for response in message.responses:
                if response.to == raw.raft.id:
                    raw.step(response)
                else:
                    self._network.append(response)

    def compact(self) -> None:
        """Drop the entries that are applied everywhere."""
        for node in self.nodes.values():
            node.storage.compact(node.applied)


def measure(batch: int, size_bytes: int, seconds: float, *, asynchronous: bool) -> float:
    """Entries per second through the cluster, over about so many seconds."""
    cluster = Cluster(asynchronous=asynchronous)
    leader = cluster.leader
    proposals = [bytes(size_bytes)] * batch
    entries = since_compaction = 0
    gc.collect()
    start = time.perf_counter()
    elapsed = 0.0
    while elapsed < seconds:
        leader.raw.propose_batch(proposals)
        cluster.settle()
        entries += batch
        since_compaction += batch
        if since_compaction >= COMPACT_EVERY:
            cluster.compact()
            since_compaction = 0
        elapsed = time.perf_counter() - start
    assert {node.applied for node in cluster.nodes.values()} == {leader.raw.last_index}
    return entries / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.core", description="What the consensus core costs.")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement (default: 2)")
    parser.add_argument("--size", type=int, default=100, help="bytes of an entry's data (default: 100)")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement; the best counts (default: 3)")
    options = parser.parse_args()
    print(
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}; {NODES} nodes in one process,"
    )
    print(f"{options.size} bytes per entry, best of {options.repeats} x {options.seconds:g} s\n")
    print("storage       batch   entries/s   µs per entry and node   µs per batch and node")
    for asynchronous in (True, False):
        for batch in BATCHES:
            rate = max(
                measure(batch, options.size, options.seconds, asynchronous=asynchronous) for _ in range(options.repeats)
            )
            cost = 1e6 / rate / NODES
            form = "asynchronous" if asynchronous else "synchronous"
            print(f"{form:<12} {batch:>6} {rate:>11,.0f} {cost:>23.2f} {cost * batch:>23.1f}")


if __name__ == "__main__":
    main()
