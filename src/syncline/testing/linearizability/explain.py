"""Explain why a part of a history is not linearizable: the few operations that have no order.

First the history is cut at the earliest moment at which it is already wrong: operations without a return by then are
of unknown outcome. Then operations are removed, half by half down to single ones, as long as the rest has no order
either: reads are dropped first, then writes become optional. Both only make it easier to find an order, so the
remaining operations are a true contradiction by themselves.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec

from syncline.testing.linearizability.checker import Initial, Part, check_moves, compiled
from syncline.testing.linearizability.history import Operation, ReadCall
from syncline.testing.linearizability.inference import puts_of, seen_by
from syncline.testing.linearizability.kv_model import Move, Numbers

__all__ = ["smallest_contradiction"]

MAX_CHECKS: Final = 200
"""Searches that are spent on making an explanation smaller."""

STEPS_PER_OPERATION: Final = 3
"""Steps of one such search. One that gives up counts as an order found: nothing is removed for it."""

MAX_WRITERS: Final = 5
"""Writers of the seen values that are shown as well."""


def smallest_contradiction(part: Part, initial: Initial | None = None) -> list[Operation]:
    """A small set of operations of a part that is not linearizable by itself.

    The writers of the values that they saw are added for the reader.
    """
    cut = _cut(part, initial)
    moves = compiled(cut)
    everything = frozenset(range(len(moves)))

    def contradicts(kept: Sequence[int]) -> bool:
        return _is_wrong(cut, moves, initial, everything.difference(kept))

    known = [place for place, operation in enumerate(cut.operations) if not operation.unknown]
    looks = [place for place in known if all(move.pure for move in moves[place])]
    writes = [place for place in known if place not in set(looks)]
    looks = _reduced(looks, lambda fewer: contradicts(fewer + writes))
    writes = _reduced(writes, lambda fewer: contradicts(looks + fewer))
    return _with_writers([cut.operations[place] for place in looks + writes], cut)


def _is_wrong(
    part: Part, moves: Sequence[Sequence[Move]], initial: Initial | None, maybe: Collection[int] = ()
) -> bool:
    max_steps = 1000 + STEPS_PER_OPERATION * len(moves)
    outcome = check_moves(part, moves, initial, maybe=maybe, max_steps=max_steps)
    return outcome.decided and not outcome.linearizable


def _cut(part: Part, initial: Initial | None) -> Part:
    """The part as it was known at the earliest moment at which it is wrong."""
    ends_s = sorted({operation.return_s for operation in part.operations if operation.return_s is not None})

    def is_wrong_at(end_s: float) -> bool:
        known = _until(part, end_s)
        return _is_wrong(known, compiled(known), initial)

    place = bisect.bisect_left(ends_s, True, key=is_wrong_at)
    return part if place == len(ends_s) else _until(part, ends_s[place])


def _until(part: Part, end_s: float) -> Part:
    """The history as it was known at a moment."""
    known: list[Operation] = []
    for operation in part.operations:
        if operation.call_s > end_s:
            break
        if operation.return_s is not None and operation.return_s <= end_s:
            known.append(operation)
        elif not isinstance(operation.request, ReadCall):
            known.append(msgspec.structs.replace(operation, return_s=None, result=None))
    return Part(part.keys, known, Numbers(known))


def _reduced(places: list[int], contradicts: Callable[[list[int]], bool]) -> list[int]:
    """Zeller and Hildebrandt's delta debugging: what can't be made smaller by leaving out one more."""
    checks = 0
    size = max(1, len(places) // 2)
    while True:
        start = 0
        while start < len(places) and checks < MAX_CHECKS:
            fewer = places[:start] + places[start + size :]
            checks += 1
            if contradicts(fewer):
                places = fewer
            else:
                start += size
        if size == 1 or checks >= MAX_CHECKS:
            return places
        size = max(1, min(size // 2, math.ceil(len(places) / 2)))


def _with_writers(core: list[Operation], part: Part) -> list[Operation]:
    wanted = {(key, seen.value) for operation in core for key, seen in seen_by(operation)}
    writers = [
        operation
        for operation in part.operations
        if operation not in core and any(put in wanted for put in puts_of(operation))
    ]
    return sorted([*core, *writers[:MAX_WRITERS]], key=lambda operation: operation.call_s)
