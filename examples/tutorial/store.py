"""The tutorial's state machine: keys and values in one data file, guarded by a file lock."""

from __future__ import annotations

import base64
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import BinaryIO

from syncline import Entry, SnapshotSink


@dataclass
class State:
    """What the file holds: keys and values as URL-safe base64, and the log entry up to which they are."""

    applied: int = 0
    data: dict[str, str] = field(default_factory=dict)


class Store:
    """Every change loads the file, changes it and replaces it as a whole, with the lock held from load to save."""

    def __init__(self, folder: str) -> None:
        os.makedirs(folder, exist_ok=True)
        self._path = os.path.join(folder, "data.json")

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
        with self._locked(save=True) as state:
            for entry in entries:
                command = json.loads(entry.data)
                if command["action"] == "set":
                    local_set(state, command["key"], command["value"])
                else:
                    local_delete(state, command["key"])
                state.applied = entry.index
        return [None] * len(entries)

    def snapshot(self) -> Snapshot:
        with self._locked() as state:
            return Snapshot(state)

    def restore(self, source: BinaryIO) -> None:
        restored = State(**json.load(source))
        with self._locked(save=True) as state:
            state.applied, state.data = restored.applied, restored.data

    def local_get(self, key: str) -> bytes | None:
        """What this node has, now: up to date only after `read_index`."""
        with self._locked() as state:
            return base64.urlsafe_b64decode(state.data[key]) if key in state.data else None

    @contextmanager
    def _locked(self, *, save: bool = False) -> Iterator[State]:
        """The state as the file has it; with `save`, and if nothing was raised, it is then written back."""
        with open(self._path + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the lock's file is closed, also by a crash
            state = State(**json.loads(read(self._path) or "{}"))
            yield state
            if save:
                replace(self._path, json.dumps(asdict(state)))


def local_set(state: State, key: str, value: str) -> None:
    state.data[key] = value


def local_delete(state: State, key: str) -> None:
    state.data.pop(key, None)


class Snapshot:
    """The state at one moment, on its way to a snapshot file."""

    def __init__(self, state: State) -> None:
        self._state = state

    def persist(self, sink: SnapshotSink) -> None:
        sink.write(json.dumps(asdict(self._state)).encode())

    def release(self) -> None:
        self._state = State()


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def replace(path: str, text: str) -> None:
    """Put a file in another's place: after a crash it is the old one or the new one, and never half of one."""
    with open(path + ".new", "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: str) -> str:
    """A file's text; empty where there is none."""
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""
