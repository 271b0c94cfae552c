"""The tutorial's state machine: keys and values in one data file, guarded by a file lock."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from msgspec import MsgspecError, Struct, msgpack

from syncline import BytesSnapshot, Entry, read_file, replace_file
from syncline.errors import Rejected


class Command(Struct):
    """What is proposed: a key and its new value, or None to delete it."""

    key: bytes
    value: bytes | None


class State(Struct):
    """What the data file holds: keys and values, and the log entry up to which they are."""

    applied: int = 0
    data: dict[bytes, bytes] = {}

    def local_set(self, key: bytes, value: bytes) -> None:
        self.data[key] = value

    def local_delete(self, key: bytes) -> None:
        self.data.pop(key, None)


class Store:
    """Every change loads the file, changes it and replaces it as a whole, with the lock held from load to save."""

    def __init__(self, folder: str) -> None:
        os.makedirs(folder, exist_ok=True)
        self._path = os.path.join(folder, "data")

    # What Syncline calls, on every node, in the same order. What goes wrong here is raised, and stops the node.

    @property
    def applied_index(self) -> int:
        """Saved with the data in one step, so that no entry is applied twice, whenever the process dies."""
        with self._locked() as state:
            return state.applied

    def apply(self, entry: Entry) -> object:
        return self.apply_batch([entry])[0]

    def apply_batch(self, entries: Sequence[Entry]) -> Sequence[object]:
        """However many entries there are, the file is written once."""
        answers: list[object] = []
        with self._locked() as state:
            for entry in entries:
                answers.append(self._carry_out(state, entry.data))
                state.applied = entry.index
            replace_file(self._path, msgpack.encode(state))
        return answers

    def _carry_out(self, state: State, data: bytes) -> Rejected | None:
        """In a batch a refusal is an answer. An exception would stop every node, and again at each start."""
        try:
            command = msgpack.decode(data, type=Command)
        except (MsgspecError, RecursionError) as error:
            return Rejected(f"not a command: {error}")
        if command.value is None:
            state.local_delete(command.key)
        else:
            state.local_set(command.key, command.value)
        return None

    def snapshot(self) -> BytesSnapshot:
        with self._locked() as state:
            return BytesSnapshot(msgpack.encode(state))

    def restore(self, source: BinaryIO) -> None:
        with self._locked():
            replace_file(self._path, source.read())

    # What the server calls.

    def local_get(self, key: bytes) -> bytes | None:
        """What this node has, now: up to date only after `read_index`."""
        with self._locked() as state:
            return state.data.get(key)

    @contextmanager
    def _locked(self) -> Iterator[State]:
        with open(self._path + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the lock's file is closed, also by a crash
            content = read_file(self._path)
            yield msgpack.decode(content, type=State) if content is not None else State()
