"""Record the lines that a command runs and the variables after each: two runs that part show the line where they do.

Other processes have other hash seeds, so sets of texts have another order there. The profiler behind
`guard_determinism` is not told of that; a comparison of two traces finds it, whatever the command does with the set.
"""

from __future__ import annotations

import hashlib
import linecache
import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from types import FrameType
from typing import TYPE_CHECKING, Final

import msgspec

from syncline.node.fsm import FSM
from syncline.testing.fsm.guard import is_users_code, without_collections
from syncline.testing.fsm.run import apply

if TYPE_CHECKING:
    from _typeshed import TraceFunction

__all__ = ["CommandTrace", "TracedLine", "parting", "trace"]

MOST_LINES: Final = 20_000
"""Lines of a command that are recorded: with 400 characters of each changed value, some megabytes."""

MOST_VALUES: Final = 2_000
"""Values within one variable that are looked at, for each line: a state may be large, and each line looks again."""

MOST_DEPTH: Final = 8
SHOWN_CHARS: Final = 400

_LEAVES: Final = (bool, int, float, complex, str, bytes, bytearray, type(None), Enum)


class TracedLine(msgspec.Struct, frozen=True, array_like=True):
    """A point of a run: the line that is next, and each variable that has changed since the last point of its function,
    as text: a digest of the whole value, a space, and the value's beginning.
    """

    file: str
    line: int
    function: str
    variables: dict[str, str]


class CommandTrace(msgspec.Struct, frozen=True, array_like=True):
    """`states` has a digest of the machine's attributes before each command; `lines` is the traced command's."""

    states: list[str]
    lines: list[TracedLine]


def trace(fsm: FSM[object], commands: Sequence[bytes], traced: int) -> CommandTrace:
    """Apply the commands up to the one with the number `traced`, from 1, and record that one line by line."""
    states: list[str] = []
    lines: list[TracedLine] = []
    for number, command in enumerate(commands[:traced], 1):
        states.append(_described(fsm))
        if number < traced:
            apply(fsm, number, command)
            continue
        with without_collections():
            before = sys.gettrace()
            sys.settrace(_recorder(lines))
            try:
                apply(fsm, number, command)
            finally:
                sys.settrace(before)
    return CommandTrace(states, lines)


def parting(one: CommandTrace, other: CommandTrace) -> tuple[int, str]:
    """Where two runs part: the number of the command, and a text with the line and what differs after it.

    The number is lower than the traced one if the attributes differed before it: trace that command then. The text is
    empty if nothing differs that a trace shows.
    """
    for number, (here, there) in enumerate(zip(one.states, other.states, strict=True)):
        if here != there:
            return number, ""
    for at, (here_, there_) in enumerate(zip(one.lines, other.lines, strict=False)):
        if here_ != there_:
            ran = one.lines[max(0, at - 1)]
            return len(one.states), _text(ran, here_, there_)
    return len(one.states), ""


def _text(ran: TracedLine, one: TracedLine, other: TracedLine) -> str:
    source = linecache.getline(ran.file, ran.line).strip()
    names = [
        name for name in {**one.variables, **other.variables} if one.variables.get(name) != other.variables.get(name)
    ]
    if (one.file, one.line) == (other.file, other.line) and names:
        here, there = _shown(names[0], one), _shown(names[0], other)
    else:
        here, there = (f"goes on at line {side.line} ({side.function})" for side in (one, other))
    return f"{ran.file}:{ran.line} ({ran.function}): {source}\n    one:     {here}\n    another: {there}"


def _shown(name: str, at: TracedLine) -> str:
    value = at.variables.get(name)
    return f"{name} is unchanged" if value is None else f"{name} = {value.partition(' ')[2]}"


def _recorder(lines: list[TracedLine]) -> TraceFunction:
    before: dict[FrameType, dict[str, str]] = {}

    def record(frame: FrameType, event: str, argument: object) -> TraceFunction | None:
        code = frame.f_code
        if not is_users_code(code.co_filename):
            return record if event == "call" else None
        if event in ("line", "return") and len(lines) < MOST_LINES:
            now = {name: _described(value) for name, value in frame.f_locals.items()}
            if event == "return":
                now["return"] = _described(argument)
            last = before.get(frame, {})
            changed = {name: value for name, value in now.items() if last.get(name) != value}
            lines.append(TracedLine(code.co_filename, frame.f_lineno, code.co_name, changed))
            before[frame] = now
        return record

    return record


def _described(value: object) -> str:
    """A value as text: a digest of it, a space, and its first characters. Equal values have equal texts in all
    processes, also where the order of a set differs.
    """
    text = " ".join(_parts(value, [MOST_VALUES], MOST_DEPTH))
    return f"{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:16]} {text[:SHOWN_CHARS]}"


def _parts(value: object, left: list[int], depth: int) -> Iterator[str]:
    left[0] -= 1
    if left[0] < 0 or depth < 0:
        yield "…"
    elif isinstance(value, _LEAVES):
        yield repr(value)
    elif isinstance(value, set | frozenset):
        yield "{" + ", ".join(sorted(" ".join(_parts(item, left, depth - 1)) for item in value)) + "}"
    elif isinstance(value, Mapping):
        items = (f"{_joined(key, left, depth)}: {_joined(item, left, depth)}" for key, item in value.items())
        yield "{" + ", ".join(items) + "}"
    elif isinstance(value, list | tuple):
        yield "[" + ", ".join(_joined(item, left, depth) for item in value) + "]"
    else:
        yield type(value).__name__
        attributes = _attributes(value)
        if attributes:
            yield from _parts(attributes, left, depth - 1)


def _joined(value: object, left: list[int], depth: int) -> str:
    return " ".join(_parts(value, left, depth - 1))


def _attributes(value: object) -> dict[str, object]:
    """The attributes, by `__dict__` and `__slots__`, without a call of the object's own code where that is possible."""
    if callable(value) or isinstance(value, type):
        return {}
    found: dict[str, object] = dict(getattr(value, "__dict__", {}))
    for owner in type(value).__mro__:
        slots = owner.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if isinstance(name, str) and name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return found
