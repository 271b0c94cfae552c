"""`syncline backup`: saved from a server, verified, and made the start of a new cluster."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest

from syncline import Config, Raft
from syncline.errors import CorruptionError, RepairNeeded, UsageError
from syncline.kv.backups import restore_backup, verify_backup
from syncline.kv.commands import Delete, LeaseGrant, Put, encode_command
from syncline.kv.machine import KvMachine
from syncline.kv.records import PutAnswer
from syncline.kv.serving.reads import ConfirmedReads
from syncline.kv.snapshots import KvSnapshot
from syncline.node.fsm import Entry
from syncline.node.renumbering import REVISION_JUMP
from syncline.platform.disk import OsDisk, OsLock
from syncline.server.api.backup import MAX_BACKUPS, BackupRoutes
from syncline.server.http.request import Request
from syncline.server.http.response import Respond, Response
from syncline.server.http.stream import Stream
from syncline.storage import new_cluster
from syncline.storage.datadir import DataDir, read_identity
from syncline.storage.inspect import list_snapshots
from syncline.testing.sim.disk import SimDisk, Survival
from tests.helpers.command import syncline
from tests.helpers.http_server import error_reply, in_thread, refused_url, scripted
from tests.helpers.kv_node import FakeBackend, KvWire
from tests.helpers.ports import free_block
from tests.helpers.site_server import SiteServer, site_in_thread


def filled(machine: KvMachine, keys: int = 50) -> KvMachine:
    """Some keys, an older version, a deleted key, and a lease."""
    commands = [Put(b"k%03d" % number, b"value %d" % number) for number in range(keys)]
    commands += [Put(b"k001", b"again"), Delete(b"k000"), LeaseGrant(7, 60_000), Put(b"leased", b"v", lease=7)]  # type: ignore[list-item]
    for index, command in enumerate(commands, machine.store.revision + 1):
        machine.apply(Entry(index, 1, encode_command(command)))
    return machine


def stream(machine: KvMachine) -> bytes:
    return b"".join(KvSnapshot(machine.store.view()).pieces())


def serve(server: SiteServer) -> KvMachine:
    return filled(server.backend.machine)


def test_backup_save_writes_a_checked_file_and_its_sum(tmp_path: Path) -> None:
    path = tmp_path / "b"
    with site_in_thread() as server:
        machine = serve(server)
        ran = syncline("backup", "save", str(path), "--json", endpoints=server.url)
        again = syncline("backup", "save", str(path), endpoints=server.url)
    assert ran.status == 0, ran
    document = json.loads(ran.text)
    assert (document["revision"], document["keys"], document["leases"]) == (machine.store.revision, 50, 1)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == document["sha256"]
    assert (tmp_path / "b.sha256").read_text() == f"{document['sha256']}  b\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b", "b.sha256"]
    assert (again.status, "exists: name another file" in again.error()) == (2, True)
    verified = syncline("backup", "verify", str(path))
    assert (verified.status, "50 keys, 1 lease, 0 users" in verified.text) == (0, True)


def test_backup_save_names_the_answer_before_servers_that_are_away(tmp_path: Path) -> None:
    """Without a quorum the node that is left knows why there is no backup."""
    answer = error_reply(503, "no_leader", message="no quorum of the voters is reachable")
    with in_thread(scripted(answer)) as (double,):
        ran = syncline("backup", "save", str(tmp_path / "b"), endpoints=f"{double.url},{refused_url()}")
    assert (ran.status, ran.error()) == (4, "syncline: no quorum of the voters is reachable")


def test_backup_save_that_is_cut_off_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that ends in the middle, and a stream that ends too early, are no backups."""
    pieces = KvSnapshot.pieces
    with site_in_thread() as server:
        serve(server)
        monkeypatch.setattr(KvSnapshot, "pieces", lambda self: iter(list(pieces(self))[:-1]))
        ran = syncline("backup", "save", str(tmp_path / "b"), endpoints=server.url)
    assert ran.status == 1
    assert "it ends too early" in ran.error()
    assert list(tmp_path.iterdir()) == []
    nobody = syncline("backup", "save", str(tmp_path / "b"), endpoints="http://127.0.0.1:1")
    assert nobody.status == 4
    assert list(tmp_path.iterdir()) == []


async def test_backup_route_streams_one_revision_while_writes_go_on() -> None:
    wire = KvWire()
    for number in range(3):
        await wire.ask("PUT", f"/key/k{number}", b"v")
    answer = await wire.ask("GET", "/backup")
    assert (answer.status, answer.headers["syncline-revision"]) == (200, "3")
    await wire.ask("PUT", "/key/later", b"v")
    stale = await wire.ask("GET", "/backup?stale=true")
    assert stale.headers["syncline-revision"] == "4"
    assert len(stale.body) > len(answer.body)


def _faulted(respond: Respond, error: Exception) -> None:
    raise error


async def test_backup_route_bounds_backups_under_way() -> None:
    """Each keeps what was replaced since it began: slow clients must not fill the memory."""
    backend = FakeBackend()
    routes = BackupRoutes(
        backend,
        ConfirmedReads(backend, faulted=_faulted),
        explain=KvWire(backend).site.explain_read,
    )
    given: list[Response] = []
    request = Request("GET", b"/backup", b"stale=true", {}, b"")
    for _ in range(MAX_BACKUPS + 2):
        routes.get(request, given.append)
    assert [answer.status for answer in given] == [200] * MAX_BACKUPS + [429] * 2
    assert isinstance(given[0], Stream)
    given[0].source.close()
    routes.get(request, given.append)
    assert given[-1].status == 200


def test_backup_verify_finds_each_flipped_byte(tmp_path: Path) -> None:
    path = tmp_path / "b"
    content = stream(filled(KvMachine(), 5))
    rng = random.Random(1)
    for place in {0, len(content) - 1, *(rng.randrange(len(content)) for _ in range(100))}:
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        ran = syncline("backup", "verify", str(path), "--json")
        assert ran.status != 0, place
    path.write_bytes(content)
    (tmp_path / "b.sha256").write_text("0" * 64 + "  b\n")
    with pytest.raises(CorruptionError, match="it is another file, or damaged"):
        verify_backup(OsDisk(), str(path))
    assert "No such file" in syncline("backup", "verify", str(tmp_path / "none")).error()


def test_backup_restore_twice_at_once_keeps_the_first_directory(tmp_path: Path) -> None:
    """Two commands at once: the second one must not move the files of the first one away."""
    (tmp_path / "b").write_bytes(stream(filled(KvMachine(), 3)))
    path = str(tmp_path / "a")

    class Filled(OsDisk):
        def lock(self, name: str, content: bytes) -> OsLock:
            restore_backup(OsDisk(), str(tmp_path / "b"), path, name="first", rng=random.Random(1))
            return super().lock(name, content)

    with pytest.raises(UsageError, match="is not empty"):
        restore_backup(Filled(), str(tmp_path / "b"), path, name="second", rng=random.Random(2))
    identity = read_identity(OsDisk(), path)
    assert identity is not None
    assert identity.name == "first"


async def test_backup_restore_begins_a_new_cluster(tmp_path: Path) -> None:
    machine = filled(KvMachine())
    (tmp_path / "b").write_bytes(stream(machine))
    path = str(tmp_path / "a")
    restored = restore_backup(OsDisk(), str(tmp_path / "b"), path, name="a", rng=random.Random(1))
    assert restored.backup_revision == machine.store.revision
    identity = read_identity(OsDisk(), path)
    assert identity is not None
    assert f"{identity.cluster_id:016x}" == restored.cluster_id
    with pytest.raises(UsageError, match="is not empty"):
        restore_backup(OsDisk(), str(tmp_path / "b"), path, name="a", rng=random.Random(2))
    address = f"127.0.0.1:{free_block(1)}"
    config = Config(
        name="a", data_dir=path, listen=address, heartbeat_s=0.02, election_s=0.1, reserve_bytes=0,
        segment_bytes=1 << 20,
    )  # fmt: skip
    after = KvMachine()
    async with Raft.open(config, after) as raft:
        answer = await raft.apply(encode_command(Put(b"new", b"v")))
        assert isinstance(answer, PutAnswer)
        assert answer.revision == machine.store.revision + REVISION_JUMP
        record = after.store.get(b"k001")
        assert record is not None
        assert record.value == b"again"
        assert [lease.id for lease in after.store.leases.records()] == [7]
        assert [member.address for member in raft.membership().members.values()] in ([""], [address])


def test_backup_restore_crashed_anywhere_is_begun_again_or_completed() -> None:
    disk = SimDisk(random.Random(1))
    disk.write_file("/b", stream(filled(KvMachine(), 3)))
    crashes: list[tuple[str, SimDisk]] = []
    rng = random.Random(2)

    def crash(operation: str, path: str) -> None:
        for survival in rng.sample(list(Survival), 3):
            crashes.append((f"{operation} of {path}", disk.crashed(survival, random.Random(len(crashes)))))

    disk.before = crash
    first = restore_backup(disk, "/b", "/a", name="a", rng=random.Random(3))
    disk.before = None
    completed = 0
    for moment, crashed in crashes:
        note = new_cluster.read_note(crashed, "/a") if crashed.exists("/a") else None
        if note is not None:
            completed += 1
            with pytest.raises(RepairNeeded):
                DataDir.open(crashed, "/a")
            new_cluster.complete(crashed, "/a", note)
        identity = read_identity(crashed, "/a") if crashed.exists("/a") else None
        if identity is None:
            continue
        assert f"{identity.cluster_id:016x}" == first.cluster_id, moment
        [snapshot] = list_snapshots(crashed, "/a/snapshots", verify=True)
        assert snapshot.damage is None, moment
    assert completed > 10


def test_backup_restore_of_a_damaged_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(stream(filled(KvMachine()))[:-1])
    ran = syncline("backup", "restore", str(tmp_path / "b"), "--data-dir", str(tmp_path / "a"), "--name", "a")
    assert (ran.status, "it ends too early" in ran.error()) == (1, True)
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").write_bytes(stream(filled(KvMachine())))
    ran = syncline("backup", "restore", str(tmp_path / "b"), "--data-dir", str(tmp_path / "a"), "--name", "a b")
    assert ran.status == 2
    assert not (tmp_path / "a").exists()
