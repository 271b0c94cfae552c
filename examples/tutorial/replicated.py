"""Stage 3: the same file on three nodes, changed by the same commands in the same order.

python -m examples.tutorial.replicated NAME        # a, b or c: three shells
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from msgspec import MsgspecError, Struct, msgpack

from examples.tutorial.web import ABSENT, FIRST_PORT, HOST, NO_ROUTE, OK, SECONDS, Answer, start, start_log, usage
from syncline import Config, Entry, FSMSnapshot, Raft, read_file, replace_file
from syncline.errors import Rejected, SynclineError

PORTS = {name: FIRST_PORT + at for at, name in enumerate("abc")}
PEERS = {name: f"{HOST}:{port + 100}" for name, port in PORTS.items()}  # where the nodes talk to each other


class Change(Struct):
    """A command: a key and its new value, or None to delete it."""

    key: str
    value: bytes | None


class State(Struct):
    """What the file holds: keys and values, and the log entry up to which they are."""

    applied: int = 0
    data: dict[str, bytes] = {}


class Store:
    """A state machine: Syncline calls `apply` with the same entries, in the same order, on every node."""

    def __init__(self, folder: str) -> None:
        os.makedirs(folder, exist_ok=True)
        self.path = os.path.join(folder, "data")

    @property
    def applied_index(self) -> int:
        """Saved with the data in one step: after a crash no entry is applied twice."""
        with self.locked() as state:
            return state.applied

    def apply(self, entry: Entry) -> object:
        try:
            change = msgpack.decode(entry.data, type=Change)
        except (MsgspecError, RecursionError) as error:
            raise Rejected(f"not a command: {error}") from error  # any other exception would stop every node
        with self.locked() as state:
            if change.value is None:
                state.data.pop(change.key, None)
            else:
                state.data[change.key] = change.value
            state.applied = entry.index
            replace_file(self.path, msgpack.encode(state))
        return None

    def snapshot(self) -> FSMSnapshot:
        raise NotImplementedError("stage 4")  # the log grows until then

    def restore(self, source: BinaryIO) -> None:
        raise NotImplementedError("stage 4")

    def local_get(self, key: str) -> bytes | None:
        """What this node has, now."""
        with self.locked() as state:
            return state.data.get(key)

    @contextmanager
    def locked(self) -> Iterator[State]:
        with open(self.path + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = read_file(self.path)
            yield State() if content is None else msgpack.decode(content, type=State)


async def respond(raft: Raft[object], store: Store, method: str, path: str, body: bytes) -> Answer:
    key = path.removeprefix("/key/")
    if key == path or not key:
        return NO_ROUTE
    if method == "GET":
        await raft.read_index(timeout=10.0)  # the local file has now all that any node acknowledged
        value = await asyncio.to_thread(store.local_get, key)  # the lock may have to be waited for
        return ABSENT if value is None else (200, value)
    await raft.apply(msgpack.encode(Change(key, None if method == "DELETE" else body)), timeout=10.0)
    return OK  # a majority has it on disk


async def main(name: str, store: Store, snapshot_entries: int = 100_000) -> None:
    config = Config(
        name=name,
        data_dir=f"tutorial-data/{name}/raft",
        listen=PEERS[name],
        peers=PEERS,
        snapshot_entries=snapshot_entries,
    )
    async with Raft.open(config, store) as raft:
        loop = asyncio.get_running_loop()

        def on_loop(method: str, path: str, body: bytes) -> Answer:
            """Called in a thread of the web server: the node lives on the event loop."""
            return asyncio.run_coroutine_threadsafe(respond(raft, store, method, path, body), loop).result(SECONDS)

        start(name, PORTS[name], on_loop)
        await raft.until_stopped()


def run(module: str, store: type[Store], snapshot_entries: int = 100_000) -> None:
    (name,) = usage(module, "NAME   (a, b or c)", PORTS, 1)
    start_log(name)
    try:
        asyncio.run(main(name, store(f"tutorial-data/{name}"), snapshot_entries))
    except (SynclineError, OSError, LookupError) as error:
        sys.exit(f"{name} can't run: {error}")


if __name__ == "__main__":
    run("examples.tutorial.replicated", Store)
