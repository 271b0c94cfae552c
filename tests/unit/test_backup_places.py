"""Backups at URLs, at intervals, and without users or leases."""

from __future__ import annotations

import builtins
import json
import os
import random
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from syncline import Config, Raft
from syncline.cli.backup.schedule import Retention, no_longer_kept
from syncline.kv.auth.commands import AuthSwitch, UserAdd
from syncline.kv.auth.records import PasswordVerifier
from syncline.kv.backups import reduce_backup, restore_backup, verify_backup
from syncline.kv.commands import Command, LeaseGrant, Put, encode_command
from syncline.kv.machine import KvMachine
from syncline.kv.snapshots import KvSnapshot
from syncline.node.fsm import Entry
from syncline.platform.disk import OsDisk
from syncline.storage.inspect import list_snapshots
from tests.helpers.command import syncline
from tests.helpers.ports import free_block
from tests.helpers.site_server import site_in_thread
from tests.unit.test_backups import filled

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def empty_memory() -> Iterator[None]:
    MemoryFileSystem.store.clear()
    yield
    MemoryFileSystem.store.clear()


def test_backup_to_a_url_is_saved_verified_and_restored(tmp_path: Path) -> None:
    with site_in_thread() as server:
        filled(server.backend.machine)
        url = "memory://bucket/monday.backup"
        saved = syncline("backup", "save", url, "--json", endpoints=server.url)
        again = syncline("backup", "save", url, endpoints=server.url)
    assert saved.status == 0, saved
    assert sorted(MemoryFileSystem.store) == ["/bucket/monday.backup", "/bucket/monday.backup.sha256"]
    assert (again.status, "exists: name another file" in again.error()) == (2, True)
    verified = syncline("backup", "verify", url, "--json")
    assert verified.json() == saved.json()
    restored = syncline("backup", "restore", url, "--data-dir", str(tmp_path / "n1"), "--name", "n1", "--json")
    assert restored.status == 0, restored
    assert restored.json()["backup_revision"] == saved.json()["revision"]
    MemoryFileSystem.store["/bucket/monday.backup"].seek(200)
    MemoryFileSystem.store["/bucket/monday.backup"].write(b"\xff\xff\xff")
    damaged = syncline("backup", "verify", url)
    assert damaged.status == 1
    assert damaged.error()


def test_backup_url_that_can_not_be_used_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "memory://none/b" in syncline("backup", "verify", "memory://none/b").error()
    unknown = syncline("backup", "verify", "nowhere://bucket/b")
    assert (unknown.status, "nowhere" in unknown.error()) == (1, True)
    assert syncline("backup", "save", "memory://bucket/").status == 2
    real = builtins.__import__

    def without(
        name: str,
        globals_: Mapping[str, object] | None = None,
        locals_: Mapping[str, object] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> object:
        if name.startswith("fsspec"):
            raise ImportError(name)
        return real(name, globals_, locals_, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", without)
    missing = syncline("backup", "verify", "s3://bucket/b", "--json")
    assert missing.status == 2
    assert "pip install 'syncline[fsspec]'" in missing.error()
    assert json.loads(missing.err)["error"]["code"] == "extra_missing"


def test_backup_at_a_url_that_is_changed_on_the_way_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    put = MemoryFileSystem.put_file

    def changed(self: MemoryFileSystem, local: str, remote: str, **options: object) -> None:
        put(self, local, remote, **options)
        if remote.endswith(".backup"):
            self.store[remote].seek(10)
            self.store[remote].write(b"\0\0\0\0")

    monkeypatch.setattr(MemoryFileSystem, "put_file", changed)
    with site_in_thread() as server:
        filled(server.backend.machine)
        ran = syncline("backup", "save", "memory://bucket/b.backup", endpoints=server.url)
    assert (ran.status, "was written and reads differently" in ran.error()) == (1, True)
    assert sorted(MemoryFileSystem.store) == ["/bucket/b.backup"], "without its sum it counts as incomplete"


# -- without users or leases ------------------------------------------------------------------------------------------


def with_users() -> KvMachine:
    machine = filled(KvMachine())
    verifier = PasswordVerifier(2, 1, 1, b"salt", b"k" * 32)
    commands: list[Command] = [UserAdd("root", verifier, ("root",)), UserAdd("u", None, ()), AuthSwitch(True)]
    for index, command in enumerate(commands, 1000):
        machine.apply(Entry(index, 1, encode_command(command)))
    assert machine.store.auth.enabled
    return machine


def written(machine: KvMachine, path: Path) -> str:
    path.write_bytes(b"".join(KvSnapshot(machine.store.view()).pieces()))
    return str(path)


@pytest.mark.parametrize(
    ("without", "users", "leases", "keys"),
    [((), 2, 1, 50), (("users",), 0, 1, 50), (("leases",), 2, 0, 49), (("users", "leases"), 0, 0, 49)],
)
def test_backup_without_parts_has_the_rest(
    tmp_path: Path, without: tuple[str, ...], users: int, leases: int, keys: int
) -> None:
    """The keys of a lease go with it: a lock whose lease is not restored would be held for good."""
    path = written(with_users(), tmp_path / "b")
    reduce_backup(OsDisk(), path, str(tmp_path / "reduced"), without=without)
    facts = verify_backup(OsDisk(), str(tmp_path / "reduced"))
    assert (facts.users, facts.leases, facts.keys) == (users, leases, keys)
    options = [part for name in without for part in ("--without", name)]
    options += ["--open-access"] * ("users" in without)
    ran = syncline("backup", "restore", path, "--data-dir", str(tmp_path / "n"), "--name", "n", "--json", *options)
    assert ran.status == 0, ran
    assert list_snapshots(OsDisk(), str(tmp_path / "n" / "snapshots"))


def test_backup_restore_without_users_opens_no_access_by_itself(tmp_path: Path) -> None:
    """Whether the users are left out now, or were when it was saved."""
    path, reduced = written(with_users(), tmp_path / "b"), str(tmp_path / "reduced")
    reduce_backup(OsDisk(), path, reduced, without=("users",))
    to = ("--data-dir", str(tmp_path / "n"), "--name", "n")
    for options in ((path, "--without", "users"), (reduced,)):
        ran = syncline("backup", "restore", *options, *to)
        assert (ran.status, "accept that with --open-access" in ran.error()) == (2, True), ran
        assert not (tmp_path / "n").exists()
    whole = syncline("backup", "restore", path, *to)
    assert (whole.status, "Its clients need the credentials" in whole.text) == (0, True)
    opened = syncline("backup", "restore", reduced, "--open-access", "--data-dir", str(tmp_path / "m"), "--name", "m")
    assert (opened.status, "Its clients need no credentials" in opened.text) == (0, True)


async def test_backup_restored_without_users_asks_for_no_credentials(tmp_path: Path) -> None:
    """The new cluster is without the keys of leases, too; revisions only rise."""
    source = with_users()
    path = written(source, tmp_path / "b")
    rng, without = random.Random(1), ("users", "leases")
    restored = restore_backup(OsDisk(), path, str(tmp_path / "n"), name="n", rng=rng, without=without, open_access=True)
    assert restored.revision > source.store.revision
    machine = KvMachine()
    port = free_block(1)
    config = Config(name="n", data_dir=str(tmp_path / "n"), listen=f"127.0.0.1:{port}")
    async with Raft.open(config, machine):
        assert not machine.store.auth.enabled
        assert (len(machine.store.auth.users), len(machine.store.auth.roles), len(machine.store.leases)) == (0, 0, 0)
        assert machine.store.get(b"leased") is None
        assert machine.store.get(b"k001") is not None


def test_backup_save_without_users_has_no_hashes(tmp_path: Path) -> None:
    with site_in_thread() as server:
        machine = filled(server.backend.machine)
        alice = UserAdd("alice", PasswordVerifier(2, 1, 1, b"salt", b"secret.." * 4), ())
        machine.apply(Entry(900, 1, encode_command(alice)))
        whole = syncline("backup", "save", str(tmp_path / "whole"), endpoints=server.url)
        ran = syncline("backup", "save", str(tmp_path / "b"), "--without", "users", endpoints=server.url)
        wrong = syncline("backup", "save", str(tmp_path / "c"), "--without", "keys", endpoints=server.url)
    assert (whole.status, ran.status, wrong.status) == (0, 0, 2)
    assert b"secret.." in (tmp_path / "whole").read_bytes()
    assert b"secret.." not in (tmp_path / "b").read_bytes()
    assert b"alice" not in (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "b.sha256", "whole", "whole.sha256"]
    assert syncline("backup", "verify", str(tmp_path / "b")).status == 0


# -- schedules --------------------------------------------------------------------------------------------------------


CLUSTER = f"{7:016x}"
"""The id of the cluster of `site_in_thread`."""


def names(*ages_h: float, prefix: str = "syncline") -> list[str]:
    made = [(NOW - timedelta(hours=age)).strftime(f"{prefix}-%Y%m%dT%H%M%SZ.backup") for age in ages_h]
    return [name for one in made for name in (one, one + ".sha256")]


@pytest.mark.parametrize(
    ("ages_h", "keep", "keep_for_h", "removed"),
    [
        ((0, 1, 2, 3), 2, 0, (3, 2)),
        ((0, 1, 2, 3), 2, 2.5, (3,)),
        ((0, 1, 2, 3), 9, 0, ()),
        ((50, 60), 1, 1, (60,)),
        ((), 1, 0, ()),
    ],
)
def test_schedule_removes_what_is_neither_new_nor_young(
    ages_h: Sequence[float], keep: int, keep_for_h: float, removed: Sequence[float]
) -> None:
    found = no_longer_kept(names(*ages_h), "syncline", Retention(keep, keep_for_h * 3600), NOW)
    assert found == names(*removed)[::2]


def test_schedule_leaves_other_files_and_incomplete_backups() -> None:
    """An incomplete backup takes no place of a complete one."""
    old = names(*range(1, 6))
    others = ["notes.txt", "other-20200101T000000Z.backup", "syncline-20200101T000000Z.backup.part", "syncline-x"]
    incomplete = names(0.1, 0.2)[::2]
    found = no_longer_kept([*old, *others, *incomplete], "syncline", Retention(2), NOW)
    assert found == names(5, 4, 3)[::2]


@pytest.mark.parametrize("target", ["{path}/backups", "memory://bucket/backups"])
def test_schedule_once_saves_and_removes_old_ones(tmp_path: Path, target: str) -> None:
    target = target.format(path=tmp_path)
    with site_in_thread() as server:
        filled(server.backend.machine)
        first = syncline("backup", "schedule", target, "--once", "--keep", "1", "--json", endpoints=server.url)
        assert first.status == 0, first
        old = str(first.json()["file"])
        renamed = old[: -len("20260101T000000Z.backup")] + "20250101T000000Z.backup"
        move(old, renamed)
        move(old + ".sha256", renamed + ".sha256")
        second = syncline("backup", "schedule", target, "--once", "--keep", "1", "--json", endpoints=server.url)
    assert second.json()["removed"] == [os.path.basename(renamed)]
    assert syncline("backup", "verify", str(second.json()["file"])).status == 0
    options = ("--once", "--keep", "1", "--prefix", "other")
    failed = syncline("backup", "schedule", target, *options, endpoints="http://127.0.0.1:1")
    assert failed.status == 4
    assert syncline("backup", "verify", str(second.json()["file"])).status == 0, "a failure removes nothing"


def move(source: str, target: str) -> None:
    if source.startswith("memory://"):
        MemoryFileSystem().mv(source, target)
    else:
        os.rename(source, target)


def test_schedule_runs_until_a_signal_and_survives_failures(tmp_path: Path) -> None:
    """It saves at once, then at its interval; after a restart of the command the interval goes on."""
    with site_in_thread() as server:
        filled(server.backend.machine)
        stop_after(tmp_path, 2)
        ran = syncline("backup", "schedule", str(tmp_path), "--every", "1s", "--keep", "9", endpoints=server.url)
    assert ran.status == 0, ran
    found = [path.name for path in tmp_path.iterdir() if path.name.endswith(".backup")]
    assert len(found) >= 2
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def stop_after(path: Path, count: int) -> None:
    """Send SIGTERM to this process once there are so many backups."""
    enough = threading.Event()

    def watch() -> None:
        while len([one for one in path.iterdir() if one.name.endswith(".backup")]) < count:
            enough.wait(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def test_leases_of_a_full_backup_are_kept(tmp_path: Path) -> None:
    machine = KvMachine()
    commands: list[Command] = [LeaseGrant(7, 60_000), Put(b"k", b"v", lease=7)]
    for index, command in enumerate(commands, 1):
        machine.apply(Entry(index, 1, encode_command(command)))
    assert verify_backup(OsDisk(), written(machine, tmp_path / "b")).leases == 1
