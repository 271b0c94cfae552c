"""State machines that a node has applied entries to: another node, or a later start, needs a new object.

A start without a snapshot applies the log from its first entry. On the object of an earlier start each entry would take
effect twice, and no error would follow.
"""

from __future__ import annotations

import weakref
from typing import Final

from syncline.errors import UsageError
from syncline.node.fsm import FSM, DurableFSM

__all__ = ["check_unused", "claim"]

_used: Final[dict[int, weakref.ref[object]]] = {}
"""By `id`, since a class may define `__eq__` without `__hash__`, as a dataclass does. An entry goes with its object."""


def check_unused(fsm: FSM[object]) -> None:
    """Raise UsageError if a node has this object, or had it.

    A durable machine is not refused: its `applied_index` says which entries it has.
    """
    noted = _used.get(id(fsm))
    if noted is not None and noted() is fsm and not isinstance(fsm, DurableFSM):
        raise _refusal(fsm)


def claim(fsm: FSM[object]) -> None:
    """Note that a node applies entries to this object from now on. Raises UsageError as `check_unused` does.

    An object that can't have a weak reference (`__slots__` without `__weakref__`) is not noted.
    """
    key = id(fsm)

    def gone(reference: weakref.ref[object]) -> None:
        if _used.get(key) is reference:  # else the number belongs to a later object already
            del _used[key]

    try:
        reference: weakref.ref[object] = weakref.ref(fsm, gone)
    except TypeError:
        return
    noted = _used.setdefault(key, reference)  # one step: blocking nodes start on threads of their own
    if noted is reference:
        return
    if noted() is fsm:
        check_unused(fsm)
    _used[key] = reference


def _refusal(fsm: FSM[object]) -> UsageError:
    name = type(fsm).__name__
    return UsageError(
        f"this {name} object was given to a node before, and has the state of that node: the log would be applied to it"
        f" once more. Give a new object to each start of each node, as in Raft.open(config, {name}())"
    )
