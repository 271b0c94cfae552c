"""Typed machines without async: one class, two faces, one log."""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import assert_type

import pytest

from syncline import Config, Machine, blocking, command, query
from syncline.errors import ConfigError, Rejected, UsageError
from syncline.machines import ReplicatedCounter
from tests.helpers.ports import free_block


class Names(blocking.Machine):
    taken: dict[str, str]

    @command
    def take(self, name: str, owner: str = "none") -> bool:
        """Take a name, once."""
        if not name:
            raise Rejected("a name has letters", code="no_name")
        return self.taken.setdefault(name, owner) == owner

    @query
    def owner(self, name: str) -> str | None:
        return self.taken.get(name)


class Tally(Machine, name="tally", removed={"old": 2}, dropped=["gone"]):
    count: int

    @command(since=2)
    def add(self, by: int) -> int:
        self.count += by
        return self.count


class BlockingTally(blocking.Machine, Tally):  # pyright: ignore[reportIncompatibleMethodOverride]
    """The other face."""


class Hits(blocking.Machine, ReplicatedCounter):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A ready machine without async."""


def config_in(folder: Path) -> Config:
    address = f"127.0.0.1:{free_block(1)}"
    return Config(name="a", data_dir=str(folder / "a"), listen=address, peers={"a": address}, election_s=0.2)


def test_blocking_machine_calls_are_typed_and_return_answers(tmp_path: Path) -> None:
    with Names.open(config_in(tmp_path)) as names:
        assert_type(names, Names)
        taken = names.take("n", owner="w")
        assert_type(taken, bool)
        assert taken
        owner = names.owner("n")
        assert_type(owner, str | None)
        assert owner == "w"
        assert_type(Names.take(Names(), "n"), bool)
        assert inspect.signature(names.take).parameters["name"].annotation is str
        assert (names.take.__name__, names.take.__doc__) == ("take", "Take a name, once.")
        assert not inspect.iscoroutinefunction(names.take)
        with pytest.raises(Rejected, match="a name has letters"):
            names.take("")
        before = names.raft.stats().commit
        with pytest.raises(TypeError, match=r"Names\.take: name: expected `str`, got `int`"):
            names.take(7)  # type: ignore[arg-type]
        assert names.raft.stats().commit == before, "nothing was replicated"
        with pytest.raises(UsageError, match=r"Names\.taken: an open machine has no state"):
            names.taken  # noqa: B018 - the access is what is tested
        assert names.using(consistency="stale", timeout=1.0).owner("x") is None
        with pytest.raises(ConfigError, match="linearizable or stale"):
            names.using(consistency="eventual")
        with names.session() as once:
            assert once.take("m", "w")
            assert once.using(timeout=2.0).take("m", "w")
        with ThreadPoolExecutor(4) as threads:
            assert sum(threads.map(lambda number: names.take("one", f"w{number}"), range(40))) == 1
    names.close()
    with pytest.raises(UsageError, match="the node 'a' is closed"):
        names.owner("n")


def test_blocking_machine_that_is_not_open_refuses_calls(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="open a class of it"):
        blocking.Machine.open(config_in(tmp_path))
    for use in (lambda: Names().take("n"), lambda: Names().close(), lambda: Names().raft, Names().__enter__):
        with pytest.raises(UsageError, match="not open"):
            use()
    with pytest.raises(ConfigError, match="can't be read"):
        Names.open(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="timeout"):
        Names.open(config_in(tmp_path), timeout=0)


async def test_blocking_machine_on_an_event_loop_is_refused(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    with pytest.raises(UsageError, match=r"use syncline\.Raft or syncline\.Machine here"):
        Names.open(config)
    names = await asyncio.to_thread(Names.open, config)
    with pytest.raises(UsageError, match="event loop that runs in this thread"):
        names.take("n")
    assert await asyncio.to_thread(names.owner, "n") is None
    await asyncio.to_thread(names.close)


def test_blocking_machine_is_another_face_of_the_same_log(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    plan, other = BlockingTally._plan, Tally._plan
    assert (plan.name, plan.removed, plan.dropped) == (other.name, other.removed, other.dropped) == (
        "tally", {"old": 2}, frozenset({"gone"}),
    )  # fmt: skip
    assert BlockingTally.machine_version == Tally.machine_version == 2
    assert BlockingTally.digest_version == Tally.digest_version

    async def count() -> int:
        async with Tally.open(config) as tally:
            return await tally.add(2)

    assert asyncio.run(count()) == 2
    with BlockingTally.open(config) as tally:
        total = tally.add(3)
        assert_type(total, int)
        assert total == 5


def test_blocking_machine_of_a_ready_one_counts(tmp_path: Path) -> None:
    with Hits.open(config_in(tmp_path)) as hits:
        assert [hits.add(), hits.add(by=4), hits.value()] == [1, 5, 5]
