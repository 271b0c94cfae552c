"""`check_fsm` finds mistakes that show in answers, reads, views and later commands, and names the command."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import msgspec
import pytest

from syncline import FSM, BytesSnapshot, Entry, FSMSnapshot, Machine, command, query
from syncline.errors import Rejected, StorageError
from syncline.testing import FSMProblem, check_fsm
from syncline.testing.fsm.run import plain
from tests.helpers.checked_machines import AnswersRecords, Items, Prints, ReadsTheZone

FEW = [b"ann", b"bob", b"ann", b"carl"]


class Lists:
    """Right: the numbers of the commands with a name."""

    def __init__(self) -> None:
        self.lists: dict[str, list[int]] = {}

    def apply(self, entry: Entry) -> object:
        mine = self.lists.setdefault(entry.data.decode(), [])
        mine.append(entry.index)
        return list(mine)

    def snapshot(self) -> FSMSnapshot:
        return BytesSnapshot(json.dumps(self.lists).encode())

    def restore(self, source: BinaryIO) -> None:
        self.lists = json.load(source)


class SharedAnswer(Lists):
    def apply(self, entry: Entry) -> object:
        super().apply(entry)
        return self.lists[entry.data.decode()]


class SharedRefusal(Lists):
    def apply(self, entry: Entry) -> object:
        if entry.data == b"carl":
            raise Rejected("no carl", code="no", details={"ann": self.lists.get("ann")})  # type: ignore[dict-item]
        return super().apply(entry)


class LazyAnswer(Lists):
    def apply(self, entry: Entry) -> object:
        super().apply(entry)
        return (name for name in self.lists)


class LateView:
    def __init__(self, lists: dict[str, list[int]]) -> None:
        self.lists = lists

    def persist(self, sink: Any) -> None:
        sink.write(json.dumps(self.lists).encode())

    def release(self) -> None:
        pass


class SharedLists(Lists):
    """A copy of the dict alone. The state is empty at the first view, and the test is shorter than ten commands."""

    def snapshot(self) -> FSMSnapshot:
        return LateView(dict(self.lists))


class OldCache(Lists):
    """`restore` leaves a cache as it is, and only the last command reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: dict[str, int] = {}

    def apply(self, entry: Entry) -> object:
        if entry.data == b"carl":
            return self.lengths.setdefault("ann", len(self.lists.get("ann", [])))
        return super().apply(entry)


class OtherKind(Lists):
    """It raises after a restore alone: the names are gone."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[str] = set()

    def apply(self, entry: Entry) -> object:
        self.known.add(entry.data.decode())
        if not self.known >= set(self.lists):
            raise KeyError("unknown")
        return super().apply(entry)


class Unreadable(Lists):
    def restore(self, source: BinaryIO) -> None:
        raise ValueError("format 2")


@pytest.mark.parametrize(
    ("machine", "clause", "number"),
    [
        (
            SharedAnswer,
            "an answer changes while later commands .*\n.*\n.*answer of command 1, b'ann': return a copy",
            3,
        ),
        (SharedRefusal, "an answer changes while later commands are applied", 5),
        (LazyAnswer, "an answer is a generator", 1),
        (SharedLists, "a view shows what was applied before", 1),
        (OldCache, "answered differently\n.* command 4 of 4, b'carl', the second time that it is applied", 8),
        (OtherKind, "in a new machine a command raises\n.*\n.*without restore: .*\n.*KeyError", 2),
        (Unreadable, "a snapshot can't be restored in a new machine\n.*\n.*format 2", 0),
    ],
)
def test_check_fsm_finds_mistakes_with_few_commands(
    machine: Callable[[], FSM[object]], clause: str, number: int
) -> None:
    with pytest.raises(FSMProblem, match=clause) as found:
        check_fsm(machine, FEW, processes=False)
    assert found.value.index == number


def test_check_fsm_lets_a_command_raise_that_is_given_once() -> None:
    class Once(Lists):
        def apply(self, entry: Entry) -> object:
            if len(self.lists.get("ann", ())) == 2 and entry.data == b"ann":
                raise KeyError("a third ann")
            return super().apply(entry)

    check_fsm(Once, FEW, processes=False)


# -- reads ------------------------------------------------------------------------------------------------------------


class Growing(Lists):
    def count(self, name: str) -> int:
        return len(self.lists.setdefault(name, []))

    def names(self) -> list[str]:
        return list(self.lists)


def test_check_fsm_finds_a_read_that_changes_the_state() -> None:
    check_fsm(Growing, FEW, processes=False, reads=[Growing.names])
    with pytest.raises(FSMProblem, match=r"a read changed the state \(.*lambda>\)") as found:
        check_fsm(Growing, FEW, processes=False, reads=[lambda machine: machine.count("zoe")])
    assert found.value.index == 0


class ForgetsATotal(Lists):
    """No command reads the total; a read does."""

    total = 0

    def apply(self, entry: Entry) -> object:
        self.total += 1
        return super().apply(entry)


def total(machine: Any) -> int:
    return int(machine.total)


def test_check_fsm_finds_a_read_that_a_restore_changes() -> None:
    check_fsm(ForgetsATotal, FEW, processes=False)
    with pytest.raises(FSMProblem, match=r"a read has another result\n.*1 of 4.*\n  total\n.*: +1\n.*: +0"):
        check_fsm(ForgetsATotal, FEW, processes=False, reads=[total])


class Names(Machine):
    names: list[str]

    @command
    def add(self, name: str) -> int:
        self.names.append(name)
        return len(self.names)

    @query
    def has(self, name: str) -> bool:
        return name in self.names

    @query
    def newest(self, count: int = 1) -> list[str]:
        return [self.names.pop() for _ in range(min(count, len(self.names)))]


class TimedNames(Names):
    asked: int = 0

    @query
    def newest(self, count: int = 1) -> list[str]:
        return self.names[-count:]

    @query
    def age(self) -> float:
        import time

        return time.perf_counter()


def test_check_fsm_checks_queries_of_a_machine() -> None:
    """A query may read the clock: it runs on one node alone."""
    with pytest.raises(FSMProblem, match=r"a read changed the state \(Names.newest\)") as found:
        check_fsm(Names, [Names.add.encode("ann")], processes=False)
    assert found.value.index == 1
    check_fsm(TimedNames, [Names.add.encode("ann")] * 3, processes=False)


def test_check_fsm_refuses_a_read_that_is_no_function() -> None:
    with pytest.raises(TypeError, match="reads must be functions of the machine, not str: 'count'"):
        check_fsm(Lists, FEW, reads=["count"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="reads must be a list of functions of the machine, not function"):
        check_fsm(Lists, FEW, reads=lambda lists: lists)  # type: ignore[arg-type]


# -- what is no state machine -----------------------------------------------------------------------------------------


class Broken(Lists):
    def apply(self, entry: Entry) -> object:
        return 1 // (entry.index - 2)


class NoView(Lists):
    def snapshot(self) -> FSMSnapshot:
        return b"{}"  # type: ignore[return-value]


class TextView(Lists):
    def snapshot(self) -> FSMSnapshot:
        return BytesSnapshot("{}")  # type: ignore[arg-type]


class NoEncoding(Lists):
    def snapshot(self) -> FSMSnapshot:
        return BytesSnapshot(json.dumps({1, 2}).encode())


class Deferred(Lists):
    async def apply(self, entry: Entry) -> object:
        return 1


def test_check_fsm_of_what_a_node_refuses_says_why() -> None:
    with pytest.raises(TypeError, match=r"has no method 'apply'"):
        check_fsm(dict, FEW)  # type: ignore[type-var]
    with pytest.raises(TypeError, match=r"Deferred.apply is `async def`"):
        check_fsm(Deferred, FEW)
    with pytest.raises(StorageError, match=r"NoView.snapshot returned a bytes: it must return an object with"):
        check_fsm(NoView, FEW)


@pytest.mark.parametrize(
    ("machine", "error", "note"),
    [
        (Broken, ZeroDivisionError, "command 2, b'bob', raised this"),
        (TextView, TypeError, "BytesSnapshot.persist raised this: a node would make no snapshot"),
        (NoEncoding, TypeError, "NoEncoding.snapshot raised this: a node would make no snapshot"),
    ],
)
def test_check_fsm_error_of_the_machine_notes_the_command(
    machine: Callable[[], FSM[object]], error: type[Exception], note: str
) -> None:
    with pytest.raises(error) as found:
        check_fsm(machine, FEW)
    assert note in found.value.__notes__[0]


class Odd(Machine):
    """Mistakes of typed machines, a command each."""

    sizes: dict[str, int]

    @command
    def answer(self, name: str) -> str:
        return len(name)  # type: ignore[return-value]

    @command
    def grow(self, name: str) -> int:
        self.sizes[name] = 2 ** (40 * (1 + len(self.sizes)))
        return 1

    @command
    def count(self, name: str) -> int:
        if not self.sizes:
            self.sizes = defaultdict(int)
        self.sizes[name] += 1
        return self.sizes[name]


def test_check_fsm_reports_calls_and_answers_of_a_typed_machine() -> None:
    with pytest.raises(FSMProblem, match=r"caller can't read an answer\n.*command 1 of 1, answer\(name='ann'\)"):
        check_fsm(Odd, [Odd.answer.encode("ann")], processes=False)
    with pytest.raises(FSMProblem, match=r"(?s)command 2 of 2, count\(name='bob'\)\n.*: 1 \(encoded: b.*KeyError"):
        check_fsm(Odd, [Odd.count.encode("ann"), Odd.count.encode("bob")], processes=False)
    with pytest.raises(TypeError, match="the field sizes") as found:
        check_fsm(Odd, [Odd.grow.encode("ann"), Odd.grow.encode("bob")], processes=False)
    assert found.value.__notes__[1] == "it was after command 2, grow(name='bob')"


# -- other processes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", [AnswersRecords, Prints])
def test_check_fsm_passes_prints_and_sets_in_records(machine: Callable[[], FSM[object]]) -> None:
    check_fsm(machine, FEW, hash_seeds=(1,))


def test_check_fsm_finds_the_time_zone_of_the_machine() -> None:
    with pytest.raises(FSMProblem, match=r"two processes part at .*\(apply\): return str\(dt.datetime.fromtimestamp"):
        check_fsm(ReadsTheZone, [b"7"], hash_seeds=(1,))


class Pair(NamedTuple):
    one: int
    other: set[str]


class Loud(msgspec.Struct):
    name: str

    def __repr__(self) -> str:
        return self.name.upper()


def circle() -> list[object]:
    mine: list[object] = []
    mine.append(mine)
    return mine


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Pair(1, {"b"}), "Pair(one=1, other={'b'})"),
        (Loud("ann"), "ANN"),
        (deque([{"b"}]), "deque[{'b'}]"),
        ([10**5000], f"[{hex(10**5000)}]"),
        (circle(), "[[...]]"),
        ((1, [2, {"k": {3}}]), "[1, [2, {'k': {3}}]]"),
        (object(), "<object object>"),
    ],
)
def test_plain_answers_have_one_text_in_all_processes(answer: object, text: str) -> None:
    assert plain(answer) == text


def test_items_with_few_commands_keep_the_contract() -> None:
    check_fsm(Items, FEW, processes=False)
