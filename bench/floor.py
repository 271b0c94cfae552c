"""A yardstick: what a replicated write costs where nobody thinks about it. One process passes each on to two others and
syncs it, they sync it, and as soon as one of them has said so the next one begins.

No log, no terms, no checksums, no event loop: blocking calls alone. Nothing that syncs on a majority of three processes
is quicker on the same machine. Run as a program it is one of the two others: it prints its port and serves one caller.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from itertools import cycle

from bench.processes import Process, stop_all
from bench.stats import median

WRITE_BYTES = 400
"""A value of 256 bytes with what stands around it in a log and in a message."""
FILE_BYTES = 16 << 20
"""Filled before it is used, as a segment of the log is: a sync has no length of the file to write down then."""
DONE = b"."


@contextlib.contextmanager
def synced_file(path: str) -> Iterator[int]:
    """A descriptor of a file that is there already, down to its blocks."""
    with open(path, "wb", buffering=0) as file:
        file.write(bytes(FILE_BYTES))
        os.fsync(file.fileno())
        yield file.fileno()


def serve(path: str) -> None:
    """Sync whatever the caller sends, and say so."""
    with synced_file(path) as descriptor, socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        caller, _ = server.accept()
        with caller:
            offsets = cycle(range(0, FILE_BYTES - WRITE_BYTES, WRITE_BYTES))
            while data := caller.recv(WRITE_BYTES, socket.MSG_WAITALL):
                os.pwrite(descriptor, data, next(offsets))
                os.fdatasync(descriptor)
                caller.sendall(DONE)


def replicated_us(directory: str, seconds: float) -> float:
    """The median of a write, one after the other, in microseconds."""
    others: list[Process] = []
    with contextlib.ExitStack() as stack:
        stack.callback(stop_all, others)
        for at in (1, 2):
            command = [sys.executable, "-m", "bench.floor", os.path.join(directory, f"floor{at}")]
            others.append(Process(command, os.path.join(directory, f"floor{at}.log"), asked=True))
        peers = [stack.enter_context(_connected(other)) for other in others]
        descriptor = stack.enter_context(synced_file(os.path.join(directory, "floor0")))
        return median(_writes_us(peers, descriptor, seconds))


def _connected(other: Process) -> socket.socket:
    port = other.ask("port")
    assert isinstance(port, int)
    peer = socket.create_connection(("127.0.0.1", port))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


def _writes_us(peers: list[socket.socket], descriptor: int, seconds: float) -> list[float]:
    taken: list[float] = []
    written = b"w" * WRITE_BYTES
    offsets = cycle(range(0, FILE_BYTES - WRITE_BYTES, WRITE_BYTES))
    behind = dict.fromkeys(peers, 0)
    """What each of them has not answered."""
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        for peer in peers:
            peer.sendall(written)
            behind[peer] += 1
        os.pwrite(descriptor, written, next(offsets))
        os.fdatasync(descriptor)
        while all(behind.values()):
            for peer in select.select(peers, [], [])[0]:
                answers = len(peer.recv(WRITE_BYTES))
                assert answers, "one of the others has ended"
                behind[peer] -= answers
        taken.append((time.perf_counter() - start) * 1e6)
    return taken


if __name__ == "__main__":
    serve(sys.argv[1])
