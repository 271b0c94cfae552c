"""What a durable append costs, and how fast a log is read back, beside sqlite3 (WAL, FULL) and lmdb (sync).

    python -m bench.wal [--directory .] [--seconds 1] [--repeats 3] [--recovery-mb 1024]
                        [--part writes | --part recovery] [--shape 128x1]

Each batch is one durable transaction: one write and one sync here, one commit there. The table shows entries per second
and durable batches (so at least one sync each) per second; the best of the repeats, which are interleaved, because what
is slower was disturbed. Entries, rows and keys are made beforehand for all. lmdb takes part where it is installed.

The recovery opens a log of the given size, in a process of its own whose memory is measured (on Linux). The directory
must be on the disk that is meant: `/tmp` is often memory.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

from syncline.consensus.types import EntryType, HardState, LogEntry
from syncline.platform.disk import OsDisk, OsFile
from syncline.storage.wal.writer import Wal, WalWrite

BATCHES = (1, 16, 256)
SIZES = (128, 4096)
SHAPES = {"128x1": (128, 1), "128x256": (128, 256), "4096x256": (4096, 256)}
"""The logs that are read back, by name: bytes of an entry, entries in a frame."""

RESET_BYTES = 512 << 20
"""After so many bytes a store is begun anew: disks here are not endless."""


class Store(Protocol):
    """Something that appends entries durably."""

    def append(self, entries: Sequence[LogEntry]) -> None: ...

    def close(self) -> None: ...


class OurLog:
    def __init__(self, path: str) -> None:
        self._wal = Wal.open(OsDisk(), path, reserve_bytes=0)

    def append(self, entries: Sequence[LogEntry]) -> None:
        self._wal.write([WalWrite(entries, HardState(1, 1, entries[0].index - 1))])

    def close(self) -> None:
        self._wal.close()


class Sqlite:
    def __init__(self, path: str) -> None:
        os.mkdir(path)
        self._connection = sqlite3.connect(f"{path}/log.db", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, term INTEGER, kind INTEGER, data BLOB)")

    def append(self, entries: Sequence[LogEntry]) -> None:
        connection = self._connection
        rows = [(entry.index, entry.term, 0, entry.data) for entry in entries]
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO log VALUES (?, ?, ?, ?)", rows)
        connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()


class Lmdb:
    def __init__(self, path: str) -> None:
        self._environment = import_module("lmdb").open(path, map_size=8 << 30)

    def append(self, entries: Sequence[LogEntry]) -> None:
        term = entries[0].term.to_bytes(8, "little")
        with self._environment.begin(write=True) as transaction:
            cursor = transaction.cursor()
            cursor.putmulti([(entry.index.to_bytes(8, "big"), term + entry.data) for entry in entries], append=True)

    def close(self) -> None:
        self._environment.close()


STORES: dict[str, Callable[[str], Store]] = {"syncline": OurLog, "sqlite3": Sqlite}
if find_spec("lmdb") is not None:
    STORES["lmdb"] = Lmdb


def batches_per_s(make: Callable[[str], Store], directory: str, batch: int, size: int, seconds: float) -> float:
    """Durable batches per second over about `seconds`."""
    data = random.Random(1).randbytes(size)
    done, elapsed = 0, 0.0
    while elapsed < seconds:
        path = tempfile.mkdtemp(dir=directory)
        store = make(f"{path}/store")
        index = 1
        try:
            while elapsed < seconds and index * size < RESET_BYTES:
                entries = [LogEntry(1, index + n, EntryType.NORMAL, data) for n in range(batch)]
                index += batch
                start = time.perf_counter()
                store.append(entries)
                elapsed += time.perf_counter() - start
                done += 1
        finally:
            store.close()
            shutil.rmtree(path)
    return done / elapsed


def writes(directory: str, seconds: float, repeats: int) -> None:
    names = list(STORES)
    print(f"{'entries':>10} {'batch':>6}   " + "".join(f"{name:>24}" for name in names) + "   against the best other")
    for size in SIZES:
        for batch in BATCHES:
            best = dict.fromkeys(names, 0.0)
            for _ in range(repeats):
                for name in names:
                    best[name] = max(best[name], batches_per_s(STORES[name], directory, batch, size, seconds))
            cells = "".join(f"{best[name] * batch:>13,.0f}/s {best[name]:>7,.0f}/s" for name in names)
            others = max(best[name] for name in names if name != "syncline")
            print(f"{size:>8} B {batch:>6}   {cells}   {best['syncline'] / others:>6.1f}x", flush=True)


RECOVERY = """
import sys, time
from syncline.platform.disk import OsDisk, OsFile
from syncline.storage.wal.writer import Wal
def peak_kb():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
before = peak_kb()
start = time.perf_counter()
wal = Wal.open(OsDisk(), sys.argv[1], reserve_bytes=0)
elapsed = time.perf_counter() - start
print(elapsed, (peak_kb() - before) / 1024, wal.last_index)
"""


def recovery(directory: str, megabytes: int, shapes: Sequence[str]) -> None:
    print(f"\nrecovery of a log of {megabytes} MB")
    for size, batch in map(SHAPES.__getitem__, shapes):
        path = tempfile.mkdtemp(dir=directory)
        try:
            count = build(path, size, batch, megabytes << 20)
            command = [sys.executable, "-c", RECOVERY, path]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            elapsed, memory, last = float(answer[0]), float(answer[1]), int(answer[2])
            assert last == count
            print(
                f"{size:>8} B x {batch:<4} {megabytes / elapsed:>8,.0f} MB/s {last / elapsed:>12,.0f} entries/s "
                f"{memory:>6.1f} MB of memory",
                flush=True,
            )
        finally:
            shutil.rmtree(path)


class UnsyncedDisk(OsDisk):
    """To build a log quickly: reading it back is what is measured. `build` has it durable at the end."""

    def open(self, path: str, *, create: bool = False, write: bool = False) -> OsFile:
        file = super().open(path, create=create, write=write)
        file.sync = lambda: None  # type: ignore[method-assign]
        return file


def build(path: str, size: int, batch: int, log_bytes: int) -> int:
    data = random.Random(1).randbytes(size)
    wal = Wal.open(UnsyncedDisk(), path, reserve_bytes=0)
    index, written = 1, 0
    while written < log_bytes:
        entries = [LogEntry(1, index + n, EntryType.NORMAL, data) for n in range(batch)]
        written += wal.write([WalWrite(entries, HardState(1, 1, index - 1))]).size_bytes
        index += batch
    wal.close()
    for name in os.listdir(path):  # else the first sync of the recovery would pay for it
        descriptor = os.open(f"{path}/{name}", os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return index - 1


def main() -> None:
    parser = argparse.ArgumentParser(description="durable appends and recovery, beside sqlite3 and lmdb")
    parser.add_argument("--directory", default=".", help="a directory on the disk to measure")
    parser.add_argument("--seconds", type=float, default=1.0, help="per store, size and batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--recovery-mb", type=int, default=1024)
    parser.add_argument("--part", choices=("writes", "recovery"), help="only this part")
    parser.add_argument("--shape", choices=SHAPES, help="recover only a log of this shape")
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, {platform.system()} "
    )
    print(f"sqlite {sqlite3.sqlite_version}, lmdb {'measured' if 'lmdb' in STORES else 'not installed'}\n")
    directory = tempfile.mkdtemp(prefix="bench-wal-", dir=options.directory)
    try:
        if options.part != "recovery":
            writes(directory, options.seconds, options.repeats)
        if options.part != "writes":
            recovery(directory, options.recovery_mb, [options.shape] if options.shape else list(SHAPES))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
