"""A second judge of a history, by its revisions: it needs no search, and sees what values alone do not tell.

Every write takes the next revision of the whole store, and most answers name one. So the store itself says in which
order things happened, and it can be held to that: the order must respect real time, one revision is one change, and
whoever reads at revision R sees the last change up to R. What is found here is wrong whatever a search would say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from syncline.testing.history import Delete, NotApplied, Operation, Put, Ran, Read, Refused, Seen, Txn, Written

__all__ = ["judge_revisions"]


def judge_revisions(history: Sequence[Operation]) -> list[str]:
    """What contradicts the revisions. Every value of the history must have been written by one operation alone."""
    changes = _Changes(history)
    return [
        *changes.conflicts,
        *_against_real_time(history),
        *_wrong_reads(history, changes),
        *_stale_reads_that_go_back(history),
    ]


# -- what was written


class _Changes:
    """All acknowledged changes by revision, and who wrote which value."""

    def __init__(self, history: Iterable[Operation]) -> None:
        self.conflicts: list[str] = []
        self.by_revision: dict[int, tuple[Operation, dict[bytes, bytes | None]]] = {}
        self.of_key: dict[bytes, list[int]] = defaultdict(list)
        self.writers: dict[bytes, Operation] = {}
        for operation in history:
            for value in _values(operation):
                assert value not in self.writers, f"{value!r} is written twice: nobody could tell which was read"
                self.writers[value] = operation
            self._note(operation)
        for revisions in self.of_key.values():
            revisions.sort()

    def _note(self, operation: Operation) -> None:
        changed, revision = _changed(operation), _revision(operation)
        if not changed or not revision:
            return
        if revision in self.by_revision:
            self.conflicts.append(
                f"two changes with revision {revision}: {_told(self.by_revision[revision][0])} and {_told(operation)}"
            )
            return
        self.by_revision[revision] = operation, changed
        for key in changed:
            self.of_key[key].append(revision)


def _values(operation: Operation) -> Iterator[bytes]:
    request = operation.request
    for step in (*request.then, *request.else_) if isinstance(request, Txn) else (request,):
        if isinstance(step, Put):
            yield step.value


def _changed(operation: Operation) -> dict[bytes, bytes | None]:
    """What an acknowledged operation changed: the value that each key had after it, None where it was deleted."""
    match operation.request, operation.result:
        case Put(key=key, value=value), Written():
            return {key: value}
        case Delete(key=key), Written(existed=True):
            return {key: None}
        case Txn(then=then, else_=else_), Ran(succeeded=succeeded):
            branch = then if succeeded else else_
            return {step.key: step.value for step in branch if isinstance(step, Put)}
        case _:
            return {}


def _revision(operation: Operation) -> int:
    """The store's revision that the answer names; 0 where it names none."""
    match operation.result:
        case Written(revision=revision) | Ran(revision=revision) | Seen(revision=revision):
            return revision
        case _:
            return 0


# -- the rules


def _against_real_time(history: Iterable[Operation]) -> Iterator[str]:
    """What was answered before an operation began has no larger revision, and a smaller one than what it changes."""
    events: list[tuple[float, bool, Operation]] = []
    for operation in history:
        if operation.return_s is not None and _revision(operation):
            events += [(operation.call_s, False, operation), (operation.return_s, True, operation)]
    events.sort(key=lambda event: event[:2])
    newest: Operation | None = None
    for _, returned, operation in events:
        revision = _revision(operation)
        if returned:
            if newest is None or revision > _revision(newest):
                newest = operation
        elif newest is not None and not _is_stale(operation):
            known = _revision(newest)
            if revision < known or (revision == known and _changed(operation)):
                yield f"{_told(operation)} is older than {_told(newest)}, which had been answered before it began"


def _wrong_reads(history: Iterable[Operation], changes: _Changes) -> Iterator[str]:
    first_seen: dict[bytes, int] = {}
    for operation in history:
        for key, seen in _seen(operation):
            if seen.value is None:
                continue
            if first_seen.setdefault(seen.value, seen.mod_revision) != seen.mod_revision:
                yield f"{_told(operation)}: done twice, the same write was seen at revision {first_seen[seen.value]}"
            if fault := _fault_of(key, seen, changes):
                yield f"{_told(operation)}: {fault}"


def _fault_of(key: bytes, seen: Seen, changes: _Changes) -> str | None:
    """What is wrong with having seen this value of a key."""
    assert seen.value is not None
    writer = changes.writers.get(seen.value)
    if writer is None:
        return "nobody ever wrote that value"
    if isinstance(writer.result, NotApplied | Refused):
        return f"the write of that value did not take place: {_told(writer)}"
    written = _changed(writer)
    if writer.result is not None and (written.get(key) != seen.value or _revision(writer) != seen.mod_revision):
        return f"the value was written otherwise: {_told(writer)}"
    if seen.mod_revision > seen.revision:
        return "the key is newer than the store"
    between = (revision for revision in changes.of_key[key] if seen.mod_revision < revision <= seen.revision)
    missed = next(between, None)
    return None if missed is None else f"it should have seen {_told(changes.by_revision[missed][0])}"


def _seen(operation: Operation) -> Iterator[tuple[bytes, Seen]]:
    match operation.request, operation.result:
        case Read(key=key), Seen() as seen:
            yield key, seen
        case Txn(then=then, else_=else_), Ran(succeeded=succeeded, results=results):
            for step, result in zip(then if succeeded else else_, results, strict=bool(results)):
                if isinstance(result, Seen):
                    yield step.key, result


def _stale_reads_that_go_back(history: Iterable[Operation]) -> Iterator[str]:
    last: dict[tuple[str, str], Operation] = {}
    for operation in history:
        if _is_stale(operation) and operation.node and _revision(operation):
            before = last.get((operation.client, operation.node))
            if before is not None and _revision(operation) < _revision(before):
                yield f"{_told(operation)} is older than {_told(before)}, on the same node"
            last[operation.client, operation.node] = operation


def _is_stale(operation: Operation) -> bool:
    return isinstance(operation.request, Read) and operation.request.stale


def _told(operation: Operation) -> str:
    """One operation in words."""
    until = "…" if operation.return_s is None else f"{operation.return_s:.3f}"
    at = f" at {operation.node}" if operation.node else ""
    result = "unknown" if operation.result is None else operation.result
    return f"{operation.client}{at} {operation.call_s:.3f}-{until} s {operation.request} -> {result}"
