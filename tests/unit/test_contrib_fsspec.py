"""Snapshots of any machine at URLs: complete and named at once, or not there; restored as they were, or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

import syncline
from syncline import Config, OnceKey, Raft, Store
from syncline.contrib.fsspec import list_snapshots, restore_snapshot, save_snapshot
from syncline.engines import memory
from syncline.engines.memory import MemoryLog
from syncline.errors import (
    ConfigError,
    CorruptionError,
    DeadlineExceeded,
    NothingToSnapshot,
    OperationError,
    Outcome,
    StorageError,
)
from syncline.machines import ReplicatedDict
from syncline.node.restore_entries import RESTORE_LEVEL
from tests.helpers.doc_examples import PYTHON
from tests.helpers.node_cluster import Cluster, Listing, cluster, until
from tests.helpers.ports import free_block

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "contrib/fsspec.md"
URL: Final = "memory://bucket/jobs"


@pytest.fixture(autouse=True)
def files() -> Iterator[dict[str, MemoryFile]]:
    """All files of `memory://`, by path."""
    MemoryFileSystem.store.clear()
    yield MemoryFileSystem.store
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def one_node(path: Path) -> Config:
    address = f"127.0.0.1:{free_block(1)}"
    return Config(name="a", data_dir=str(path), listen=address, peers={"a": address}, reserve_bytes=0)


async def agree(nodes: Cluster, items: list[bytes]) -> None:
    for name, raft in nodes.rafts.items():
        await until(raft, lambda name=name: nodes.machines[name].items == items)  # type: ignore[misc]


async def test_docs_of_fsspec_program_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(PYTHON.findall(PAGE.read_text())[0], names)
    await names["main"](one_node(tmp_path), URL)
    assert re.fullmatch(r"\d+\nblue\n", capsys.readouterr().out)


async def test_snapshot_of_a_typed_machine_at_a_url_is_saved() -> None:
    """A machine's node answers bytes: a type checker accepts it as it does any other engine."""
    async with ReplicatedDict.open("memory:") as colours:
        await colours.put("sky", "blue")
        assert (await save_snapshot(colours.replica, URL)).index > 0


async def test_snapshot_at_a_url_comes_back_on_all_nodes(tmp_path: Path, files: dict[str, MemoryFile]) -> None:
    async with cluster(tmp_path, election_s=1.0) as nodes:  # a restore ends with the leadership
        leader, follower = await nodes.pair()
        await until(leader, lambda: leader.level >= RESTORE_LEVEL)  # the entries of that are snapshots' news, too
        await leader.apply(b"one")
        first = await save_snapshot(follower, URL)  # a follower has what was acknowledged
        await leader.apply(b"two")
        second = await save_snapshot(leader, URL + "/")
        assert await save_snapshot(leader, URL) == second, "nothing was applied meanwhile"
        await leader.apply(b"three")
        assert await list_snapshots(URL) == [second, first]
        path = second.url.removeprefix("memory:/")
        content = files[path].getvalue()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (second.size_bytes, second.sha256)
        assert files[path + ".sha256"].getvalue() == f"{second.sha256}  {path.rpartition('/')[2]}\n".encode()
        assert len(files) == 4, "no part is left"
        await restore_snapshot(leader, URL)
        await agree(nodes, [b"one", b"two"])
        await restore_snapshot(await nodes.leader(), first.url)
        await agree(nodes, [b"one"])
        with io.BytesIO(content) as file:
            await (await nodes.leader()).restore(file)  # the file is one of Raft's
        await agree(nodes, [b"one", b"two"])


async def test_snapshot_of_a_store_at_a_path_comes_back(tmp_path: Path) -> None:
    async with Store.open(one_node(tmp_path / "data")) as store:
        await store.put("a", "1")
        saved = await save_snapshot(store.raft, tmp_path / "saved")
        await store.put("a", "2")
        await restore_snapshot(store.raft, str(tmp_path / "saved"))
        found = await store.get("a")
        assert found is not None
        assert found.value == b"1"
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        Path(saved.url).name,
        Path(saved.url).name + ".sha256",
    ]


@pytest.mark.parametrize("name", ["jobs?x", "jobs[a-z]", "jo*s"])
async def test_snapshot_at_a_url_with_a_sign_of_patterns_comes_back(tmp_path: Path, name: str) -> None:
    """fsspec's own `mv` takes such a path for a pattern, where a file system has no renames."""
    async with Store.open(one_node(tmp_path)) as store:
        await store.put("a", "1")
        saved = await save_snapshot(store.raft, f"memory://{name}/x")
        assert await list_snapshots(f"memory://{name}/x") == [saved]
        await store.put("a", "2")
        await restore_snapshot(store.raft, f"memory://{name}/x")
        found = await store.get("a")
        assert found is not None
        assert found.value == b"1"


async def test_snapshot_goes_from_one_engine_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a log to an empty log with its sessions, to Raft, and from there to a log."""
    shared = {name: MemoryLog(random.Random(name)) for name in ("one", "two", "three")}
    monkeypatch.setattr(memory, "_shared", KeptLogs(shared))
    async with syncline.open("memory:one", Listing()) as node:
        session = await node.session()
        await session.apply(b"a")
        saved = await save_snapshot(node, URL)
    assert saved.index == node.stats().applied
    await restore_snapshot("memory:two", URL)
    copy = Listing()
    async with syncline.open("memory:two", copy) as node:
        assert copy.items == [b"a"]
        assert await node.apply_once(b"a", OnceKey(session.id, 1)) == 1  # type: ignore[attr-defined]
        assert copy.items == [b"a"]
    with pytest.raises(ConfigError, match="memory:two is not empty"):
        await restore_snapshot("memory:two", URL)
    async with cluster(tmp_path, "a") as nodes:
        await restore_snapshot(nodes.rafts["a"], URL)
        await agree(nodes, [b"a"])
        await nodes.rafts["a"].apply(b"b")
        await save_snapshot(nodes.rafts["a"], URL + "2")
    await restore_snapshot("memory:three", URL + "2")
    async with syncline.open("memory:three", copy := Listing()):
        assert copy.items == [b"a", b"b"]


async def test_snapshot_in_a_new_log_gives_no_fencing_token_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that were given after the snapshot are lost with the old log. All nodes of the new one give later ones."""
    shared = {name: MemoryLog(random.Random(name)) for name in ("one", "two")}
    monkeypatch.setattr(memory, "_shared", KeptLogs(shared))
    async with Store.open("memory:one") as store:
        await store.put("a", "1")
        await save_snapshot(store.replica, URL)
        async with store.lock("repo") as held:
            lost = held.token
    await restore_snapshot("memory:two", URL)
    async with Store.open("memory:two") as one, Store.open("memory:two") as two:
        async with two.lock("repo") as held:
            assert held.token > lost + 1_000_000
        await one.replica.read_index()
        assert one._machine.digest() == two._machine.digest()
        await one.replica.snapshot()
        async with Store.open("memory:two") as three:  # from a snapshot of the new log
            assert three._machine.digest() == one._machine.digest()
            found = await three.get("a")
            assert found is not None
            assert found.value == b"1"


class KeptLogs(dict[str, MemoryLog]):
    def __delitem__(self, name: str) -> None:
        return


async def test_snapshots_above_keep_are_removed(tmp_path: Path, files: dict[str, MemoryFile]) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        saved = []
        for number in range(4):
            await raft.apply(b"%d" % number)
            saved.append(await save_snapshot(raft, URL, keep=2))
        assert await list_snapshots(URL) == saved[:1:-1]
        assert len(files) == 4
        with pytest.raises(ConfigError, match="keep is 0"):
            await save_snapshot(raft, URL, keep=0)


async def test_snapshots_of_another_cluster_stay_and_are_not_taken_for_newer(tmp_path: Path) -> None:
    """A new cluster begins with small indexes: its snapshots were taken for the oldest ones, and removed first."""
    async with cluster(tmp_path / "old", "a") as nodes:
        for number in range(40):
            await (await nodes.leader()).apply(b"%d" % number)
        old = await save_snapshot(await nodes.leader(), URL, keep=1)
    async with cluster(tmp_path / "new", "a") as nodes:
        raft = await nodes.leader()
        await restore_snapshot(raft, URL)  # of the old cluster: there is no other
        await raft.apply(b"new")
        new = await save_snapshot(raft, URL, keep=1)
        assert new.index < old.index
        assert set(await list_snapshots(URL)) == {old, new}
        await raft.apply(b"lost")
        await restore_snapshot(raft, URL)
        assert nodes.machines["a"].items[-1] == b"new"
    async with cluster(tmp_path / "third", "a") as nodes:
        with pytest.raises(ConfigError, match="has snapshots of 2 clusters: name the file of one") as raised:
            await restore_snapshot(await nodes.leader(), URL)
        assert old.url in str(raised.value)
        assert new.url in str(raised.value)
        with pytest.raises(ConfigError, match="of 2 clusters"):
            await restore_snapshot("memory:third", URL)
        await restore_snapshot(await nodes.leader(), new.url)
        assert nodes.machines["a"].items[-1] == b"new"


async def test_snapshot_of_a_node_that_is_behind_stays_beside_newer_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        await raft.apply(b"1")
        behind = await save_snapshot(raft, URL + "/behind")
        manifest = raft._driver.parts.snapshots.newest()
        await raft.apply(b"2")
        newest = await save_snapshot(raft, URL, keep=1)
        store = raft._driver.parts.snapshots

        async def nothing_new(*, timeout: float) -> None:
            raise NothingToSnapshot(f"for {timeout} s")

        monkeypatch.setattr(raft, "snapshot", nothing_new)
        monkeypatch.setattr(raft, "stats", lambda: msgspec.structs.replace(Raft.stats(raft), applied=1))
        monkeypatch.setattr(store, "newest", lambda: manifest)
        saved = await save_snapshot(raft, URL, keep=1, stale=True)
        assert saved.sha256 == behind.sha256
        assert await list_snapshots(URL) == [newest, saved]


async def test_snapshot_whose_writing_fails_leaves_no_name(
    tmp_path: Path, files: dict[str, MemoryFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system fails in the middle, then it keeps other bytes than it was given."""

    class FullFile(MemoryFile):  # type: ignore[misc]  # fsspec has no types
        def write(self, data: bytes) -> int:
            if len(data) < 200:
                return int(super().write(b"\0" * len(data)))
            raise OSError(28, "no space at user:secret@host")

    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        await raft.apply(b"x")
        kept = await save_snapshot(raft, URL)
        await raft.apply(b"y")
        monkeypatch.setattr("fsspec.implementations.memory.MemoryFile", FullFile)
        with pytest.raises(StorageError, match=r"memory://bucket/jobs/\..*part: OSError.*no space"):
            await save_snapshot(raft, URL)
        monkeypatch.setattr(FullFile, "write", lambda self, data: MemoryFile.write(self, data[:-1] + b"?"))
        with pytest.raises(CorruptionError, match="was written and reads differently"):
            await save_snapshot(raft, URL)
    assert await list_snapshots(URL) == [kept]
    assert len(files) == 2


async def test_snapshot_that_is_damaged_or_incomplete_is_not_restored(
    tmp_path: Path, files: dict[str, MemoryFile]
) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        for url in (URL, "memory://none", str(tmp_path / "none")):
            with pytest.raises(StorageError, match="no complete snapshot"):
                await restore_snapshot(raft, url)
            assert await list_snapshots(url) == []
        await raft.apply(b"x")
        saved = await save_snapshot(raft, URL)
        path = saved.url.removeprefix("memory:/")
        files[path].seek(saved.size_bytes - 1)
        files[path].write(b"?")
        with pytest.raises(CorruptionError, match="is damaged: it has the SHA-256"):
            await restore_snapshot(raft, URL)
        with pytest.raises(CorruptionError, match="is damaged: it has the SHA-256"):
            await restore_snapshot("memory:", URL)
        del files[path + ".sha256"]
        assert await list_snapshots(URL) == []
        with pytest.raises(StorageError, match=r"sha256: no such file"):
            await restore_snapshot(raft, saved.url)
        assert nodes.machines["a"].items == [b"x"]


async def test_snapshot_url_that_can_not_be_used_is_a_config_error(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        for call in (save_snapshot(raft, "no://u:pw@host"), restore_snapshot(raft, "no://u:pw@host")):
            with pytest.raises(ConfigError, match=r"no://\[removed\]@host: ValueError"):
                await call
        for empty in (save_snapshot(raft, ""), restore_snapshot(raft, " "), list_snapshots("")):  # it is not the root
            with pytest.raises(ConfigError, match="URL of the snapshots is empty"):
                await empty
        with pytest.raises(TypeError, match="keep must be"):  # before anything is saved
            await save_snapshot(raft, URL, keep=1.5)  # type: ignore[arg-type]
        assert await list_snapshots(URL) == []


async def test_snapshot_without_a_quorum_is_saved_stale_alone(tmp_path: Path) -> None:
    async with cluster(tmp_path, election_s=1.0) as nodes:  # a restore ends with the leadership
        leader = await nodes.leader()
        await leader.apply(b"x")
        for name in [name for name, raft in nodes.rafts.items() if raft is not leader]:
            await nodes.stop(name)
        with pytest.raises(OperationError) as raised:
            await save_snapshot(leader, URL, timeout=0.5)
        assert raised.value.outcome is Outcome.NOT_APPLIED
        saved = await save_snapshot(leader, URL, stale=True)
        assert await list_snapshots(URL) == [saved]


async def test_snapshot_to_a_place_that_hangs_ends_at_its_timeout(
    tmp_path: Path, files: dict[str, MemoryFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop goes on meanwhile, and the thread writes nothing more once it is free again."""
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    class SlowFile(MemoryFile):  # type: ignore[misc]  # fsspec has no types
        def write(self, data: bytes) -> int:
            begun.set()
            go_on.wait(30)
            return int(super().write(data))

    remove = MemoryFileSystem.rm_file

    def removed(self: MemoryFileSystem, path: str) -> None:
        remove(self, path)
        ended.set()

    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        await raft.apply(b"x")
        monkeypatch.setattr("fsspec.implementations.memory.MemoryFile", SlowFile)
        monkeypatch.setattr(MemoryFileSystem, "rm_file", removed)
        saving = asyncio.ensure_future(save_snapshot(raft, URL, timeout=1.0))
        assert await asyncio.to_thread(begun.wait, 30)
        assert await raft.apply(b"y") == 2, "the node works while the file system hangs"
        with pytest.raises(DeadlineExceeded, match="not saved after 1 s"):
            await saving
        go_on.set()
        assert await asyncio.to_thread(ended.wait, 30)
    assert files == {}
    assert await list_snapshots(URL) == []


async def test_snapshot_travels_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class CountedFile(MemoryFile):  # type: ignore[misc]  # fsspec has no types
        def write(self, data: bytes) -> int:
            sizes.append(len(data))
            return int(super().write(data))

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile", CountedFile)
    async with cluster(tmp_path, "a") as nodes:
        raft: Raft[object] = await nodes.leader()
        for _ in range(3):
            await raft.apply(b"x" * 1_000_000)
        saved = await save_snapshot(raft, URL)
    assert max(sizes) <= 1 << 20
    assert saved.size_bytes > 3_000_000
    assert sum(sizes) >= saved.size_bytes
