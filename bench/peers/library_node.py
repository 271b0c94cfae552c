"""A node of `library`: see `embedded`."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Mapping
from typing import BinaryIO, Final

import uvloop

from bench.load import KEYS, key
from bench.peers.embedded import answer
from syncline import Config, Entry, Raft, SnapshotSink
from syncline.errors import OperationError
from syncline.platform import interpreter

KEY_BYTES = len(key(0))


class Store:
    """A dictionary: the ordinary state machine. Its applies take less than handing them to a thread, and it says so."""

    apply_on_loop: Final = True

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def apply(self, entry: Entry) -> object:
        self.values[entry.data[:KEY_BYTES]] = entry.data[KEY_BYTES:]
        return None

    def snapshot(self) -> StoreSnapshot:
        return StoreSnapshot(dict(self.values))

    def restore(self, source: BinaryIO) -> None:
        texts: dict[str, str] = json.load(source)
        self.values = {name.encode(): value.encode() for name, value in texts.items()}


class StoreSnapshot:
    def __init__(self, values: Mapping[bytes, bytes]) -> None:
        self._values = values

    def persist(self, sink: SnapshotSink) -> None:
        texts = {name.decode(): value.decode() for name, value in self._values.items()}
        sink.write(json.dumps(texts).encode())

    def release(self) -> None:
        self._values = {}


async def run_load(raft: Raft[object], clients: int, seconds: float, value_bytes: int) -> dict[str, object]:
    """Each client awaits one `apply` after the other."""
    value, rng = b"x" * value_bytes, random.Random(1)
    latencies_us: list[int] = []
    errors = 0
    begin = time.perf_counter()
    end = begin + seconds

    async def client() -> None:
        nonlocal errors
        while (start := time.perf_counter()) < end:
            try:
                await raft.apply(key(rng.randrange(KEYS)).encode() + value)
            except OperationError:
                errors += 1
            else:
                latencies_us.append(round((time.perf_counter() - start) * 1e6))

    await asyncio.gather(*(client() for _ in range(clients)))
    return answer(latencies_us, time.perf_counter() - begin, errors)


async def main(name: str, directory: str, members: str) -> None:
    peers = dict(member.split("=") for member in members.split(","))
    interpreter.prepare()  # as `syncline serve` does
    async with Raft.open(Config(name=name, data_dir=directory, listen=peers[name], peers=peers), Store()) as raft:
        interpreter.freeze()
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order = json.loads(line)
            answered = raft.is_leader if order == "leads" else await run_load(raft, **order)
            print(json.dumps(answered), flush=True)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
