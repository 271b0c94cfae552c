"""Reads of a state machine for `check_fsm`: those that the test gives, and the queries of a typed machine."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

import msgspec

from syncline.machines.commands import QueryMethod
from syncline.machines.machine import Machine
from syncline.node.fsm import FSM
from syncline.testing.fsm.guard import NotDeterministic, guard_determinism
from syncline.testing.fsm.run import plain

__all__ = ["CHANGES", "Look", "NamedRead", "differing", "reads_of"]

Look: TypeAlias = Callable[[FSM[object]], object]
"""A read: a function of the machine."""

CHANGES: Final = "?"
"""In place of the result of a read that reads the clock or random numbers: such results are not compared."""


class NamedRead(msgspec.Struct, frozen=True):
    """A read, with the name that a report shows."""

    name: str
    look: Look

    def result(self, fsm: FSM[object]) -> str:
        """The result as text; an error is a result, too."""
        try:
            with guard_determinism(files=False):
                result = _result(self.look, fsm)
        except NotDeterministic:
            return CHANGES
        return result


def reads_of(fsm: FSM[object], given: Iterable[Look]) -> list[NamedRead]:
    """The reads that the test gives, and the queries of a `Machine` that need no argument."""
    reads: list[NamedRead] = []
    if not isinstance(given, Iterable):
        raise TypeError(f"reads must be a list of functions of the machine, not {type(given).__name__}")
    for look in given:
        if not callable(look):
            raise TypeError(f"reads must be functions of the machine, not {type(look).__name__}: {look!r}")
        reads.append(NamedRead(getattr(look, "__qualname__", repr(look)), look))
    if isinstance(fsm, Machine):
        kind = type(fsm)
        reads += [
            NamedRead(f"{kind.__name__}.{query.name}", query)
            for query in kind._plan.operations.values()
            if isinstance(query, QueryMethod) and _needs_nothing(query)
        ]
    return reads


def differing(reads: Iterable[NamedRead], one: list[str], other: list[str]) -> str:
    """The first read whose two results differ, with both, for a message; empty if there is none."""
    for read, here, there in zip(reads, one, other, strict=True):
        if here != there and CHANGES not in (here, there):
            return f"  {read.name}\n  without restore: {here}\n  with it:         {there}"
    return ""


def _result(look: Look, fsm: FSM[object]) -> str:
    try:
        return plain(look(fsm))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
        return f"raised {type(error).__name__}: {error}"


def _needs_nothing(query: QueryMethod[Any, ..., object]) -> bool:
    parameters = list(inspect.signature(query.__wrapped__).parameters.values())[1:]
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(parameter.default is not parameter.empty or parameter.kind in variable for parameter in parameters)
