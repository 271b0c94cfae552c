"""Typed machines: declared state, commands, queries; without a node, and against a plain object."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline import Entry, Machine, command, query
from syncline.errors import ConfigError, NodeFailed, Rejected, RequestFailed, UsageError
from syncline.machines.codec import PIECE, Codec
from syncline.testing import check_fsm


class Job(msgspec.Struct):
    name: str
    worker: str = ""
    tags: set[str] = set()


class Jobs(Machine):
    """The machine of most tests here."""

    queue: dict[str, Job]
    seen: set[str]
    groups: dict[str, set[str]]
    log: list[int] = [7]  # noqa: RUF012 - a default, of which each machine has its own
    best: float | None
    LIMIT: ClassVar[int] = 50

    @command
    def put(self, name: str, tags: set[str] = set(), *, urgent: bool = False) -> int:  # noqa: B006 - never changed
        if name in self.queue:
            raise Rejected(f"{name} is queued", code="exists")
        job = Job(name, tags=set(tags))
        self.queue = {name: job} | self.queue if urgent else self.queue | {name: job}
        self.seen.add(name)
        for tag in sorted(tags):  # the order of a set differs from process to process
            self.groups.setdefault(tag, set()).add(name)
        self.log.append(len(self.queue))
        return len(self.queue)

    @command
    def take(self, worker: str) -> Job | None:
        for job in self.queue.values():
            if not job.worker:
                job.worker = worker
                return job
        return None

    @command
    def drop(self) -> str | None:
        for name in self.queue:
            del self.queue[name]
            return name
        return None

    @command
    def twice(self, worker: str) -> list[Job | None]:
        return [Jobs.take(self, worker), Jobs.take(self, worker)]

    @query
    def waiting(self) -> int:
        return len(self.queue)


def applied(machine: Machine, *commands: bytes) -> list[Any]:
    return [machine.apply(Entry(index, 1, data)) for index, data in enumerate(commands, 1)]


def snapshot_of(machine: Machine) -> bytes:
    file = io.BytesIO()
    machine.snapshot().persist(file)
    return file.getvalue()


def restored(machine: Machine) -> Machine:
    other = type(machine)()
    other.restore(io.BytesIO(snapshot_of(machine)))
    return other


# -- the declarations -------------------------------------------------------------------------------------------------


def test_machine_state_begins_empty_or_with_its_defaults() -> None:
    one, other = Jobs(), Jobs()
    assert (one.queue, one.seen, one.groups, one.log, one.best) == ({}, set(), {}, [7], None)
    one.log.append(8)
    assert other.log == [7], "each machine has a default of its own"


class Odd:
    """A type that can't be encoded."""


def test_machine_state_that_cannot_be_encoded_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"BadState\.parts can't be part of the state: values of Odd"):

        class BadState(Machine):
            parts: list[Odd]

    with pytest.raises(ConfigError, match=r"AnyState\.parts .*`Any` would come back"):

        class AnyState(Machine):
            parts: dict[str, Any]

    with pytest.raises(ConfigError, match=r"BadDefault\.count: the default 'x' does not fit"):

        class BadDefault(Machine):
            count: int = "x"  # type: ignore[assignment]

    with pytest.raises(ConfigError, match=r"NoDefault\.job: the empty value .* give a default"):

        class NoDefault(Machine):
            job: Job

    with pytest.raises(ConfigError, match=r"Missing: an annotation can't be read"):

        class Missing(Machine):
            job: Nothing  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigError, match=r"Taken\.raft: Machine has an attribute"):

        class Taken(Machine):
            raft: int  # type: ignore[assignment]

    with pytest.raises(ConfigError, match="without __init__"):

        class Made(Machine):
            def __init__(self) -> None:
                self.count = 0


def test_machine_commands_that_cannot_be_called_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"NoHint\.add: the parameter by has no annotation"):

        class NoHint(Machine):
            @command
            def add(self, by) -> None: ...  # type: ignore[no-untyped-def]

    with pytest.raises(ConfigError, match=r"NoReturn\.add: the answer has no annotation"):

        class NoReturn(Machine):
            @command
            def add(self, by: int): ...  # type: ignore[no-untyped-def]

    with pytest.raises(ConfigError, match=r"OddArgument\.add: the parameter by can't be encoded: values of Odd"):

        class OddArgument(Machine):
            @command
            def add(self, by: Odd) -> None: ...

    with pytest.raises(ConfigError, match=r"Star\.add: \*by"):

        class Star(Machine):
            @command
            def add(self, *by: int) -> None: ...

    with pytest.raises(ConfigError, match=r"Later\.add is `async def`"):

        class Later(Machine):
            @command
            async def add(self) -> None: ...

    with pytest.raises(ConfigError, match=r"Apply\.apply: Machine has a method of this name"):

        class Apply(Machine):
            @command
            def apply(self) -> None: ...  # type: ignore[override]


@pytest.mark.parametrize("kind", [command, query])
def test_machine_default_that_does_not_fit_its_annotation_is_refused(kind: Callable[..., Any]) -> None:
    """Each call without the argument would fail, and entries from before the parameter would get the wrong value."""
    with pytest.raises(
        ConfigError, match=r"Text\.add: the default 'x' of the parameter n does not fit .*`int`, got `str`"
    ):

        class Text(Machine):
            @kind
            def add(self, n: int = "x") -> None: ...  # type: ignore[assignment]

    with pytest.raises(ConfigError, match=r"Nothing\.add: the default None of the parameter n .* add `\| None`"):

        class Nothing(Machine):
            @kind
            def add(self, n: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    with pytest.raises(ConfigError, match=r"Odd\.add: the default <.*> of the parameter n does not fit"):

        class Odd(Machine):
            @kind
            def add(self, n: int = object()) -> None: ...  # type: ignore[assignment]


def test_machine_default_that_fits_after_encoding_is_taken() -> None:
    """A tuple for a list, and a whole number for a float: as an argument of a call would be."""

    class Sound(Machine):
        @command
        def add(self, xs: list[int] = (), by: float = 1, tag: str | None = None, *, more: Any = None) -> None: ...  # type: ignore[assignment]

    assert Sound.add.encode() == Sound.add.encode([], 1)


def test_machine_calls_check_arguments_before_anything_is_sent() -> None:
    with pytest.raises(TypeError, match=r"Jobs\.take: worker: expected `str`, got `int`"):
        Jobs.take.encode(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Jobs\.take: missing a required argument: 'worker'"):
        Jobs.take.encode()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Jobs\.put: the argument tags can't be encoded"):
        Jobs.put.encode("t1", {Odd()})  # type: ignore[arg-type]


def test_machine_that_is_not_open_names_the_plain_call() -> None:
    machine = Jobs()
    with pytest.raises(UsageError, match=r"Jobs\.take\(self, …\)"):
        machine.take("w3").close()
    assert Jobs.put(machine, "t1", urgent=True) == 1
    assert Jobs.twice(machine, "w3") == [Job("t1", "w3"), None]
    with pytest.raises(UsageError, match="is not open"):
        machine.raft  # noqa: B018 - the access is what is tested


# -- applies ----------------------------------------------------------------------------------------------------------


def test_machine_answers_are_copies_of_the_state() -> None:
    machine = Jobs()
    taken = Jobs.take.answer(applied(machine, Jobs.put.encode("t1"), Jobs.take.encode("w3"))[1])
    assert taken == Job("t1", "w3")
    taken.worker = "changed by the caller"
    assert machine.queue["t1"].worker == "w3"


def test_machine_refuses_what_it_cannot_read_alike_in_check_and_apply() -> None:
    machine = Jobs()
    wrong = msgspec.msgpack.encode(("take", {"worker": 7}))
    for data in (b"", b"\xc1", b"rubbish", msgspec.msgpack.encode(("", {"machine": 7}))):
        for refuse in (machine.check, lambda data: machine.apply(Entry(1, 1, data))):
            with pytest.raises(Rejected) as refused:
                refuse(data)
            assert refused.value.code == "invalid_command"
    for later in (wrong, msgspec.msgpack.encode(("take", {"worker": "w", "new": 1}))):
        with pytest.raises(Rejected, match=r"the arguments of Jobs\.take do not fit"):
            machine.check(later)
        with pytest.raises(NodeFailed, match=r"entry 1 calls .* arguments that do not fit"):
            machine.apply(Entry(1, 1, later))  # a newer node may apply it: the states must not differ
    unknown = msgspec.msgpack.encode(("later", {}))
    with pytest.raises(Rejected, match="later, which Jobs does not have"):
        machine.check(unknown)
    with pytest.raises(NodeFailed, match="entry 1 is the command later, which Jobs does not have"):
        machine.apply(Entry(1, 1, unknown))


def test_machine_answer_that_cannot_be_encoded_fails_for_its_caller() -> None:
    class Wrong(Machine):
        count: int

        @command
        def odd(self) -> Any:
            self.count += 1
            return Odd()

        @command
        def lie(self) -> int:
            self.count += 1
            return "text"  # type: ignore[return-value]

    machine = Wrong()
    odd, lie = applied(machine, Wrong.odd.encode(), Wrong.lie.encode())
    with pytest.raises(RequestFailed, match="a Odd, can't be encoded"):
        Wrong.odd.answer(odd)
    with pytest.raises(RequestFailed, match="does not fit the annotation"):
        Wrong.lie.answer(lie)
    assert machine.count == 2, "all nodes have applied both"


def test_machine_command_that_makes_an_undeclared_attribute_stops_the_node() -> None:
    class Careless(Machine):
        @command
        def note(self) -> None:
            self.extra = 1

    with pytest.raises(NodeFailed, match=r"Careless\.note has made or deleted the attribute extra"):
        Careless().apply(Entry(1, 1, Careless.note.encode()))


def test_machine_keeps_the_contract_of_state_machines() -> None:
    """Determinism over hash seeds, snapshots at each index, views, digests."""
    names = [f"t{number}" for number in range(12)]
    commands = [Jobs.put.encode(name, {"red", "blue", name}, urgent=name == "t5") for name in names]
    check_fsm(
        Jobs, [*commands, Jobs.put.encode("t1"), Jobs.take.encode("w"), Jobs.drop.encode(), Jobs.twice.encode("v")]
    )


COMMANDS: st.SearchStrategy[Any] = st.one_of(
    st.builds(lambda name, tags, urgent: ("put", (name, tags), {"urgent": urgent}), st.sampled_from("abcdef"),
              st.sets(st.sampled_from(["x", "y", "z"])), st.booleans()),
    st.builds(lambda worker: ("take", (worker,), {}), st.sampled_from("vw")),
    st.just(("drop", (), {})),
)  # fmt: skip


def answer_of(machine: Machine, method: Any, entry: Entry) -> object:
    answer: object = method.answer(machine.apply(entry))
    return answer


def outcome_of(run: Callable[[], object]) -> object:
    try:
        return msgspec.to_builtins(run(), order="deterministic")
    except Rejected as refusal:
        return str(refusal)


@settings(max_examples=60, deadline=None)
@given(st.lists(COMMANDS, max_size=25), st.data())
def test_machine_is_its_plain_object_with_restores_anywhere(calls: list[Any], data: st.DataObject) -> None:
    """The log, with a snapshot and restore between any two entries, does what plain calls do."""
    plain, machine = Jobs(), Jobs()
    for index, (name, args, kwargs) in enumerate(calls, 1):
        method = getattr(Jobs, name)
        entry = Entry(index, 1, method.encode(*args, **kwargs))
        expected = outcome_of(functools.partial(method, plain, *args, **kwargs))
        found = outcome_of(functools.partial(answer_of, machine, method, entry))
        assert found == expected
        if data.draw(st.booleans()):
            machine = restored(machine)  # type: ignore[assignment]
        assert list(machine.queue) == list(plain.queue), "a dict keeps its order"
        assert (machine.queue, machine.seen, machine.groups, machine.log) == (
            plain.queue, plain.seen, plain.groups, plain.log,
        )  # fmt: skip
        assert machine.digest() == plain.digest()


# -- snapshots --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [{str(n): n for n in range(3 * PIECE, 0, -1)}, {}])
def test_codec_pieces_of_a_dict_keep_its_order(value: dict[str, int]) -> None:
    codec = Codec(dict[str, int])
    pieces = list(codec.dump_pieces(value))
    assert len(pieces) == max(1, len(value) // PIECE)
    assert list(codec.load_pieces(iter(pieces))) == list(value)  # type: ignore[call-overload]


def test_codec_sets_have_one_form() -> None:
    names = [f"name {number}" for number in range(2 * PIECE + 3)]
    codec, reverse = Codec(set[str]), names[::-1]
    assert list(codec.dump_pieces(set(names))) == list(codec.dump_pieces(set(reverse)))
    assert codec.load_pieces(codec.dump_pieces(set(names))) == set(names)


def test_codec_record_with_a_set_and_a_dict_is_refused() -> None:
    class Both(msgspec.Struct):
        one: set[str]
        other: dict[str, int]

    with pytest.raises(TypeError, match="Both holds both a set and a dict"):
        Codec(list[Both])


def test_machine_digest_of_a_large_container_sees_both_ends() -> None:
    class Large(Machine):
        rows: dict[int, int]
        line: list[int]

    def digest(**changed: Any) -> bytes:
        machine = Large()
        machine.rows, machine.line = {n: n for n in range(11_000)}, list(range(11_000))
        for name, (key, value) in changed.items():
            getattr(machine, name)[key] = value
        return machine.digest()

    assert digest() == digest()
    assert (
        len({digest(), digest(rows=(5, 0)), digest(rows=(10_999, 0)), digest(line=(3, 0)), digest(line=(-1, 0))}) == 5
    )


def test_machine_snapshot_that_could_not_be_loaded_is_not_written() -> None:
    """It took the place of the log on all nodes, and none of them could start again."""

    class Careless(Machine):
        total: int
        names: dict[str, int]

        @command
        def put(self, name: str) -> None:
            self.names[name] = name  # type: ignore[assignment]  # the fault

    machine = Careless()
    for number in range(2 * PIECE):
        machine.names[str(number)] = number
    snapshot_of(machine)
    Careless.put(machine, "n")
    file = io.BytesIO()
    with pytest.raises(TypeError, match=r"^Careless\.names holds a value that does not fit the annotation: Expected"):
        machine.snapshot().persist(file)
    assert not file.getvalue()


def test_machine_snapshot_that_is_cut_or_foreign_changes_nothing() -> None:
    machine = Jobs()
    applied(machine, Jobs.put.encode("t1"))
    data = snapshot_of(machine)
    for bad in (data[:-1], data[:-4], data[:20], b"", b"\x00\x00\x00\x05hello", b"\x00\x00\x00\x03\x93\x09\xa0\x80"):
        with pytest.raises(NodeFailed):
            machine.restore(io.BytesIO(bad))
        assert list(machine.queue) == ["t1"]
