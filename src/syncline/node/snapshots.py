"""Snapshots: when to take one, how to send one to a follower that lags, how to receive one.

Taking: the state machine gives a view of itself between two applies (quick), which is then written beside further
applies (slow). Once it is durable the log before it is dropped, except for entries that slow followers may still
need.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial

import msgspec

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import Message, NodeId, Snapshot
from syncline.decoding import UNDECODABLE
from syncline.errors import Closed, CorruptionError, NothingToSnapshot, StorageError, SynclineError, TransportError
from syncline.node.applier import Applier, SnapshotWork
from syncline.node.calls import Calls
from syncline.node.config import Config
from syncline.node.events import Event, SnapshotInstalled, SnapshotTaken
from syncline.node.fsm import FSMSnapshot
from syncline.node.futures import settle, settle_error
from syncline.node.intake import Intake
from syncline.node.log_writer import LogWriter
from syncline.node.machine import persist as persist_view
from syncline.node.machine import release
from syncline.node.member_registry import MemberRegistry, members_of
from syncline.platform.texts import named_error
from syncline.sessions.snapshot import SECTION_FORMAT
from syncline.storage.snapshots.file import decode_manifest, encode_manifest
from syncline.storage.snapshots.store import (
    SnapshotManifest,
    SnapshotPart,
    SnapshotReader,
    SnapshotStore,
    SnapshotWriter,
)
from syncline.storage.stored_log import StoredLog
from syncline.storage.wal.writer import Wal
from syncline.transport.messages import IncomingSnapshot, PeerMessage
from syncline.transport.peers import Transport

__all__ = ["SnapshotCallbacks", "SnapshotParts", "Snapshotter"]

log: logging.Logger = logging.getLogger("syncline.node")

LOG_BYTES_FACTOR = 4
"""The log may grow to so many times `snapshot_bytes` for the sake of an older snapshot that could stand in."""

RETRY_TICKS = 50
"""Ticks to wait after a snapshot that failed (a full disk, a cancelled `persist`)."""

MAX_DOUBLINGS = 5
"""Doublings of the wait, one with each failure in a row: from 5 s to 160 s at the usual heartbeat."""

FIRST_SCRUB_S = 300.0
"""After a start, which has read the newest snapshot only, all are verified, and again after `SCRUB_S`."""

SCRUB_S = 24 * 3600.0
"""Corruption must be found while the state in memory can still replace the snapshot."""

ROOM_WORTH_BYTES = 1 << 20
"""On a full disk a snapshot is worthwhile if the log then frees so many bytes: a small segment."""


FREED_WORTH_BYTES = 64 << 10
"""Also if the state has shrunk by so many bytes: only a snapshot frees deleted data."""


@dataclass(frozen=True, slots=True)
class SnapshotParts:
    """The parts of a node that take, send and receive its snapshots."""

    core: RawNode
    book: MemberRegistry
    store: SnapshotStore
    wal: Wal
    log: StoredLog
    writer: LogWriter
    machine: Applier
    intake: Intake
    transport: Transport
    persister: Calls
    """Writes snapshots of the own state machine."""
    receiver: Calls
    """Writes snapshots that a leader sends."""
    reader: Calls
    """Reads them for followers."""


@dataclass(frozen=True, slots=True)
class SnapshotCallbacks:
    """What the snapshots of a node ask of its driver."""

    applied: Callable[[], int]
    """How far the state machine is."""
    restoring: Callable[[], bool]
    """Whether a snapshot is accepted and not loaded: the core is ahead of the state machine."""
    label: Callable[[NodeId], str]
    """How a member is named in the log of events."""
    emit: Callable[[Event], None]
    """Tell of a snapshot that was taken or installed."""
    step: Callable[[NodeId, list[PeerMessage]], None]
    """Give a message to the core, as if it came from the transport."""
    schedule: Callable[[], None]
    fail: Callable[[BaseException], None]


class Snapshotter:
    """Takes, sends and receives the snapshots of one node."""

    def __init__(self, config: Config, parts: SnapshotParts, callbacks: SnapshotCallbacks) -> None:
        self._config = config
        self._parts = parts
        self._callbacks = callbacks
        self._loop = asyncio.get_running_loop()
        newest = parts.store.newest()
        self._last_index = newest.index if newest is not None else 0
        self._bytes_since = 0
        self._state_bytes = parts.intake.state_bytes
        """At the newest snapshot, if the state machine tells its size; else 0."""
        self._wait_ticks = 0
        self._failures = 0
        """Snapshots in a row that were not made."""
        self._viewing = False
        self._waiting: list[asyncio.Future[object]] = []
        """Callers that wait for a view that is not taken yet, ..."""
        self._promised: list[asyncio.Future[object]] = []
        """... and for the one being written."""
        self._stopped_by: SynclineError | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._sending: dict[NodeId, int] = {}
        self._scrub_ticks = round(FIRST_SCRUB_S / config.heartbeat_s)
        self._verified_index = 0
        """Index of the snapshot that was last found sound after it could not be delivered."""
        self.taken: int = 0
        self.installed: int = 0

    @property
    def last_index(self) -> int:
        return self._last_index

    def reload(self, config: Config) -> None:
        """Go on with other settings."""
        self._config = config
        self._parts.store.limit(retain=config.snapshots_retained, reserve_bytes=config.reserve_bytes)

    # -- taking -------------------------------------------------------------------------------------------------------

    def applied(self, size_bytes: int) -> None:
        """Count what was applied, and take a snapshot when it is time."""
        self._bytes_since += size_bytes
        self._look()

    def _look(self) -> None:
        config, entries = self._config, self._callbacks.applied() - self._last_index
        due = entries >= config.snapshot_entries or self._bytes_since >= config.snapshot_bytes
        if due and not self._viewing and not self._wait_ticks:
            self._request()

    def tick(self) -> None:
        self._wait_ticks = max(0, self._wait_ticks - 1)
        self._scrub_ticks -= 1
        if self._scrub_ticks <= 0:
            self._scrub_ticks = round(SCRUB_S / self._config.heartbeat_s)
            self._spawn(self._scrub_all())

    def make_room(self) -> None:
        """The disk is short of space: compact the log as far as possible, and take a snapshot if that helps."""
        self._compact(short=True)
        if self._viewing or self._wait_ticks:
            return
        freed_bytes = self._state_bytes - self._parts.intake.state_bytes
        if self._bytes_since >= ROOM_WORTH_BYTES or freed_bytes >= FREED_WORTH_BYTES:
            self._wait_ticks = RETRY_TICKS
            self._request()
        elif len(self._parts.store.list()) > 1:  # the log goes back to the newest alone by now
            self._wait_ticks = RETRY_TICKS
            self._parts.persister.start(self._parts.store.drop_older)

    def take(self) -> asyncio.Future[object]:
        """Take a snapshot now. The future returns the manifest, or fails with NothingToSnapshot or a StorageError."""
        future: asyncio.Future[object] = self._loop.create_future()
        if self._stopped_by is not None:
            settle_error(future, self._stopped_by)
            return future
        if self._callbacks.applied() <= self._last_index:
            settle_error(future, NothingToSnapshot(f"nothing was applied since the snapshot at {self._last_index}"))
            return future
        self._waiting.append(future)
        if not self._viewing:
            self._request()
        return future

    def _request(self) -> None:
        self._viewing = True
        self._parts.machine.put(SnapshotWork())

    def viewed(self, view: FSMSnapshot) -> None:
        """The state machine has given its view, as of `callbacks.applied()`: write it beside later applies."""
        parts = self._parts
        self._promised, self._waiting = self._waiting, []
        if self._stopped_by is not None or self._callbacks.restoring():
            # If a newer snapshot is being installed, the core's membership and log are no longer those of this view.
            self._drop(view, NothingToSnapshot("a newer snapshot from the leader takes the place of this one"))
            return
        index = self._callbacks.applied()
        counted, state_bytes = self._bytes_since, parts.intake.state_bytes
        term = parts.core.term_at(index)
        state = parts.core.membership
        runtime = parts.book.dump()
        store = parts.store

        def persist() -> SnapshotManifest:
            try:
                writer = store.create(index, term, state, runtime, sessions=SECTION_FORMAT)
                try:
                    persist_view(view, _Guarded(self, writer))
                    return writer.commit()
                finally:
                    writer.abort()
            finally:
                release(view)

        # Queued now, not when the task first runs: whatever happens to the task, the view is released.
        self._spawn(self._persist(parts.persister.start(persist), index, counted, state_bytes))

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
        if self._stopped_by is None and not self._callbacks.restoring():
            self._look()  # the next one may be due already, and nothing may be applied any more

    def not_viewed(self, error: Exception) -> None:
        """The state machine gave no view of itself: its state is untouched, and it is asked again later."""
        self._promised, self._waiting = [*self._promised, *self._waiting], []
        self._not_made(self._callbacks.applied(), "snapshot", error)
        self._viewing = False

    def _not_made(self, index: int, method: str, error: Exception) -> None:
        """Record a failed snapshot. The next attempt waits, longer with each failure in a row."""
        wait_ticks = RETRY_TICKS << min(self._failures, MAX_DOUBLINGS)
        self._failures += 1
        self._wait_ticks = wait_ticks
        if isinstance(error, SynclineError):
            failure = error
        else:
            failure = StorageError(f"no snapshot at entry {index}: `{method}` raised {named_error(error)}")
            failure.__cause__ = error
        log.warning(
            "the snapshot at entry %d was not made: %s. The state is untouched, and the log grows until a snapshot"
            " succeeds; the next attempt is in %.1f s at the earliest",
            *(index, str(failure).removesuffix("."), wait_ticks * self._config.heartbeat_s),
            exc_info=None if isinstance(error, SynclineError | OSError) else error,  # the line of the program's code
        )
        self._end_promised(failure)

    def _serve_waiting(self) -> None:
        """Take another snapshot for callers that asked while the last one was being written."""
        if not self._waiting or self._stopped_by is not None:
            return
        if self._callbacks.applied() > self._last_index:
            self._request()
            return
        waiting, self._waiting = self._waiting, []
        newest = self._parts.store.newest()
        for future in waiting:
            settle(future, newest)  # the new one holds everything that was applied when they asked

    def _drop(self, view: FSMSnapshot, reason: SynclineError) -> None:
        self._viewing = False
        self._end_promised(reason)
        release(view)

    def _end_promised(self, reason: SynclineError) -> None:
        promised, self._promised = self._promised, []
        for future in promised:
            settle_error(future, reason)

    def _durable(self, manifest: SnapshotManifest) -> None:
        self._last_index = max(self._last_index, manifest.index)
        self._parts.log.installed(manifest.meta)
        self._callbacks.emit(SnapshotTaken(manifest.index))
        self._compact()

    def _compact(self, *, short: bool = False) -> None:
        """Drop the log before the snapshots. If `short` of space, keep only the entries that the newest one needs."""
        config, log_ = self._config, self._parts.log
        keep_from = self._parts.store.compaction_index(
            log_bytes=self._parts.wal.size_bytes,
            max_log_bytes=0 if short else LOG_BYTES_FACTOR * config.snapshot_bytes,
        )
        known = log_.snapshot_index  # one that is just arriving is in the store, and not yet in the log
        trailing = 0 if short else config.trailing_entries
        # Not beyond a snapshot that is being sent: its receiver needs the entries behind it next.
        index = min(keep_from, known, self._callbacks.applied() - trailing, *self._sending.values())
        if index >= log_.first_index():
            self._parts.writer.compact(index)

    def restored(self, index: int) -> None:
        """A snapshot that a leader sent was loaded."""
        self._last_index = max(self._last_index, index)
        self._bytes_since = 0
        self._state_bytes = self._parts.intake.state_bytes
        self.installed += 1
        self._callbacks.emit(SnapshotInstalled(index))

    # -- sending ------------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """The core asks to send a follower a snapshot."""
        assert message.snapshot is not None
        index = message.snapshot.meta.index
        if message.to in self._sending:
            self._parts.core.report_snapshot(message.to, False)
            return
        self._sending[message.to] = index
        self._spawn(self._send(message, index))

    async def _send(self, message: Message, index: int) -> None:
        parts, label = self._parts, self._callbacks.label
        ok = False
        manifest = next((held for held in parts.store.list() if held.index == index), None)
        try:
            if manifest is None:
                raise StorageError(f"the snapshot at entry {index} is no longer there")
            if message.to not in members_of(manifest.membership):
                # It was taken before that member came, which could not find itself in it: take another one.
                await self.take()
                raise StorageError(f"the snapshot at entry {index} is older than the member: a new one is made")
            reader = await parts.reader.run(partial(parts.store.read, manifest))
            source = _OutgoingSnapshot(reader, parts.reader)
            log.info("snapshot at entry %d: sending it to %s", index, label(message.to))
            await parts.transport.send_snapshot(message.to, message, encode_manifest(manifest), source)
            ok = True
            log.info("snapshot at entry %d: delivered to %s", index, label(message.to))
        except (SynclineError, OSError) as error:
            log.info("snapshot at entry %d: not delivered to %s: %s", index, label(message.to), error)
            if manifest is not None and self._stopped_by is None:
                await self._replace_if_rotten(manifest)
        finally:
            del self._sending[message.to]
            if self._stopped_by is None:
                parts.core.report_snapshot(message.to, ok)
                self._callbacks.schedule()

    async def _replace_if_rotten(self, manifest: SnapshotManifest) -> None:
        """A snapshot was not delivered. If the file is corrupt, take another one.

        Each file is checked once: later failures have another reason.
        """
        if manifest.index != self._verified_index:
            self._verified_index = manifest.index
            await self._scrub([manifest])

    async def _scrub(self, manifests: list[SnapshotManifest]) -> None:
        """Verify the snapshot files. The state in memory is sound: a corrupt file is replaced by a new snapshot."""
        store = self._parts.store

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

        found = [await self._parts.persister.run(partial(rotten, manifest)) for manifest in manifests]
        if not any(found) or self._stopped_by is not None:
            return
        for damage in store.damage[-sum(found) :]:
            log.warning("%s", damage)
        newest = store.newest()
        self._last_index = newest.index if newest is not None else 0
        self._verified_index = 0
        with contextlib.suppress(SynclineError):  # tried again when the core asks, or with the next scrub
            await self.take()

    async def _scrub_all(self) -> None:
        with contextlib.suppress(Closed):
            await self._scrub(self._parts.store.list())

    # -- receiving ----------------------------------------------------------------------------------------------------

    async def receive(self, sender: NodeId, message: Message, manifest: bytes) -> IncomingSnapshot:
        """A leader offers a snapshot. Raises to refuse it."""
        store, receives = self._parts.store, self._parts.receiver
        if self._stopped_by is not None:
            raise TransportError("this node has stopped")
        offered = _checked_offer(manifest)
        if message.snapshot is None or message.snapshot.meta != offered.meta:
            raise TransportError("the snapshot's manifest and the message that brings it do not agree")
        if any(own.meta == offered.meta for own in store.list()):
            return _IncomingSnapshot(self, receives, message, None, offered.size_bytes)
        if offered.index <= self._parts.core.commit_index:
            # Nothing in it is new; the core answers the leader, which then continues from there.
            self._callbacks.step(sender, [message])
            raise TransportError(f"entry {offered.index} is committed here already: no snapshot is needed")
        newest = store.newest()
        if newest is not None and newest.index >= offered.index:
            # An earlier leader's, which became durable when its term was over: the core has ignored it. All of it is
            # committed, so this leader has its entries too, and the store takes no older one any more.
            log.info("snapshot at entry %d: installing the one at %d that is here", offered.index, newest.index)
            message = msgspec.structs.replace(message, snapshot=Snapshot(newest.meta))
            return _IncomingSnapshot(self, receives, message, None, offered.size_bytes)
        receiver = await receives.run(lambda: store.receive(offered))
        return _IncomingSnapshot(self, receives, message, receiver, receiver.received)

    def arrived(self, message: Message) -> None:
        """The snapshot is durable here: give it to the core."""
        if self._stopped_by is None:
            self._callbacks.step(message.sender, [message])

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._callbacks.fail(error)

    def stop(self, reason: SynclineError) -> None:
        """The node stops: end all callers that wait for a snapshot, and all work on snapshots."""
        self._stopped_by = reason
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
        MemberRegistry().load(offered.runtime)
    except (*UNDECODABLE, ValueError) as error:
        raise TransportError(f"the manifest of the snapshot can't be read: {error}") from error
    return offered


class _Guarded:
    """The file of a snapshot until the node stops: writing the rest of a large one would only delay the stop."""

    def __init__(self, owner: Snapshotter, writer: SnapshotWriter) -> None:
        self._owner = owner
        self._writer = writer

    def write(self, data: bytes) -> int:
        if self._owner._stopped_by is not None:
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
    """An incoming snapshot. `receiver` is None if all of it is stored already."""

    def __init__(
        self, owner: Snapshotter, calls: Calls, message: Message, receiver: SnapshotPart | None, offset: int
    ) -> None:
        self._owner = owner
        self._message = message
        self._receiver = receiver
        self.offset = offset
        self._calls = calls

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
