"""Check that a history is linearizable.

It is linearizable if there is an order of all operations that respects the clock and explains the answers: a single
store that executes the operations in this order gives the same ones.

Keys are checked one by one: a history is linearizable if its part for each key is (Herlihy and Wing, 1990). A
transaction over several keys joins them into one part. Stale reads are left out because they make no such promise,
and so are operations that were answered with `not_applied`; `promises.py` checks those.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from syncline.testing.linearizability.history import NotApplied, Operation, ReadCall, Seen, keys_of
from syncline.testing.linearizability.inference import narrowed
from syncline.testing.linearizability.kv_model import Move, Numbers, Record, State, moves_of
from syncline.testing.linearizability.search import DEFAULT_MAX_STEPS, Search, SearchResult

__all__ = ["Initial", "Part", "check_moves", "check_part", "compiled", "parts_of"]

Initial: TypeAlias = Mapping[bytes, Seen]
"""Values of the keys before the history began; a key that is missing did not exist."""


class Part(msgspec.Struct, frozen=True):
    """The operations on keys that belong together, in the order of the calls, and the revisions of the whole."""

    keys: tuple[bytes, ...]
    operations: Sequence[Operation]
    numbers: Numbers


def parts_of(history: Iterable[Operation]) -> list[Part]:
    """The operations of a history that must be linearizable, in parts that can be judged one by one."""
    judged = [operation for operation in narrowed(history) if _is_judged(operation)]
    judged.sort(key=lambda operation: operation.call_s)
    numbers = Numbers(judged)
    leader_of = _joined(judged)
    together: defaultdict[bytes, list[Operation]] = defaultdict(list)
    for operation in judged:
        for key in keys_of(operation.request)[:1]:
            together[leader_of[key]].append(operation)
    members: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for key in sorted(leader_of):
        members[leader_of[key]].append(key)
    return [Part(tuple(members[leader]), operations, numbers) for leader, operations in together.items()]


def _is_judged(operation: Operation) -> bool:
    if isinstance(operation.result, NotApplied):
        return False
    if isinstance(operation.request, ReadCall):
        return not operation.request.stale and not operation.unknown
    return True


def _joined(operations: Iterable[Operation]) -> dict[bytes, bytes]:
    """For each key the key that represents its part."""
    parents: dict[bytes, bytes] = {}

    def leader(key: bytes) -> bytes:
        while (parent := parents.setdefault(key, key)) != key:
            parents[key] = parents[parent]
            key = parent
        return key

    for operation in operations:
        keys = keys_of(operation.request)
        for key in keys:
            parents[leader(key)] = leader(keys[0])
    return {key: leader(key) for key in list(parents)}


def check_part(part: Part, initial: Initial | None = None, *, max_steps: int = DEFAULT_MAX_STEPS) -> SearchResult:
    """Look for an order of one part."""
    return check_moves(part, compiled(part), initial, max_steps=max_steps)


def compiled(part: Part) -> list[list[Move]]:
    """The possible effects of each operation of a part."""
    return [moves_of(operation, part.keys, part.numbers) for operation in part.operations]


def check_moves(
    part: Part,
    compiled: Sequence[Sequence[Move]],
    initial: Initial | None = None,
    *,
    maybe: Collection[int] = (),
    max_steps: int = DEFAULT_MAX_STEPS,
) -> SearchResult:
    """Look for an order of one part. Operations in the places `maybe` need not have happened."""
    definite: list[Move] = []
    optional: list[list[Move]] = []
    for place, moves in enumerate(compiled):
        loose = place in maybe or part.operations[place].unknown
        for move in moves:
            move.optional = loose
        if loose:
            effective = [move for move in moves if move.effects]
            optional += [effective] if effective else []
        elif not moves:
            return SearchResult(decided=True, linearizable=False, order=[], steps=0)  # a result that no store can give
        else:
            definite += moves
    return Search(definite, optional, _initial_state(part.keys, initial or {}), part.numbers, max_steps).run()


def _initial_state(keys: Sequence[bytes], initial: Initial) -> State:
    records: list[Record | None] = []
    for key in keys:
        seen = initial.get(key)
        records.append(None if seen is None or seen.value is None else (seen.value, seen.mod_revision))
    return max((record[1] for record in records if record is not None), default=0), tuple(records)
