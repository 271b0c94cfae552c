"""`Machine.entry`: the time and random numbers of a command."""

from __future__ import annotations

import pytest

from syncline import Entry, Machine, command, query
from syncline.errors import ConfigError, NodeFailed, Rejected, UsageError
from syncline.testing import RaftCluster, check_fsm, guard_determinism, simulate


class Raffle(Machine):
    names: list[str]
    drawn_s: float
    winner: str

    @command
    def enter(self, name: str) -> float:
        self.names.append(name)
        return self.entry.time_s

    @command
    def draw(self) -> tuple[str, float]:
        if not self.names:
            raise Rejected("nobody has joined")
        self.winner, self.drawn_s = self.entry.random.choice(self.names), self.entry.time_s
        return self.winner, self.entry.random.random()

    @query
    def when(self) -> float:
        return self.entry.time_s


def joined(time_s: float = 0.0) -> Raffle:
    machine = Raffle()
    for index, name in enumerate(("ann", "bob", "cyd"), 1):
        machine.apply(Entry(index, 1, Raffle.enter.encode(name), time_s=time_s))
    return machine


def test_machine_entry_is_the_one_that_is_applied() -> None:
    machine = Raffle()
    answer = machine.apply(Entry(1, 1, Raffle.enter.encode("ann"), time_s=12.5))
    assert Raffle.enter.answer(answer) == 12.5


def test_machine_entry_gives_all_nodes_the_same_chance() -> None:
    entry = Entry(9, 1, Raffle.draw.encode(), time_s=3.0, seed=7)
    one, other = joined(), joined(1.0)
    with guard_determinism():
        first = one.apply(entry)
    assert other.apply(Entry(9, 2, Raffle.draw.encode(), time_s=3.0, seed=7)) == first
    assert one.winner == other.winner
    assert len({joined().apply(Entry(index, 1, Raffle.draw.encode())) for index in range(9, 40)}) > 20


@pytest.mark.parametrize("call", [lambda it: it.entry, Raffle.draw, Raffle.when], ids=["a test", "plain", "a query"])
def test_machine_entry_outside_a_command_is_refused(call: object) -> None:
    assert callable(call)
    with pytest.raises(UsageError, match=r"Raffle.entry is there while a command is applied"):
        call(joined())


def test_machine_entry_is_gone_after_a_refusal() -> None:
    machine = Raffle()
    with pytest.raises(Rejected, match="nobody"):
        machine.apply(Entry(1, 1, Raffle.draw.encode()))
    with pytest.raises(UsageError):
        machine.entry  # noqa: B018 - the look is what is refused


def test_machine_entry_is_no_state() -> None:
    machine = joined(5.0)
    assert set(vars(machine)) == {"_declared", "names", "drawn_s", "winner"}


def test_machine_field_of_this_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="entry: Machine has an attribute of this name"):
        type("Book", (Machine,), {"__annotations__": {"entry": "str"}})


class Keeping(Machine):
    """It tries to keep the entry."""

    count: int

    @command
    def keep(self) -> None:
        self.kept = self.entry


def test_machine_entry_that_is_kept_stops_the_node() -> None:
    with pytest.raises(NodeFailed, match="attribute kept, which is not declared"):
        Keeping().apply(Entry(1, 1, Keeping.keep.encode()))


def test_machine_with_times_and_chance_keeps_the_contract() -> None:
    commands = [Raffle.draw.encode(), Raffle.enter.encode("ann"), Raffle.enter.encode("bob"), Raffle.draw.encode()]
    check_fsm(Raffle, commands, hash_seeds=(1,))


def test_machine_with_times_and_chance_survives_faults() -> None:
    """The clocks of the nodes differ by up to two minutes, and the nodes restart: each node has the same times."""
    commands = [Raffle.enter.encode("ann"), Raffle.draw.encode(), Raffle.enter.encode("bob")]
    assert simulate(Raffle, seed=5, commands=commands, sim_seconds=2.0, faults=("kill-all", "transfer")).acknowledged


def test_machine_times_follow_the_clock_of_the_cluster() -> None:
    with RaftCluster(Raffle) as cluster:
        first = Raffle.enter.answer(_bytes(cluster.apply(Raffle.enter.encode("ann"))))
        cluster.run(10.0)
        second = Raffle.enter.answer(_bytes(cluster.apply(Raffle.enter.encode("bob"))))
        assert 10.0 <= second - first < 11.0
        cluster.assert_same_state()


def _bytes(answer: object) -> bytes:
    assert isinstance(answer, bytes)
    return answer
