"""The key-value store's specification for the linearizability checker: possible effects of each operation.

A *move* is one operation with the known part of its result: the condition before it, its change, and the number of
its change. For a state of the store it gives the possible states after it; none, if its result is impossible in that
state.

Numbers are the store's revisions: every write that changes something takes one above all before it. Numbers in a
history are binding. A write whose answer was lost can have any number that fits. It has one successor for each number
that an operation mentions for its keys and that no known write has. One more is for the least unmentioned number. That
is exact: no operation distinguishes unmentioned numbers, and the least leaves the most room for later ones.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from syncline.testing.linearizability.history import (
    EXISTS,
    CallCompare,
    DeleteCall,
    Operation,
    PutCall,
    Ran,
    ReadCall,
    Refused,
    Seen,
    Step,
    TxnCall,
    Written,
)

__all__ = ["ANY", "Guard", "Move", "Numbers", "Record", "State", "Want", "moves_of", "told"]

Record: TypeAlias = tuple[bytes, int]
"""A key's value and mod_revision."""

State: TypeAlias = tuple[int, tuple[Record | None, ...]]
"""The store's revision, at the least, and the record of each key; None: there is no such key."""

Guard: TypeAlias = tuple[int, bytes | int, bool]
"""A condition on the record in this place: that its value (bytes) or its mod_revision (a number; 0: that there is
none) equals this operand, or (False) that it does not. Of a record that is not there no value holds."""

Effect: TypeAlias = tuple[int, bytes | None]
"""The record in this place gets a new value, or goes (None)."""

ANY: Final = -1
"""Wanted: that the key be in any other state."""

Want: TypeAlias = tuple[int, bytes | int | None]
"""The place of a key, and the value that would let an operation have its result: bytes, None (no such key), `ANY`."""


def holds(record: Record | None, operand: bytes | int, equal: bool) -> bool:
    """Whether a guard's condition is true of a record."""
    if isinstance(operand, bytes):
        return record is not None and (record[0] == operand) is equal
    return ((record[1] if record is not None else 0) == operand) is equal


_NONE: Final[set[int]] = set()


class Numbers:
    """The revisions that a whole history reports."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.taken: set[int] = set()
        """Those of writes that are known to have them: of no other write."""
        self.value_at: dict[tuple[bytes, int], bytes] = {}
        """The value of a key that was seen at a mod_revision."""
        self._mentioned: defaultdict[bytes, set[int]] = defaultdict(set)
        for operation in operations:
            self._learn(operation)

        self._open = {key: mentioned - self.taken for key, mentioned in self._mentioned.items()}

    def mentioned(self, key: bytes) -> set[int]:
        """The mod_revisions that an operation saw, expected or compared at a key, and that no known write has."""
        return self._open.get(key, _NONE)

    def room(self, low: int, high: int) -> bool:
        """Whether a number above `low` and up to `high` is left for a write whose number is not known."""
        return any(number not in self.taken for number in range(low + 1, high + 1))

    def _learn(self, operation: Operation) -> None:
        request, result = operation.request, operation.result
        if isinstance(request, PutCall | DeleteCall):
            self._mention(request.key, request.expect)
        if isinstance(request, TxnCall):
            for compare in request.compares:
                if isinstance(compare.operand, int):
                    self._mention(compare.key, compare.operand)
        if result is None:
            return
        if isinstance(request, ReadCall) and isinstance(result, Seen) and not request.stale:
            self._see(request.key, result)
        if isinstance(request, PutCall | DeleteCall) and isinstance(result, Refused):
            self._mention(request.key, result.mod_revision)
        if isinstance(request, TxnCall) and isinstance(result, Ran):
            branch = request.then if result.succeeded else request.else_
            for step, answer in zip(branch, result.results, strict=False):
                if isinstance(answer, Seen):
                    self._see(step.key, answer)
        number, changed = told(operation)
        if changed and number:
            self.taken.add(number)

    def _see(self, key: bytes, seen: Seen) -> None:
        if seen.value is not None and seen.mod_revision:
            self._mention(key, seen.mod_revision)
            self.value_at[key, seen.mod_revision] = seen.value

    def _mention(self, key: bytes, number: int | None) -> None:
        if number is not None and number > 0:
            self._mentioned[key].add(number)


def told(operation: Operation) -> tuple[int, bool]:
    """The store's revision after an operation, as its result tells it (0: it does not), and whether it changed
    something. If a result leaves that open its revision says little, and counts as not reported."""
    request, result = operation.request, operation.result
    match result:
        case Seen(revision=revision) | Refused(revision=revision):
            return revision, False
        case Written(revision=revision, existed=existed):
            if isinstance(request, PutCall):
                return revision, True
            return (0, False) if existed is None else (revision, existed)
        case Ran(succeeded=succeeded, revision=revision, results=results):
            assert isinstance(request, TxnCall)
            branch = request.then if succeeded else request.else_
            if any(isinstance(step, PutCall) for step in branch):
                return revision, True
            deletes = [number for number, step in enumerate(branch) if isinstance(step, DeleteCall)]
            answers = [results[number] for number in deletes if number < len(results)]
            gone = [answer.existed for answer in answers if isinstance(answer, Written)]
            if True in gone:
                return revision, True
            return (0, False) if None in gone or len(gone) < len(deletes) else (revision, False)
        case _:
            return 0, False


class Move:
    """One thing that an operation may have done. See the module's text."""

    __slots__ = (
        "_guards",
        "_guesses",
        "_mentioned",
        "_not_all",
        "_puts",
        "_taken",
        "changes",
        "counts",
        "effects",
        "exact",
        "number",
        "observes",
        "operation",
        "optional",
        "pure",
        "wants",
    )

    def __init__(
        self,
        operation: Operation,
        guards: Sequence[Guard],
        not_all: Sequence[Guard],
        effects: Sequence[Effect],
        keys: Sequence[bytes],
        numbers: Numbers,
    ) -> None:
        self.operation: Operation = operation
        self.optional: bool = operation.unknown
        """Whether it may as well not have happened."""
        self.number: int
        self.changes: bool
        self.number, self.changes = told(operation)
        """The store's revision after it, 0 if that is not reported; and whether it is known to take that as its own."""
        self.effects: tuple[Effect, ...] = tuple(effects)
        self._guards = tuple(guards)
        self._not_all = tuple(not_all)
        self._puts = any(value is not None for _, value in effects)
        self.observes: int = _mask(place for place, _, _ in (*guards, *not_all))
        """The places of the keys whose records it depends on, a bit each."""
        self.counts: bool = any(isinstance(operand, int) and operand > 0 for _, operand, _ in (*guards, *not_all))
        """Whether it depends on some mod_revision."""
        self.exact: bool = any(equal and isinstance(operand, int) and operand > 0 for _, operand, equal in guards)
        """Whether it pins a record to one mod_revision, so that no write of its key can come between that and it."""
        self.pure: bool = (
            all((place, 0, True) in guards for place, value in effects if value is None) and not self._puts
        )
        """Whether it changes nothing, wherever it stands: it looks, or it removes what is known not to be there."""
        self.wants: tuple[Want, ...] = tuple(dict.fromkeys(_wants(guards, not_all, keys, numbers)))
        self._taken = numbers.taken
        self._mentioned: set[int] = set()
        if not self.number:
            self._mentioned = self._mentioned.union(
                *(numbers.mentioned(keys[place]) for place, value in effects if value is not None)
            )
        self._guesses = sorted(number for number in self._mentioned if _fits(number, effects, keys, numbers))

    def after(self, state: State) -> Sequence[State]:
        """The states that the store can be in when this happened in `state`."""
        floor, records = state
        for place, operand, equal in self._guards:
            if not holds(records[place], operand, equal):
                return ()
        if self._not_all and all(holds(records[place], operand, equal) for place, operand, equal in self._not_all):
            return ()
        if not self._puts and all(records[place] is None for place, _ in self.effects):
            return self._unchanged(state)
        return [(number, self._changed(records, number)) for number in self._numbers(floor)]

    def _unchanged(self, state: State) -> Sequence[State]:
        if self.optional or 0 < self.number < state[0]:
            return ()
        return (state,) if self.number <= state[0] else ((self.number, state[1]),)

    def _changed(self, records: tuple[Record | None, ...], number: int) -> tuple[Record | None, ...]:
        changed = list(records)
        for place, value in self.effects:
            changed[place] = None if value is None else (value, number)
        return tuple(changed)

    def _numbers(self, floor: int) -> list[int]:
        if self.number:
            return [self.number] if self.number > floor else []
        numbers = [number for number in self._guesses if number > floor]
        least = floor + 1
        while least in self._taken or least in self._mentioned:
            least += 1
        numbers.append(least)
        return numbers


def _mask(places: Iterable[int]) -> int:
    return functools.reduce(lambda mask, place: mask | 1 << place, places, 0)


def _fits(number: int, effects: Sequence[Effect], keys: Sequence[bytes], numbers: Numbers) -> bool:
    return all(numbers.value_at.get((keys[place], number), value) == value for place, value in effects)


def _wants(guards: Sequence[Guard], not_all: Sequence[Guard], keys: Sequence[bytes], numbers: Numbers) -> list[Want]:
    wants: list[Want] = [(place, ANY) for place, _, _ in not_all]
    for place, operand, equal in guards:
        if not equal:
            wants.append((place, ANY))
        elif isinstance(operand, bytes):
            wants.append((place, operand))
        elif operand == 0:
            wants.append((place, None))
        else:
            wants.append((place, numbers.value_at.get((keys[place], operand), ANY)))
    return wants


def moves_of(operation: Operation, keys: Sequence[bytes], numbers: Numbers) -> list[Move]:
    """The possible effects of an operation on a store of these keys: one move if its result is known (or none, if
    that is impossible in itself), else one for each way to have an effect."""
    places = {key: place for place, key in enumerate(keys)}
    request, result = operation.request, operation.result
    if isinstance(request, TxnCall):
        assert result is None or isinstance(result, Ran)
        return _txn_moves(operation, request, result, places, keys, numbers)
    place = places[request.key]
    if isinstance(request, ReadCall):
        assert isinstance(result, Seen)
        return [Move(operation, _seen(place, result), (), (), keys, numbers)]
    expected = _expected(place, request)
    if isinstance(result, Refused):
        told_there: list[Guard] = [] if result.mod_revision is None else [(place, result.mod_revision, True)]
        return [Move(operation, told_there, expected, (), keys, numbers)]
    assert result is None or isinstance(result, Written)
    guards = expected + (_existed(place, result.existed) if result is not None else [])
    value = request.value if isinstance(request, PutCall) else None
    return [Move(operation, guards, (), [(place, value)], keys, numbers)]


def _seen(place: int, seen: Seen) -> list[Guard]:
    if seen.value is None:
        return [(place, 0, True)]
    return [(place, seen.value, True)] + ([(place, seen.mod_revision, True)] if seen.mod_revision else [])


def _expected(place: int, request: PutCall | DeleteCall) -> list[Guard]:
    if request.expect is None:
        return []
    return [(place, 0, False)] if request.expect == EXISTS else [(place, request.expect, True)]


def _existed(place: int, existed: bool | None) -> list[Guard]:
    return [] if existed is None else [(place, 0, not existed)]


def _txn_moves(
    operation: Operation,
    request: TxnCall,
    result: Ran | None,
    places: Mapping[bytes, int],
    keys: Sequence[bytes],
    numbers: Numbers,
) -> list[Move]:
    compares = [_compared(places[compare.key], compare) for compare in request.compares]
    moves: list[Move] = []
    for succeeded, branch in ((True, request.then), (False, request.else_)):
        if result is not None and result.succeeded is not succeeded:
            continue
        if not succeeded and not compares:
            continue  # nothing to fail
        effects: list[Effect] = [
            (places[step.key], step.value if isinstance(step, PutCall) else None)
            for step in branch
            if not isinstance(step, ReadCall)
        ]
        if result is None and not effects:
            continue
        observed = _observed(branch, result, places) if result is not None else []
        if observed is not None:
            guards = [*compares, *observed] if succeeded else observed
            moves.append(Move(operation, guards, () if succeeded else compares, effects, keys, numbers))
    return moves


def _compared(place: int, compare: CallCompare) -> Guard:
    return (place, compare.operand, compare.equal)


def _observed(branch: Sequence[Step], result: Ran, places: Mapping[bytes, int]) -> list[Guard] | None:
    """The state before a branch, as far as its results show it; None if they can't be of this branch."""
    if not result.results:
        return []
    if len(result.results) != len(branch):
        return None
    guards: list[Guard] = []
    written: dict[bytes, bytes | None] = {}
    for step, answer in zip(branch, result.results, strict=True):
        place = places[step.key]
        if isinstance(step, ReadCall) is not isinstance(answer, Seen):
            return None
        if isinstance(answer, Written):
            guards += _existed(place, answer.existed)
            written[step.key] = step.value if isinstance(step, PutCall) else None
        elif step.key not in written:
            guards += _seen(place, answer)
        elif answer.value != written[step.key] or (result.revision and answer.mod_revision not in (0, result.revision)):
            return None  # the transaction's own write
    return guards
