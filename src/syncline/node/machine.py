"""Checks of a user's state machine: its methods at the start, their return values, and their exceptions.

An error names the method, the entry or the file, and the next step.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import BinaryIO, Final, NoReturn, Protocol

from syncline.errors import ConfigError, CorruptionError, NodeFailed, Rejected, StorageError, SynclineError
from syncline.node.fsm import FSM, CheckingFSM, DurableFSM, Entry, FSMSnapshot
from syncline.node.ignored_entries import RateLimitedLog
from syncline.platform.texts import named_error

__all__ = [
    "CommandCheck",
    "apply_failed",
    "check_answer",
    "check_answers",
    "check_applied_index",
    "check_log_machine",
    "check_machine",
    "check_restored",
    "check_view",
    "machine_name",
    "persist",
    "release",
    "restore_failed",
    "wrong_machine",
]

log: logging.Logger = logging.getLogger("syncline.node")

SHOWN_BYTES: Final = 64
"""Bytes of a command in an error's text."""

MAX_KNOWN_TYPES: Final = 64
"""Types of answers that one applier keeps. A program may make types without end; more than this are unusual."""

METHODS: Final = ("apply", "snapshot", "restore")
OPTIONAL_METHODS: Final = ("apply_batch", "check", "dump_answer", "load_answer", "renumber")


MAX_NAME_BYTES: Final = 256

OWN_NAMES: Final = "syncline."
"""Names of this library's own machines begin so."""


def machine_name(fsm: FSM[object]) -> str:
    """The name by which a log of an engine knows a state machine: that of a typed machine, `machine_name` of a class
    that has it, else the name of the class.

    Raises:
        TypeError: `machine_name` is no text.
        ConfigError: it is empty, too long, or has characters that can't be shown.
    """
    name: object = getattr(fsm, "_machine_name", None)
    if name is None:
        name = getattr(fsm, "machine_name", type(fsm).__name__)
    if not isinstance(name, str):
        raise TypeError(f"{type(fsm).__name__}.machine_name must be a text, not {type(name).__name__}")
    if not name.isprintable() or not 0 < len(name.encode()) <= MAX_NAME_BYTES:
        raise ConfigError(
            f"{type(fsm).__name__}.machine_name is {name[:MAX_NAME_BYTES]!r}: it must have 1 to {MAX_NAME_BYTES} bytes,"
            " all of them printable"
        )
    return name


def wrong_machine(found: str, name: str, *, kind: str, rename: str) -> NodeFailed:
    """The error of a node whose log is of the machine `found`. `kind` is the class of the machine `name`; `rename` is
    what a class that was renamed declares.
    """
    return NodeFailed(
        f"this log is of the machine {found!r}, and {kind} is the machine {name!r}: open it with the class that wrote"
        f" it. If the class was renamed, write {rename}"
    )


def check_log_machine(fsm: FSM[object], found: str) -> None:
    """Raise NodeFailed if a log is of another machine than this one. `found` is the name that it notes, or empty.

    A class without a name of its own may open the log of a class that it extends.
    """
    name, kind = machine_name(fsm), type(fsm).__name__
    if found and name.startswith(OWN_NAMES) and found != name:
        raise NodeFailed(
            f"this log is of the machine {found!r}, and a store is the machine {name!r}: open the store by the URL of"
            " another log"
        )
    typed = hasattr(fsm, "_machine_name")
    extended = name == kind and not typed and found in {base.__name__ for base in type(fsm).__mro__[:-1]}
    if not found or found == name or extended:
        return
    rename = f'class {kind}(Machine, name="{found}")' if typed else f'machine_name = "{found}" in {kind}'
    raise wrong_machine(found, name, kind=kind, rename=rename)


def check_machine(fsm: FSM[object]) -> None:
    """Raise TypeError, before anything is written, if this is no state machine, or its methods are `async def`."""
    if isinstance(fsm, type):
        raise TypeError(f"the state machine is the class {fsm.__name__}: give an object of it, {fsm.__name__}()")
    name = type(fsm).__name__
    for method in METHODS:
        if not callable(getattr(fsm, method, None)):
            raise TypeError(f"{name} is no state machine: it has no method {method!r} (see syncline.FSM)")
    for method in OPTIONAL_METHODS:
        if not callable(getattr(fsm, method, check_machine)):
            raise TypeError(f"{name}.{method} must be a method, or not be there")
    for method in (*METHODS, *OPTIONAL_METHODS):
        if (how := _deferred(getattr(fsm, method, None))) is not None:
            raise TypeError(
                f"{name}.{method} is {how}: a call of it does nothing by itself, and a node calls the methods of a"
                " state machine without `await` or a loop. Write it as an ordinary function"
            )
    _applied_index(fsm)


def _deferred(method: object) -> str | None:
    """The kind of a function that does nothing when it is called; None for an ordinary one."""
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        return "`async def`"
    return "a generator, because it has a `yield`" if inspect.isgeneratorfunction(method) else None


def _applied_index(fsm: FSM[object]) -> int:
    if not isinstance(fsm, DurableFSM):
        return 0
    index: object = fsm.applied_index
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise TypeError(
            f"{type(fsm).__name__}.applied_index is {index!r}: it must be the index of the last entry that was applied,"
            " an int, 0 before the first"
        )
    return index


def check_applied_index(fsm: FSM[object], last_index: int, *, node: str, path: str) -> None:
    """Raise ConfigError if a durable state machine has applied more than the log of the node at `path` holds."""
    index = _applied_index(fsm)
    if index > last_index:
        raise ConfigError(
            f"the state machine has applied entry {index}, and the log of node {node} in {path} ends at entry"
            f" {last_index}: the two do not belong together. Entries up to {index} would be acknowledged and never"
            f" applied. If {path} was emptied or replaced, put it back, or start with an empty state machine;"
            " if this is a new cluster, give it a state machine of its own"
        )


# -- apply ------------------------------------------------------------------------------------------------------------


def check_answer(fsm: FSM[object], entry: Entry, answer: object) -> object:
    """Check the answer of `apply`. Raises NodeFailed if it is awaitable: then nothing was applied."""
    if answer is not None and isinstance(answer, Awaitable):
        _close(answer)
        raise NodeFailed(
            f"{_method(fsm, 'apply')} returned {_named(answer)} for entry {entry.index}, which nothing awaits: the"
            " entry was not applied, and the node has stopped. Write `apply` without `async` and `await`, deploy it on"
            " all nodes, and start them: they apply the same entry again"
        )
    return answer


def check_answers(fsm: FSM[object], entries: Sequence[Entry], answers: object, known: set[type]) -> Sequence[object]:
    """Check the answers of `apply_batch`. Raises NodeFailed if they are not one for each entry, or are awaitable.

    `known` has the types that were found not to be awaitable before: the check takes longer than the rest of this.
    """
    rows: Sequence[object] | None
    if type(answers) is list:  # the frequent case: a check against an abstract class costs more than the rest of this
        rows = answers
    else:
        rows = answers if isinstance(answers, Sequence) and not isinstance(answers, str | bytes) else None
    if rows is not None and len(rows) == len(entries):
        kinds = set(map(type, rows))
        if not kinds <= known:
            for entry, answer in zip(entries, rows, strict=True):
                check_answer(fsm, entry, answer)
            if len(known) < MAX_KNOWN_TYPES:
                known |= kinds
        return rows
    method, span = _method(fsm, "apply_batch"), f"entries {entries[0].index} to {entries[-1].index}"
    if rows is not None:
        raise NodeFailed(
            f"{method} returned {len(rows)} answers for {len(entries)} entries ({span}): it must return one for"
            f" each, in their order. {CORRECT_IT}"
        )
    _close(answers)
    raise NodeFailed(f"{method} returned {_named(answers)} for {span}: it must return a list of answers. {CORRECT_IT}")


CORRECT_IT: Final = (
    "The node has stopped, because its state is in doubt. Correct the state machine, deploy it on all nodes, and start"
    " them: they apply the same entries again"
)


def apply_failed(fsm: FSM[object], method: str, entries: Sequence[Entry], error: BaseException) -> NoReturn:
    """`apply` or `apply_batch` raised. Logs it, and raises the NodeFailed that stops the node."""
    if isinstance(error, NodeFailed):  # in words of its own
        raise _logged(error, error)
    first, last = entries[0], entries[-1]
    where = f"entry {first.index}" if first is last else f"one of the entries {first.index} to {last.index}"
    text = (
        f"{_method(fsm, method)} raised {named_error(error)}. It happened at {where}; the data"
        f"{'' if first is last else ' of the first'} begin with {first.data[:SHOWN_BYTES]!r}. {CORRECT_IT}. (To refuse"
        " a command, raise syncline.errors.Rejected.)"
    )
    raise _logged(NodeFailed(text), error) from error


def _logged(failure: NodeFailed, trace: BaseException | None = None) -> NodeFailed:
    """`failure`, logged. The error of a logging handler becomes a note of it, and does not hide why the node stops."""
    try:
        log.critical("%s", failure, exc_info=trace)
    except Exception as error:  # noqa: BLE001 - a handler is code of the program
        failure.add_note(f"a logging handler raised {named_error(error)}")
    return failure


# -- check ------------------------------------------------------------------------------------------------------------


class CommandCheck:
    """The `check` of a state machine that has one: called before a command enters the log."""

    def __init__(self, fsm: CheckingFSM, clock: Callable[[], float]) -> None:
        self._check = fsm.check
        self._name = type(fsm).__name__
        self._log = RateLimitedLog(clock)

    def __call__(self, data: bytes) -> None:
        """Raise `Rejected` if the command must not enter the log."""
        try:
            answer: object = self._check(data)
        except Rejected:
            raise
        except Exception as error:
            text = f"{self._name}.check raised {named_error(error)}, for a command that begins with"
            text += f" {data[:SHOWN_BYTES]!r}: it is refused"
            self._log.warn(text)
            raise Rejected(text, code="check_failed") from error
        if answer is not None and isinstance(answer, Awaitable):
            _close(answer)
            raise Rejected(
                f"{self._name}.check returned {_named(answer)}: write it without `async`", code="check_failed"
            )


# -- snapshots --------------------------------------------------------------------------------------------------------


def check_view(fsm: FSM[object], view: object) -> FSMSnapshot:
    """Check the return value of `snapshot`. Raises StorageError if it is no view."""
    if callable(getattr(view, "persist", None)) and callable(getattr(view, "release", None)):
        if (how := _deferred(getattr(view, "persist", None))) is not None:
            release(view)  # type: ignore[arg-type]  # it has both methods
            raise StorageError(f"{type(view).__name__}.persist is {how}: write it as an ordinary function")
        return view  # type: ignore[return-value]  # it has both methods
    _close(view)
    raise StorageError(
        f"{_method(fsm, 'snapshot')} returned {_named(view)}: it must return an object with `persist(sink)` and"
        " `release()`, such as syncline.BytesSnapshot"
    )


class _Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


def persist(view: FSMSnapshot, sink: _Writable) -> None:
    """Write the view. Raises the exceptions of `persist`; StorageError if it is awaitable."""
    answer: object = view.persist(sink)  # type: ignore[func-returns-value]  # the user's code may return anything
    if answer is not None and isinstance(answer, Awaitable):
        _close(answer)
        raise StorageError(f"{type(view).__name__}.persist returned {_named(answer)}: write it without `async`")


def release(view: FSMSnapshot) -> None:
    """Release the view. An exception of `release` is logged: the result of the snapshot is known already."""
    try:
        answer: object = view.release()  # type: ignore[func-returns-value]  # the user's code may return anything
    except Exception:
        log.warning("%s.release raised; the view is given up all the same", type(view).__name__, exc_info=True)
    else:
        _close(answer)


def check_restored(answer: object, source: BinaryIO) -> None:
    """Raise if `restore` returned an awaitable, or closed its source."""
    if answer is not None and isinstance(answer, Awaitable):
        _close(answer)
        raise TypeError(f"it returned {_named(answer)}, which nothing awaits: write it without `async`")
    if source.closed:
        raise ValueError("it closed the source, which is then read on to verify it: leave it open")


def restore_failed(fsm: FSM[object], index: int, file: str, error: BaseException) -> NoReturn:
    """`restore` raised on an intact file: log it, and raise the NodeFailed that ends the start, or stops the node."""
    if isinstance(error, CorruptionError) and error.file == file:
        raise error  # the disk, and not the state machine
    if isinstance(error, NodeFailed):  # in words of its own
        text = f"snapshot at entry {index} ({file}): {error}"
        raise _logged(NodeFailed(text)) from error
    reason = str(error) if isinstance(error, SynclineError) else named_error(error)
    text = (
        f"{_method(fsm, 'restore')} failed on the snapshot at entry {index} ({file}), which is intact: {reason}."
        " Correct the state machine, or start the version of it that wrote the snapshot"
    )
    raise _logged(NodeFailed(text), error) from error


def _method(fsm: FSM[object], method: str) -> str:
    return f"{type(fsm).__name__}.{method}"


def _named(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _close(value: object) -> None:
    """Close a coroutine that is never awaited, so that it causes no second warning."""
    if inspect.iscoroutine(value):
        value.close()
