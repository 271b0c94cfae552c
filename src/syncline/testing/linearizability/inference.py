"""Conclusions about operations of unknown outcome, made before the search.

If only one operation can have written a value and a client read it, that operation took effect: before the first such
read returned, and with the mod_revision that was read, if there was one. (etcd's robustness tests narrow histories in
the same way, from the log on disk.) The rest is left to the search.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TypeAlias

import msgspec

from syncline.testing.linearizability.history import (
    NotApplied,
    Operation,
    PutCall,
    Ran,
    ReadCall,
    Seen,
    Step,
    TxnCall,
    Written,
)
from syncline.testing.linearizability.kv_model import Numbers

__all__ = ["narrowed", "puts_of", "seen_by"]

_Put: TypeAlias = tuple[bytes, bytes]


def narrowed(history: Iterable[Operation]) -> list[Operation]:
    """The history, with what it proves of its own writes filled in."""
    operations = [operation for operation in history if not isinstance(operation.result, NotApplied)]
    givers = Counter(put for operation in operations for put in puts_of(operation))
    sightings = _Sightings(operations, Numbers(operations).taken)
    return [_narrow(operation, givers, sightings) for operation in operations]


class _Sightings:
    """The operations that saw each value: the first return, and the mod_revision (0: unknown or contradictory)."""

    def __init__(self, operations: Iterable[Operation], taken: Collection[int]) -> None:
        self._taken = taken
        self.first_s: dict[_Put, float] = {}
        self.mod_revision: dict[_Put, int] = {}
        for operation in operations:
            for key, seen in seen_by(operation):
                if seen.value is not None:
                    self._add((key, seen.value), seen.mod_revision, operation.return_s)

    def _add(self, put: _Put, mod_revision: int, return_s: float | None) -> None:
        assert return_s is not None
        self.first_s[put] = min(return_s, self.first_s.get(put, math.inf))
        if mod_revision and mod_revision not in self._taken:
            known = self.mod_revision.setdefault(put, mod_revision)
            if known != mod_revision:
                self.mod_revision[put] = 0


def puts_of(operation: Operation) -> Iterator[_Put]:
    """All writes that an operation may make."""
    request = operation.request
    if isinstance(request, PutCall):
        yield request.key, request.value
    elif isinstance(request, TxnCall):
        for step in (*request.then, *request.else_):
            if isinstance(step, PutCall):
                yield step.key, step.value


def seen_by(operation: Operation, *, stale: bool = False) -> Iterator[tuple[bytes, Seen]]:
    """What an operation saw that others had written; of a stale read only if `stale`."""
    request, result = operation.request, operation.result
    if isinstance(request, ReadCall) and isinstance(result, Seen) and (stale or not request.stale):
        yield request.key, result
    if isinstance(request, TxnCall) and isinstance(result, Ran):
        yield from _seen_in(request.then if result.succeeded else request.else_, result)


def _seen_in(branch: Sequence[Step], result: Ran) -> Iterator[tuple[bytes, Seen]]:
    own: set[bytes] = set()
    for step, answer in zip(branch, result.results, strict=False):
        if not isinstance(step, ReadCall):
            own.add(step.key)
        elif isinstance(answer, Seen) and step.key not in own:
            yield step.key, answer


def _narrow(operation: Operation, givers: Counter[_Put], sightings: _Sightings) -> Operation:
    if isinstance(operation.result, Written | Ran) and operation.result.revision:
        return operation
    for put in puts_of(operation):
        if givers[put] == 1 and put in sightings.first_s:
            return _seen_to_happen(operation, put, sightings)
    return operation


def _seen_to_happen(operation: Operation, put: _Put, sightings: _Sightings) -> Operation:
    number = sightings.mod_revision.get(put, 0)
    if isinstance(operation.result, Written | Ran):
        return msgspec.structs.replace(operation, result=msgspec.structs.replace(operation.result, revision=number))
    if operation.result is not None or sightings.first_s[put] < operation.call_s:
        return operation  # refused, or not yet called, and yet it was seen: nothing to fill in, the search will object
    result: Written | Ran = Written(number)
    if isinstance(operation.request, TxnCall):
        then = any(isinstance(step, PutCall) and (step.key, step.value) == put for step in operation.request.then)
        result = Ran(then, number)
    return msgspec.structs.replace(operation, return_s=sightings.first_s[put], result=result)
