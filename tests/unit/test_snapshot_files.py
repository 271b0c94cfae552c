"""The newest snapshot of an engine as a file: it holds all that was acknowledged, and is read in time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import cast

import pytest

import syncline
from syncline import LogReplica
from syncline.engines import snapshot_files, stored
from syncline.engines.memory import MemoryBackend
from syncline.engines.snapshot_files import take_newest
from syncline.errors import DeadlineExceeded, NothingToSnapshot, StorageError
from syncline.node.stats import SnapshotInfo
from tests.helpers.node_cluster import Listing

URL = "memory:files"


async def test_newest_snapshot_holds_what_another_node_has_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node's own snapshot ends because another node has just taken one: that one lacks the newest command."""
    async with syncline.open(URL, Listing()) as one, syncline.open(URL, Listing()) as two:
        first, second = cast("LogReplica[object]", one), cast("LogReplica[object]", two)
        await first.apply(b"saved")
        await second.snapshot()
        await first.apply(b"acknowledged")
        snapshots = first._snapshots
        joined = asyncio.Event()
        take: Callable[[], asyncio.Task[SnapshotInfo]] = snapshots.take

        def take_and_tell() -> asyncio.Task[SnapshotInfo]:
            taking = take()
            joined.set()
            return taking

        async def held(backend: MemoryBackend) -> int:
            await joined.wait()
            return 0 if backend.log.stored is None else backend.log.stored.position

        monkeypatch.setattr(snapshots, "take", take_and_tell)
        monkeypatch.setattr(MemoryBackend, "stored_position", held)
        automatic = snapshots._start(if_needed=True)
        newest = await take_newest(first, stale=False, timeout_s=10)
        assert isinstance(automatic.exception(), NothingToSnapshot), "it was joined"
        assert newest.manifest.index == first.stats().applied == 2


async def test_newest_snapshot_that_lacks_entries_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    async with syncline.open(URL, Listing()) as one:
        node = cast("LogReplica[object]", one)
        with pytest.raises(NothingToSnapshot):
            await take_newest(node, stale=False, timeout_s=10)
        await node.apply(b"saved")
        await node.snapshot()
        await node.apply(b"acknowledged")

        async def nothing(self: LogReplica[object], *, timeout: float) -> SnapshotInfo:
            raise NothingToSnapshot("another node has just taken one")

        monkeypatch.setattr(LogReplica, "snapshot", nothing)
        with pytest.raises(StorageError, match="no snapshot holds the entries up to 2"):
            await take_newest(node, stale=False, timeout_s=10)


async def test_newest_snapshot_of_a_backend_that_hangs_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(_: MemoryBackend) -> None:
        await asyncio.Event().wait()

    async with syncline.open(URL, Listing()) as one:
        await one.apply(b"x")
        monkeypatch.setattr(MemoryBackend, "snapshot", hangs)
        async with asyncio.timeout(10):
            with pytest.raises(DeadlineExceeded, match="was not read in time"):
                await take_newest(one, stale=False, timeout_s=0.2)


async def test_newest_snapshot_is_opened_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    opens = stored.open_snapshot

    def opened(body: bytes, where: str) -> object:
        threads.append(threading.current_thread())
        return opens(body, where)

    monkeypatch.setattr(snapshot_files, "open_snapshot", opened)
    async with syncline.open(URL, Listing()) as one:
        await one.apply(b"x")
        newest = await take_newest(one, stale=False, timeout_s=10)
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()
    assert b"".join(newest.pieces())
