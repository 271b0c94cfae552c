"""Nodes with a planted fault: `python -m tests.chaos.planted NAME serve …` is `syncline serve`, made worse on purpose.

A run of chaos over them must end with an anomaly; else chaos could not find such a fault in the real thing either.
`lazy-disk` alone is no fault but a harder world: what was not synced is lost with a `kill -9`, as with the power.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Final

from syncline.cli.main import main
from syncline.errors import DeadlineExceeded, Outcome
from syncline.node.futures import ReadFuture, Then
from syncline.node.operations import Operations
from syncline.node.raft import Raft
from syncline.platform.disk import OsFile
from syncline.platform.worker import ThreadWorkers
from syncline.server.api.raft_backend import NodeBackend

__all__ = ["PLANTED"]

LATE_S: Final = 0.5
"""How long after the acknowledgement a write reaches the file at most, where that is the fault."""

IMPATIENT_S: Final = 0.05
"""About a heartbeat: a little longer than a write takes when all is well."""

TWICE_EVERY: Final = 10


def stale_reads() -> None:
    """A linearizable read asks nobody (etcd 0.4.1 and Consul, Jepsen 2014)."""

    def read_index(self: Operations[object], *, timeout: float = 5.0) -> ReadFuture:
        future = ReadFuture(loop=asyncio.get_running_loop())
        future.set_result(0)
        return future

    Raft.read_index = read_index  # type: ignore[method-assign]


def lazy_disk() -> None:
    """A file takes what is written only when it is synced."""
    _hold_writes(sync_writes=True)


def early_acknowledgement() -> None:
    """The sync returns before anything is written (hiqlite #361)."""
    _hold_writes(sync_writes=False)


def double_apply() -> None:
    """Now and then a request is proposed a second time, as by a retry of what was in doubt."""
    propose, count = NodeBackend.propose, 0

    def twice(self: NodeBackend, command: bytes, timeout_s: float, then: Then, *, frees_space: bool = False) -> None:
        nonlocal count
        count += 1
        if count % TWICE_EVERY == 0:
            propose(self, command, timeout_s, lambda *_: None, frees_space=frees_space)
        propose(self, command, timeout_s, then, frees_space=frees_space)

    NodeBackend.propose = twice  # type: ignore[method-assign, assignment]


def false_refusal() -> None:
    """What was not finished in a short time is said not to be applied, though it may still be."""
    propose = NodeBackend.propose

    def impatient(
        self: NodeBackend, command: bytes, timeout_s: float, then: Then, *, frees_space: bool = False
    ) -> None:
        propose(self, command, min(timeout_s, IMPATIENT_S), then, frees_space=frees_space)

    NodeBackend.propose = impatient  # type: ignore[method-assign, assignment]
    DeadlineExceeded.outcome = Outcome.NOT_APPLIED


def _hold_writes(*, sync_writes: bool) -> None:
    """Keep what is written to log files in memory: until the sync, or until `LATE_S` later."""
    plain_write, plain_sync, plain_read = OsFile.write_at, OsFile.sync, OsFile.read_at
    plain_size, plain_close, plain_truncate = OsFile.size, OsFile.close, OsFile.truncate
    held: dict[int, list[tuple[int, bytes]]] = {}
    late: set[int] = set()
    lock = threading.RLock()

    def flush(file: OsFile) -> None:
        with lock:
            late.discard(id(file))
            for offset, data in held.pop(id(file), ()):
                plain_write(file, offset, data)

    def write_at(self: OsFile, offset: int, data: bytes | bytearray | memoryview) -> None:
        if "/wal/" not in self.path:
            plain_write(self, offset, data)
            return
        with lock:
            held.setdefault(id(self), []).append((offset, bytes(data)))

    def sync(self: OsFile) -> None:
        if sync_writes:
            flush(self)
            plain_sync(self)
        elif id(self) not in late:
            late.add(id(self))
            threading.Timer(LATE_S, flush, (self,)).start()

    def read_at(self: OsFile, offset: int, size: int) -> bytes:
        flush(self)
        return plain_read(self, offset, size)

    def size(self: OsFile) -> int:
        flush(self)
        return plain_size(self)

    def truncate(self: OsFile, size: int) -> None:
        flush(self)
        plain_truncate(self, size)

    def close(self: OsFile) -> None:
        flush(self)
        plain_close(self)

    OsFile.write_at, OsFile.sync, OsFile.read_at = write_at, sync, read_at  # type: ignore[method-assign]
    OsFile.size, OsFile.close, OsFile.truncate = size, close, truncate  # type: ignore[method-assign]
    ThreadWorkers.flusher = lambda *_: None  # type: ignore[method-assign]  # the kernel would not ask these


PLANTED: Final = {
    "stale-reads": stale_reads,
    "lazy-disk": lazy_disk,
    "early-acknowledgement": early_acknowledgement,
    "double-apply": double_apply,
    "false-refusal": false_refusal,
}

if __name__ == "__main__":
    PLANTED[sys.argv.pop(1)]()
    main()
