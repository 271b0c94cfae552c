"""Run a state machine by hand: apply commands, and record the answers and states.

Answers and states are recorded as text and bytes that can be compared between processes. A state is the content of a
snapshot: equal states must give equal bytes, whatever commands led to them.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final, TypeAlias

import msgspec

from syncline.errors import Rejected, RequestFailed
from syncline.machines.commands import CommandMethod
from syncline.machines.machine import Machine
from syncline.node.fsm import FSM, DigestingFSM, Entry, FSMSnapshot
from syncline.node.machine import check_answer, check_machine, check_restored, check_view, persist
from syncline.node.state_digest import MACHINE_DIGEST_BYTES
from syncline.testing.sim.loop import BEGAN_S

__all__ = [
    "SHOWN_BYTES",
    "WRONG_DIGEST",
    "MakeFSM",
    "Record",
    "answered",
    "apply",
    "bytes_differ",
    "call_of",
    "check_command",
    "check_commands",
    "check_maker",
    "entry_of",
    "made",
    "own_digest",
    "persisted",
    "plain",
    "record",
    "restored",
    "shown_command",
    "snapshot_bytes",
    "state_digest",
]

MakeFSM: TypeAlias = Callable[[], FSM[object]]
"""The class of a state machine, or anything else that makes a new one."""


def check_maker(machine: object) -> None:
    """Raise TypeError for a state machine in the place of its class."""
    if not callable(machine):
        name = type(machine).__name__
        raise TypeError(f"machine must be a class, or a function that makes a new state machine, not a {name} object")


def made(machine: MakeFSM) -> FSM[object]:
    """A new state machine. Raises TypeError if it is none, or if its methods are `async def`, as a node does."""
    fsm = machine()
    check_machine(fsm)
    return fsm


def check_commands(commands: object) -> None:
    """Raise TypeError for one command in the place of several: bytes would be taken as numbers."""
    if isinstance(commands, bytes | bytearray | str):
        raise TypeError(f"commands must be a collection of bytes, such as a list, not {type(commands).__name__}")


def check_command(command: object) -> bytes:
    """A command of a test. Raises TypeError if it is no bytes."""
    if not isinstance(command, bytes):
        raise TypeError(f"commands must be bytes, not {type(command).__name__}: {command!r}")
    return command


SHOWN_BYTES: Final = 60
"""Bytes of a command or a snapshot in a message."""

SHOWN_CALL: Final = 200
"""Characters of a call of a typed machine in a message."""

WRONG_DIGEST: Final = f"not 1 to {MACHINE_DIGEST_BYTES} bytes"

SEED: Final = 1
"""Of the entries' random numbers: they are the same in each process."""

NO_SNAPSHOT: Final = "a node would make no snapshot, and its log would grow"

LARGEST_SHOWN: Final = 10**640
"""An integer below it has a decimal text under each limit that an interpreter can have."""

_STRUCT_REPR: Final[object] = msgspec.Struct.__repr__

_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")


class Record(msgspec.Struct, frozen=True, array_like=True):
    """The result of one command: the answer as text, and the digest of the state after it."""

    answer: str
    state: str
    digest: str = ""
    """The result of the machine's own `digest`, as text; empty without one."""


def entry_of(number: int, command: bytes) -> Entry:
    """The log entry of the command with this number, from 1: a second later than the one before it."""
    return Entry(number, 1, command, time_s=BEGAN_S + number, seed=SEED)


def apply(fsm: FSM[object], number: int, command: bytes) -> str:
    """Apply a command; return its answer as text. A refusal is an answer; other exceptions pass, as they would stop a
    node, with a note of the command.
    """
    answer = answered(fsm, number, command)
    text = plain(answer)
    called = call_of(fsm, command) if isinstance(answer, bytes) else None
    if called is None:
        return text
    try:
        return f"{plain(called[0].answer(answer))} (encoded: {text})"  # type: ignore[arg-type]  # it is bytes
    except RequestFailed as error:
        return f"{error} (encoded: {text})"


def call_of(fsm: FSM[object], data: bytes) -> tuple[CommandMethod[Any, ..., object], dict[str, object]] | None:
    """The command of a typed machine that these bytes call, with its arguments; None for other bytes and machines."""
    if not isinstance(fsm, Machine):
        return None
    try:
        name, arguments = fsm._read(data)
        command = fsm._plan.commands[name]
        return command, command.signature.load(arguments)
    except (Rejected, KeyError, msgspec.DecodeError):
        return None


def shown_command(fsm: FSM[object], data: bytes) -> str:
    """A command for a message: the call, if it is one of a typed machine, and else the beginning of its bytes."""
    called = call_of(fsm, data)
    if called is None:
        return repr(data[:SHOWN_BYTES])
    arguments = ", ".join(f"{name}={plain(value)}" for name, value in called[1].items())
    return f"{called[0].name}({arguments})"[:SHOWN_CALL]


def answered(fsm: FSM[object], number: int, command: bytes) -> object:
    """Apply a command; return its answer, or its refusal."""
    entry = entry_of(number, command)
    try:
        return check_answer(fsm, entry, fsm.apply(entry))
    except Rejected as refusal:
        return refusal
    except Exception as error:
        note = (
            f"command {number}, {shown_command(fsm, command)}, raised this: nodes stop at it. To refuse, raise Rejected"
        )
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        raise


def record(fsm: FSM[object], commands: Iterable[bytes]) -> list[Record]:
    """Apply all commands, and record the state after each."""
    records: list[Record] = []
    for number, command in enumerate(commands, 1):
        answer = apply(fsm, number, command)
        try:
            records.append(Record(answer, state_digest(fsm), own_digest(fsm)))
        except Exception as error:
            error.add_note(f"it was after command {number}, {shown_command(fsm, command)}")
            raise
    return records


def snapshot_bytes(fsm: FSM[object]) -> bytes:
    """The state, as a snapshot taken now."""
    try:
        view = fsm.snapshot()
    except Exception as error:
        error.add_note(f"{type(fsm).__name__}.snapshot raised this: {NO_SNAPSHOT}")
        raise
    return persisted(check_view(fsm, view))


def persisted(view: FSMSnapshot) -> bytes:
    """Write a view out, and release it."""
    sink = io.BytesIO()
    try:
        persist(view, sink)
    except Exception as error:
        error.add_note(
            f"{type(view).__name__}.persist raised this: a node would make no snapshot, and its log would grow"
        )
        raise
    finally:
        view.release()
    return sink.getvalue()


def state_digest(fsm: FSM[object]) -> str:
    """Stands for the state in comparisons."""
    return hashlib.sha256(snapshot_bytes(fsm)).hexdigest()


def own_digest(fsm: FSM[object]) -> str:
    """The result of the state machine's own `digest`, as text that names what is wrong; empty if it has none."""
    if not isinstance(fsm, DigestingFSM):
        return ""
    digest: object = fsm.digest()
    if isinstance(digest, bytes) and 0 < len(digest) <= MACHINE_DIGEST_BYTES:
        return digest.hex()
    return f"{WRONG_DIGEST}: {plain(digest)[:SHOWN_BYTES]}"


def restored(fsm: FSM[object], snapshot: bytes) -> FSM[object]:
    """The machine, after it has restored a snapshot."""
    source = io.BytesIO(snapshot)
    answer: object = fsm.restore(source)  # type: ignore[func-returns-value]  # the user's code may return anything
    check_restored(answer, source)
    return fsm


def plain(answer: object) -> str:
    """An answer as text that is the same in every process, whatever its sets and addresses look like."""
    try:
        return _plain(answer)
    except RecursionError:  # it contains itself: `repr` knows that
        return _ADDRESS.sub("", repr(answer))


def _plain(answer: object) -> str:
    kind = type(answer)
    if isinstance(answer, Rejected):
        return f"Rejected({answer.code}, {str(answer)!r}, {_plain(answer.details)})"
    if isinstance(answer, Mapping):
        return "{" + ", ".join(sorted(f"{_plain(key)}: {_plain(value)}" for key, value in answer.items())) + "}"
    if isinstance(answer, set | frozenset):
        return "{" + ", ".join(sorted(map(_plain, answer))) + "}"
    if kind in (list, tuple):
        return "[" + ", ".join(map(_plain, answer)) + "]"  # type: ignore[call-overload]  # it is one of the two
    if kind is deque:
        return "deque[" + ", ".join(map(_plain, answer)) + "]"  # type: ignore[call-overload]
    if kind is int and abs(answer) >= LARGEST_SHOWN:  # type: ignore[arg-type]
        return hex(answer)  # type: ignore[arg-type]  # `repr` refuses it
    parts = dict(_shown_parts(answer))
    if parts:
        return f"{kind.__qualname__}({', '.join(f'{name}={_plain(value)}' for name, value in parts.items())})"
    return _ADDRESS.sub("", repr(answer))


def _shown_parts(answer: Any) -> Iterator[tuple[str, object]]:
    """What the generated `repr` of a record shows, by name. Nothing for others: their own `repr` is taken."""
    kind = type(answer)
    if isinstance(answer, msgspec.Struct):
        if kind.__repr__ is _STRUCT_REPR:
            yield from ((name, getattr(answer, name)) for name in answer.__struct_fields__ if hasattr(answer, name))
    elif is_dataclass(answer):
        if hasattr(kind.__repr__, "__wrapped__") and kind.__dataclass_params__.repr:
            yield from ((part.name, getattr(answer, part.name)) for part in fields(answer) if part.repr)
    elif isinstance(answer, tuple) and kind.__repr__.__qualname__ == f"{kind.__name__}.__repr__":
        yield from zip(getattr(kind, "_fields", ()), answer, strict=False)


def bytes_differ(expected: bytes, got: bytes) -> str:
    """The first difference of two snapshots, for a message."""
    at = next((n for n, (one, other) in enumerate(zip(expected, got, strict=False)) if one != other), None)
    at = min(len(expected), len(got)) if at is None else at
    start = max(0, at - SHOWN_BYTES // 3)
    shown = slice(start, start + SHOWN_BYTES)
    return f"  snapshots differ from byte {at} on\n  expected: …{expected[shown]!r}\n  got:      …{got[shown]!r}"
