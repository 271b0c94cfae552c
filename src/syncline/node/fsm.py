"""The interface of a state machine, and the guarantees that it may rely on.

Write a class with `apply`, `snapshot` and `restore`; the node calls it the same way on every machine:

- `apply`, `apply_batch`, `snapshot` and `restore` never overlap and run on one thread that is not the event loop's
  (on the loop's own if the class says `apply_on_loop = True`). `FSMSnapshot.persist` runs beside `apply`.
- `apply` must be deterministic: the same entries in the same order give the same state and the same answers on every
  node. No clock, no randomness, no iteration over sets of strings, no files that others write. The time and random
  numbers come from the entry: `Entry.time_s`, `Entry.random`.
- The return value of `apply` reaches the caller of `Raft.apply`, on the node where it was called.
- Raising `errors.Rejected` is an answer too: a deterministic refusal, which reaches the caller as that exception and
  must leave the state as it was.
- Any other exception stops the node. All nodes apply the same entry, so it stops all of them, again at each start,
  until corrected code is deployed: refuse a command that you can't apply with `Rejected`.
- The methods are called without `await`: none of them may be `async def`.
- A class whose commands change from release to release says `machine_version = 2`: the newest commands that it can
  apply (1 without it). Propose them only if `Raft.machine_version` is as high: then all members can
  (docs/upgrades.md).
- A class whose logs on etcd or PostgreSQL were made under another name says `machine_name = "Counter"`: without it the
  name of the class is that of the machine (docs/engines.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import BinaryIO, Protocol, TypeVar, runtime_checkable

import msgspec

__all__ = [
    "AnswerKeepingFSM",
    "BatchingFSM",
    "BytesSnapshot",
    "CheckingFSM",
    "DigestingFSM",
    "DurableFSM",
    "Entry",
    "FSM",
    "FSMSnapshot",
    "LimitedFSM",
    "RenumberingFSM",
    "SnapshotSink",
]


R_co = TypeVar("R_co", covariant=True)
"""What `apply` returns."""


class Entry(msgspec.Struct, gc=False, frozen=True, eq=False, repr_omit_defaults=True):
    """One committed command, as the state machine sees it.

        def apply(self, entry: Entry) -> str:
            self.expires_s = entry.time_s + 60.0
            return entry.random.choice(self.names)

    `index` is its position in the replicated log: growing, with gaps where the log holds entries of the cluster's own.
    `term` is the term of the leader that wrote it, `extensions` are bytes for middleware beside the data. `time_s` and
    `random` take the place of the clock and of chance: they are the same on all nodes, and at each replay of the log.
    """

    index: int
    term: int
    data: bytes
    extensions: bytes = b""
    time_s: float = 0.0
    """The time at which the leader appended the entry: seconds since 1970, UTC, by its wall clock.

    It never falls from one entry to the next, over changes of the leader and restarts too. If the clock of a new leader
    is behind, the time stands still until that clock has caught up. It is as wrong as the clock of the leader. 0 in
    entries from before the cluster reached feature level 2 (docs/upgrades.md).
    """
    seed: int = 0
    """With the index it seeds `random`: the id of the cluster, 0 in entries from before feature level 2."""

    _random: Random | None = None
    """Made at the first use: a source takes microseconds, and most entries need none."""

    @property
    def random(self) -> Random:
        """Random numbers that are the same on all nodes. Each entry has a source of its own.

            winner = entry.random.choice(sorted(names))

        The source is seeded by the cluster's id and the index. So the numbers can be computed: make no secrets of
        them. `random()`, `getrandbits`, `randbytes`, `randrange`, `randint`, `choice`, `sample` and `shuffle` give the
        same numbers in Python 3.11 to 3.14. The distributions, such as `gauss`, may differ between versions of Python.
        """
        source = self._random
        if source is None:
            source = Random(self.seed << 64 | self.index)
            msgspec.structs.force_setattr(self, "_random", source)
        return source

    def __eq__(self, other: object) -> bool:
        return self._content() == other._content() if isinstance(other, Entry) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other  # that of the base class compares nothing here

    def __hash__(self) -> int:
        return hash(self._content())

    def _content(self) -> tuple[int, int, bytes, bytes, float, int]:
        """All but the source of random numbers, which moves on with its use."""
        return self.index, self.term, self.data, self.extensions, self.time_s, self.seed


class SnapshotSink(Protocol):
    """The file of a snapshot that is being written. Example: `FSMSnapshot`."""

    def write(self, data: bytes, /) -> object:
        """Append bytes.

        Raises:
            OSError, Exception: the disk failed, or the snapshot was cancelled; don't catch that.
        """
        ...


class FSMSnapshot(Protocol):
    """A consistent view of the state at one index.

        class Lines:
            def __init__(self, lines: tuple[bytes, ...]) -> None:
                self._lines = lines

            def persist(self, sink: SnapshotSink) -> None:
                for line in self._lines:
                    sink.write(line)

            def release(self) -> None:
                self._lines = ()

    `BytesSnapshot` is one for small states.
    """

    def persist(self, sink: SnapshotSink) -> None:
        """Write the view. Slow I/O belongs here: it runs beside `apply`, on another thread. Raise to cancel."""
        ...

    def release(self) -> None:
        """Release the view. Always called, exactly once, also when `persist` failed or never ran."""
        ...


class BytesSnapshot:
    """An `FSMSnapshot` of a state that is small: its bytes, taken while `FSM.snapshot` runs. Example: `FSM`."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def persist(self, sink: SnapshotSink) -> None:
        """Write the bytes."""
        sink.write(self._content)

    def release(self) -> None:
        """Release the bytes."""
        self._content = b""


class FSM(Protocol[R_co]):
    """A state machine to replicate.

        class Counter:
            def __init__(self) -> None:
                self.count = 0

            def apply(self, entry: Entry) -> int:
                if not entry.data.isdigit():
                    raise Rejected("a command is a number")
                self.count += int(entry.data)
                return self.count

            def snapshot(self) -> FSMSnapshot:
                return BytesSnapshot(b"%d" % self.count)

            def restore(self, source: BinaryIO) -> None:
                self.count = int(source.read())

    `FSM[int]` is one whose `apply` returns an integer, as this one.
    """

    def apply(self, entry: Entry) -> R_co:
        """Change the state by one committed entry; the answer goes to the caller that proposed it.

        Raise `errors.Rejected` for a command that can't be applied, also for one that can't be read. Any other
        exception stops every node at this entry, again at each start, until corrected code is deployed on all of them.
        """
        ...

    def snapshot(self) -> FSMSnapshot:
        """Take a consistent view, quickly: nothing is applied meanwhile.

        If it raises, there is a warning, and another attempt later; the log grows meanwhile.
        """
        ...

    def restore(self, source: BinaryIO) -> None:
        """Drop all state and load this one. The source is closed by the caller.

        A failure leaves the node stopped; the snapshot's checksum has been verified before.
        """
        ...


@runtime_checkable
class BatchingFSM(Protocol):
    """A state machine that takes many entries at once.

        def apply_batch(self, entries: Sequence[Entry]) -> list[object]:
            with self.database.transaction():
                return [self.apply(entry) for entry in entries]

    It has `apply` too.
    """

    def apply_batch(self, entries: Sequence[Entry]) -> Sequence[object]:
        """Apply in order; one answer per entry. A refusal is answered by a `Rejected` *value* in its place."""
        ...


@runtime_checkable
class CheckingFSM(Protocol):
    """A state machine that checks commands before they enter the log.

        def check(self, data: bytes) -> None:
            if not data.isdigit():
                raise Rejected("a command is a number")

    Without it the command takes a place in the log before `apply` refuses it.
    """

    def check(self, data: bytes) -> None:
        """Refuse a command that `apply` could not read.

        It is called on the event loop, beside `apply`: by the node on which a command is proposed, and by the leader
        for what other nodes forward. It may depend on `data` alone and not on the state, and should take microseconds.

        Raises:
            Rejected: the command can't be read; the caller gets this refusal.
        """
        ...


@runtime_checkable
class LimitedFSM(Protocol):
    """A state machine whose state has a limit.

        def growth(self, data: bytes) -> int:
            return 0 if data.startswith(b"delete ") else len(data)

    The leader keeps the limit. Above it, commands that enlarge the state are refused with `NoSpace` before they enter
    the log. `apply` must not refuse anything for this limit: it may differ from node to node.
    """

    max_bytes: int
    """The limit; 0: none."""
    growth_overhead_bytes: int
    """No command enlarges the state by more than its own length and this."""
    growth_factor: int
    """No command enlarges the state by more than so many times its own length: it bounds that of small commands."""

    @property
    def size_bytes(self) -> int:
        """Of the state as it is now. Read on the event loop, beside `apply`, for each batch of commands."""
        ...

    def growth(self, data: bytes) -> int:
        """Return by how many bytes the command can enlarge the state at most; 0 for one that frees space.

        Called on the event loop while the state is near its limit.

        Raises:
            Rejected: the command can't be read.
        """
        ...


@runtime_checkable
class DurableFSM(Protocol):
    """A state machine that keeps its own state on disk.

    It commits `applied_index` atomically with its state. At start it is not restored from a snapshot, only caught
    up: entries up to `applied_index` are not applied again. (`syncline.replace_file` makes one file of both.) A node
    does not start if `applied_index` is beyond the end of its log: the two are not of one node then.
    """

    @property
    def applied_index(self) -> int:
        """The index of the last entry that the state on disk holds."""
        ...


@runtime_checkable
class DigestingFSM(Protocol):
    """A state machine with a digest of its state, which the nodes compare at intervals (docs/digest.md).

        def digest(self) -> bytes:
            return self.count.to_bytes(8)

    A node that differs from the majority of the voters stops. Class attribute `digest_version` (1 if absent, at most
    65,535): raise it whenever equal states get other digests than before; different versions are not compared.
    """

    def digest(self) -> bytes:
        """Return 1 to 64 bytes that equal states share and that different states almost surely do not.

        Called between two applies, on their thread: keep the digest up to date with each change, so that the call is
        cheap. It depends on the state alone, never on Python's own `hash`. If it raises or returns anything else, this
        node compares no more until its next start.
        """
        ...


@runtime_checkable
class RenumberingFSM(Protocol):
    """A state machine with a number that clients rely on to rise: a revision, or a fencing token.

        def renumber(self, jump: int, source: BinaryIO | None) -> None:
            known = self.newest_token
            if source is not None:
                self.restore(source)
            self.newest_token = max(known, self.newest_token) + jump

    An older state can take the place of a newer one: `Raft.restore`, `Raft.recover`, `restore_snapshot` into the log of
    another engine. The numbers of the lost state must not come again (docs/recovery.md).
    """

    def renumber(self, jump: int, source: BinaryIO | None) -> None:
        """Load the state from `source` as `restore` does, or keep the present one if that is None; then go on with
        numbers that are `jump` above all that are known.

        Called between two applies. What happened in between can't be told to a client that asks for it: the client
        must read the state again.
        """
        ...


@runtime_checkable
class AnswerKeepingFSM(Protocol):
    """A state machine whose answers can be written as bytes.

        def dump_answer(self, answer: object) -> bytes:
            return b"%d" % answer

        def load_answer(self, data: bytes) -> object:
            return int(data)

    So a repeated command of a session gets the answer of the first one (docs/exactly-once.md).

    Without it answers of plain data are kept: numbers, texts, bytes, lists and dicts. An answer of more than 64 KiB is
    not kept. Both functions read no state; what they raise is logged, and the answer is then not kept.
    """

    def dump_answer(self, answer: object) -> bytes:
        """Write an answer of `apply`, on its thread. Refusals (`Rejected`) are kept without it."""
        ...

    def load_answer(self, data: bytes) -> object:
        """Read an answer that this version, or an earlier one, has written."""
        ...
