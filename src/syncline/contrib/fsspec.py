"""Snapshots of any machine at any URL that fsspec knows: `s3://bucket/jobs`, `sftp://…`, or a directory.

    saved = await save_snapshot(raft, "s3://bucket/jobs")
    await restore_snapshot(raft, "s3://bucket/jobs")

See docs/contrib/fsspec.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import IO, BinaryIO, Final, Protocol, TypeVar, cast

import msgspec

from syncline.client.arguments import checked_number
from syncline.contrib.extras import missing_extra
from syncline.contrib.urls import shown, split_path, without_slash
from syncline.engines.protocol import Engine
from syncline.engines.snapshot_files import LEAST_S, NewestSnapshot, begin_log, take_newest
from syncline.errors import ConfigError, CorruptionError, DeadlineExceeded, Outcome, StorageError, SynclineError
from syncline.node.arguments import check_timeout
from syncline.node.fsm import FSM
from syncline.node.raft import Raft
from syncline.node.stats import SnapshotInfo
from syncline.platform.once import start_once

try:
    from fsspec.core import url_to_fs
except ModuleNotFoundError as _error:
    raise missing_extra("syncline.contrib.fsspec", "fsspec", _error) from _error

__all__ = ["SavedSnapshot", "list_snapshots", "restore_snapshot", "save_snapshot"]

NAME: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})-([0-9a-f]{16})-([0-9a-f]{16})\.snap")
"""Cluster or log, index, term, and the first digits of the file's SHA-256: files of one name have the same bytes. The
indexes of two clusters can't be compared: that of a new cluster begins at 1."""

SUM_SUFFIX: Final = ".sha256"
SUM_LIMIT_BYTES: Final = 4096
PART_SUFFIX: Final = ".part"
PIECE_BYTES: Final = 1 << 20

PATTERN_SIGNS: Final = frozenset("*?[")
"""In a path that has one of them, `mv` of a file system without renames sees a pattern: it makes a directory of the new
name, with the file in it."""

Result = TypeVar("Result")


class SavedSnapshot(msgspec.Struct, frozen=True):
    """A snapshot at a URL."""

    url: str
    index: int
    """The index of the last entry that it holds."""
    term: int
    size_bytes: int
    sha256: str
    """Of the file, in hexadecimal; it stands in the file `….sha256` beside it, too, for `sha256sum -c`."""
    cluster_id: int
    """Of the cluster of Raft, or of the log of another engine."""


async def save_snapshot(
    engine: Engine[Result],
    url: str | os.PathLike[str],
    *,
    keep: int | None = None,
    stale: bool = False,
    timeout: float = 600.0,
) -> SavedSnapshot:
    """Save the state of a machine as a file in the directory `url`, taking a snapshot if there is no newest one.

        saved = await save_snapshot(raft, "s3://bucket/jobs", keep=7)

    `engine` is a `Raft`, or what `syncline.open` gives; of a typed machine or a `Store` its `replica`. The file holds
    all that was acknowledged before the call; with `stale` all that this node has applied, which needs no quorum. It
    travels in pieces, on a thread of its own. It is read again at its place, and its SHA-256 is written last: a file
    without it does not count. `keep`: of the complete ones of this cluster so many stay, the newest.

    Raises:
        ConfigError: `keep` is below 1, or fsspec can't use the URL.
        StorageError: the snapshot can't be taken, or the file system at the URL has failed. The older files are there.
        CorruptionError: the snapshot is damaged, or the file reads differently from what was written.
        DeadlineExceeded: it is not finished (`unknown`).
        NothingToSnapshot: nothing was ever applied.
        OperationError: the reads of the engine are not confirmed; the node was closed.
    """
    check_timeout(timeout)
    if keep is not None and checked_number(keep, "keep") < 1:
        raise ConfigError(f"keep is {keep!r}: it must be 1 or more")
    url = os.fspath(url)
    loop = asyncio.get_running_loop()
    end_s = loop.time() + timeout
    newest = await take_newest(engine, stale=stale, timeout_s=timeout)  # it ends in time, and says why
    try:
        async with asyncio.timeout_at(end_s):
            return await _beside(lambda given_up: _save(_SnapshotDirectory(url), newest, keep, given_up))
    except SynclineError:
        raise
    except TimeoutError:
        raise DeadlineExceeded(f"{shown(url)}: the snapshot is not saved after {timeout:g} s") from None


async def list_snapshots(url: str | os.PathLike[str]) -> list[SavedSnapshot]:
    """The complete snapshots in the directory `url`: of each cluster the newest first; none without such a directory.

        for saved in await list_snapshots("s3://bucket/jobs"):
            print(saved.url, saved.index)

    Raises:
        ConfigError: fsspec can't use the URL.
        StorageError: the file system at the URL has failed.
    """
    place = os.fspath(url)
    return await _beside(lambda _: _SnapshotDirectory(place).saved())


async def restore_snapshot(
    target: Raft[Result] | str, url: str | os.PathLike[str], *, trial: FSM[object] | None = None, timeout: float = 600.0
) -> SnapshotInfo:
    """Replace the state of a live cluster of Raft by a saved snapshot, or begin another engine's empty log with it.

        await restore_snapshot(raft, "s3://bucket/jobs")                          # the newest one
        await restore_snapshot("etcd://10.0.0.1:2379/jobs", "s3://bucket/jobs")   # its log is empty

    `url` is the directory, or the file of one snapshot. Of a directory it is the newest of the cluster `target`, or of
    the only cluster that has some there. It is fetched to a temporary file (`TMPDIR`), and has the SHA-256 that was
    written beside it; else nothing is changed. `trial`, what is lost, and other errors are those of `Raft.restore`. A
    log of another engine keeps the sessions.

    Raises:
        ConfigError: fsspec can't use the URL, the directory has snapshots of several other clusters, or the log of
            `target` is not empty. Nothing was written.
        StorageError: there is no complete snapshot, or the file system at the URL has failed.
        CorruptionError: the file is damaged.
        DeadlineExceeded: it was not fetched in time (`not_applied`), or as `Raft.restore` says.
    """
    check_timeout(timeout)
    url = os.fspath(url)
    loop = asyncio.get_running_loop()
    end_s = loop.time() + timeout
    own = None if isinstance(target, str) else target.cluster_id
    with tempfile.TemporaryFile() as file:
        try:
            async with asyncio.timeout(timeout):
                await _beside(lambda given_up: _fetch(url, own, file, given_up))
        except SynclineError:
            raise
        except TimeoutError:
            text = f"{shown(url)}: the snapshot was not fetched within {timeout:g} s"
            raise DeadlineExceeded(text, outcome=Outcome.NOT_APPLIED) from None
        left_s = max(LEAST_S, end_s - loop.time())
        source = cast("BinaryIO", file)
        if isinstance(target, str):
            return await begin_log(target, source, timeout_s=left_s)
        return await target.restore(source, trial=trial, timeout=left_s)


# -- beside the event loop --------------------------------------------------------------------------------------------


async def _beside(work: Callable[[threading.Event], Result]) -> Result:
    """Call `work` on a thread of its own. It gets an event that is set when nothing waits for it any more."""
    given_up = threading.Event()
    running = asyncio.wrap_future(start_once("syncline-fsspec", lambda: work(given_up)))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        given_up.set()
        running.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # it was told to end
        raise


def _save(
    place: _SnapshotDirectory, newest: NewestSnapshot, keep: int | None, given_up: threading.Event
) -> SavedSnapshot:
    part = f".{secrets.token_hex(8)}{PART_SUFFIX}"
    digest, size = hashlib.sha256(), 0
    place.prepare()
    try:
        with place.reported(part), place.open(part, "wb") as file, contextlib.closing(newest.pieces()) as pieces:
            for piece in pieces:
                _check_wanted(given_up)
                file.write(piece)
                digest.update(piece)
                size += len(piece)
        sha256 = digest.hexdigest()
        _check(place, part, sha256, given_up)
        manifest = newest.manifest
        cluster = f"{manifest.cluster_id:016x}"
        name = f"{cluster}-{manifest.index:016x}-{manifest.term:016x}-{sha256[:16]}.snap"
        place.move(part, name)
    except BaseException:
        with contextlib.suppress(StorageError):  # the first error counts
            place.remove(part)
        raise
    place.write_sum(name, sha256)
    if keep is not None:
        own = [held for held in place.complete() if held.startswith(cluster)]
        for old in own[keep:]:
            if old != name:  # the result names this file, so it stays, even if it is older than others
                place.remove(old + SUM_SUFFIX)  # first: without it the file does not count
                place.remove(old)
    return SavedSnapshot(place.url_of(name), manifest.index, manifest.term, size, sha256, manifest.cluster_id)


def _check(place: _SnapshotDirectory, name: str, sha256: str, given_up: threading.Event) -> None:
    """Read a file again."""
    digest = hashlib.sha256()
    with place.reported(name), place.open(name, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            _check_wanted(given_up)
            digest.update(piece)
    if digest.hexdigest() != sha256:
        text = f"{shown(place.url_of(name))} was written and reads differently: it has the SHA-256 {digest.hexdigest()}"
        raise CorruptionError(f"{text}, and {sha256} was written", file=shown(place.url_of(name)))


def _fetch(url: str, own: int | None, target: IO[bytes], given_up: threading.Event) -> None:
    if url.endswith(".snap"):
        directory, name = split_path(url)
        place = _SnapshotDirectory(directory)
    else:
        place = _SnapshotDirectory(url)
        name = _newest(place, own)
    sha256 = place.read_sum(name)
    digest = hashlib.sha256()
    with place.reported(name), place.open(name, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            _check_wanted(given_up)
            target.write(piece)
            digest.update(piece)
    if digest.hexdigest() != sha256:
        where = shown(place.url_of(name))
        text = f"{where} is damaged: it has the SHA-256 {digest.hexdigest()}, and {sha256} was written: restore another"
        raise CorruptionError(f"{text} one ({shown(place.url)})", file=where)
    target.seek(0)


def _newest(place: _SnapshotDirectory, own: int | None) -> str:
    """The newest snapshot of the cluster `own`, or of the only one that has some there."""
    newest: dict[str, str] = {}
    for name in place.complete():
        newest.setdefault(name.partition("-")[0], name)
    if own is not None and (found := newest.get(f"{own:016x}")) is not None:
        return found
    if not newest:
        raise StorageError(f"{shown(place.url)} has no complete snapshot: save one there first (save_snapshot)")
    if len(newest) > 1:
        urls = ", ".join(shown(place.url_of(name)) for name in newest.values())
        raise ConfigError(f"{shown(place.url)} has snapshots of {len(newest)} clusters: name the file of one: {urls}")
    return next(iter(newest.values()))


def _check_wanted(given_up: threading.Event) -> None:
    if given_up.is_set():
        raise StorageError("the call was given up")


class _Files(Protocol):
    """What is used of a file system of fsspec, which has no types."""

    def makedirs(self, path: str, exist_ok: bool) -> object: ...
    def invalidate_cache(self) -> object: ...
    def ls(self, path: str, detail: bool) -> list[str]: ...
    def info(self, path: str) -> dict[str, object]: ...
    def open(self, path: str, mode: str) -> AbstractContextManager[BinaryIO]: ...
    def mv(self, path1: str, path2: str) -> object: ...
    def cp_file(self, path1: str, path2: str) -> object: ...
    def rm_file(self, path: str) -> object: ...


class _SnapshotDirectory:
    """A directory of a file system of fsspec. All of it blocks."""

    def __init__(self, url: str) -> None:
        if not url.strip():
            raise ConfigError("the URL of the snapshots is empty: give a directory, such as s3://bucket/jobs")
        self.url = without_slash(url)
        try:
            files, root = url_to_fs(self.url)
        except Exception as error:
            raise ConfigError(shown(f"{url}: {type(error).__name__}: {error}")) from error
        self._files = cast("_Files", files)
        self._root = str(root).rstrip("/")

    def url_of(self, name: str) -> str:
        return self.url + name if self.url.endswith("/") else f"{self.url}/{name}"

    def prepare(self) -> None:
        with self.reported(""):
            self._files.makedirs(self._root or "/", exist_ok=True)

    def open(self, name: str, mode: str) -> AbstractContextManager[BinaryIO]:
        return self._files.open(f"{self._root}/{name}", mode)

    def move(self, name: str, to: str) -> None:
        """Object stores copy. A file of this name that is there has the same bytes."""
        before, after = f"{self._root}/{name}", f"{self._root}/{to}"
        with self.reported(to):
            if PATTERN_SIGNS.isdisjoint(self._root):
                self._files.mv(before, after)
            else:
                self._files.cp_file(before, after)
                self._files.rm_file(before)

    def remove(self, name: str) -> None:
        with self.reported(name), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")

    def complete(self) -> list[str]:
        """The names of all files that have their sum: by cluster, and of each one the newest first."""
        with self.reported(""):
            self._files.invalidate_cache()  # others write there, too
            try:
                paths = self._files.ls(self._root or "/", detail=False)
            except FileNotFoundError:  # object stores have no empty directories
                return []
        names = {path.rstrip("/").rpartition("/")[2] for path in paths}
        return sorted((name for name in names if NAME.fullmatch(name) and name + SUM_SUFFIX in names), reverse=True)

    def saved(self) -> list[SavedSnapshot]:
        found: list[SavedSnapshot] = []
        for name in self.complete():
            parts = NAME.fullmatch(name)
            assert parts is not None, "`complete` has no others"
            with self.reported(name):
                size = self._files.info(f"{self._root}/{name}")["size"]
            cluster, index, term = (int(parts[at], 16) for at in (1, 2, 3))
            found.append(SavedSnapshot(self.url_of(name), index, term, int(str(size)), self.read_sum(name), cluster))
        return found

    def write_sum(self, name: str, sha256: str) -> None:
        with self.reported(name + SUM_SUFFIX), self.open(name + SUM_SUFFIX, "wb") as file:
            file.write(f"{sha256}  {name}\n".encode())

    def read_sum(self, name: str) -> str:
        with self.reported(name + SUM_SUFFIX), self.open(name + SUM_SUFFIX, "rb") as file:
            return file.read(SUM_LIMIT_BYTES).split(b" ", 1)[0].decode("ascii", "replace")

    @contextlib.contextmanager
    def reported(self, name: str) -> Iterator[None]:
        """Errors as ours: each file system raises its own."""
        where = self.url_of(name) if name else self.url
        try:
            yield
        except SynclineError:
            raise
        except FileNotFoundError as error:
            raise StorageError(f"{shown(where)}: no such file or directory") from error
        except Exception as error:
            raise StorageError(shown(f"{where}: {type(error).__name__}: {error}")) from error
