"""One Python process with many tasks: a client library as programs use it, `AsyncClient` or aetcd.

python -m bench.generators.python_client --client syncline --addresses HOST:PORT,… --load put --tasks 64 --seconds 5

It prints one line of JSON: operations a second, latencies in milliseconds, its own processor time per operation.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

from bench.load import KEYS, VALUE_BYTES, key
from bench.processes import BenchError
from bench.stats import Histogram

CLIENTS = ("syncline", "aetcd")
WARM_UP_SHARE = 0.2

Operation = Callable[[str], Awaitable[object]]


class EtcdClient(Protocol):
    """What is used of `aetcd.Client`."""

    def put(self, key: bytes, value: bytes) -> Awaitable[object]: ...

    def get(self, key: bytes) -> Awaitable[object]: ...


class AetcdModule(Protocol):
    """What is used of `aetcd`."""

    def Client(self, *, host: str, port: int) -> AbstractAsyncContextManager[EtcdClient]: ...  # noqa: N802 - a class


@dataclass(frozen=True, slots=True)
class Run:
    """What one process did."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """Processor time of this process, per operation."""


def missing(client: str) -> str:
    """What has to be installed for it."""
    return "aetcd is not installed" if client == "aetcd" and find_spec("aetcd") is None else ""


def generate(client: str, addresses: Sequence[str], load: str, tasks: int, seconds: float) -> Run:
    """Load in a process of its own. The leader's address is the first."""
    command = [
        *(sys.executable, "-m", "bench.generators.python_client", "--client", client),
        *("--addresses", ",".join(addresses), "--load", load, "--tasks", str(tasks), "--seconds", str(seconds)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60 + 2 * seconds)
    if done.returncode:
        raise BenchError(f"{client}: {done.stderr[-2000:]}")
    return Run(**json.loads(done.stdout))


async def _operation(client: str, addresses: list[str], load: str, stack: AsyncExitStack) -> Operation:
    value = b"x" * VALUE_BYTES
    if client == "syncline":
        from syncline.client import AsyncClient

        kv = await stack.enter_async_context(AsyncClient(addresses))
        return (lambda name: kv.put(name, value)) if load == "put" else kv.get
    host, _, port = addresses[0].partition(":")
    library = cast("AetcdModule", import_module("aetcd"))  # it has no types
    etcd = await stack.enter_async_context(library.Client(host=host, port=int(port)))
    return (lambda name: etcd.put(name.encode(), value)) if load == "put" else (lambda name: etcd.get(name.encode()))


async def _load(operation: Operation, tasks: int, seconds: float) -> list[int]:
    """Closed loop: each task has one operation in flight. The latencies in microseconds."""
    latencies: list[int] = []
    names = [key(number) for number in range(KEYS)]
    end_s = time.perf_counter() + seconds

    async def task(number: int) -> None:
        rng = random.Random(number)
        while (began_s := time.perf_counter()) < end_s:
            await operation(names[int(rng.random() * KEYS)])
            latencies.append(int((time.perf_counter() - began_s) * 1e6))

    await asyncio.gather(*(task(number) for number in range(tasks)))
    return latencies


async def _run(options: argparse.Namespace) -> Run:
    async with AsyncExitStack() as stack:
        operation = await _operation(options.client, options.addresses.split(","), options.load, stack)
        await _load(operation, options.tasks, options.seconds * WARM_UP_SHARE)
        began_s, cpu_s = time.perf_counter(), time.process_time()
        latencies = await _load(operation, options.tasks, options.seconds)
        elapsed_s, used_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    found = Histogram.of(latencies)
    p50_ms, p99_ms = (found.percentile_us(percent) / 1000 for percent in (50, 99))
    return Run(found.count / elapsed_s, p50_ms, p99_ms, used_s / found.count * 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description="Load by one Python process.")
    parser.add_argument("--client", choices=CLIENTS, required=True)
    parser.add_argument("--addresses", required=True)
    parser.add_argument("--load", choices=("put", "get"), required=True)
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    print(json.dumps(asdict(asyncio.run(_run(parser.parse_args())))))


if __name__ == "__main__":
    main()
