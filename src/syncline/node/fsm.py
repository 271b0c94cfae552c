"""What a state machine is to Syncline, and what it may count on.

Write a class with `apply`, `snapshot` and `restore`; the node calls it the same way on every machine:

- `apply`, `apply_batch`, `snapshot` and `restore` never overlap and run on one thread that is not the event loop's
  (on the loop's own where the class says `apply_on_loop = True`). `FSMSnapshot.persist` runs beside `apply`.
- `apply` must be deterministic: the same entries in the same order give the same state and the same answers on every
  node. No clock, no randomness, no iteration over sets of strings, no files that others write.
- What `apply` returns reaches the caller of `Raft.apply`, on the node where it was called.
- Raising `errors.Rejected` is an answer too: a deterministic refusal, which reaches the caller as that exception and
  must leave the state as it was.
- Any other exception stops the node, and as all nodes apply the same entry, it stops all of them, again at each start,
  until corrected code is deployed: refuse what you can't apply with `Rejected`.
- The methods are called without `await`: none of them may be `async def`.
- A class whose commands change from release to release says `machine_version = 2`: the newest commands that it can
  apply (1 without it). Propose them only if `Raft.machine_version` is as high: then all members can (docs/upgrades.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO, Protocol, TypeVar, runtime_checkable

import msgspec

__all__ = [
    "BatchingFSM",
    "BytesSnapshot",
    "CheckingFSM",
    "DigestingFSM",
    "DurableFSM",
    "Entry",
    "FSM",
    "FSMSnapshot",
    "LimitedFSM",
    "SnapshotSink",
]


R_co = TypeVar("R_co", covariant=True)
"""What `apply` returns."""


class Entry(msgspec.Struct, gc=False, frozen=True):
    """One committed command, as the state machine sees it.

    `index` is its position in the replicated log (growing, with gaps where the log holds entries of the cluster's
    own), `term` the term of the leader that wrote it, `extensions` bytes that travel beside the data for middleware.
    """

    index: int
    term: int
    data: bytes
    extensions: bytes = b""


class SnapshotSink(Protocol):
    """Where a snapshot is written to."""

    def write(self, data: bytes, /) -> object:
        """Append bytes. Raises when the snapshot was cancelled or the disk failed; let it pass through."""
        ...


class FSMSnapshot(Protocol):
    """A consistent view of the state at one index."""

    def persist(self, sink: SnapshotSink) -> None:
        """Write the view. Slow I/O belongs here: it runs beside `apply`, on another thread. Raise to cancel."""
        ...

    def release(self) -> None:
        """Let the view go. Always called, exactly once, also when `persist` failed or never ran."""
        ...


class BytesSnapshot:
    """An `FSMSnapshot` of a state that is small: its bytes, taken while `FSM.snapshot` runs."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def persist(self, sink: SnapshotSink) -> None:
        """Write the bytes."""
        sink.write(self._content)

    def release(self) -> None:
        """Let the bytes go."""
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
    """A state machine that takes many entries at once."""

    def apply_batch(self, entries: Sequence[Entry]) -> Sequence[object]:
        """Apply in order; one answer per entry. A refusal is answered by a `Rejected` *value* in its place."""
        ...


@runtime_checkable
class CheckingFSM(Protocol):
    """A state machine that looks at commands before they enter the log."""

    def check(self, data: bytes) -> None:
        """Raise `errors.Rejected` for a command that `apply` could not read; the caller gets that refusal.

        It is called on the event loop, beside `apply`: by the node on which a command is proposed, and by the leader
        for what other nodes forward. It may depend on `data` alone and not on the state, and should take microseconds.
        """
        ...


@runtime_checkable
class LimitedFSM(Protocol):
    """A state machine whose state has a limit, kept by the leader: above it commands that enlarge the state are refused
    with `NoSpace` before they enter the log.

    `apply` must not refuse anything for this limit: it may differ from node to node.
    """

    max_bytes: int
    """The limit; 0: none."""
    growth_overhead_bytes: int
    """No command enlarges the state by more than its own length and this."""

    @property
    def size_bytes(self) -> int:
        """Of the state as it is now. Read on the event loop, beside `apply`, for each batch of commands."""
        ...

    def growth(self, data: bytes) -> int:
        """By how many bytes the command can enlarge the state as it is now, at most; 0 for one that frees space.

        Called on the event loop while the state is near its limit. Raises `errors.Rejected` for a command that can't be
        read.
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
