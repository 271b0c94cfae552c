"""What the key-value store's history costs: time of a write, memory of a key, pauses.

    python -m bench.store [--keys 1000000] [--value-bytes 100] [--revisions 100000]
                          [--part writes | --part memory | --part pauses] [--source DIRECTORY]

`writes`: the time of a put, of a new key and of one that is there; the tenth percentile of slices of 200 puts, which
other processes disturb least. `--source` measures another tree: its `src`.

`memory`: a store of `--keys` keys, of which as many as there are `--revisions` were overwritten since the last
compaction: the process's memory beside the values, for each key (on Linux).

`pauses`: in such a store, the processor time of what the loop's thread does in one go: taking the view for a snapshot,
one write beside it, one slice of a sweep, a compaction, a past page and a past count.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import random
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from syncline.kv.store import KeyStore

SLICE = 200
SWEEP_SLICE = 1_000


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--revisions", type=int, default=100_000)
    parser.add_argument("--part", choices=("writes", "memory", "pauses"))
    parser.add_argument("--source", default="")
    options = parser.parse_args()
    if options.source:
        sys.path.insert(0, options.source)
    make: Callable[[], KeyStore] = importlib.import_module("syncline.kv.store").KeyStore
    if options.part in (None, "writes"):
        measure_writes(make, options.value_bytes)
    if options.part in (None, "memory"):
        measure_memory(make, options.keys, options.value_bytes, options.revisions)
    if options.part in (None, "pauses"):
        measure_pauses(make, options.keys, options.value_bytes, options.revisions)


def measure_writes(make: Callable[[], KeyStore], value_bytes: int, count: int = 50_000) -> None:
    """Nanoseconds of a put."""
    names = shuffled(count)
    for kind in ("new", "overwritten"):
        best = []
        for _ in range(5):
            store = make()
            if kind == "overwritten":
                fill(store, names, value_bytes)
            gc.collect()
            gc.freeze()
            keys = random.Random(2).choices(names, k=count) if kind == "overwritten" else names
            slices = [timed(lambda: fill(store, part, value_bytes)) for part in in_slices(keys)]  # noqa: B023
            best.append(sorted(slices)[len(slices) // 10] / SLICE * 1e9)
        print(f"put of {'a key that is there' if kind == 'overwritten' else 'a new key'}: {min(best):.0f} ns")


def measure_memory(make: Callable[[], KeyStore], count: int, value_bytes: int, revisions: int) -> None:
    """Bytes of memory for each key, beside its key and value, and what the store counts for them."""
    names = shuffled(count)
    gc.collect()
    before = resident_bytes()
    store = make()
    fill(store, names, value_bytes)
    compact(store, store.revision)
    gc.collect()
    content = sum(map(len, names)) + count * (value_bytes + 33)
    present = (resident_bytes() - before - count * value_bytes) / count
    print(
        f"{count} keys, no history: {present:.0f} bytes a key beside values of {value_bytes} ({content} bytes in all)"
    )
    fill(store, random.Random(3).choices(names, k=revisions), value_bytes)
    gc.collect()
    held = revisions * value_bytes
    full = (resident_bytes() - before - count * value_bytes - held) / count
    each = (resident_bytes() - before - count * value_bytes - held - present * count) / revisions
    print(f"and {revisions} of them overwritten: {full:.0f} bytes a key; {each:.0f} bytes an older version")
    print(f"the store counts {store.history_bytes} bytes of history, {store.history_bytes / revisions:.0f} a version")


def measure_pauses(make: Callable[[], KeyStore], count: int, value_bytes: int, revisions: int) -> None:
    """Milliseconds for which one call holds up the thread."""
    store = make()
    names = shuffled(count)
    fill(store, names, value_bytes)
    compact(store, store.revision)
    fill(store, random.Random(3).choices(names, k=revisions), value_bytes)
    gc.collect()
    gc.freeze()
    views = [timed(store.view) for _ in range(5)]
    print(f"view for a snapshot, {count} keys and {store.history_revisions} revisions: {max(views) * 1e3:.2f} ms")
    view = store.view()
    written = random.Random(5).choices(names, k=20_000)
    writes = [timed(lambda: fill(store, [name], value_bytes)) for name in written]  # noqa: B023
    view.release()
    print(f"a write beside it: {max(writes) * 1e3:.2f} ms at most")
    past = store.oldest + revisions // 2
    pages = [timed(lambda: store.range(revision=past)) for _ in range(20)]
    print(f"a page of 10,000 keys at a past revision: first {pages[0] * 1e3:.2f} ms, then {min(pages) * 1e3:.2f} ms")
    print(f"a page of 10,000 keys of the present: {min(timed(store.range) for _ in range(5)) * 1e3:.2f} ms")
    counts = [timed(lambda: store.count(b"key/1", b"key/3", past)) for _ in range(5)]
    print(f"a count at a past revision: {max(counts) * 1e3:.2f} ms at most")
    reads = timed(lambda: [store.get(name, past) for name in names[:1000]])
    print(f"a read of a key at a past revision: {reads * 1e3:.2f} µs")
    print(f"compaction of all of it: {timed(lambda: store.compact(store.revision)) * 1e3:.2f} ms")
    slices, more = [], True
    while more:
        started = time.thread_time()
        more = store.sweep(SWEEP_SLICE)
        slices.append(time.thread_time() - started)
    slices.sort()
    middle = slices[len(slices) // 2]
    print(f"sweep of {SWEEP_SLICE} changes: median {middle * 1e3:.2f} ms, at most {slices[-1] * 1e3:.2f} ms")


def fill(store: KeyStore, names: list[bytes], value_bytes: int) -> None:
    """Put each key, in a revision of its own, with a value that no other record shares."""
    revision = store.revision
    for name in names:
        revision += 1
        store.put(name, revision.to_bytes(8, "big") + bytes(value_bytes - 8), 0, revision)


def compact(store: KeyStore, revision: int) -> None:
    """Drop the history below a revision."""
    store.compact(revision)
    while store.sweep(SWEEP_SLICE):
        pass


def shuffled(count: int) -> list[bytes]:
    """Keys in random order."""
    names = [b"key/%08d" % number for number in range(count)]
    random.Random(1).shuffle(names)
    return names


def in_slices(names: list[bytes]) -> list[list[bytes]]:
    """The names, some hundred at a time."""
    return [names[low : low + SLICE] for low in range(0, len(names), SLICE)]


def timed(action: Callable[[], object]) -> float:
    """The processor time of a call in seconds, the freeing of its result included."""
    started = time.thread_time()
    action()
    return time.thread_time() - started


def resident_bytes() -> int:
    """The memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


if __name__ == "__main__":
    main()
