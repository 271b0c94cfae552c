"""Snapshots of one node on a log backend: when they are taken, stored, and what is then removed from the log.

Each node takes them by itself. Before it does it looks whether another node was faster.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec

from syncline.engines.backend import BackendLost, LogReplaced, Mark, StoredSnapshot
from syncline.engines.driver import EngineDriver, ViewAt
from syncline.engines.stored import dump_snapshot
from syncline.engines.taking import TakenState
from syncline.errors import ConfigError, NothingToSnapshot, StorageError, SynclineError
from syncline.node.applier import NotViewed, SnapshotWork, Viewed
from syncline.node.events import SnapshotTaken
from syncline.node.stats import SnapshotInfo
from syncline.platform.once import start_once

__all__ = ["EngineSnapshots"]

RECORDS: Final = 2_000
"""After so many records a snapshot is taken, if they have more bytes than the last one."""
MOST_RECORDS: Final = 20_000
"""After so many records one is taken in any case."""
MOST_BYTES: Final = 64 << 20

KEPT_RECORDS: Final = 256
"""Records that stay in the log behind a snapshot, for nodes that are a little slower."""

STORE_S: Final = 120.0
"""How long a snapshot may take to be stored."""

log: Final = logging.getLogger("syncline.engines")


class EngineSnapshots:
    """Takes the snapshots of one node."""

    def __init__(self, driver: EngineDriver) -> None:
        self._driver = driver
        self._taking: asyncio.Task[SnapshotInfo] | None = None
        self._later = 1.0 + driver.world.rng.random() / 2  # so that not all nodes take one at the same record
        self._size_bytes = 0
        self.taken: int = 0
        driver.entries_applied = self.look

    def look(self) -> None:
        """After entries were applied: take a snapshot if it is time."""
        driver = self._driver
        if self._taking is not None or driver.records_since < RECORDS * self._later:
            return
        if (
            driver.bytes_since > max(self._size_bytes, 1)
            or driver.records_since >= MOST_RECORDS * self._later
            or driver.bytes_since >= MOST_BYTES
        ):
            self._start(if_needed=True).add_done_callback(_logged)

    def take(self) -> asyncio.Task[SnapshotInfo]:
        """Take one now, or join the one that is under way."""
        return self._taking or self._start(if_needed=False)

    def _start(self, *, if_needed: bool) -> asyncio.Task[SnapshotInfo]:
        self._taking = self._driver.loop.create_task(self._take(if_needed=if_needed))
        self._taking.add_done_callback(self._ended)
        return self._taking

    def _ended(self, taking: asyncio.Task[SnapshotInfo]) -> None:
        self._taking = None
        if not taking.cancelled():
            taking.exception()  # mark it as retrieved: its caller may have given up

    async def close(self) -> None:
        """End what is under way."""
        taking = self._taking
        if taking is not None:
            taking.cancel()
            await asyncio.wait([taking])

    async def _take(self, *, if_needed: bool) -> SnapshotInfo:
        driver = self._driver
        taker, applier = driver.taker, driver.applier
        records, size = driver.records_since, driver.bytes_since
        driver.records_since = driver.bytes_since = 0
        try:
            if if_needed and await self._stored() > taker.chain.behind(records):
                raise NothingToSnapshot("another node has just taken one")
            if applier is None or applier is not driver.applier:
                raise StorageError("a snapshot is loaded in place of the state: try later")
            state = driver.taker.state(0.0)
            if state.index == driver.snapshot_index:
                raise NothingToSnapshot("nothing was applied since the newest snapshot")
            view: asyncio.Future[ViewAt] = driver.loop.create_future()
            driver.views.append(view)
            applier.put(SnapshotWork())
            viewed = await view
            if isinstance(viewed.outcome, NotViewed):
                raise viewed.outcome.error
            state = msgspec.structs.replace(state, time_s=viewed.time_s)
            body = await self._dumped(state, viewed.outcome)
            async with asyncio.timeout(STORE_S):
                stored = await driver.backend.store_snapshot(StoredSnapshot(state.seen, body), Mark(*state.mark))
                if not stored:
                    raise NothingToSnapshot("another node has just stored a newer one")
                driver.snapshot_index, self._size_bytes = state.index, len(body)
                self.taken += 1
                driver.events.emit(SnapshotTaken(snapshot_index=state.index), term=0, index=driver.applied)
                if trimmed := min(state.seen, driver.taker.chain.behind(KEPT_RECORDS)):
                    await driver.backend.trim(trimmed)
        except NothingToSnapshot:
            raise
        except (BackendLost, LogReplaced, ConfigError, TimeoutError) as error:
            driver.records_since += records // 2  # not all of them: else the next entry would begin another snapshot
            driver.bytes_since += size
            raise StorageError(f"the snapshot could not be stored: {error}") from error
        return SnapshotInfo(state.index, 0, len(body))

    async def _stored(self) -> int:
        """In the time of one attempt: reads and leases may wait behind it."""
        return await self._driver.contact.attempt(self._driver.backend.stored_position())

    async def _dumped(self, state: TakenState, viewed: Viewed) -> bytes:
        """The bytes of the snapshot, written beside the event loop."""
        limit = self._driver.backend.snapshot_bytes
        writing = start_once("syncline-snapshot", lambda: dump_snapshot(state, viewed.view, limit))
        try:
            return await asyncio.wrap_future(writing)
        except (SynclineError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise StorageError(f"the state machine's snapshot failed: {type(error).__name__}: {error}") from error


def _logged(taking: asyncio.Task[SnapshotInfo]) -> None:
    """Log why a snapshot that no caller asked for was not taken."""
    if taking.cancelled():
        return
    error = taking.exception()
    if error is not None and not isinstance(error, NothingToSnapshot):
        log.warning("no snapshot was taken: %s; the log grows until the next one", error)
