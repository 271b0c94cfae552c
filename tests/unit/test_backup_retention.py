"""Backups at intervals when clocks jump, removals fail, commands are killed, and several save to one target."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from syncline.cli.backup import saving, schedule
from syncline.cli.backup.places import UrlPlace, shown, split_place, without_slash
from syncline.cli.backup.schedule import Retention, abandoned, no_longer_kept
from syncline.cli.common import Context
from syncline.platform.disk import OsDisk
from tests.helpers.command import syncline
from tests.helpers.http_server import refused_url
from tests.helpers.site_server import site_in_thread
from tests.unit.test_backup_places import CLUSTER, names
from tests.unit.test_backups import filled

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


def test_retention_never_removes_what_was_just_saved() -> None:
    """A clock that was wrong has made backups of the future: they are not the newest."""
    found = [*names(0), *names(-24 * 365, -24 * 366)]
    assert no_longer_kept(found, "syncline", Retention(1), NOW + timedelta(seconds=5), saved=names(0)[0]) == []
    saved = names(1)[0]
    assert no_longer_kept(names(0, 1), "syncline", Retention(1), NOW + timedelta(seconds=5), saved=saved) == []


def test_retention_keeps_as_many_beside_backups_of_the_future() -> None:
    found = [*names(0, 1, 2, 3), *names(-1, -2)]
    assert no_longer_kept(found, "syncline", Retention(2), NOW) == names(3, 2)[::2]


def test_parts_of_killed_commands_are_abandoned_after_a_day() -> None:
    old, young = names(25)[0], names(23)[0]
    parts = [f"{old}.0a1b2c3d.part", f"{old}.0a1b2c3d.part.reduced"]
    others = [old, f"{young}.0a1b2c3d.part", f"other{old}.0a.part", f"{old}.part.txt", "notes.part"]
    assert abandoned([*parts, *others], "syncline", NOW) == parts


def test_schedule_that_can_not_remove_keeps_its_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an append-only bucket, a backup each minute in place of one each hour would fill it."""
    waits: list[float] = []
    stopped = schedule._stopped

    async def noted(stop: object, wait_s: float) -> bool:
        waits.append(wait_s)
        if len(waits) > 1:
            return True
        return await stopped(stop, wait_s)  # type: ignore[arg-type]

    def refused(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(schedule, "_stopped", noted)
    monkeypatch.setattr(os, "remove", refused)
    for name in names(24 * 300, 24 * 301, prefix=f"syncline-{CLUSTER}"):
        (tmp_path / name).write_text("")
    options = ("--keep", "1", "--every", "12h")
    with site_in_thread() as server:
        filled(server.backend.machine)
        ran = syncline("backup", "schedule", str(tmp_path), *options, endpoints=server.url)
        once = syncline("backup", "schedule", str(tmp_path), *options, "--once", "--prefix", "b", endpoints=server.url)
    assert waits[1] > 3600, (waits, ran)
    assert "was saved, and older backups can't be removed" in ran.err
    assert once.status == 0, "there is none to remove"


def test_schedule_leaves_the_backups_of_other_clusters(tmp_path: Path) -> None:
    """Two clusters that saved to one place with one prefix removed each other's backups."""
    own, other = names(300, 301, prefix=f"syncline-{CLUSTER}"), names(300, 301, prefix=f"syncline-{8:016x}")
    unnamed = names(300, 301)
    for name in (*own, *other, *unnamed):
        (tmp_path / name).write_text("")
    with site_in_thread() as server:
        filled(server.backend.machine)
        ran = syncline("backup", "schedule", str(tmp_path), "--once", "--keep", "1", "--json", endpoints=server.url)
    assert ran.status == 0, ran
    assert ran.json()["removed"] == own[2::-2]
    kept = Path(str(ran.json()["file"])).name
    assert kept.startswith(f"syncline-{CLUSTER}-")
    assert {path.name for path in tmp_path.iterdir()} == {*other, *unnamed, kept, f"{kept}.sha256"}


def test_upload_that_hangs_does_not_keep_the_command_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload blocked the event loop: a schedule that was told to end went on until its store answered."""
    released, outlasted = threading.Event(), list[bool]()

    def stuck(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        if not released.wait(100):
            outlasted.append(True)

    monkeypatch.setattr(UrlPlace, "store", stuck)
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with site_in_thread() as server:
            filled(server.backend.machine)
            ran = syncline("backup", "save", "memory://x/b", endpoints=server.url)
    finally:
        released.set()
        signal.signal(signal.SIGTERM, handler)
    assert (ran.status, "interrupted" in ran.error()) == (130, True)
    assert not outlasted, "it waited for the store"


def test_schedule_whose_store_hangs_at_the_first_look_ends_on_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took the signal and waited on for the list of what there is."""
    released, outlasted = threading.Event(), list[bool]()

    def stuck(_: UrlPlace) -> list[str]:
        os.kill(os.getpid(), signal.SIGTERM)
        if not released.wait(100):
            outlasted.append(True)
        return []

    monkeypatch.setattr(UrlPlace, "names", stuck)
    try:
        ran = syncline("backup", "schedule", "memory://x", endpoints=refused_url())
    finally:
        released.set()
    assert (ran.status, ran.err) == (0, "")
    assert not outlasted, "it waited for the store"


def test_schedule_to_a_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with site_in_thread() as server:
        ran = syncline("backup", "schedule", str(tmp_path / "f"), "--once", endpoints=server.url)
    assert (ran.status, ran.error()) == (1, f"syncline: {tmp_path}/f is no directory: name one for the backups")


@pytest.mark.parametrize("data", [b"", b"a log line\n", bytes(200)])
def test_verify_names_the_file_that_is_no_backup(tmp_path: Path, data: bytes) -> None:
    """A script that verifies many files shows this line alone."""
    (tmp_path / "b").write_bytes(data)
    ran = syncline("backup", "verify", str(tmp_path / "b"))
    assert (ran.status, ran.error().startswith(f"syncline: {tmp_path}/b: ")) == (1, True), ran.err


def test_schedule_removes_the_parts_of_killed_commands(tmp_path: Path) -> None:
    part = tmp_path / f"{names(24 * 365, prefix=f'syncline-{CLUSTER}')[0]}.00aa11bb.part"
    part.write_text("")
    with site_in_thread() as server:
        filled(server.backend.machine)
        ran = syncline("backup", "schedule", str(tmp_path), "--once", endpoints=server.url)
    assert ran.status == 0, ran
    assert not part.exists()


def test_two_saves_to_one_file_leave_one_whole_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither writes to the part of the other: the second finds the file of the first."""
    receive = saving._receive
    saved: list[str] = []

    async def slow(context: Context, disk: OsDisk, part: str, *, stale: bool) -> str:
        if not saved:
            saved.append(part)
            await saving.save_backup(context, str(tmp_path / "b"), stale=stale)
        return await receive(context, disk, part, stale=stale)

    monkeypatch.setattr(saving, "_receive", slow)
    with site_in_thread() as server:
        filled(server.backend.machine)
        ran = syncline("backup", "save", str(tmp_path / "b"), endpoints=server.url)
    assert (ran.status, "another command has made it" in ran.error()) == (1, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "b.sha256"]
    assert syncline("backup", "verify", str(tmp_path / "b")).status == 0


def test_backup_at_the_root_of_a_url_is_no_file_beside_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    MemoryFileSystem.store.clear()
    with site_in_thread() as server:
        filled(server.backend.machine)
        saved = syncline("backup", "save", "memory://b", endpoints=server.url)
        kept = syncline("backup", "schedule", "memory://", "--once", "--json", endpoints=server.url)
    assert (saved.status, kept.status) == (0, 0), (saved, kept)
    assert list(tmp_path.iterdir()) == []
    assert {"/b", "/b.sha256"} < set(MemoryFileSystem.store)
    assert syncline("backup", "verify", str(kept.json()["file"])).status == 0
    assert split_place("s3://bucket/b") == ("s3://bucket", "b")
    assert [without_slash(one) for one in ("/", "a/", "s3://b//", "file:///")] == ["/", "a", "s3://b", "file:///"]


def test_backup_url_is_printed_without_its_password(tmp_path: Path) -> None:
    del tmp_path
    assert shown("ftp://u:p@ss@host/a@b") == "ftp://[removed]@host/a@b"
    ran = syncline("backup", "verify", "nowhere://user:hunter2@host/b")
    assert (ran.status, "hunter2" in ran.err, "host/b" in ran.err or "nowhere" in ran.err) == (1, False, True)


@pytest.mark.parametrize("arguments", [("save", "{}/b"), ("save", "memory://x/b"), ("schedule", "{}/c", "--once")])
def test_backup_that_is_terminated_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str]
) -> None:
    """What was received has the hashes of passwords. Timers and jobs are ended by SIGTERM."""

    async def endless(*_: object, **__: object) -> AsyncIterator[bytes]:
        yield b"x"
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr(saving, "read_backup", endless)
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with site_in_thread() as server:
            ran = syncline("backup", *(one.format(tmp_path) for one in arguments), endpoints=server.url)
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert (ran.status, "interrupted" in ran.error()) == (130, True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("name", ["b\udcff", "ordner/b"])
def test_backup_save_to_an_odd_name_is_saved_or_refused(tmp_path: Path, name: str) -> None:
    with site_in_thread() as server:
        filled(server.backend.machine)
        ran = syncline("backup", "save", str(tmp_path / name), endpoints=server.url)
    assert ran.status == (1 if "/" in name else 0), ran
    assert "Traceback" not in ran.err


def test_backup_without_a_temporary_directory_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent/tmp")
    with site_in_thread() as server:
        filled(server.backend.machine)
        ran = syncline("backup", "save", "memory://bucket/c", endpoints=server.url)
    assert (ran.status, "/nonexistent/tmp" in ran.error()) == (1, True)
