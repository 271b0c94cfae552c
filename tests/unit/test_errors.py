"""The tree of errors: each has an outcome, and those that are also Python's own errors are not mistaken for them."""

from __future__ import annotations

import ast
import copy
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline import errors
from syncline.cli import main as command
from syncline.cli.exits import EXIT_UNAVAILABLE
from syncline.errors import CorruptionError, DeadlineExceeded, Outcome, SynclineError, Unreachable

SOURCES = Path(__file__).resolve().parents[2] / "src"

CLASSES = [
    error
    for name in errors.__all__
    if isinstance(error := getattr(errors, name), type) and issubclass(error, SynclineError)
]

UNKNOWN = {
    *(
        "AnswerNotKept",
        "Closed",
        "DeadlineExceeded",
        "FrameError",
        "LeadershipLost",
        "LeaseLost",
        "LockLost",
        "NodeFailed",
        "SessionExpired",
    ),
    *("StorageError", "SynclineError", "TransportError"),
}
"""Their outcome is `unknown` unless the raiser knows better: all others say that a retry is safe."""

OWN_WAITS = {
    "connection": "a dial in the simulated network",
    "ask": "a connection of the client, which raises `ConnectFailed` and `ConnectionLost`",
    "_stopped": "an event",
    "run_load": "a dial",
    "debug": "the parts of a bundle: what a node refuses or does not answer is noted in it",
    "check_names": "a name server",
    "check_peers": "a dial",
    "_dial_s": "a dial",
    "attempt": "one request to a backend of others",
    "_in_time": "the first contact with a backend of others",
    "_close_applier": "the end of the state machine",
    "_take": "the view of the state machine, and one request to a backend of others",
    "_write": "a backend of others",
    "open_beside": "the end of a worker",
    "_wait": "a lock or a campaign of etcd's clients, for the time that a request may wait",
    "_read_on": "the room for a large read",
    "read_backup": "a connection of the client, which raises `ConnectionLost`",
    "_close_in_time": "the ends of the writer of snapshots and of the state machine",
    "_attempt": "a connection of the client, which raises `ConnectFailed` and `ConnectionLost`",
    "_connect": "a dial",
    "_dial": "a dial",
    "open_stream": "a connection of the client, which raises `ConnectFailed` and `ConnectionLost`",
    "_read": "a connection of the client, which raises `ConnectionLost`",
    "_run": "a child process",
    "_open": "a dial",
    "connect": "a dial",
    "_watch": "the end of a child process",
    "stop": "the end of a child process",
    "fetch": "a file, on a thread",
    "addresses": "a name server",
    "_addresses": "a name server",
    "listen": "a listener",
    "_connected_socket": "a dial",
    "leader": "a condition of the simulation",
    "_joint_is_left": "a condition of the simulation",
    "answers": "a condition of the simulation",
    "catch_up": "a condition of the simulation",
    "_recover": "a condition of the simulation",
    "leases": "a condition of the simulation",
    "_acquire_in_time": "a limit of its own: an expired one alone is taken, others go on",
    "_end": "the end of a lease, bounded by a limit of its own",
    "more": "the next item of a watch, bounded by a limit of its own",
    "wait": "an event, bounded by a limit of its own",
    "_start": "a child process",
    "_within": "a limit of its own",
    "end": "the ends of leases, bounded by a limit of its own",
    "program": "a condition of the simulation",
    "_lost": "an event, bounded by a limit of its own",
    "until": "an event, bounded by a limit of its own",
}
"""Functions that catch an `OSError` around an `await`, and what they await: no operation of a node or client."""


def make(kind: type[SynclineError]) -> SynclineError:
    return kind("why", file="1.wal") if kind is CorruptionError else kind("why")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_error_of_each_class_has_an_outcome(kind: type[SynclineError]) -> None:
    expected = Outcome.UNKNOWN if kind.__name__ in UNKNOWN else Outcome.NOT_APPLIED
    assert make(kind).outcome is expected
    assert str(make(kind)) == "why"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_error_copied_keeps_its_attributes(kind: type[SynclineError]) -> None:
    """Process pools and loggers copy errors: an `OSError` is copied in a way of its own."""
    error = make(kind)
    error.outcome = Outcome.UNKNOWN
    if kind is not CorruptionError:  # its `file` is a keyword, which `copy` does not pass
        assert vars(copy.copy(error)) == vars(error)
        assert vars(pickle.loads(pickle.dumps(error))) == vars(error)


def test_deadline_exceeded_is_a_timeout_error() -> None:
    with pytest.raises(TimeoutError) as caught:
        raise DeadlineExceeded("too late", outcome=Outcome.NOT_APPLIED, leader=7)
    assert (str(caught.value), caught.value.errno) == ("too late", None)
    assert isinstance(caught.value, DeadlineExceeded)
    assert (caught.value.outcome, caught.value.leader) == (Outcome.NOT_APPLIED, 7)


def test_unreachable_is_a_connection_error() -> None:
    with pytest.raises(ConnectionError) as caught:
        raise Unreachable("nobody answers")
    assert str(caught.value) == "nobody answers"
    assert isinstance(caught.value, Unreachable)
    assert caught.value.leader is None


def test_main_with_an_operation_error_tells_its_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error that no command has caught is no fault of a file, though it is an `OSError`."""

    def fail(**_: object) -> None:
        raise Unreachable("no server answers")

    monkeypatch.setattr(command.cli, "main", fail)
    assert command.main([]) == EXIT_UNAVAILABLE
    assert capsys.readouterr().err == "syncline: no server answers\n"


def handlers(node: ast.AST, function: str = "") -> Iterator[str]:
    """The functions that catch an `OSError`, a `ConnectionError` or a `TimeoutError` around an `await`.

    Not those that catch our own errors first, or together with it.
    """
    for child in ast.iter_child_nodes(node):
        within = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if (isinstance(child, ast.Try) and catches(child) and awaits(child.body)) or (
            isinstance(child, ast.With | ast.AsyncWith) and suppresses(child) and awaits(child.body)
        ):
            yield within
        yield from handlers(child, within)


def names(node: ast.expr | None) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} if node is not None else set()


PYTHONS = {"OSError", "ConnectionError", "TimeoutError"}
OURS = {"SynclineError", "OperationError", "DeadlineExceeded"}


def catches(node: ast.Try) -> bool:
    for handler in node.handlers:
        if names(handler.type) & OURS:
            return False
        if names(handler.type) & PYTHONS:
            return True
    return False


def suppresses(node: ast.With | ast.AsyncWith) -> bool:
    return any("suppress" in ast.dump(item.context_expr) and names(item.context_expr) & PYTHONS for item in node.items)


def awaits(body: list[ast.stmt]) -> bool:
    kinds = ast.Await | ast.AsyncFor | ast.AsyncWith
    return any(isinstance(node, kinds) for statement in body for node in ast.walk(statement))


def test_handlers_of_os_errors_do_not_surround_operations() -> None:
    """A handler of Python's errors around an operation would swallow `DeadlineExceeded` or `Unreachable`."""
    found = [name for path in sorted(SOURCES.rglob("*.py")) for name in handlers(ast.parse(path.read_text()))]
    unknown = set(found) - OWN_WAITS.keys()
    assert not unknown, f"{unknown}: catch SynclineError first, or say in OWN_WAITS what is awaited"
    assert not OWN_WAITS.keys() - set(found), "some entries of OWN_WAITS are out of date"
