"""The parts of one batch: what is proposed, and the results as they become known.

Operations without a session that stand beside each other are one part, and one entry of the log. An operation with a
session and a sequence is a part of its own: the session decides whether it is carried out or was before. All parts are
proposed in one turn, in their order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from syncline.errors import (
    AnswerNotKept,
    IdempotencyMismatch,
    LimitReached,
    Outcome,
    Rejected,
    SessionExpired,
    SynclineError,
    TooLarge,
)
from syncline.kv import commands
from syncline.kv.commands import OperationBatch, check_batch, encode_command
from syncline.kv.records import BatchAnswer, OperationAnswer
from syncline.sessions.entries import OnceKey

__all__ = ["BatchPart", "PartedBatch", "only_reads"]

RESULTS = (
    Rejected,
    TooLarge,
    SessionExpired,
    IdempotencyMismatch,
    AnswerNotKept,
    LimitReached,
)
"""Errors that are the result of an operation. Others say that the cluster has not taken it, or that it is not known."""

Result = TypeVar("Result")


def only_reads(operation: commands.TxnOperation) -> bool:
    """Whether an operation changes nothing, whatever it finds."""
    if isinstance(operation, commands.Txn):
        return all(map(only_reads, operation.then)) and all(map(only_reads, operation.else_))
    return isinstance(operation, commands.Get | commands.Range)


class BatchPart(msgspec.Struct):
    """Operations that are proposed together, with their places in the batch."""

    operations: list[commands.BatchOperation] = []
    places: list[int] = []
    key: OnceKey | None = None
    """For the one operation that has a session."""
    fingerprint: bytes = b""
    command: bytes = b""
    plain: bool = False
    """It has only puts that were checked, with a key and a value each."""

    @property
    def frees_space(self) -> bool:
        """Whether it only makes the store smaller."""
        if type(self.operations[0]) is commands.Put:  # most batches: the others need not be looked at
            return False
        return commands.frees_space(OperationBatch(tuple(self.operations)))


class PartedBatch(ABC, Generic[Result]):
    """Collects the operations of a batch into parts, and their results, in a form that a subclass gives them."""

    __slots__ = ("_failed", "_left", "_results", "parts", "revision")

    def __init__(self, count: int) -> None:
        self._results: list[Result | None] = [None] * count
        self._left = 0
        self._failed: list[BaseException] = []
        self.parts: list[BatchPart] = []
        self.revision: int = 0
        """The store's after the last operation."""

    @property
    def results(self) -> Sequence[Result | None]:
        """One for each operation, once all parts are done."""
        return self._results

    @property
    def reads_only(self) -> bool:
        """Whether the batch only reads: it takes no entry of the log then."""
        parts = self.parts
        return len(parts) == 1 and parts[0].key is None and all(map(only_reads, parts[0].operations))

    def add(self, place: int, operation: commands.BatchOperation, key: OnceKey | None, fingerprint: bytes) -> None:
        """Add an operation behind those that were added before."""
        if key is not None:
            self.parts.append(BatchPart([operation], [place], key, fingerprint))
        elif self.parts and (last := self.parts[-1]).key is None:
            last.operations.append(operation)
            last.places.append(place)
        else:
            self.parts.append(BatchPart([operation], [place]))

    def add_puts(self, puts: list[commands.Put]) -> None:
        """Add all operations of a batch that has only puts with a key and a value, within all limits."""
        self.parts.append(BatchPart([*puts], [*range(len(puts))], plain=True))

    def encode(self) -> None:
        """Make the commands of the parts. An operation that no store can carry out is refused alone.

        Raises `TooLarge` or `Rejected` if each operation alone is sound: the batch as a whole is too large.
        """
        for part in self.parts:
            part.command = self._made(part, _encoded)
        self.parts = [part for part in self.parts if part.operations]
        self._left = len(self.parts)

    def check_reads(self) -> None:
        """Check a batch that only reads, of which no command is made, as `encode` does. Raises what it raises."""
        for part in self.parts:
            self._made(part, _checked)
        self.parts = [part for part in self.parts if part.operations]

    def refuse(self, place: int, error: Exception, repeated: bool = False) -> None:
        """Record the refusal of one operation. `repeated`: it was recorded when the operation came before."""
        self._results[place] = self._refused(error, repeated)

    @abstractmethod
    def answered(self, part: BatchPart, answer: BatchAnswer) -> None:
        """Record the results of a part without a key."""

    @abstractmethod
    def _refused(self, error: Exception, repeated: bool = False) -> Result: ...

    @abstractmethod
    def _done_once(self, operation: commands.BatchOperation, answer: OperationAnswer, repeated: bool) -> Result: ...

    def done(self, part: BatchPart, result: object, error: SynclineError | None, repeated: bool = False) -> bool:
        """Record what became of a part. Return whether all parts are done."""
        self._left -= 1
        if error is not None:
            if part.key is None or not isinstance(error, RESULTS):
                self._failed.append(error)
            for place in part.places:
                self.refuse(place, error, repeated)
        elif part.key is None:
            assert isinstance(result, BatchAnswer), result
            self.answered(part, result)
        else:
            assert isinstance(result, OperationAnswer), result
            self._results[part.places[0]] = self._done_once(part.operations[0], result, repeated)
        return self._left == 0

    @property
    def failure(self) -> BaseException | None:
        """The error of the whole batch: the cluster has taken none of its parts. An unknown outcome comes first."""
        if not self._failed or len(self._failed) < len(self.parts):
            return None
        unknown = [one for one in self._failed if getattr(one, "outcome", None) is Outcome.UNKNOWN]
        return (unknown or self._failed)[0]

    def _made(self, part: BatchPart, make: Callable[[BatchPart], bytes]) -> bytes:
        """What `make` makes of a part. An operation for which that fails is refused alone."""
        try:
            return make(part)
        except (Rejected, TooLarge) as refusal:
            self._refuse_invalid(part, refusal)
            return make(part) if part.operations else b""

    def _refuse_invalid(self, part: BatchPart, refusal: SynclineError) -> None:
        sound: list[tuple[int, commands.BatchOperation]] = []
        for place, operation in zip(part.places, part.operations, strict=True):
            try:
                encode_command(OperationBatch((operation,)))
            except (Rejected, TooLarge) as error:
                self.refuse(place, error)
            else:
                sound.append((place, operation))
        if len(sound) == len(part.places):
            raise refusal
        part.places = [place for place, _ in sound]
        part.operations = [operation for _, operation in sound]


def _checked(part: BatchPart) -> bytes:
    check_batch(OperationBatch(tuple(part.operations)))
    return b""


def _encoded(part: BatchPart) -> bytes:
    if part.key is None:
        return encode_command(OperationBatch(tuple(part.operations)), checked=part.plain)
    (operation,) = part.operations
    assert not isinstance(operation, commands.Get | commands.Range), "a read has no session"
    return encode_command(operation)
