"""A machine is copied from one engine to another: state, sessions, index and time go with it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from click.testing import CliRunner

import syncline
from syncline import OnceKey
from syncline.cli.main import cli
from syncline.engines import memory
from syncline.engines.memory import MemoryLog
from syncline.engines.replica import LogReplica
from syncline.errors import ConfigError, StorageError
from syncline.machines import copying
from syncline.machines.copying import copy_machine
from tests.helpers.node_cluster import Listing
from tests.helpers.ports import free_block


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> dict[str, MemoryLog]:
    """Logs in memory that stay when their last node has gone."""
    kept = {name: MemoryLog(random.Random(name)) for name in ("one", "two")}
    monkeypatch.setattr(memory, "_shared", KeptLogs(kept))
    return kept


class KeptLogs(dict[str, MemoryLog]):
    def __delitem__(self, name: str) -> None:
        return


async def opened(name: str) -> tuple[LogReplica[object], Listing]:
    machine = Listing()
    node = await syncline.open(f"memory:{name}", machine)
    assert isinstance(node, LogReplica)
    return node, machine


@pytest.mark.usefixtures("logs")
async def test_copy_of_a_log_has_state_sessions_and_index() -> None:
    node, machine = await opened("one")
    session = await node.session()
    assert await session.apply(b"a") == 1
    assert await node.apply(b"b") == 2
    time_s, applied = node._driver.time_s, node.stats().applied
    await node.close()
    copied = await copy_machine("memory:one", "memory:two", Listing)
    assert copied.index == applied
    node, other = await opened("two")
    async with node:
        assert other.items == machine.items
        repeated = node.apply_once(b"a", OnceKey(session.id, 1))
        assert (await repeated, repeated.repeated) == (1, True)
        future = node.apply(b"c")
        assert await future == 3
        assert future.index > applied
        assert node._driver.time_s >= time_s
    with pytest.raises(ConfigError, match="memory:two is not empty"):
        await copy_machine("memory:one", "memory:two", Listing)


@pytest.mark.usefixtures("logs")
async def test_copy_into_a_log_with_entries_is_refused() -> None:
    for name in ("one", "two"):
        node, _ = await opened(name)
        await node.apply(name.encode())
        await node.close()
    with pytest.raises(ConfigError, match="is not empty"):
        await copy_machine("memory:one", "memory:two", Listing)
    with pytest.raises(ConfigError, match="are the same"):
        await copy_machine("memory:one", "memory:one", Listing)
    node, machine = await opened("two")
    assert machine.items == [b"two"]
    await node.close()


@pytest.mark.usefixtures("logs")
async def test_copy_tells_that_the_source_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    writer, _ = await opened("one")
    await writer.apply(b"a")
    write = copying._write

    async def while_written(*arguments: object) -> None:
        await write(*arguments)  # type: ignore[arg-type]
        await writer.apply(b"late")

    monkeypatch.setattr(copying, "_write", while_written)
    with pytest.raises(StorageError, match="has changed while it was copied"):
        await copy_machine("memory:one", "memory:two", Listing)
    await writer.close()


@pytest.mark.usefixtures("logs")
async def test_copy_to_raft_and_back(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_block(1)}"
    settings = [f'data_dir = "{tmp_path}/data"', f'peer_listen = "{address}"', "insecure = true"]
    file = tmp_path / "cluster.toml"
    file.write_text("\n".join(['name = "a"', *settings, "[initial_cluster]", f'a = "{address}"']))
    node, machine = await opened("one")
    for number in range(5):
        await node.apply(b"%d" % number)
    await node.close()
    await copy_machine("memory:one", f"raft:{file}", Listing)
    onward = Listing()
    async with syncline.open(f"raft:{file}", onward) as raft:
        await raft.read_index(timeout=20)
        assert onward.items == machine.items
        assert await raft.apply(b"5", timeout=20) == 6
    with pytest.raises(ConfigError, match="is not empty"):
        await copy_machine("memory:one", f"raft:{file}", Listing)
    await copy_machine(f"raft:{file}", "memory:two", Listing)
    node, back = await opened("two")
    assert back.items == onward.items
    await node.close()


@pytest.mark.usefixtures("logs")
def test_cli_machine_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    listing = "tests.helpers.node_cluster:Listing"
    done = CliRunner().invoke(cli, ["machine", "copy", "memory:one", "memory:two", "--machine", listing, "--json"])
    assert (done.exit_code, done.stdout) == (0, '{"index":0,"size_bytes":1}\n')
    for arguments, text in (
        (["memory:one", "memory:two", "--machine", "nothing"], "write MODULE:CLASS"),
        (["memory:one", "memory:two", "--machine", "no_module:X"], "ModuleNotFoundError"),
        (["memory:one", "memory:two", "--machine", "pathlib:Path"], "is no state machine"),
        (["redis://h", "memory:two", "--machine", listing], "redis is no engine"),
    ):
        wrong = CliRunner().invoke(cli, ["machine", "copy", *arguments])
        assert text in wrong.stderr
        assert wrong.exit_code != 0
