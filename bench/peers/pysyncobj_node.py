"""A node of `pysyncobj`: see `embedded`."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from importlib import import_module

from bench.load import KEYS, key
from bench.peers.embedded import answer

pysyncobj = import_module("pysyncobj")  # without types, and not always there


class Store(pysyncobj.SyncObj):  # type: ignore[misc, name-defined]
    """A replicated dictionary."""

    def __init__(self, address: str, others: list[str], journal: str) -> None:
        super().__init__(address, others, conf=pysyncobj.SyncObjConf(journalFile=journal))
        self._values: dict[str, str] = {}

    @pysyncobj.replicated  # type: ignore[untyped-decorator]
    def put(self, name: str, value: str) -> None:
        self._values[name] = value


class Loading:
    """One load: every callback makes the next call, in the library's own thread."""

    def __init__(self, store: Store, clients: int, seconds: float, value_bytes: int) -> None:
        self._store = store
        self._value = "x" * value_bytes
        self._rng = random.Random(1)
        self._latencies_us: list[int] = []
        self._errors = 0
        self._running = clients
        self._done = threading.Event()
        self._begin = time.perf_counter()
        self._end = self._begin + seconds

    def run(self) -> dict[str, object]:
        for _ in range(self._running):
            self._call()
        self._done.wait()
        return answer(self._latencies_us, time.perf_counter() - self._begin, self._errors)

    def _call(self) -> None:
        start = time.perf_counter()
        self._store.put(
            key(self._rng.randrange(KEYS)),
            self._value,
            callback=lambda _result, error: self._called(start, failed=bool(error)),
        )

    def _called(self, start: float, *, failed: bool) -> None:
        now = time.perf_counter()
        if failed:
            self._errors += 1
        else:
            self._latencies_us.append(round((now - start) * 1e6))
        if now < self._end:
            self._call()
            return
        self._running -= 1
        if not self._running:
            self._done.set()


def main(name: str, directory: str, members: str) -> None:
    peers = dict(member.split("=") for member in members.split(","))
    store = Store(peers[name], [peer for other, peer in peers.items() if other != name], directory)
    for line in sys.stdin:
        order = json.loads(line)
        leads = str(store._getLeader()) == peers[name]
        answered = leads and store.isReady() if order == "leads" else Loading(store, **order).run()
        print(json.dumps(answered), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
