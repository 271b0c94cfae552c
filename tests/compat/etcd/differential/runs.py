"""Run a sequence on both servers, and make a sequence whose answers differ shorter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from syncline.server.etcd.messages import Message
from tests.compat.etcd.differential.calls import Call
from tests.compat.etcd.differential.documented import is_documented, is_documented_of_watches
from tests.compat.etcd.differential.side import Answer, Side, wait_until

__all__ = ["Difference", "difference_of", "shrunk"]


class Difference(msgspec.Struct, frozen=True):
    """The first answer of a sequence that differs."""

    calls: tuple[Call, ...]
    """Up to that answer."""
    theirs: Answer
    ours: Answer

    def __str__(self) -> str:
        lines = [f"  {at:2}. {call}" for at, call in enumerate(self.calls, 1)]
        return "\n".join([*lines, f"  etcd: {self.theirs}", f"  ours: {self.ours}"])

    @property
    def kind(self) -> str:
        """Differences of one kind have often one cause: the method and both errors."""
        return f"{self.calls[-1].method}: {_error(self.theirs)} | {_error(self.ours)}"


def _error(answer: Answer) -> str:
    return str(answer) if isinstance(answer, tuple) else "an answer"


def difference_of(theirs: Side, ours: Side, calls: Sequence[Call]) -> Difference | None:
    """Run the calls on both servers from a common beginning. None: all answers were the same."""
    _begin(theirs, ours)
    for at, call in enumerate(calls, 1):
        if "cancel_request" in call.message and not _watches_agree(theirs, ours):
            return _of_watches(theirs, ours, calls[: at - 1])
        answers = theirs.answer(call), ours.answer(call)
        if answers[0] != answers[1]:
            if is_documented(call, *answers):
                return None
            return Difference(tuple(calls[:at]), *answers)
    return None if _watches_agree(theirs, ours) else _of_watches(theirs, ours, calls)


def _watches_agree(theirs: Side, ours: Side) -> bool:
    """Whether the watches of both have the same answers and events, after all that was written."""
    first, second = theirs.watches, ours.watches
    if first is None or second is None:
        return True
    before = first.marks(), second.marks()
    marked = theirs.mark(), ours.mark()

    def decided() -> bool:
        return same() or is_documented_of_watches(first.seen(), second.seen())

    def same() -> bool:
        seen = not marked[0] or first.marks() > before[0], not marked[1] or second.marks() > before[1]
        return all(seen) and first.seen() == second.seen()

    wait_until(decided, theirs.wait_s)
    return same()


def _of_watches(theirs: Side, ours: Side, calls: Sequence[Call]) -> Difference | None:
    assert theirs.watches is not None and ours.watches is not None
    first, second = theirs.watches.seen(), ours.watches.seen()
    if is_documented_of_watches(first, second):
        return None
    return Difference(tuple(calls), *_part(first, second))


def _part(theirs: Mapping[str, object], ours: Mapping[str, object]) -> tuple[Answer, Answer]:
    for name in sorted({*theirs, *ours}):
        if theirs.get(name) != ours.get(name):
            return {name: theirs.get(name)}, {name: ours.get(name)}
    return theirs, ours


def _begin(theirs: Side, ours: Side) -> None:
    """Empty both servers, and bring them to one revision."""
    sides = (theirs, ours)
    for side in sides:
        side.clear()
    behind, ahead = sorted(sides, key=lambda side: side.revision)
    for _ in range(ahead.revision - behind.revision):
        behind.write()
    for side in sides:
        side.start()
    assert theirs.begin == ours.begin


def shrunk(theirs: Side, ours: Side, found: Difference) -> Difference:
    """The difference with as little as leaves one: calls are dropped, and then parts of their messages."""
    size = max(1, len(found.calls) // 2)
    while size:
        at = len(found.calls)
        while at > 0:
            at = max(0, min(at, len(found.calls)) - size)
            fewer = (*found.calls[:at], *found.calls[at + size :])
            found = (fewer and difference_of(theirs, ours, fewer)) or found
        size //= 2
    return _plainer(theirs, ours, found)


def _plainer(theirs: Side, ours: Side, found: Difference) -> Difference:
    at = 0
    while at < len(found.calls):
        call = found.calls[at]
        for message in _smaller(call.message) if not call.method.startswith("Auth/") else ():
            other = msgspec.structs.replace(call, message=message)
            again = difference_of(theirs, ours, (*found.calls[:at], other, *found.calls[at + 1 :]))
            if again is not None and again.kind == found.kind and len(again.calls) == len(found.calls):
                found = again
                break
        else:
            at += 1
    return found


def _smaller(part: Message) -> Iterator[Message]:
    """The message without each of its parts, and with each of them smaller."""
    for name, inner in part.items():
        if name != "perm":  # without it etcd 3.4 ends
            yield {one: kept for one, kept in part.items() if one != name}
        if isinstance(inner, dict):
            yield from ({**part, name: smaller} for smaller in _smaller(inner))
        elif isinstance(inner, list):
            yield from ({**part, name: [*inner[:at], *inner[at + 1 :]]} for at in range(len(inner)))
            for at, one in enumerate(inner):
                if isinstance(one, dict):
                    yield from ({**part, name: [*inner[:at], smaller, *inner[at + 1 :]]} for smaller in _smaller(one))
