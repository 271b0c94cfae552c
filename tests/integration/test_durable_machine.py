"""A durable state machine on sqlite3: killed around its commit, it applies each entry once."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from pathlib import Path
from typing import Final

import msgspec
import pytest
from examples.state_machine.accounts import Accounts, Deposit, Transfer

from syncline import Config, Raft
from syncline.errors import ConfigError, Rejected
from syncline.testing import check_fsm
from tests.helpers.node_cluster import until
from tests.helpers.ports import free_block
from tests.helpers.programs import running_command

ROOT: Final = Path(__file__).resolve().parents[2]
LIMIT_S: Final = 20.0

KILLED: Final = """
import asyncio, contextlib, os, signal, sys
import msgspec
from examples.state_machine.accounts import Accounts, Deposit
from syncline import Config, Raft

folder, where, peers = sys.argv[1:]

class Killed(Accounts):
    kills = False

    def apply_batch(self, entries):
        self.kills = any(b"fatal" in entry.data for entry in entries)
        return super().apply_batch(entries)

    @contextlib.contextmanager
    def transaction(self):
        with super().transaction():
            yield
            self.kill_at("before the commit")
        self.kill_at("after the commit")

    def kill_at(self, place):
        if self.kills and place == where:
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    members = msgspec.json.decode(peers)
    config = Config(name="a", data_dir=f"{folder}/a", listen=members["a"], peers=members, election_s=0.3)
    async with Raft.open(config, Killed(f"{folder}/a.db")) as raft:
        if len(members) == 1:
            print(await raft.apply(msgspec.msgpack.encode(Deposit("ann", 100))), flush=True)
            await raft.apply(msgspec.msgpack.encode(Deposit("fatal", 7)))
            print("acknowledged", flush=True)
        await raft.until_stopped()

asyncio.run(main())
"""


def encode(command: Deposit | Transfer) -> bytes:
    return msgspec.msgpack.encode(command)


def config_of(folder: Path, name: str, peers: dict[str, str]) -> Config:
    return Config(name=name, data_dir=str(folder / name), listen=peers[name], peers=peers, election_s=0.3)


@pytest.mark.parametrize("where", ["before the commit", "after the commit"])
async def test_durable_machine_killed_at_its_commit_applies_once(tmp_path: Path, where: str) -> None:
    """Between the commit and the acknowledgement too: the file has the entry then, and the log has it as well."""
    peers = {"a": f"127.0.0.1:{free_block(1)}"}
    arguments = [sys.executable, "-c", KILLED, str(tmp_path), where, msgspec.json.encode(peers).decode()]
    async with running_command(arguments, [], folder=ROOT) as program:
        assert await program.ended() == -signal.SIGKILL, program.errors
    assert [said["line"] for said in program.said] == ["100"], "the second deposit was not acknowledged"

    accounts = Accounts(str(tmp_path / "a.db"))
    assert accounts.balance("fatal") == (7 if where == "after the commit" else 0)
    before = accounts.applied_index
    async with Raft.open(config_of(tmp_path, "a", peers), accounts) as raft:
        assert await raft.read(accounts.total, timeout=LIMIT_S) == 107
        assert accounts.applied_index >= before
        assert await raft.apply(encode(Transfer("ann", "fatal", 30)), timeout=LIMIT_S) == 70
        with pytest.raises(Rejected, match="ann has 70 cents"):
            await raft.apply(encode(Transfer("ann", "fatal", 71)), timeout=LIMIT_S)
    accounts.close()


async def test_durable_machine_killed_on_one_of_three_agrees_with_all(tmp_path: Path) -> None:
    first = free_block(3)
    peers = {name: f"127.0.0.1:{first + at}" for at, name in enumerate("abc")}
    machines = {name: Accounts(str(tmp_path / f"{name}.db")) for name in "bc"}
    arguments = [
        *(sys.executable, "-c", KILLED, str(tmp_path), "after the commit", msgspec.json.encode(peers).decode()),
    ]
    async with running_command(arguments, [], folder=ROOT) as program:
        b, c = await asyncio.gather(*(Raft.open(config_of(tmp_path, n, peers), machines[n]) for n in "bc"))
        await b.apply(encode(Deposit("ann", 100)), timeout=LIMIT_S)
        await b.apply(encode(Deposit("fatal", 7)), timeout=LIMIT_S)  # two of three are enough
        assert await program.ended() == -signal.SIGKILL, program.errors
    await c.apply(encode(Transfer("ann", "bob", 1)), timeout=LIMIT_S)
    machines["a"] = Accounts(str(tmp_path / "a.db"))
    assert machines["a"].balance("fatal") == 7
    a = await Raft.open(config_of(tmp_path, "a", peers), machines["a"])
    for raft, machine in ((a, machines["a"]), (b, machines["b"]), (c, machines["c"])):
        assert await raft.read(machine.total, timeout=LIMIT_S) == 107
        assert await raft.read(functools.partial(machine.balance, "bob"), timeout=LIMIT_S) == 1
    await asyncio.gather(a.close(), b.close(), c.close())
    for machine in machines.values():
        machine.close()


async def test_durable_machine_behind_its_snapshot_loads_it(tmp_path: Path) -> None:
    """A power cut may take the newest transactions away, and the log no longer has them all."""
    peers = {"a": f"127.0.0.1:{free_block(1)}"}
    config = msgspec.structs.replace(config_of(tmp_path, "a", peers), trailing_entries=0)
    accounts, older = Accounts(str(tmp_path / "a.db")), Accounts(str(tmp_path / "older.db"))
    async with Raft.open(config, accounts) as raft:
        await raft.apply(encode(Deposit("ann", 100)), timeout=LIMIT_S)
        accounts.database.backup(older.database)
        await raft.apply(encode(Deposit("ann", 1)), timeout=LIMIT_S)
        await raft.snapshot()
        await raft.apply(encode(Deposit("ann", 2)), timeout=LIMIT_S)
    accounts.close()
    async with Raft.open(config, older) as raft:
        await until(raft, lambda: raft.is_leader)
        assert await raft.read(functools.partial(older.balance, "ann"), timeout=LIMIT_S) == 103
    older.close()


async def test_durable_machine_of_another_node_is_refused(tmp_path: Path) -> None:
    accounts = Accounts(str(tmp_path / "a.db"))
    accounts.database.execute("UPDATE progress SET applied = 1000")
    with pytest.raises(ConfigError, match="has applied entry 1000"):
        await Raft.open(config_of(tmp_path, "a", {"a": f"127.0.0.1:{free_block(1)}"}), accounts)
    accounts.close()


MADE: Final[list[Deposit | Transfer]] = [
    *(Deposit("ann", 5), Transfer("ann", "bob", 3), Transfer("ann", "bob", 3), Deposit("ann", 0)),
    *(Deposit("ann", 2**62 - 1), Transfer("bob", "bob", 1), Deposit("", 1), Transfer("x", "y", -1)),
]
COMMANDS: Final = [*map(encode, MADE), b"nonsense"]


def test_durable_machine_keeps_the_contract(tmp_path: Path) -> None:
    made: list[Accounts] = []

    def make() -> Accounts:
        made.append(Accounts(str(tmp_path / f"{len(made)}.db")))
        return made[-1]

    check_fsm(make, COMMANDS, processes=False)
    assert made
    for accounts in made:
        accounts.close()
    assert not [name for name in os.listdir(tmp_path) if name.endswith("-wal")], "each view was released"
