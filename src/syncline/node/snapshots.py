"""Snapshots: when to take one, how one is sent to a follower that is too far behind, how one arrives.

Taking: the state machine gives a view of itself between two applies (quick), which is then written beside further
applies (slow). Once it is durable the log before it is given up, except for what slow followers may still need.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING

from syncline.consensus.types import Message, NodeId
from syncline.decoding import UNDECODABLE
from syncline.errors import Closed, CorruptionError, NothingToSnapshot, StorageError, SynclineError, TransportError
from syncline.node.applier import SnapshotWork
from syncline.node.calls import Calls
from syncline.node.events import SnapshotInstalled, SnapshotTaken
from syncline.node.fsm import FSMSnapshot
from syncline.node.futures import settle, settle_error
from syncline.node.machine import persist as persist_view
from syncline.node.machine import release
from syncline.node.member_registry import MemberBook, members_of
from syncline.storage.snapshots.file import decode_manifest, encode_manifest
from syncline.storage.snapshots.store import SnapshotManifest, SnapshotPart, SnapshotReader, SnapshotWriter
from syncline.transport.messages import IncomingSnapshot

if TYPE_CHECKING:
    from syncline.node.runtime import Driver

__all__ = ["Snapshotter"]

log: logging.Logger = logging.getLogger("syncline.node")

LOG_BYTES_FACTOR = 4
"""The log may grow to so many times `snapshot_bytes` for the sake of an older snapshot that could stand in."""

RETRY_TICKS = 50
"""Ticks to wait after a snapshot that failed (a full disk, a cancelled `persist`)."""

MAX_DOUBLINGS = 5
"""Of the wait, with each failure in a row: from 5 s to 160 s at the usual heartbeat."""

FIRST_SCRUB_S = 300.0
"""After a start, which has read the newest snapshot only, all are read through, and again after `SCRUB_S`."""

SCRUB_S = 24 * 3600.0
"""Rot is to be found while the state in memory can still replace what has rotted."""

ROOM_WORTH_BYTES = 1 << 20
"""A full disk is worth a snapshot where the log then gives so much back: a small segment."""


FREED_WORTH_BYTES = 64 << 10
"""So is a state that has shrunk by so much: only a snapshot gives back what was deleted."""


class Snapshotter:
    """Takes, sends and receives the snapshots of one node."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        newest = driver.parts.snapshots.newest()
        self._last_index = newest.index if newest is not None else 0
        self._bytes_since = 0
        self._state_bytes = driver.parts.intake.state_bytes
        """At the newest snapshot, if the state machine tells its size; else 0."""
        self._wait_ticks = 0
        self._failures = 0
        """Snapshots in a row that were not made."""
        self._viewing = False
        self._waiting: list[asyncio.Future[object]] = []
        """For a view that is not taken yet, ..."""
        self._promised: list[asyncio.Future[object]] = []
        """... and for the one being written."""
        self._stopping = False
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._sending: dict[NodeId, int] = {}
        self._scrub_ticks = round(FIRST_SCRUB_S / driver.config.heartbeat_s)
        self._verified_index = 0
        """Of the snapshot that was last found sound after it could not be delivered."""
        self.taken: int = 0
        self.installed: int = 0

    @property
    def last_index(self) -> int:
        return self._last_index

    # -- taking -------------------------------------------------------------------------------------------------------

    def applied(self, size_bytes: int) -> None:
        """Count what was applied, and take a snapshot when it is time."""
        self._bytes_since += size_bytes
        config = self._driver.config
        due = (
            self._driver.applied - self._last_index >= config.snapshot_entries
            or self._bytes_since >= config.snapshot_bytes
        )
        if due and not self._viewing and not self._wait_ticks:
            self._request()

    def tick(self) -> None:
        self._wait_ticks = max(0, self._wait_ticks - 1)
        self._scrub_ticks -= 1
        if self._scrub_ticks <= 0:
            self._scrub_ticks = round(SCRUB_S / self._driver.config.heartbeat_s)
            self._spawn(self._scrub_all())

    def make_room(self) -> None:
        """The disk is short of space: keep no more of the log than must be, and take a snapshot where that helps."""
        self._compact(short=True)
        if self._viewing or self._wait_ticks:
            return
        freed_bytes = self._state_bytes - self._driver.parts.intake.state_bytes
        if self._bytes_since >= ROOM_WORTH_BYTES or freed_bytes >= FREED_WORTH_BYTES:
            self._wait_ticks = RETRY_TICKS
            self._request()
        elif len(self._driver.parts.snapshots.list()) > 1:  # the log goes back to the newest alone by now
            self._wait_ticks = RETRY_TICKS
            self._driver.parts.persister.start(self._driver.parts.snapshots.drop_older)

    def take(self) -> asyncio.Future[object]:
        """Take one now. The future gives the manifest, or fails with NothingToSnapshot or a StorageError."""
        future: asyncio.Future[object] = self._driver.loop.create_future()
        if self._driver.stopped_by is not None:
            settle_error(future, self._driver.stopped_by)
            return future
        if self._driver.applied <= self._last_index:
            settle_error(future, NothingToSnapshot(f"nothing was applied since the snapshot at {self._last_index}"))
            return future
        self._waiting.append(future)
        if not self._viewing:
            self._request()
        return future

    def _request(self) -> None:
        self._viewing = True
        self._driver.parts.machine.put(SnapshotWork())

    def viewed(self, view: FSMSnapshot) -> None:
        """The state machine has given its view, as of `driver.applied`: write it beside what follows."""
        driver = self._driver
        self._promised, self._waiting = self._waiting, []
        if self._stopping or driver.restoring:
            # With a newer snapshot on its way in, the core's membership and log are no longer those of this view.
            self._drop(view, NothingToSnapshot("a newer snapshot from the leader takes the place of this one"))
            return
        index = driver.applied
        counted, state_bytes = self._bytes_since, driver.parts.intake.state_bytes
        term = driver.core.raft.log.term(index)
        state = driver.core.raft.tracker.configuration.state()
        runtime = driver.parts.book.dump()
        store = driver.parts.snapshots

        def persist() -> SnapshotManifest:
            try:
                writer = store.create(index, term, state, runtime)
                try:
                    persist_view(view, _Guarded(self, writer))
                    return writer.commit()
                finally:
                    writer.abort()
            finally:
                release(view)

        # Queued now, not when the task first runs: whatever happens to the task, the view is released.
        self._spawn(self._persist(driver.parts.persister.start(persist), index, counted, state_bytes))

    async def _persist(
        self, work: asyncio.Future[SnapshotManifest], index: int, counted: int, state_bytes: int
    ) -> None:
        try:
            manifest = await work
        except Exception as error:  # noqa: BLE001 - a state machine may raise anything to cancel its snapshot
            self._not_made(index, "persist", error)
        else:
            self.taken += 1
            self._failures = 0
            self._bytes_since = max(0, self._bytes_since - counted)
            self._state_bytes = state_bytes
            self._durable(manifest)
            promised, self._promised = self._promised, []
            for future in promised:
                settle(future, manifest)
        self._viewing = False
        self._serve_waiting()

    def not_viewed(self, error: Exception) -> None:
        """The state machine gave no view of itself: its state is untouched, and it is asked again later."""
        self._promised, self._waiting = [*self._promised, *self._waiting], []
        self._not_made(self._driver.applied, "snapshot", error)
        self._viewing = False

    def _not_made(self, index: int, method: str, error: Exception) -> None:
        """No snapshot this time. The next attempt waits, longer with each failure in a row."""
        wait_ticks = RETRY_TICKS << min(self._failures, MAX_DOUBLINGS)
        self._failures += 1
        self._wait_ticks = wait_ticks
        if isinstance(error, SynclineError):
            failure = error
        else:
            failure = StorageError(f"no snapshot at entry {index}: `{method}` raised {type(error).__name__}: {error}")
            failure.__cause__ = error
        log.warning(
            "the snapshot at entry %d was not made: %s. The state is untouched, and the log grows until a snapshot"
            " succeeds; the next attempt is in %.1f s at the earliest",
            *(index, failure, wait_ticks * self._driver.config.heartbeat_s),
        )
        self._end_promised(failure)

    def _serve_waiting(self) -> None:
        """Those who asked while the last one was being written want what was applied since, too."""
        if not self._waiting or self._driver.stopped:
            return
        if self._driver.applied > self._last_index:
            self._request()
            return
        waiting, self._waiting = self._waiting, []
        newest = self._driver.parts.snapshots.newest()
        for future in waiting:
            settle(future, newest)  # it holds everything that was applied when they asked

    def _drop(self, view: FSMSnapshot, reason: SynclineError) -> None:
        self._viewing = False
        self._end_promised(reason)
        release(view)

    def _end_promised(self, reason: SynclineError) -> None:
        promised, self._promised = self._promised, []
        for future in promised:
            settle_error(future, reason)

    def _durable(self, manifest: SnapshotManifest) -> None:
        driver = self._driver
        self._last_index = max(self._last_index, manifest.index)
        driver.parts.log.installed(manifest.meta)
        driver.emit(SnapshotTaken(manifest.index))
        self._compact()

    def _compact(self, *, short: bool = False) -> None:
        """Give up the log before the snapshots. `short` of space, no more is kept than the newest one needs."""
        driver = self._driver
        config, log_ = driver.config, driver.parts.log
        keep_from = driver.parts.snapshots.compaction_index(
            log_bytes=driver.parts.wal.size_bytes,
            max_log_bytes=0 if short else LOG_BYTES_FACTOR * config.snapshot_bytes,
        )
        known = log_.snapshot_index  # one that is just arriving is in the store, and not yet in the log
        trailing = 0 if short else config.trailing_entries
        index = min(keep_from, known, driver.applied - trailing, *self._sending.values())
        if index >= log_.first_index():
            driver.parts.writer.compact(index)

    def restored(self, index: int) -> None:
        """A snapshot that a leader sent was loaded."""
        self._last_index = max(self._last_index, index)
        self._bytes_since = 0
        self._state_bytes = self._driver.parts.intake.state_bytes
        self.installed += 1
        self._driver.emit(SnapshotInstalled(index))

    # -- sending ------------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """The core wants a follower to have a snapshot."""
        assert message.snapshot is not None
        index = message.snapshot.meta.index
        if message.to in self._sending:
            self._driver.core.report_snapshot(message.to, False)
            return
        self._sending[message.to] = index
        self._spawn(self._send(message, index))

    async def _send(self, message: Message, index: int) -> None:
        driver = self._driver
        ok = False
        manifest = next((held for held in driver.parts.snapshots.list() if held.index == index), None)
        try:
            if manifest is None:
                raise StorageError(f"the snapshot at entry {index} is no longer there")
            if message.to not in members_of(manifest.membership):
                # It was taken before that member came, which could not find itself in it: take another one.
                await self.take()
                raise StorageError(f"the snapshot at entry {index} is older than the member: a new one is made")
            reader = await driver.parts.reader.run(partial(driver.parts.snapshots.read, manifest))
            source = _OutgoingSnapshot(reader, driver.parts.reader)
            log.info("snapshot at entry %d: sending it to %s", index, driver.node_log.label(message.to))
            await driver.parts.transport.send_snapshot(message.to, message, encode_manifest(manifest), source)
            ok = True
            log.info("snapshot at entry %d: delivered to %s", index, driver.node_log.label(message.to))
        except (SynclineError, OSError) as error:
            label = driver.node_log.label(message.to)
            log.info("snapshot at entry %d: not delivered to %s: %s", index, label, error)
            if manifest is not None and not driver.stopped:
                await self._replace_if_rotten(manifest)
        finally:
            del self._sending[message.to]
            if not driver.stopped:
                driver.core.report_snapshot(message.to, ok)
                driver.schedule()

    async def _replace_if_rotten(self, manifest: SnapshotManifest) -> None:
        """A snapshot was not delivered. Where that is its own fault, take another one.

        Each is looked at once: what fails later, fails for another reason.
        """
        if manifest.index != self._verified_index:
            self._verified_index = manifest.index
            await self._scrub([manifest])

    async def _scrub(self, manifests: list[SnapshotManifest]) -> None:
        """Read snapshots through. What is in memory is sound: in place of a rotten one another is taken."""
        store = self._driver.parts.snapshots

        def rotten(manifest: SnapshotManifest) -> bool:
            try:
                with store.read(manifest) as reader:
                    reader.verify()
            except CorruptionError as error:
                store.set_aside(manifest, str(error))
                return True
            except (StorageError, OSError) as error:  # mostly that a newer one has taken its place meanwhile
                log.info("the snapshot at entry %d was not read through: %s", manifest.index, error)
            return False

        found = [await self._driver.parts.persister.run(partial(rotten, manifest)) for manifest in manifests]
        if not any(found) or self._driver.stopped:
            return
        for damage in store.damage[-sum(found) :]:
            log.warning("%s", damage)
        newest = store.newest()
        self._last_index = newest.index if newest is not None else 0
        self._verified_index = 0
        with contextlib.suppress(SynclineError):  # it comes again: when the core asks, or with the next scrub
            await self.take()

    async def _scrub_all(self) -> None:
        with contextlib.suppress(Closed):
            await self._scrub(self._driver.parts.snapshots.list())

    # -- receiving ----------------------------------------------------------------------------------------------------

    async def receive(self, sender: NodeId, message: Message, manifest: bytes) -> IncomingSnapshot:
        """A leader offers a snapshot. Raises to refuse it."""
        driver = self._driver
        if driver.stopped:
            raise TransportError("this node has stopped")
        offered = _checked_offer(manifest)
        if message.snapshot is None or message.snapshot.meta != offered.meta:
            raise TransportError("the snapshot's manifest and the message that brings it do not agree")
        held = next((own for own in driver.parts.snapshots.list() if own.meta == offered.meta), None)
        if held is not None:
            return _IncomingSnapshot(self, message, None, held.size_bytes)
        if offered.index <= driver.core.commit_index:
            # Nothing in it is new; the core says so to the leader, which then goes on from there.
            driver.on_messages(sender, [message])
            raise TransportError(f"entry {offered.index} is committed here already: no snapshot is needed")
        receiver = await driver.parts.receiver.run(lambda: driver.parts.snapshots.receive(offered))
        return _IncomingSnapshot(self, message, receiver, receiver.received)

    def arrived(self, message: Message) -> None:
        """The snapshot is durable here: now the core may know of it."""
        if not self._driver.stopped:
            self._driver.on_messages(message.sender, [message])

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task: asyncio.Task[None] = self._driver.loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._driver.fail(error)

    def stop(self, reason: SynclineError) -> None:
        """The node stops: nobody may go on waiting for a snapshot, and none is begun or carried on."""
        self._stopping = True
        self._end_promised(reason)
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            settle_error(future, reason)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _checked_offer(manifest: bytes) -> SnapshotManifest:
    """The manifest of a snapshot that a peer offers. Raises TransportError if it could not be loaded later."""
    try:
        offered = decode_manifest(manifest)
        MemberBook().load(offered.runtime)
    except (*UNDECODABLE, ValueError) as error:
        raise TransportError(f"the manifest of the snapshot can't be read: {error}") from error
    return offered


class _Guarded:
    """The file of a snapshot, until the node stops: writing the rest of a large one would only delay that."""

    def __init__(self, owner: Snapshotter, writer: SnapshotWriter) -> None:
        self._owner = owner
        self._writer = writer

    def write(self, data: bytes) -> int:
        if self._owner._stopping:
            raise StorageError("the snapshot was given up because the node stops")
        return self._writer.write(data)


class _OutgoingSnapshot:
    """A snapshot on disk, for the transport."""

    def __init__(self, reader: SnapshotReader, calls: Calls) -> None:
        self._reader = reader
        self._calls = calls

    @property
    def size_bytes(self) -> int:
        return self._reader.manifest.size_bytes

    async def read(self, offset: int, size: int) -> bytes:
        return await self._calls.run(partial(self._reader.read_at, offset, size))

    def close(self) -> None:
        self._reader.close()


class _IncomingSnapshot:
    """A snapshot that arrives. `receiver` is None where all of it is here already."""

    def __init__(self, owner: Snapshotter, message: Message, receiver: SnapshotPart | None, offset: int) -> None:
        self._owner = owner
        self._message = message
        self._receiver = receiver
        self.offset = offset
        self._calls = owner._driver.parts.receiver

    async def write(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            raise TransportError("bytes were sent for a snapshot that is here already")
        offset = self.offset
        await self._calls.run(lambda: receiver.write(offset, data))
        self.offset += len(data)

    async def finish(self) -> None:
        if self._receiver is not None:
            await self._calls.run(self._receiver.commit)
        self._owner.arrived(self._message)

    async def abort(self) -> None:
        if self._receiver is not None:
            await self._calls.run(self._receiver.abort)
