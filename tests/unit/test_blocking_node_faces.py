"""The two faces of a node are the same: names, parameters, defaults, results."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

import pytest

from syncline import LeaderTerm, Machine, Raft, Session, blocking
from tests.unit.test_blocking_faces import members

FACES: list[tuple[type, type]] = [
    (Raft, blocking.Raft),
    (Session, blocking.BlockingSession),
    (LeaderTerm, blocking.BlockingLeaderTerm),
]

RESULTS = {
    "apply": "R",
    "apply_many": "list[BlockingFuture[R]]",
    "apply_once": "BlockingFuture[R]",
    "barrier": "None",
    "read_index": "None",
    "session": "BlockingSession[R]",
    "open": "BlockingRaft[R]",
    "join": "BlockingRaft[R]",
    "leadership": "Iterator[BlockingLeaderTerm[R]]",
    "every": "BlockingSchedule",
}
"""Results that differ, by method: an answer in place of a future, an open node in place of a `Startup`."""

FORMS = {r"\bR_co\b": "R", r"\bAsyncIterator\[": "PortalIterator[", r"\bAsk\b": "AskBlocking"}
"""What stands in the annotations of the async face, and what in its place in the blocking one."""

FURTHER = {("BlockingRaft", "failed"): {"timeout"}}
"""Parameters that only the blocking face has: a wait that nothing else can end."""

PAIRS = [(one, other, name) for one, other in FACES for name in members(one)]


def function_of(kind: type, name: str) -> Callable[..., object] | None:
    """The function behind a method, a property, a class method or a context manager."""
    member: object = inspect.getattr_static(kind, name)
    found = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
    found = inspect.unwrap(found)  # type: ignore[arg-type]
    return found if inspect.isfunction(found) else None


def form(annotation: object) -> object:
    if isinstance(annotation, str):
        for found, other in FORMS.items():
            annotation = re.sub(found, other, annotation)
    return annotation


@pytest.mark.parametrize(("one", "other"), [*FACES, (Machine, blocking.Machine)])
def test_blocking_node_has_the_same_names(one: type, other: type) -> None:
    assert set(members(one)) == set(members(other))


@pytest.mark.parametrize(("one", "other", "name"), PAIRS, ids=lambda part: getattr(part, "__name__", part))
def test_blocking_node_has_the_same_parameters_and_results(one: type, other: type, name: str) -> None:
    asked, given = function_of(one, name), function_of(other, name)
    assert given is not None
    assert asked is not None
    assert not inspect.iscoroutinefunction(given)
    wanted, found = inspect.signature(asked), inspect.signature(given)
    further = FURTHER.get((other.__name__, name), set())
    assert [
        (parameter.name, parameter.kind, parameter.default, form(parameter.annotation))
        for parameter in wanted.parameters.values()
    ] == [
        (parameter.name, parameter.kind, parameter.default, parameter.annotation)
        for parameter in found.parameters.values()
        if parameter.name not in further
    ]
    assert RESULTS.get(name, form(wanted.return_annotation)) == found.return_annotation


def docstring_pairs() -> list[tuple[Callable[..., object], str]]:
    found = []
    for one, other in [*FACES, (Machine, blocking.Machine)]:
        for name in members(other):
            function = function_of(other, name)
            is_property = isinstance(inspect.getattr_static(other, name), property)
            if function is not None and not is_property and function.__module__.startswith("syncline.blocking"):
                found.append((function, f"syncline.{one.__name__}.{name}"))
    return found


OWN = {"syncline.Raft.until_stopped", "syncline.Raft.close"}
"""Their errors differ: only the blocking ones are bound to a thread or a process."""

KINDS = {"LeaderTerm": LeaderTerm, "Machine": Machine, "Raft": Raft, "Session": Session}

FIRST_LINES = {
    "Await the future for the state machine's answer.": "Returns the state machine's answer.",
    "For the main thread's loop.": "For the main thread.",
    "`Config`, the path of a TOML file with its settings, or an engine's URL.": (
        "`Config`, or the path of a TOML file with its settings."
    ),
}
"""What stands in the first line of the async method, and what in its place in the blocking one."""


@pytest.mark.parametrize(("function", "name"), docstring_pairs(), ids=lambda part: part if type(part) is str else "")
def test_blocking_node_docstring_names_the_async_method(function: Callable[..., object], name: str) -> None:
    """The first line and the example are its own; arguments and errors stand there once."""
    owner, _, method = name.removeprefix("syncline.").partition(".")
    doc = inspect.getdoc(function) or ""
    of_async = inspect.getdoc(getattr(KINDS[owner], method)) or ""
    first = of_async.splitlines()[0]
    for part, other in FIRST_LINES.items():
        first = first.replace(part, other)
    assert doc.splitlines()[0].replace("`blocking.", "`") == first
    assert name in OWN or f"errors are those of `{name}`" in " ".join(doc.split())
