"""Versions of a typed machine: new, renamed and removed commands, other machines' logs, added and dropped fields."""

from __future__ import annotations

import io

import msgspec
import pytest

from syncline import Entry, Machine, command
from syncline.errors import ConfigError, NodeFailed, Rejected
from syncline.machines.calls import encode_declaration
from syncline.machines.declared import Declared


class First(Machine, name="jobs"):
    count: int

    @command
    def add(self, by: int) -> int:
        self.count += by
        return self.count

    @command
    def reset(self) -> None:
        self.count = 0


class Second(Machine, name="jobs", removed={"reset": 3}):
    count: int
    extra: str = "new"

    @command(since=2, was="add")
    def increase(self, by: int, times: int = 1) -> int:
        self.count += by * times
        return self.count

    @command(since=3)
    def double(self) -> int:
        self.count *= 2
        return self.count


def run(machine: Machine, *commands: bytes) -> None:
    for index, data in enumerate(commands, 1):
        machine.apply(Entry(index, 1, data))


def declaration(machine: type[Machine], version: int = 1) -> bytes:
    return encode_declaration(machine._plan.declared(version))


def snapshot_of(machine: Machine) -> io.BytesIO:
    file = io.BytesIO()
    machine.snapshot().persist(file)
    return io.BytesIO(file.getvalue())


def test_machine_version_is_that_of_its_newest_command() -> None:
    assert (First.machine_version, Second.machine_version) == (1, 3)
    with pytest.raises(ConfigError, match="a command or `removed` says 2"):

        class Low(Machine, version=1):
            @command(since=2)
            def add(self) -> None: ...

    with pytest.raises(ConfigError, match="since is 0"):
        command(since=0)


def test_machine_declares_what_members_of_the_cluster_version_know() -> None:
    assert First._plan.declared(1) == Declared("jobs", {"add": 1, "reset": 1})
    assert Second._plan.declared(1).commands.keys() == {"add"}, "under the old name until all know the new one"
    assert Second._plan.declared(2).commands.keys() == {"increase"}
    assert Second._plan.declared(3).commands.keys() == {"increase", "double"}


def test_machine_reads_the_log_of_an_earlier_version() -> None:
    machine = Second()
    run(machine, declaration(First), First.add.encode(4), declaration(Second, 2), Second.increase.encode(3, times=2))
    assert machine.count == 10
    assert machine._declared.commands.keys() == {"add", "reset", "increase"}


def test_machine_entry_of_a_removed_command_stops_with_the_way_out() -> None:
    with pytest.raises(NodeFailed, match="command reset, which Second has removed in version 3"):
        run(Second(), declaration(First), First.reset.encode())


def test_machine_without_a_command_of_its_log_applies_nothing() -> None:
    class Forgetful(Machine, name="jobs"):
        count: int

        @command
        def add(self, by: int) -> int:
            self.count += by
            return self.count

    machine = Forgetful()
    with pytest.raises(NodeFailed, match=r"commands that Forgetful does not have: reset \(since 1\)"):
        run(machine, declaration(First), First.add.encode(4))
    assert machine.count == 0
    source = First()
    run(source, declaration(First), First.add.encode(4))
    with pytest.raises(NodeFailed, match=r"commands that Forgetful does not have: reset"):
        machine.restore(snapshot_of(source))


def test_machine_log_of_another_machine_is_refused_by_name() -> None:
    class Orders(Machine):
        count: int

    with pytest.raises(NodeFailed, match="this log is of the machine 'jobs', and Orders is the machine 'Orders'"):
        run(Orders(), declaration(First))
    with pytest.raises(NodeFailed, match="this log is of the machine 'jobs', and Orders is the machine 'Orders'"):
        Orders().restore(snapshot_of(declared_first()))


def declared_first() -> First:
    machine = First()
    run(machine, declaration(First))
    return machine


def test_machine_check_refuses_foreign_declarations_before_the_log() -> None:
    """Else one faulty member could stop all nodes."""
    machine = First()
    for declared in (Declared("orders", {"add": 1}), Declared("jobs", {"later": 9})):
        with pytest.raises(Rejected) as refused:
            machine.check(encode_declaration(declared))
        assert refused.value.code == "unknown_command"


def test_machine_fields_may_be_added_and_dropped_by_declaration() -> None:
    source = Second()
    run(source, declaration(Second, 3), Second.increase.encode(5))
    source.extra = "kept"
    back = Second()
    back.restore(snapshot_of(source))
    assert (back.count, back.extra) == (5, "kept")

    old = First()
    run(old, declaration(First), First.add.encode(5))
    back.restore(snapshot_of(old))
    assert (back.count, back.extra) == (5, "new"), "a field that the snapshot lacks gets its default"

    class Without(Machine, name="jobs"):
        extra: str

        @command(was="increase")
        def double(self) -> None: ...

    with pytest.raises(NodeFailed, match=r"the field count, which Without does not declare.*dropped"):
        Without().restore(snapshot_of(source))

    class Dropping(Machine, name="jobs", dropped=["count"]):
        extra: str

        @command(was="increase")
        def double(self) -> None: ...

    machine = Dropping()
    machine.restore(snapshot_of(source))
    assert machine.extra == "kept"


def test_machine_digests_of_other_fields_are_not_compared() -> None:
    assert First.digest_version != Second.digest_version
    assert 0 < Second.digest_version <= 65_535


def test_machine_snapshot_of_format_1_is_read() -> None:
    """A golden file: formats are frozen."""
    golden = bytes.fromhex(
        "0000001493"  # [1, "jobs", {"add": 1, "reset": 1}]
        "01a46a6f627382a361646401a57265736574"
        "010000000892a5636f756e740900000000"
    )
    machine = First()
    machine.restore(io.BytesIO(golden))
    assert machine.count == 9
    assert snapshot_of(machine).getvalue() == golden


def test_machine_entries_of_format_1_are_read() -> None:
    """Golden entries of the log: a declaration and a command."""
    declared = bytes.fromhex("92a082a76d616368696e65a46a6f6273a8636f6d6d616e647382a361646401a5726573657401")
    added = bytes.fromhex("92a361646481a2627904")
    assert (declaration(First), First.add.encode(4)) == (declared, added)
    assert msgspec.msgpack.decode(added) == ["add", {"by": 4}]
    machine = First()
    run(machine, declared, added)
    assert machine.count == 4
