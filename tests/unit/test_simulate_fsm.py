"""`simulate`: a good state machine comes through every seed, and each kind of bad one is found."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import itertools
import random
from collections.abc import Callable
from typing import Any, BinaryIO

import pytest
from examples.state_machine.raffle import Raffle
from hypothesis import strategies as st

import syncline.testing
from syncline import FSM, Entry
from syncline.errors import NodeFailed, UsageError
from syncline.kv.commands import Put, encode_command
from syncline.kv.machine import KvMachine
from syncline.testing import SimulationFailed, simulate
from syncline.testing.fsm.simulation import USUAL_FAULTS
from tests.helpers.node_cluster import Listing, LoopListing

NAMES = st.sampled_from([b"join ann", b"join bob", b"join eve", b"draw"])


class Random(Listing):
    def apply(self, entry: Entry) -> object:
        return (super().apply(entry), random.random())


class ForgetfulRestore(Listing):
    def restore(self, source: BinaryIO) -> None:
        super().restore(source)
        self.items = self.items[:-1]


class HiddenDifference(Listing):
    """The answers are right, the state is not: each machine counts from a number of its own."""

    numbers = itertools.count()

    def apply(self, entry: Entry) -> object:
        super().apply(entry)
        self.items[-1] = b"%d" % next(self.numbers)
        return None


class Breaks(Listing):
    def apply(self, entry: Entry) -> object:
        if len(self.items) == 20:
            raise ZeroDivisionError
        return super().apply(entry)


class Digesting(Listing):
    def digest(self) -> bytes:
        return hashlib.sha256(b"".join(self.items)).digest()


class DigestOfCalls(Listing):
    """The state is right and the digest is not: it is lost with each restore."""

    calls = 0

    def apply(self, entry: Entry) -> object:
        self.calls += 1
        return super().apply(entry)

    def digest(self) -> bytes:
        return b"%d" % self.calls


def numbered() -> Callable[[random.Random], bytes]:
    numbers = itertools.count()
    return lambda rng: b"%d %d" % (next(numbers), rng.randrange(10))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("machine", [Listing, LoopListing, Digesting])
def test_a_good_machine_comes_through(machine: Callable[[], FSM[object]], seed: int) -> None:
    done = simulate(machine, seed=seed, commands=numbered(), sim_seconds=3.0)
    assert done.acknowledged > 5
    assert done.faults


def test_simulate_finds_a_digest_that_a_restore_loses() -> None:
    def some_seeds() -> None:
        for seed in range(10):
            simulate(DigestOfCalls, seed=seed, commands=numbered(), faults=("kill", "power", "snapshot"))

    with pytest.raises(SimulationFailed, match="differs from that of the majority"):
        some_seeds()


def test_every_fault_can_be_asked_for() -> None:
    done = simulate(Listing, seed=1, commands=numbered(), faults=USUAL_FAULTS, sim_seconds=3.0)
    assert done.faults == USUAL_FAULTS


def test_commands_can_be_a_strategy_an_iterable_or_a_function() -> None:
    for commands in (NAMES, [b"join ann", b"draw"], lambda rng: rng.choice([b"join ann", b"draw"])):
        assert simulate(Raffle, seed=2, commands=commands, sim_seconds=2.0).acknowledged > 5


def test_a_machine_that_takes_batches_is_run_in_batches() -> None:
    commands = [encode_command(Put(b"k%d" % (n % 7), b"%d" % n)) for n in range(50)]
    assert simulate(KvMachine, seed=3, commands=commands, sim_seconds=2.0).acknowledged > 5


@pytest.mark.parametrize(
    ("machine", "fault", "finding"),
    [
        (Random, "cut", "not deterministic: two nodes answer command"),
        (ForgetfulRestore, "kill", r"does not hold what the log leads to|answer command"),
        (HiddenDifference, "cut", "does not hold what the log leads to"),
        (Breaks, "cut", "raised ZeroDivisionError"),
    ],
)
def test_a_bad_machine_is_found_with_its_seed(machine: Callable[[], FSM[object]], fault: str, finding: str) -> None:
    with pytest.raises(SimulationFailed, match=finding) as failed:
        simulate(machine, seed=1, commands=numbered(), faults=[fault])
    assert f"seed=1, nodes=3, faults=('{fault}',)" in str(failed.value)


def test_one_seed_is_one_run() -> None:
    first = simulate(Listing, seed=7, commands=NAMES, sim_seconds=2.0)
    assert simulate(Listing, seed=7, commands=NAMES, sim_seconds=2.0) == first


def test_a_fault_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="no fault 'rain'"):
        simulate(Listing, seed=1, commands=[b"x"], faults=["rain"])


def test_the_public_surface_is_complete() -> None:
    for name in syncline.testing.__all__:
        assert hasattr(syncline.testing, name), name
        assert name in dir(syncline.testing)
    homes = {name for names in syncline.testing._HOMES.values() for name in names}
    assert homes == set(syncline.testing.__all__)
    assert syncline.testing.__all__ == sorted(syncline.testing.__all__)


def test_the_command_of_the_same_name_does_not_hide_the_function() -> None:
    command = importlib.import_module("syncline.testing.simulate")
    assert callable(command.main)
    assert syncline.testing.simulate is simulate


@pytest.mark.parametrize(
    ("commands", "error"),
    [
        ([], UsageError),
        (lambda _: None, UsageError),
        (["a text"], TypeError),
        (lambda _: "a text", TypeError),
    ],
)
def test_simulate_without_usable_commands_is_refused(commands: Any, error: type[Exception]) -> None:
    """Its clients would end at once: the run would pass, and prove nothing."""
    with pytest.raises(error, match="command"):
        simulate(Raffle, seed=1, commands=commands, sim_seconds=1.0)


def test_simulate_commands_that_raise_fail_the_run() -> None:
    def broken(_: random.Random) -> bytes:
        raise LookupError("the test's own fault")

    with pytest.raises(LookupError, match="own fault"):
        simulate(Raffle, seed=1, commands=broken, sim_seconds=1.0)


def test_simulate_of_an_object_or_without_nodes_is_refused() -> None:
    with pytest.raises(TypeError, match="not a Raffle object"):
        simulate(Raffle(), seed=1, commands=[b"draw"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="nodes is 0"):
        simulate(Raffle, seed=1, commands=[b"draw"], nodes=0)


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ({"faults": "kill"}, TypeError, r"such as \['kill'\], not a str"),
        ({"sim_seconds": 0}, UsageError, "sim_seconds is 0: clients need some seconds"),
        ({"sim_seconds": float("nan")}, UsageError, "sim_seconds is nan"),
        ({"sim_seconds": "5"}, TypeError, "sim_seconds must be a number, not str"),
        ({"nodes": 2.5}, TypeError, "nodes must be an int, not float"),
        ({"commands": 5}, TypeError, "commands must be an iterable of bytes, a function, or a strategy"),
        ({"machine": dict}, TypeError, "dict is no state machine: it has no method 'apply'"),
    ],
)
def test_simulate_with_a_wrong_argument_says_what_to_do(
    wrong: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        simulate(**{"machine": Listing, "seed": 1, "commands": [b"a", b"b"], **wrong})


def test_simulate_in_a_coroutine_says_what_to_do() -> None:
    async def used() -> None:
        with pytest.raises(UsageError, match="simulate runs a loop of its own"):
            simulate(Listing, seed=1, commands=[b"a", b"b"])
        await asyncio.sleep(0)

    asyncio.run(used())


class SharedAnswer(Listing):
    def apply(self, entry: Entry) -> object:
        super().apply(entry)
        return self.items


class Raising(Listing):
    def apply(self, entry: Entry) -> object:
        raise NodeFailed("no such format")


def test_simulate_names_the_machine_and_the_answer_that_changed() -> None:
    with pytest.raises(SimulationFailed, match=r"(?s)got another answer than `apply` returned.*return a copy"):
        simulate(SharedAnswer, seed=0, commands=[b"a", b"b"], faults=[], sim_seconds=1.0)
    with pytest.raises(SimulationFailed, match=r"`apply` of .* raised NodeFailed\('no such format'\)"):
        simulate(Raising, seed=0, commands=[b"a", b"b"], faults=[], sim_seconds=1.0)
