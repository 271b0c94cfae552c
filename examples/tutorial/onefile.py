"""Stage 2: the dictionary in a file, under a lock.

python -m examples.tutorial.onefile
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

from msgspec import msgpack

from examples.tutorial import memory
from examples.tutorial.web import FIRST_PORT, start
from syncline import read_file, replace_file


class Store(memory.Store):
    """Every change loads the file, changes it and replaces it as a whole, with the lock held from load to save."""

    def __init__(self, folder: str) -> None:
        os.makedirs(folder, exist_ok=True)
        self.path = os.path.join(folder, "data")

    def get(self, key: str) -> bytes | None:
        with self.locked() as data:
            return data.get(key)

    def set(self, key: str, value: bytes) -> None:
        with self.locked() as data:
            data[key] = value
            replace_file(self.path, msgpack.encode(data))

    def delete(self, key: str) -> None:
        with self.locked() as data:
            data.pop(key, None)
            replace_file(self.path, msgpack.encode(data))

    @contextmanager
    def locked(self) -> Iterator[dict[str, bytes]]:
        with open(self.path + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, also by a crash
            content = read_file(self.path)
            yield {} if content is None else msgpack.decode(content, type=dict[str, bytes])


if __name__ == "__main__":
    start("onefile", FIRST_PORT, Store("tutorial-data/onefile").respond)
    Event().wait()
