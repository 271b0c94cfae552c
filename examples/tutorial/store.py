"""Stage 5: the finished state machine. A command may return a value, and many entries are one write of the file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from msgspec import MsgspecError, Struct, msgpack

from syncline import BytesSnapshot, Entry, read_file, replace_file
from syncline.errors import Rejected


class Set(Struct, tag="set"):
    key: str
    value: bytes


class Delete(Struct, tag="delete"):
    key: str


class Add(Struct, tag="add"):
    """Count up: the new number is the answer, on whichever node it was asked for."""

    key: str
    by: int = 1


Command = Set | Delete | Add


class State(Struct):
    """What the file holds: keys and values, and the log entry up to which they are."""

    applied: int = 0
    data: dict[str, bytes] = {}

    def carry_out(self, command: Command) -> object:
        match command:
            case Set(key, value):
                self.data[key] = value
            case Delete(key):
                self.data.pop(key, None)
            case Add(key, by):
                number = int(self.data.get(key, b"0")) + by
                self.data[key] = b"%d" % number
                return number
        return None


class Store:
    """Every change loads the file, changes it and replaces it as a whole, with the lock held from load to save."""

    def __init__(self, folder: str) -> None:
        os.makedirs(folder, exist_ok=True)
        self.path = os.path.join(folder, "data")

    # What Syncline calls, on every node, in the same order. What goes wrong here is raised, and stops the node.

    @property
    def applied_index(self) -> int:
        """Saved with the data in one step, so that no entry is applied twice, whenever the process dies."""
        with self.locked() as state:
            return state.applied

    def apply(self, entry: Entry) -> object:
        answer = self.apply_batch([entry])[0]
        if isinstance(answer, Rejected):
            raise answer
        return answer

    def apply_batch(self, entries: Sequence[Entry]) -> Sequence[object]:
        """However many entries there are, the file is written once. In a batch a refusal is an answer."""
        answers: list[object] = []
        with self.locked() as state:
            for entry in entries:
                try:
                    answers.append(state.carry_out(msgpack.decode(entry.data, type=Command)))
                except (MsgspecError, RecursionError, ValueError) as error:
                    answers.append(Rejected(f"refused: {error}"))  # it changes nothing, `applied` included
                else:
                    state.applied = entry.index
            replace_file(self.path, msgpack.encode(state))
        return answers

    def snapshot(self) -> BytesSnapshot:
        with self.locked() as state:
            return BytesSnapshot(msgpack.encode(state))

    def restore(self, source: BinaryIO) -> None:
        with self.locked():
            replace_file(self.path, source.read())

    # What the server calls.

    def local_get(self, key: str) -> bytes | None:
        """What this node has, now: up to date only after `read_index`."""
        with self.locked() as state:
            return state.data.get(key)

    @contextmanager
    def locked(self) -> Iterator[State]:
        with open(self.path + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, also by a crash
            content = read_file(self.path)
            yield msgpack.decode(content, type=State) if content is not None else State()
