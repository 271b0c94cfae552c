"""Mistakes of a first hour: each is refused at the call, by a text that says what to write instead."""

from __future__ import annotations

import warnings
from typing import cast

import pytest

from syncline import Machine, blocking, command, query
from syncline.client import AsyncClient, Client
from syncline.errors import ConfigError, UsageError
from syncline.platform.times import parse_times
from syncline.testing import ProcessCluster, RaftCluster, check_fsm, simulate

NOWHERE = "http://127.0.0.1:1"


class Sum(Machine):
    total: int = 3

    @command
    def add(self, by: int) -> int:
        self.total += by
        return self.total

    @query
    def value(self) -> int:
        return self.total


class BlockingSum(blocking.Machine, Sum):  # pyright: ignore[reportIncompatibleMethodOverride]
    pass


async def test_open_machine_refuses_to_set_a_field() -> None:
    """The value would be on this object alone, and be shown as if the cluster had it."""
    async with Sum.open("memory:") as opened:
        with pytest.raises(UsageError, match=r"Sum\.total: an open machine has no state of its own; write a command"):
            opened.total = 7
        with pytest.raises(UsageError, match=r"an open machine has no state of its own"):
            print(opened.total)
        assert await opened.add(1) == 4


def test_closed_machine_sets_a_field_in_a_test() -> None:
    machine = BlockingSum()
    machine.total = 7
    assert Sum.add(machine, 1) == 8


async def test_forgotten_await_of_a_command_names_it() -> None:
    async with Sum.open("memory:") as opened:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            opened.add(1)  # type: ignore[unused-coroutine]
    told = [str(one.message) for one in seen]  # of earlier tests, too, if their garbage is collected just then
    assert [text for text in told if "Sum." in text] == ["coroutine 'Sum.add' was never awaited"]


def test_command_with_a_name_says_how_it_is_written() -> None:
    with pytest.raises(TypeError, match=r"command takes no name, and got 'add': write @command"):
        command("add")  # type: ignore[call-overload]


@pytest.mark.parametrize("one", [b"command", "command"])
def test_check_fsm_one_command_in_place_of_several_is_refused(one: object) -> None:
    """The bytes of one command are numbers, if they are taken as a collection."""
    with pytest.raises(TypeError, match=r"commands must be a collection of bytes, such as a list"):
        check_fsm(Sum, cast("list[bytes]", one))
    with pytest.raises(TypeError, match=r"commands must be a collection of bytes, such as a list"):
        simulate(Sum, seed=1, commands=cast("list[bytes]", one))


def test_raft_cluster_unknown_node_names_the_nodes() -> None:
    with RaftCluster(Sum) as cluster:
        for call in (cluster.crash, cluster.restart, cluster.pause, cluster.machine, cluster.error, cluster.snapshot):
            with pytest.raises(UsageError, match="there is no node 'nobody' among n1, n2, n3"):
                call("nobody")
        with pytest.raises(UsageError, match="there is no node 'nobody' among n1, n2, n3"):
            cluster.apply(Sum.add.encode(1), node="nobody")


def test_process_cluster_name_in_place_of_a_number_is_refused() -> None:
    nodes = ProcessCluster.__new__(ProcessCluster)  # no process is started: the number is looked at first
    with pytest.raises(TypeError, match="a node is given by its number, an int, not str"):
        nodes.kill("a")  # type: ignore[arg-type]


def test_times_with_a_space_show_both_forms() -> None:
    with pytest.raises(ConfigError, match=r'five fields, such as "30 2 \* \* mon-fri"; a duration has no spaces'):
        parse_times("5 minutes", None)


def test_times_of_another_type_show_what_is_expected() -> None:
    with pytest.raises(TypeError, match=r'must be a text or a number of seconds, not builtin_function.*"90s", "5m"'):
        parse_times(print, None)


async def test_update_without_a_function_is_refused_before_a_request() -> None:
    async with AsyncClient(NOWHERE) as kv:
        with pytest.raises(TypeError, match="change must be a function of the value, not str"):
            await kv.update("key", "new")  # type: ignore[arg-type]


def test_blocking_words_before_their_block_say_with() -> None:
    with Client(NOWHERE) as kv:
        for use in (
            lambda: kv.mapping("config/")["mode"],
            lambda: kv.lease(5).id,
            lambda: kv.register("api", "10.0.0.1:80").update(meta={}),
        ):
            with pytest.raises(UsageError, match="or by `with` in blocking code"):
                use()


@pytest.mark.parametrize("key", ["", b""])
async def test_client_empty_key_is_refused_before_a_request(key: str | bytes) -> None:
    async with AsyncClient(NOWHERE) as kv:
        for call in (kv.get, kv.delete, kv.increment):
            with pytest.raises(ConfigError, match="key is empty: a key has at least 1 byte"):
                await call(key)
        with pytest.raises(ConfigError, match="key is empty: a key has at least 1 byte"):
            await kv.put(key, "value")
