"""The two faces of the client are the same: names, parameters, defaults, results."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

import pytest

from syncline.client import (
    AsyncClient,
    Barrier,
    BlockingBarrier,
    BlockingLease,
    BlockingLock,
    BlockingOnce,
    BlockingSchedule,
    BlockingTerm,
    BlockingTransaction,
    Client,
    HeldLease,
    Lock,
    Once,
    Schedule,
    Term,
    Transaction,
)
from syncline.client.blocking.mapping import BlockingMapping
from syncline.client.blocking.queue import BlockingQueue, BlockingQueueItem
from syncline.client.blocking.registry import BlockingRegistration, BlockingServices
from syncline.client.blocking.shared import BlockingCounter, BlockingSessions
from syncline.client.coordination.counter import SharedCounter
from syncline.client.coordination.mapping import LiveMapping
from syncline.client.coordination.queue import Queue
from syncline.client.coordination.queue_claim import QueueItem
from syncline.client.coordination.registry import LiveServices, Registration
from syncline.client.coordination.sessions import Sessions

FACES: list[tuple[type, type]] = [
    (AsyncClient, Client),
    (HeldLease, BlockingLease),
    (Transaction, BlockingTransaction),
    (LiveMapping, BlockingMapping),
    (Registration, BlockingRegistration),
    (LiveServices, BlockingServices),
    (Queue, BlockingQueue),
    (QueueItem, BlockingQueueItem),
    (SharedCounter, BlockingCounter),
    (Sessions, BlockingSessions),
    (Lock, BlockingLock),
    (Term, BlockingTerm),
    (Once, BlockingOnce),
    (Schedule, BlockingSchedule),
    (Barrier, BlockingBarrier),
    (Transaction, BlockingTransaction),
]

FORMS = {
    r"\bAsyncIterator\[": "PortalIterator[",
    r"\bAsyncGenerator\[(\w+), None\]": r"PortalIterator[\1]",
    r"\b(Lock|Term|Once|Schedule|Barrier)\b": r"Blocking\1",
    r"\bHeldLease\b": "BlockingLease",
    r"\bLiveMapping\b": "BlockingMapping",
    r"\bRegistration\b": "BlockingRegistration",
    r"\bLiveServices\b": "BlockingServices",
    r"\bQueue\b": "BlockingQueue",
    r"\bItemClaim\b": "BlockingItemClaim",
    r"\bSharedCounter\b": "BlockingCounter",
    r"\bSessions\b": "BlockingSessions",
    r"\bTransaction\b": "BlockingTransaction",
    r"NewValue \| Awaitable\[NewValue\]": "NewValue",
}
"""What stands in the annotations of the async face, and what in its place in the blocking one."""

ATTRIBUTES = {"ttl_s"}
"""Set in the constructor of the async face: its class does not have them."""

CONTEXT_MANAGERS = {"session"}
"""Made by `asynccontextmanager` and `contextmanager`: their functions give an iterator of one item."""

FURTHER = {("BlockingLease", "lost"): {"timeout"}}
"""Parameters that only the blocking face has: a wait that nothing else can end."""


def members(kind: type) -> dict[str, object]:
    return {name: value for name, value in inspect.getmembers(kind) if not name.startswith("_")}


def function_of(member: object) -> Callable[..., object] | None:
    """The function behind a method, a property or a context manager."""
    found = inspect.unwrap(member.fget if isinstance(member, property) and member.fget else member)  # type: ignore[arg-type]
    return found if inspect.isfunction(found) else None


def blocking_form(annotation: object, name: str) -> object:
    if not isinstance(annotation, str):
        return annotation
    if name in CONTEXT_MANAGERS:
        return annotation.replace("AsyncIterator[", "Iterator[")
    for form, other in FORMS.items():
        annotation = re.sub(form, other, annotation)
    return annotation


PAIRS = [(one, other, name) for one, other in FACES for name in [*members(one), "__init__"]]
CLIENT_PAIRS = [pair for pair in PAIRS if pair[0] is AsyncClient or pair[2] != "__init__"]


@pytest.mark.parametrize(("one", "other"), FACES)
def test_blocking_face_has_the_same_names(one: type, other: type) -> None:
    assert set(members(one)) | ATTRIBUTES == set(members(other)) | ATTRIBUTES


@pytest.mark.parametrize(("one", "other", "name"), CLIENT_PAIRS, ids=lambda part: getattr(part, "__name__", part))
def test_blocking_face_has_the_same_parameters_and_results(one: type, other: type, name: str) -> None:
    asked, given = function_of(getattr(one, name)), function_of(getattr(other, name))
    assert asked is not None
    assert given is not None, f"{other.__name__}.{name}"
    assert not inspect.iscoroutinefunction(given)
    wanted, found = inspect.signature(asked), inspect.signature(given)
    further = FURTHER.get((other.__name__, name), set())
    assert (
        [
            (parameter.name, parameter.kind, parameter.default, blocking_form(parameter.annotation, name))
            for parameter in list(wanted.parameters.values())[1:]  # `self` has a protocol in the words of coordination
        ]
        == [
            (parameter.name, parameter.kind, parameter.default, parameter.annotation)
            for parameter in list(found.parameters.values())[1:]
            if parameter.name not in further
        ]
    )
    assert blocking_form(wanted.return_annotation, name) == found.return_annotation


@pytest.mark.parametrize("name", sorted(set(members(Client)) - {"close"}))
def test_blocking_client_docstring_names_the_async_method(name: str) -> None:
    """The first line and the example are its own; arguments and errors stand there once."""
    function = function_of(getattr(Client, name))
    assert function is not None
    doc, of_async = inspect.getdoc(function) or "", inspect.getdoc(getattr(AsyncClient, name)) or ""
    assert doc.splitlines()[0] == of_async.splitlines()[0]
    assert doc.rstrip().endswith(f"Its arguments and errors are those of `AsyncClient.{name}`.")
