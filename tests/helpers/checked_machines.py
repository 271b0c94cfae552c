"""State machines that tests give to `check_fsm`, which runs them in other processes too.

They are no part of a test's module: each such process would import pytest, which takes longer than all that it does.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import dataclass
from typing import BinaryIO

import msgspec

from syncline import Entry, FSMSnapshot, SnapshotSink

__all__ = [
    "AnswersRecords",
    "Prints",
    "ReadsTheZone",
    "Branch",
    "DigestOfAnotherProcess",
    "Digesting",
    "Hashed",
    "HiddenBefore",
    "Items",
    "Loop",
    "Snapshot",
    "Waiting",
]


class Snapshot:
    def __init__(self, items: list[str]) -> None:
        self.items = items

    def persist(self, sink: SnapshotSink, /) -> None:
        sink.write(b"[")
        for number, item in enumerate(self.items):
            sink.write((b", " if number else b"") + json.dumps(item).encode())
        sink.write(b"]")

    def release(self) -> None:
        pass


class Items:
    """Right in every way: the list of commands."""

    def __init__(self) -> None:
        self.items: list[str] = []

    def apply(self, entry: Entry) -> object:
        self.items.append(entry.data.decode())
        return len(self.items)

    def snapshot(self) -> FSMSnapshot:
        return Snapshot(list(self.items))

    def restore(self, source: BinaryIO) -> None:
        self.items = json.load(source)


class Prints(Items):
    """Right, and it shows what it does."""

    def apply(self, entry: Entry) -> object:
        print("applied", entry.data)
        return super().apply(entry)


class Tags(msgspec.Struct):
    names: set[str]


@dataclass
class Tagged:
    tags: Tags
    pairs: list[frozenset[str]]


class AnswersRecords(Items):
    """Right: sets in a record have no order."""

    def apply(self, entry: Entry) -> object:
        super().apply(entry)
        names = {f"{entry.data.decode()} {letter}" for letter in "abcdef"}
        return Tagged(Tags(names), [frozenset(names)])


class ReadsTheZone(Items):
    """The day of a time depends on the time zone of the machine."""

    def apply(self, entry: Entry) -> object:
        super().apply(entry)
        return str(dt.datetime.fromtimestamp(int(entry.data) * 3600))  # noqa: DTZ006 - that is the fault


class Digesting(Items):
    def digest(self) -> bytes:
        return hashlib.sha256(json.dumps(self.items).encode()).digest()


class DigestOfAnotherProcess(Items):
    def digest(self) -> bytes:
        return b"%d" % hash("".join(self.items))


class Shown:
    def __init__(self, state: object) -> None:
        self.state = state

    def persist(self, sink: SnapshotSink, /) -> None:
        sink.write(json.dumps(self.state).encode())

    def release(self) -> None:
        pass


class Waiting:
    """Each command adds a name to a set; `draw` takes one out of it."""

    def __init__(self) -> None:
        self.waiting: set[str] = set()
        self.order: dict[str, int] = {}

    def apply(self, entry: Entry) -> object:
        if entry.data == b"draw":
            answer = self.draw()
            self.waiting.discard(min(self.waiting, default=""))
            return answer
        self.waiting.add(entry.data.decode())
        return None

    def draw(self) -> str:
        return min(self.waiting)

    def snapshot(self) -> FSMSnapshot:
        return Shown([sorted(self.waiting), sorted(self.order)])

    def restore(self, source: BinaryIO) -> None:
        waiting, order = json.load(source)
        self.waiting, self.order = set(waiting), dict.fromkeys(order, 0)


class Loop(Waiting):
    def draw(self) -> str:
        for name in self.waiting:  # parts here
            return name
        return ""


class Hashed(Waiting):
    def draw(self) -> str:
        names = sorted(self.waiting)
        place = hash(names[0]) % len(names)  # parts here
        return names[place]


class Branch(Waiting):
    def draw(self) -> str:
        if hash(min(self.waiting)) % 2:  # parts here
            return "odd"
        return "even"


class HiddenBefore(Waiting):
    """The state parts in one command, its snapshot shows nothing of it, and a later command answers by it."""

    def apply(self, entry: Entry) -> object:
        if entry.data == b"fix":
            self.order = dict.fromkeys(self.waiting, 0)  # parts here
            return len(self.order)
        return super().apply(entry)

    def draw(self) -> str:
        return " ".join(self.order)
