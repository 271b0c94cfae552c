"""Load from threads of one Python process that call a blocking client: python -m bench.generators.threads '{…}'

The client is ours, shared by all threads, or etcd3gw's, one for each thread. Each thread has one call in flight. The
result is a line of JSON.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module

import msgspec

from bench.load import VALUE_BYTES, key
from bench.processes import BenchError

WARM_UP_S = 0.5
USED_KEYS = 1000
EXIT_S = 60.0


class ThreadLoad(msgspec.Struct, frozen=True):
    """`client`: syncline or etcd3gw; `calls`: put or get."""

    client: str
    address: str
    calls: str
    threads: int
    seconds: float


class Called(msgspec.Struct, frozen=True):
    """What came of a load: calls, also per second, latencies, and the processor time of the generator meanwhile."""

    calls: int
    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_s: float


def generate(load: ThreadLoad) -> Called:
    """Run the load in a process of its own."""
    command = [sys.executable, "-m", "bench.generators.threads", msgspec.json.encode(load).decode()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=load.seconds + EXIT_S, check=False)
    if done.returncode:
        raise BenchError(f"{load.client} {load.calls}: {done.stderr}")
    return msgspec.json.decode(done.stdout, type=Called)


def _caller(load: ThreadLoad) -> Callable[[], Callable[[str], object]]:
    """Makes the function that each thread calls."""
    value = b"x" * VALUE_BYTES
    if load.client == "syncline":
        from syncline.client import Client

        kv = Client(f"http://{load.address}", timeout=20.0)
        return lambda: (lambda name: kv.put(name, value)) if load.calls == "put" else kv.get
    host, port = load.address.split(":")
    client = import_module("etcd3gw").Etcd3Client

    def make() -> Callable[[str], object]:
        own = client(host=host, port=int(port), api_path="/v3/", timeout=20)
        found: Callable[[str], object] = own.get
        return (lambda name: own.put(name, value)) if load.calls == "put" else found

    return make


def main() -> None:
    load = msgspec.json.decode(sys.argv[1], type=ThreadLoad)
    make = _caller(load)
    taken: list[list[float]] = [[] for _ in range(load.threads)]
    failures: list[BaseException] = []
    ready = threading.Barrier(load.threads + 1)
    begin_s = end_s = 0.0

    def run(at: int) -> None:
        call, rng, mine = make(), random.Random(at), taken[at]
        call(key(0))
        ready.wait()
        try:
            while (before_s := time.perf_counter()) < end_s:
                call(key(rng.randrange(USED_KEYS)))
                if before_s >= begin_s:
                    mine.append(time.perf_counter() - before_s)
        except Exception as error:  # noqa: BLE001 - told by the main thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=(at,)) for at in range(load.threads)]
    for thread in threads:
        thread.start()
    begin_s = time.perf_counter() + WARM_UP_S
    end_s = begin_s + load.seconds
    began_cpu_s = time.process_time()
    ready.wait()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    all_s = sorted(duration_s for mine in taken for duration_s in mine)
    result = Called(
        calls=len(all_s),
        per_s=len(all_s) / load.seconds,
        p50_ms=all_s[len(all_s) // 2] * 1000,
        p99_ms=all_s[int(len(all_s) * 0.99)] * 1000,
        cpu_s=(time.process_time() - began_cpu_s) * load.seconds / (load.seconds + WARM_UP_S),
    )
    print(json.dumps(msgspec.to_builtins(result)))


if __name__ == "__main__":
    main()
