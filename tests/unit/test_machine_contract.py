"""A user's state machine: what is refused at the start, and how each thing that it does wrong is named."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Self, cast

import pytest

from syncline import FSM, BytesSnapshot, Entry, FSMSnapshot
from syncline.errors import ConfigError, NodeFailed, Rejected, StorageError
from syncline.node.applier import restore
from syncline.node.fsm import CheckingFSM
from syncline.node.ignored_entries import REPEAT_S, Ignored
from syncline.node.machine import (
    CommandCheck,
    apply_failed,
    check_answer,
    check_answers,
    check_applied_index,
    check_machine,
    check_view,
    persist,
    release,
)
from syncline.storage.snapshots.store import SnapshotReader
from tests.helpers.node_cluster import Listing

FIRST, SECOND = Entry(5, 1, b"first"), Entry(6, 1, b"second")


class Promise:
    """Something to be awaited that is no coroutine."""

    def __await__(self) -> Iterator[object]:
        yield None


class AsyncApply(Listing):
    async def apply(self, entry: Entry) -> object:
        return len(self.items)


class AsyncSnapshot(Listing):
    async def snapshot(self) -> FSMSnapshot:  # type: ignore[override]
        return BytesSnapshot(b"")


class AsyncRestore(Listing):
    async def restore(self, source: BinaryIO) -> None:  # type: ignore[override]
        source.read()


class AsyncBatch(Listing):
    async def apply_batch(self, entries: Sequence[Entry]) -> Sequence[object]:
        return entries


class AsyncCheck(Listing):
    async def check(self, data: bytes) -> None:
        assert data


class GeneratorApply(Listing):
    def apply(self, entry: Entry) -> object:
        yield entry


class NoRestore:
    def apply(self, entry: Entry) -> object:
        return entry

    def snapshot(self) -> FSMSnapshot:
        return BytesSnapshot(b"")


class OddCheck(Listing):
    check = 5


class OddIndex(Listing):
    applied_index = "5"


class Durable(Listing):
    applied_index = 10


@pytest.mark.parametrize(
    ("machine", "named"),
    [
        (AsyncApply(), "AsyncApply.apply is `async def`"),
        (AsyncSnapshot(), "AsyncSnapshot.snapshot is `async def`"),
        (AsyncRestore(), "AsyncRestore.restore is `async def`"),
        (AsyncBatch(), "AsyncBatch.apply_batch is `async def`"),
        (AsyncCheck(), "AsyncCheck.check is `async def`"),
        (GeneratorApply(), "GeneratorApply.apply is a generator"),
        (NoRestore(), "no method 'restore'"),
        (OddCheck(), "OddCheck.check must be a method"),
        (OddIndex(), "OddIndex.applied_index is '5'"),
        (Listing, r"the class Listing: give an object of it, Listing\(\)"),
        (None, "no method 'apply'"),
    ],
)
def test_machine_that_is_none_is_refused_with_the_method(machine: object, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        check_machine(cast("FSM[object]", machine))


def test_machine_ahead_of_its_log_is_refused() -> None:
    """What the log gets up to that index would be acknowledged, and never applied."""
    for behind in (0, 9):
        with pytest.raises(ConfigError, match=rf"entry 10, and the log of node a in /data ends at entry {behind}"):
            check_applied_index(Durable(), behind, node="a", path="/data")
    check_applied_index(Durable(), 10, node="a", path="/data")
    check_applied_index(Listing(), 0, node="a", path="/data")


async def late() -> int:
    return 5


def test_machine_answer_to_be_awaited_stops_the_node() -> None:
    """An acknowledged command that was never applied is the worst answer that there is."""
    assert check_answer(Listing(), FIRST, 5) == 5
    with pytest.raises(NodeFailed, match=r"Listing\.apply returned a coroutine for entry 5, which nothing awaits"):
        check_answer(Listing(), FIRST, late())
    with pytest.raises(NodeFailed, match="returned a Promise for entry 5"):
        check_answer(Listing(), FIRST, Promise())


@pytest.mark.parametrize(
    ("answers", "named"),
    [
        (lambda: None, r"Listing\.apply_batch returned None for entries 5 to 6"),
        (lambda: 5, "returned a int for entries 5 to 6"),
        (lambda: "ab", "returned a str for entries 5 to 6"),
        (lambda: [1], r"returned 1 answers for 2 entries \(entries 5 to 6\)"),
        (lambda: [1, 2, 3], "returned 3 answers for 2 entries"),
        (late, "returned a coroutine for entries 5 to 6"),
        (lambda: [1, late()], "returned a coroutine for entry 6"),
    ],
)
def test_machine_batch_of_wrong_answers_is_named(answers: Callable[[], object], named: str) -> None:
    with pytest.raises(NodeFailed, match=named):
        check_answers(Listing(), [FIRST, SECOND], answers(), set())


def test_machine_apply_that_raises_is_logged_with_the_entry(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(NodeFailed, match="entry 5; the data begin with b'first'") as raised:
        apply_failed(Listing(), "apply", [FIRST], ValueError("odd"))
    assert isinstance(raised.value.__cause__, ValueError)
    [record] = caplog.records
    assert record.levelno == logging.CRITICAL
    assert record.exc_info is not None
    assert "Listing.apply raised ValueError: odd" in record.getMessage()
    with pytest.raises(NodeFailed, match=r"one of the entries 5 to 6; the data of the first begin with b'first'"):
        apply_failed(Listing(), "apply_batch", [FIRST, SECOND], ValueError("odd"))


def test_machine_apply_that_fails_in_its_own_words_keeps_them() -> None:
    with pytest.raises(NodeFailed, match=r"^the version is too old$"):
        apply_failed(Listing(), "apply", [FIRST], NodeFailed("the version is too old"))


def test_machine_apply_shows_at_most_64_bytes() -> None:
    with pytest.raises(NodeFailed) as raised:
        apply_failed(Listing(), "apply", [Entry(5, 1, b"x" * 1000)], ValueError())
    assert "x" * 64 in str(raised.value)
    assert "x" * 65 not in str(raised.value)


class Checking(Listing):
    def check(self, data: bytes) -> None:
        if data == b"no":
            raise Rejected("unwanted", code="mine")
        if data == b"bug":
            raise ZeroDivisionError("a bug")


def test_machine_check_that_raises_something_else_refuses(caplog: pytest.LogCaptureFixture) -> None:
    """A command that `check` can't judge stays out; the node goes on, and the log is not flooded."""
    machine: CheckingFSM = Checking()
    now = [0.0]
    check = CommandCheck(machine, lambda: now[0])
    check(b"good")
    with pytest.raises(Rejected, match="unwanted") as refusal:
        check(b"no")
    assert refusal.value.code == "mine"
    for _ in range(3):
        with pytest.raises(Rejected, match=r"Checking\.check raised ZeroDivisionError: a bug") as failed:
            check(b"bug")
        assert failed.value.code == "check_failed"
    assert len(caplog.records) == 1
    now[0] = REPEAT_S
    with pytest.raises(Rejected):
        check(b"bug")
    assert "2 more like it" in caplog.records[-1].getMessage()


class Later(Listing):
    def check(self, data: bytes) -> object:
        assert data
        return late()


def test_machine_check_to_be_awaited_refuses() -> None:
    with pytest.raises(Rejected, match=r"Later\.check returned a coroutine"):
        CommandCheck(cast("CheckingFSM", Later()), lambda: 0.0)(b"x")


@pytest.mark.parametrize("view", [None, 5, b"state", BytesSnapshot])
def test_machine_snapshot_that_returns_no_view_is_named(view: object) -> None:
    if view is BytesSnapshot:
        view = late()
    with pytest.raises(StorageError, match=r"Listing\.snapshot returned .*: it must return an object with `persist"):
        check_view(Listing(), view)


class AsyncView(BytesSnapshot):
    async def persist(self, sink: object) -> None:  # type: ignore[override]
        raise AssertionError(sink)


class LateView(BytesSnapshot):
    def persist(self, sink: object) -> object:  # type: ignore[override]
        assert sink
        return late()

    def release(self) -> None:
        raise ValueError("odd")


def test_machine_persist_to_be_awaited_makes_no_empty_snapshot() -> None:
    """Its coroutine was never run: the file would be whole, and empty."""
    with pytest.raises(StorageError, match=r"AsyncView\.persist is `async def`"):
        check_view(Listing(), AsyncView(b""))
    with pytest.raises(StorageError, match=r"LateView\.persist returned a coroutine"):
        persist(cast("FSMSnapshot", LateView(b"")), io.BytesIO())


def test_machine_release_that_raises_is_logged_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    release(cast("FSMSnapshot", LateView(b"")))
    assert "LateView.release raised" in caplog.text


class Source:
    """Stands in for a snapshot in the store: the file at /s.snap, at entry 9, intact."""

    path = "/s.snap"

    class manifest:  # noqa: N801 - an attribute of the real one
        index = 9
        sessions = 0

    def __init__(self) -> None:
        self.verified = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def buffered(self) -> BinaryIO:
        return io.BytesIO(b"state")

    def verify(self) -> None:
        self.verified += 1


class Restoring(Listing):
    def __init__(self, do: Callable[[BinaryIO], object]) -> None:
        super().__init__()
        self._do = do

    def restore(self, source: BinaryIO) -> None:
        return self._do(source)  # type: ignore[return-value]


def failing(source: BinaryIO) -> object:
    raise KeyError(source.read(2))


@pytest.mark.parametrize(
    ("do", "named"),
    [
        (failing, "KeyError: b'st'"),
        (lambda _: sys.exit(), "SystemExit. Correct the state machine"),
        (lambda _: late(), "returned a coroutine"),
        (lambda source: source.close(), "closed the source"),
    ],
)
def test_machine_restore_that_fails_names_file_and_entry(do: Callable[[BinaryIO], object], named: str) -> None:
    with pytest.raises(
        NodeFailed, match=rf"Restoring\.restore failed on the snapshot at entry 9 \(/s\.snap\).*{named}"
    ):
        restore(Restoring(do), cast("SnapshotReader", Source()))


def test_machine_restore_that_works_is_verified() -> None:
    source = Source()
    restore(Restoring(lambda source: source.read()), cast("SnapshotReader", source))
    assert source.verified == 1


def test_ignored_entries_are_counted_and_logged_at_a_bounded_rate(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    ignored = Ignored(lambda: now[0])
    for index in range(1, 100):
        ignored.note(index, "rubbish")
    assert ignored.count == 99
    assert [record.getMessage() for record in caplog.records] == ["log entry 1 has no effect, on any node: rubbish"]
