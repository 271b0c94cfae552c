"""Snapshots of a machine as files, on any engine: the newest one in pieces, and a file as the begin of an empty log."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import BinaryIO, Final, TypeVar, cast

import msgspec

from syncline.decoding import UNDECODABLE
from syncline.engines.backend import BackendLost
from syncline.engines.backends import make_backend
from syncline.engines.protocol import Engine
from syncline.engines.replica import LogReplica
from syncline.engines.stored import open_snapshot
from syncline.engines.transfer import MachineState, import_into_log, manifest_of
from syncline.errors import (
    CorruptionError,
    DeadlineExceeded,
    FormatVersionError,
    NothingToSnapshot,
    Outcome,
    StorageError,
    SynclineError,
    Unreachable,
)
from syncline.node.member_registry import RegistryState
from syncline.node.raft import Raft
from syncline.node.stats import SnapshotInfo
from syncline.platform.once import start_once
from syncline.platform.world import World
from syncline.sessions.snapshot import SECTION_FORMAT, write_section
from syncline.sessions.table import SessionTable
from syncline.storage.snapshots.file import (
    READ_BYTES,
    SnapshotManifest,
    SnapshotReader,
    check_length,
    encode_header,
    read_header,
)

__all__ = ["LEAST_S", "NewestSnapshot", "begin_log", "take_newest"]

ATTEMPTS: Final = 3
"""A snapshot that was under way at the call may lack the last entries. Then another one is taken."""

LEAST_S: Final = 0.1
"""Of the time of a call, for its last step."""


@dataclass(frozen=True, slots=True)
class NewestSnapshot:
    """A snapshot file that is still to be read. `pieces` reads it beside the event loop, and closes it at the end."""

    manifest: SnapshotManifest
    pieces: Callable[[], Generator[bytes, None, None]]
    """The whole file, in pieces of at most `READ_BYTES`. `CorruptionError` comes in place of the last one."""


Answer = TypeVar("Answer")


async def take_newest(engine: Engine[Answer], *, stale: bool, timeout_s: float) -> NewestSnapshot:
    """Take a snapshot if one is missing. It holds all that was acknowledged before the call; with `stale`, all that
    was applied here.

    Raises:
        OperationError, StorageError: as `read` and `snapshot` of the engine do.
        StorageError: also if none of `ATTEMPTS` snapshots holds all of it.
        NothingToSnapshot: nothing was ever applied.
    """
    loop = asyncio.get_running_loop()
    end_s = loop.time() + timeout_s
    if not stale:
        await engine.read(_nothing, timeout=timeout_s)
    needed = engine.stats().applied
    for _ in range(ATTEMPTS):
        # One that was under way may be joined: it may lack the last entries, or end because another node has taken one.
        with contextlib.suppress(NothingToSnapshot):
            await engine.snapshot(timeout=max(LEAST_S, end_s - loop.time()))
        newest = await _newest(engine, max(LEAST_S, end_s - loop.time()))
        if newest is None and not needed:
            raise NothingToSnapshot("there is no snapshot, and nothing was applied")
        if newest is not None and newest.manifest.index >= needed:
            return newest
    raise StorageError(f"no snapshot holds the entries up to {needed} after {ATTEMPTS} attempts: try again")


async def _newest(engine: Engine[Answer], timeout_s: float) -> NewestSnapshot | None:
    if isinstance(engine, LogReplica):
        return await _stored(engine, timeout_s)
    assert isinstance(engine, Raft), "there are no others"
    store = cast("Raft[object]", engine)._driver.parts.snapshots
    manifest = store.newest()
    if manifest is None:
        return None

    def pieces() -> Generator[bytes, None, None]:
        with store.read(manifest) as reader:
            yield reader.header()
            while piece := reader.read(READ_BYTES):
                yield piece

    return NewestSnapshot(manifest, pieces)


def _nothing() -> None:
    return None


async def _stored(engine: LogReplica[object], timeout_s: float) -> NewestSnapshot | None:
    """The snapshot in the backend, in the form that Raft's has."""
    backend = engine._driver.backend
    try:
        async with asyncio.timeout(timeout_s):
            stored = await backend.snapshot()
            if stored is None:
                return None
            # Beside the event loop: it may have hundreds of megabytes, and is hashed twice.
            body = stored.body
            return await asyncio.wrap_future(start_once("syncline-snapshot", lambda: _as_file(body, backend.name)))
    except BackendLost as error:
        raise Unreachable(f"the snapshot could not be read: {error}", outcome=Outcome.NOT_APPLIED) from error
    except SynclineError:
        raise
    except TimeoutError:
        raise DeadlineExceeded(f"{backend.name}: the snapshot was not read in time") from None


def _as_file(body: bytes, where: str) -> NewestSnapshot:
    state, source = open_snapshot(body, where)
    data = source.read()
    manifest = msgspec.structs.replace(manifest_of(data, state.index, state.time_s), cluster_id=state.log_id)

    def pieces() -> Generator[bytes, None, None]:
        yield encode_header(manifest)
        for at in range(0, len(data), READ_BYTES):
            yield data[at : at + READ_BYTES]

    return NewestSnapshot(manifest, pieces)


async def begin_log(url: str, file: BinaryIO, *, timeout_s: float) -> SnapshotInfo:
    """Begin the empty log of an engine other than Raft with the state of a snapshot file, sessions included.

    The state may be older than what clients have seen: so numbers of the machine go on as after `Raft.restore`.

    Raises:
        ConfigError: the URL can't be used, or the log is not empty.
        CorruptionError, FormatVersionError: the file is no intact snapshot, or a later version's.
        StorageError: the state is above the limit of the engine.
        Unreachable: the engine did not answer to the end (`unknown`): begin again with an empty log.
    """
    state = await asyncio.wrap_future(start_once("syncline-snapshot", lambda: _state_in(file)))
    backend = make_backend(url, World().rng)
    try:
        async with asyncio.timeout(timeout_s):
            await import_into_log(backend, state, is_restored=True)
    except SynclineError:
        raise
    except (BackendLost, TimeoutError) as error:
        text = f"{backend.name} was not reached to the end: {error}. Start again with an empty log"
        raise Unreachable(text, outcome=Outcome.UNKNOWN) from error
    finally:
        await backend.close()
    return SnapshotInfo(state.index, 0, len(state.data))


def _state_in(file: BinaryIO) -> MachineState:
    held = _SeekableFile(file)
    manifest, offset = read_header(held)
    check_length(held, manifest, offset)
    with contextlib.closing(SnapshotReader(held, manifest, offset)) as reader, reader.buffered() as source:
        data = source.read()
    if not manifest.sessions:  # written before there were sessions
        table = bytearray()
        write_section(SessionTable().view(), table.extend)
        data = bytes(table) + data
    elif manifest.sessions != SECTION_FORMAT:
        raise FormatVersionError(
            f"{held.path} has sessions in a format that this version of Syncline does not read: upgrade"
        )
    try:
        time_s = msgspec.msgpack.decode(manifest.runtime, type=RegistryState).time_s
    except UNDECODABLE as error:
        raise CorruptionError(f"the snapshot's member registry can't be read: {error}", file=held.path) from error
    return MachineState(manifest.index, time_s, b"", data)


class _SeekableFile:
    """A binary file, read at offsets."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.path = str(getattr(file, "name", "the snapshot"))

    def read_at(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)

    def size(self) -> int:
        return self._file.seek(0, 2)

    def close(self) -> None:
        """Do nothing: the file belongs to the caller."""
