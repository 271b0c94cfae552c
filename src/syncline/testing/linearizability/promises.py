"""Promises to clients beside linearizability, each with its check.

Every check returns the anomalies that it found, an empty list for a good history. None of them raises a false alarm:
it passes if a history does not report enough to be sure.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import msgspec

from syncline.testing.linearizability.format import describe_all
from syncline.testing.linearizability.history import (
    DeleteCall,
    NotApplied,
    Operation,
    PutCall,
    Ran,
    ReadCall,
    Seen,
    TxnCall,
)
from syncline.testing.linearizability.inference import puts_of, seen_by
from syncline.testing.linearizability.kv_model import told

__all__ = [
    "Anomaly",
    "check_applied_once",
    "check_not_applied",
    "check_revisions",
    "check_stale_reads",
]


class Anomaly(msgspec.Struct, frozen=True):
    """A broken promise, and the operations that show it."""

    promise: str
    operations: tuple[Operation, ...]

    def __str__(self) -> str:
        return f"{self.promise}\n{describe_all(self.operations)}"


_Put: TypeAlias = tuple[bytes, bytes]


def _writers(history: Iterable[Operation]) -> dict[_Put, Operation]:
    """The operation that wrote each value, if only one can have."""
    writers: dict[_Put, Operation] = {}
    counts: Counter[_Put] = Counter()
    for operation in history:
        for put in puts_of(operation):
            counts[put] += 1
            writers[put] = operation
    return {put: operation for put, operation in writers.items() if counts[put] == 1}


def _sightings(history: Iterable[Operation]) -> Iterable[tuple[_Put, Seen, Operation]]:
    """All values that were seen by reads of whatever kind."""
    for operation in history:
        for key, seen in seen_by(operation, stale=True):
            if seen.value is not None:
                yield (key, seen.value), seen, operation


def check_not_applied(history: Sequence[Operation]) -> list[Anomaly]:
    """Check that an operation answered with `not_applied` never shows."""
    writers = _writers(history)
    found: dict[int, Anomaly] = {}
    for put, _, reader in _sightings(history):
        writer = writers.get(put)
        if writer is not None and isinstance(writer.result, NotApplied):
            found.setdefault(id(writer), Anomaly("a write that was called not_applied was seen", (writer, reader)))
    return list(found.values())


def check_applied_once(history: Sequence[Operation]) -> list[Anomaly]:
    """One write, acknowledged or of unknown fate, takes effect once: its value has one mod_revision."""
    writers = _writers(history)
    first: dict[_Put, tuple[int, Operation]] = {}
    found: dict[int, Anomaly] = {}
    for put, seen, reader in _sightings(history):
        if seen.mod_revision and put in writers:
            number, earlier = first.setdefault(put, (seen.mod_revision, reader))
            if number != seen.mod_revision:
                writer = writers[put]
                found.setdefault(id(writer), Anomaly("a write was applied twice", (writer, earlier, reader)))
    return list(found.values())


def check_revisions(history: Sequence[Operation]) -> list[Anomaly]:
    """Check that revisions follow the clock, over all keys: an operation sees all operations that returned before its
    call.

    No two writes have the same, and one that begins after another was acknowledged has a higher one.
    """
    found: list[Anomaly] = []
    changed: dict[int, Operation] = {}
    in_order = sorted(history, key=lambda operation: operation.call_s)
    ended: list[tuple[float, int, int]] = []  # by return: revision, place in order
    newest = (0, 0)
    for place, operation in enumerate(in_order):
        number, changes = told(operation)
        if not number or operation.return_s is None or _is_stale(operation):
            continue
        if changes and (other := changed.setdefault(number, operation)) is not operation:
            found.append(Anomaly("two writes have the same revision", (other, operation)))
        while ended and ended[0][0] < operation.call_s:
            newest = max(newest, heapq.heappop(ended)[1:])
        if number < newest[0] or (changes and number == newest[0]):
            found.append(Anomaly("the store's revision went back", (in_order[newest[1]], operation)))
        heapq.heappush(ended, (operation.return_s, number, place))
    return found


def _is_stale(operation: Operation) -> bool:
    return isinstance(operation.request, ReadCall) and operation.request.stale


def check_stale_reads(history: Sequence[Operation]) -> list[Anomaly]:
    """Check that stale reads show a past state: not older than their bound, not from the future, not a mixture.

    For one client on one node they never go back.
    """
    return [*_check_bounds(history), *_check_origins(history), *_check_no_way_back(history)]


def _check_bounds(history: Sequence[Operation]) -> list[Anomaly]:
    writes: defaultdict[bytes, list[tuple[float, int, Operation]]] = defaultdict(list)
    for operation in history:
        number, changes = told(operation)
        if number and changes and operation.return_s is not None:
            for key in _written_keys(operation):
                writes[key].append((operation.return_s, number, operation))
    latest = {key: _running_maximum(sorted(list_, key=lambda one: one[:2])) for key, list_ in writes.items()}
    found: list[Anomaly] = []
    for operation in history:
        request, seen = operation.request, operation.result
        if not (isinstance(request, ReadCall) and isinstance(seen, Seen) and request.max_stale_s is not None):
            continue
        ends_s, newest = latest.get(request.key, ([], []))
        place = bisect.bisect_left(ends_s, operation.call_s - request.max_stale_s)
        shown = seen.revision or (seen.mod_revision if seen.value is not None else 0)
        if place and shown and shown < newest[place - 1][0]:
            found.append(Anomaly("a stale read is older than its bound", (newest[place - 1][1], operation)))
    return found


def _written_keys(operation: Operation) -> set[bytes]:
    """The keys that an operation is known to have changed."""
    request, result = operation.request, operation.result
    if isinstance(request, TxnCall) and isinstance(result, Ran):
        branch = request.then if result.succeeded else request.else_
        return {step.key for step in branch if isinstance(step, PutCall)}
    return {request.key} if isinstance(request, PutCall | DeleteCall) else set()


def _running_maximum(
    writes: Iterable[tuple[float, int, Operation]],
) -> tuple[list[float], list[tuple[int, Operation]]]:
    """By the time of return, the highest revision that was acknowledged until then."""
    ends_s: list[float] = []
    newest: list[tuple[int, Operation]] = []
    for end_s, number, operation in writes:
        ends_s.append(end_s)
        newest.append(newest[-1] if newest and newest[-1][0] > number else (number, operation))
    return ends_s, newest


def _check_origins(history: Sequence[Operation]) -> list[Anomaly]:
    """Check that each seen value was written by an operation whose call came before the read's return."""
    first_call_s: dict[_Put, float] = {}
    for operation in history:
        for put in puts_of(operation):
            first_call_s[put] = min(operation.call_s, first_call_s.get(put, math.inf))
    return [
        Anomaly("a stale read shows what nobody had written", (reader,))
        for put, _, reader in _sightings(history)
        if _is_stale(reader) and reader.return_s is not None and first_call_s.get(put, math.inf) > reader.return_s
    ]


def _check_no_way_back(history: Sequence[Operation]) -> list[Anomaly]:
    shown: dict[tuple[str, str, bytes | None], tuple[int, Operation]] = {}
    found: list[Anomaly] = []
    for operation in sorted(history, key=lambda operation: operation.call_s):
        seen = operation.result
        if not (isinstance(operation.request, ReadCall) and isinstance(seen, Seen) and operation.node):
            continue
        views: list[tuple[bytes | None, int]] = [(None, seen.revision)]
        if seen.value is not None:
            views.append((operation.request.key, seen.mod_revision))
        for key, number in views:
            if not number:
                continue
            place = (operation.client, operation.node, key)
            newest, earlier = shown.get(place, (0, operation))
            if number < newest:
                found.append(Anomaly("what one node shows one client went back", (earlier, operation)))
            else:
                shown[place] = (number, operation)
    return found
