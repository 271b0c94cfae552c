"""Histories for tests of the checkers: a plain store that answers requests, made-up clients, and a naive checker."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from syncline.testing.linearizability.history import (
    EXISTS,
    Call,
    CallCompare,
    DeleteCall,
    NotApplied,
    Operation,
    PutCall,
    Ran,
    ReadCall,
    Refused,
    Result,
    Seen,
    Step,
    TxnCall,
    Written,
)

__all__ = ["PlainStore", "agrees", "brute_force", "forget", "made_up", "random_request", "single_key_request"]


class PlainStore:
    """The specification, in the plainest words: it does one request after the other, and tells everything."""

    def __init__(self) -> None:
        self.revision = 0
        self.records: dict[bytes, tuple[bytes, int]] = {}

    def copy(self) -> PlainStore:
        copy = PlainStore()
        copy.revision, copy.records = self.revision, dict(self.records)
        return copy

    def run(self, request: Call, number: int | None = None) -> Result:
        """Do a request; `number`: the revision it takes if it changes something (by default the next one)."""
        number = self.revision + 1 if number is None else number
        if isinstance(request, TxnCall):
            succeeded = all(self._holds(compare) for compare in request.compares)
            results = [self._step(step, number) for step in (request.then if succeeded else request.else_)]
            told = [msgspec.structs.replace(result, revision=0) for result in results]
            return Ran(succeeded, self.revision, tuple(told))
        if isinstance(request, PutCall | DeleteCall) and request.expect is not None:
            revision = self._mod_revision(request.key)
            if not (revision == request.expect or (request.expect == EXISTS and revision)):
                return Refused(revision, self.revision)
        return self._step(request, number)

    def _step(self, step: Step, number: int) -> Written | Seen:
        record = self.records.get(step.key)
        if isinstance(step, ReadCall):
            return Seen(None, 0, self.revision) if record is None else Seen(record[0], record[1], self.revision)
        if isinstance(step, PutCall):
            self.records[step.key] = (step.value, number)
            self.revision = number
        elif record is not None:
            del self.records[step.key]
            self.revision = number
        return Written(self.revision, record is not None)

    def _mod_revision(self, key: bytes) -> int:
        return self.records[key][1] if key in self.records else 0

    def _holds(self, compare: CallCompare) -> bool:
        if isinstance(compare.operand, int):
            return (self._mod_revision(compare.key) == compare.operand) is compare.equal
        if compare.key not in self.records:
            return False
        return (self.records[compare.key][0] == compare.operand) is compare.equal


def agrees(told: Result | None, true: Result) -> bool:
    """Whether a result could be what a client was told of the true one; what it was not told agrees with anything."""
    match told, true:
        case Written(revision, existed), Written(true_revision, true_existed):
            return existed in (None, true_existed) and (revision in (0, true_revision))
        case Seen(value, mod_revision, revision), Seen(true_value, true_mod_revision, true_revision):
            if value != true_value or revision not in (0, true_revision):
                return False
            return value is None or mod_revision in (0, true_mod_revision)
        case Refused(mod_revision, revision), Refused(true_mod_revision, true_revision):
            return mod_revision in (None, true_mod_revision) and revision in (0, true_revision)
        case Ran(succeeded, revision, results), Ran(true_succeeded, true_revision, true_results):
            if succeeded is not true_succeeded or revision not in (0, true_revision):
                return False
            if not results:
                return True
            told_alone = [msgspec.structs.replace(result, revision=0) for result in results]
            return len(results) == len(true_results) and all(map(agrees, told_alone, true_results))
        case _:
            return told is None  # what came of it, nobody knows: anything agrees


def brute_force(operations: Sequence[Operation], numbers: Iterable[int]) -> bool:
    """Whether there is an order, found by trying all of them, with any of `numbers` for what is not told.

    The store's revision may grow in between: by writes of other keys.
    """
    possible = sorted(numbers)

    def search(store: PlainStore, left: tuple[Operation, ...]) -> bool:
        if all(operation.unknown for operation in left):
            return True
        first_end_s = min(operation.return_s for operation in left if operation.return_s is not None)
        return any(
            search(after, left[:place] + left[place + 1 :])
            for place, operation in enumerate(left)
            if operation.call_s <= first_end_s
            for after in outcomes(store, operation)
        )

    def outcomes(store: PlainStore, operation: Operation) -> Iterator[PlainStore]:
        told = 0 if operation.result is None else getattr(operation.result, "revision", 0)
        for grown in {store.revision, max(told, store.revision)}:
            for number in possible:
                if number > grown:
                    after = store.copy()
                    after.revision = grown
                    if agrees(operation.result, after.run(operation.request, number)):
                        yield after

    return search(PlainStore(), tuple(operations))


def random_request(rng: random.Random, keys: Sequence[bytes], value: bytes, store: PlainStore) -> Call:
    """What a client may ask next: it knows a little of what is there, not always the newest."""
    key = rng.choice(keys)
    kind = rng.choices(["read", "put", "swap", "delete", "txn"], [45, 30, 10, 5, 10])[0]
    record = store.records.get(key)
    expect = rng.choice([0, EXISTS, record[1] if record else 0, record[1] if record else 0])
    if kind == "read":
        return ReadCall(key)
    if kind == "put":
        return PutCall(key, value)
    if kind == "swap":
        return PutCall(key, value, expect)
    if kind == "delete":
        return DeleteCall(key, rng.choice([None, None, expect]))
    operand: bytes | int = 0 if record is None else record[rng.randrange(2)]
    compare = CallCompare(key, operand, rng.random() < 0.8)
    other = rng.choice(keys)
    then: tuple[Step, ...] = (ReadCall(other), PutCall(key, value))
    return TxnCall((compare,), then, rng.choice([(), (ReadCall(key),), (DeleteCall(other),)]))


def single_key_request(rng: random.Random, keys: Sequence[bytes], value: bytes, store: PlainStore) -> Call:
    """As `random_request`, without transactions."""
    while isinstance(request := random_request(rng, keys, value, store), TxnCall):
        pass
    return request


Ask = Callable[[random.Random, Sequence[bytes], bytes, PlainStore], Call]


def made_up(
    rng: random.Random,
    *,
    operations: int,
    clients: int,
    keys: Sequence[bytes],
    unknown: float = 0.01,
    ask: Ask = random_request,
) -> list[Operation]:
    """A linearizable history: each operation takes effect at one moment between its call and its return.

    An unknown one takes effect at a later moment, or never.
    """
    store = PlainStore()
    free_s = [rng.random() for _ in range(clients)]
    calls: list[tuple[float, int]] = []
    for number in range(operations):
        client = min(range(clients), key=free_s.__getitem__) if number % 7 else rng.randrange(clients)
        call_s = free_s[client] + rng.expovariate(2.0)
        free_s[client] = call_s + 0.01 + rng.expovariate(1.0)
        calls.append((call_s, client))
    moments: list[tuple[float, int]] = []
    for number, (call_s, _) in enumerate(calls):
        moments.append((call_s + rng.random() * rng.choice([0.01, 1.0]), number))
    made: dict[int, tuple[Call, Result | None, float]] = {}
    for moment_s, number in sorted(moments):
        request = ask(rng, keys, b"%d" % number, store)
        lost = rng.random() < unknown and not isinstance(request, ReadCall)
        if lost and rng.random() < 0.5:
            made[number] = (request, None, moment_s)
            continue
        result = store.run(request)
        made[number] = (request, None if lost else result, moment_s)
    return list(_as_called(calls, made, rng))


def _as_called(
    calls: Sequence[tuple[float, int]], made: dict[int, tuple[Call, Result | None, float]], rng: random.Random
) -> Iterator[Operation]:
    for number in sorted(made, key=lambda number: calls[number]):
        call_s, client = calls[number]
        request, result, moment_s = made[number]
        return_s = None if result is None else moment_s + rng.random() * 0.2
        yield Operation(client=f"c{client}", request=request, call_s=call_s, return_s=return_s, result=result)


def forget(result: Result | None, told: str) -> Result | None:
    """A result as a system tells it that tells less: of `revisions` all, only `mod_revisions`, or `nothing`."""
    if told == "revisions" or result is None or isinstance(result, NotApplied):
        return result
    if isinstance(result, Ran):
        return Ran(result.succeeded, 0, tuple(_less(answer, told) for answer in result.results))
    if isinstance(result, Refused):
        return Refused(result.mod_revision if told == "mod_revisions" else None)
    return _less(result, told)


def _less(answer: Written | Seen, told: str) -> Written | Seen:
    if isinstance(answer, Written):
        return Written(0, answer.existed)
    return Seen(answer.value, answer.mod_revision if told == "mod_revisions" else 0)
