"""A million keys: memory, the longest pause that a snapshot causes, restart, catching up from nothing."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.helpers.ports import free_block

from bench.figures import Figure, Quiet, Scale
from bench.load import VALUE_BYTES
from bench.peers.peer import ask, ask_json
from bench.peers.syncline import SynclineCluster
from bench.processes import BenchError, Process, wait_for
from bench.workloads.cluster import fresh, txn_of_puts
from bench.workloads.prober import Prober

PUTS_PER_TXN = 100
FILLERS = 4
SNAPSHOT_S = 300
READY_S = 300.0
PROBED_S = 3.0
"""How long the pauses without a snapshot are looked at, for comparison."""


def run(directory: str, scale: Scale, quiet: Quiet) -> list[Figure]:
    with fresh(directory) as cluster:
        empty = cluster.resident_bytes() / len(cluster.processes)
        fill(cluster, scale.keys)
        figures = memory(cluster, empty, scale.keys, "filled", "after the fill, mean of the nodes")
        with quiet():
            figures += snapshot_pause(cluster)
        with quiet():
            figures += restart(cluster, empty, scale.keys)
        with quiet():
            figures += catch_up(cluster, directory, scale.keys)
    return figures


def fill(cluster: SynclineCluster, keys: int) -> None:
    """By transactions, to be quick."""
    address = cluster.addresses[cluster.leader()]
    value = "x" * VALUE_BYTES

    def put(start: int) -> None:
        names = [f"key-{number:07d}" for number in range(start, min(start + PUTS_PER_TXN, keys))]
        status, answer = ask(address, "/txn?timeout=60", method="POST", body=txn_of_puts(names, value))
        if status != 200:
            raise BenchError(f"a transaction was answered with {status}: {answer[:200]!r}")

    with ThreadPoolExecutor(FILLERS) as pool:
        list(pool.map(put, range(0, keys, PUTS_PER_TXN)))


def memory(cluster: SynclineCluster, empty_bytes: float, keys: int, key: str, when: str) -> list[Figure]:
    """Resident memory beyond an empty node's and beyond the values, per key."""
    whole = cluster.resident_bytes() / len(cluster.processes)
    return [_memory(whole, empty_bytes, keys, key, when)]


def _memory(whole_bytes: float, empty_bytes: float, keys: int, key: str, when: str) -> Figure:
    per_key = (whole_bytes - empty_bytes) / keys - VALUE_BYTES
    note = f"{whole_bytes / (1 << 20):.0f} MiB resident; keys of 11 bytes"
    return Figure(f"memory.{key}", f"memory per key beyond the value, {keys:,} keys, {when}", per_key, "bytes", note)


def snapshot_pause(cluster: SynclineCluster) -> list[Figure]:
    """The longest that the leader answers nothing while it takes and writes a snapshot."""
    address = cluster.addresses[cluster.leader()]
    reads = Prober(address, "GET", "/key/key-0000000?consistency=stale")
    writes = Prober(address, "PUT", "/key/key-0000000", b"x" * VALUE_BYTES)
    with reads, writes:
        time.sleep(PROBED_S)
        before_ms = reads.longest_ms(), writes.longest_ms()
        start = time.monotonic()
        status, answer = ask(address, "/raft/snapshot", method="POST", timeout_s=SNAPSHOT_S)
        elapsed = time.monotonic() - start
        during_ms = reads.longest_ms(), writes.longest_ms()
    if status != 200:
        raise BenchError(f"a snapshot was answered with {status}: {answer[:200]!r}")
    return [
        Figure(
            f"pause.{name}",
            f"longest pause of {name} on the leader during a snapshot",
            during_ms[at],
            "ms",
            f"snapshot of {elapsed:.1f} s; without one {before_ms[at]:.0f} ms in {PROBED_S:.0f} s",
        )
        for at, name in enumerate(("stale reads", "writes"))
    ]


def restart(cluster: SynclineCluster, empty_bytes: float, keys: int) -> list[Figure]:
    """`kill -9` of a follower, and its start until it serves linearizable reads."""
    at = (cluster.leader() + 1) % len(cluster.processes)
    process, address = cluster.processes[at], cluster.addresses[at]
    process.kill()
    start = time.monotonic()
    process.restart()
    wait_for("the node is ready again", lambda: ask(address, "/readyz")[0] == 200, deadline_s=READY_S)
    elapsed = time.monotonic() - start
    check_count(address, keys)
    title = f"restart after kill -9 with {keys:,} keys, to ready"
    after = _memory(process.resident_bytes(), empty_bytes, keys, "restarted", "after a restart")
    return [Figure("restart", title, elapsed, "s", f"processor time {process.cpu_s():.1f} s"), after]


def catch_up(cluster: SynclineCluster, directory: str, keys: int) -> list[Figure]:
    """A fourth node joins with nothing, until it serves linearizable reads."""
    port = free_block(2)
    address = f"127.0.0.1:{port}"
    start = time.monotonic()
    joining = Process(
        [
            *(sys.executable, "-m", "syncline", "serve", "--name", "n9", "--log-level", "warning"),
            *("--data-dir", os.path.join(directory, "n9"), "--http-listen", address),
            *("--peer-listen", f"127.0.0.1:{port + 1}"),
            *("--join", f"http://{cluster.addresses[cluster.leader()]}", "--join-timeout-s", str(READY_S)),
        ],
        os.path.join(directory, "n9.log"),
    )
    cluster.processes.append(joining)
    wait_for("the new node is ready", lambda: ask(address, "/readyz")[0] == 200, deadline_s=READY_S)
    elapsed = time.monotonic() - start
    check_count(address, keys)
    title = f"a new node joins and catches up with {keys:,} keys, to ready"
    return [Figure("catch-up", title, elapsed, "s", f"its own processor time {joining.cpu_s():.1f} s")]


def check_count(address: str, keys: int) -> None:
    """A node that says that it is ready has all of them."""
    found = ask_json(address, "/keys?count=true&consistency=stale").get("count")
    if found != keys:
        raise BenchError(f"{address} is ready with {found} keys of {keys}")
