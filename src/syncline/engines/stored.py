"""Snapshots of a node on a log backend, as bytes.

    magic (8) | length (4), then MessagePack: TakenState | the table of sessions | the state machine's data | BLAKE2b-16

The table of sessions has the form that it has in snapshots of Raft (`sessions.snapshot`). The magic also says whether
the log was begun with an older state.
"""

from __future__ import annotations

import hashlib
import io
from typing import BinaryIO, Final

import msgspec

from syncline.decoding import UNDECODABLE
from syncline.engines.taking import TakenState
from syncline.errors import NodeFailed, StorageError
from syncline.node.applier import RAISED
from syncline.node.fsm import FSM, FSMSnapshot
from syncline.node.machine import check_restored, persist, release, restore_failed
from syncline.node.renumbering import renumber
from syncline.sessions.snapshot import read_section
from syncline.sessions.table import SessionTable

__all__ = ["LoadedSnapshot", "dump_snapshot", "load_snapshot", "open_snapshot"]

MAGIC: Final = b"SYNCENG1"
RESTORED_MAGIC: Final = b"SYNCENR1"
"""Of a state that is older than what clients may have seen: see `dump_snapshot`."""

LENGTH_BYTES: Final = 4
CHECKSUM_BYTES: Final = 16

_decoder = msgspec.msgpack.Decoder(TakenState)


class LoadedSnapshot(msgspec.Struct, frozen=True):
    """What a snapshot has beside the state machine's data."""

    state: TakenState
    sessions: SessionTable


class _LimitedBytes:
    """A snapshot that is being written: its bytes, up to a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.data: bytearray = bytearray()

    def write(self, data: bytes, /) -> object:
        if len(self.data) + len(data) > self._limit:
            raise StorageError(
                f"the snapshot has more than {self._limit} bytes, which is the limit of this engine: the log before it"
                " stays. Make the state smaller, or move the machine to another engine (docs/engines.md)"
            )
        self.data += data
        return None


def dump_snapshot(state: TakenState, view: FSMSnapshot, limit: int, *, is_restored: bool = False) -> bytes:
    """Write a snapshot, and release the view. `view` has the sessions and the machine. Beside the event loop.

    `is_restored`: clients may have seen a newer state. The machines that load it go on with numbers above all of that.

    Raises:
        StorageError: it is above the limit.
        Exception: whatever the state machine raises.
    """
    sink = _LimitedBytes(limit)
    try:
        head = msgspec.msgpack.encode(state)
        sink.write((RESTORED_MAGIC if is_restored else MAGIC) + len(head).to_bytes(LENGTH_BYTES, "big") + head)
        persist(view, sink)
    finally:
        release(view)
    return bytes(sink.data) + _checksum(sink.data)


def open_snapshot(body: bytes, where: str) -> tuple[TakenState, BinaryIO]:
    """Verify a snapshot, and read its head. The source is then at the table of sessions.

    Raises:
        NodeFailed: it is damaged, or of a later version.
    """
    content = memoryview(body)[:-CHECKSUM_BYTES]
    if len(body) < len(MAGIC) + LENGTH_BYTES + CHECKSUM_BYTES or _checksum(content) != body[-CHECKSUM_BYTES:]:
        raise NodeFailed(f"{where} is damaged: restore the backend from a backup (docs/engines.md)")
    source = io.BytesIO(content)
    if source.read(len(MAGIC)) not in (MAGIC, RESTORED_MAGIC):
        raise NodeFailed(f"{where} was written by a later version of Syncline: upgrade")
    try:
        state = _decoder.decode(source.read(int.from_bytes(source.read(LENGTH_BYTES), "big")))
    except UNDECODABLE as error:
        raise NodeFailed(f"{where} can't be read: {error}") from error
    return state, source


def load_snapshot(fsm: FSM[object], body: bytes, where: str) -> LoadedSnapshot:
    """Load a snapshot into the state machine. Beside the event loop.

    Raises:
        NodeFailed: it is damaged, or the state machine can't load it.
    """
    state, source = open_snapshot(body, where)
    try:
        sessions = read_section(source)
    except ValueError as error:
        raise NodeFailed(f"the table of sessions of {where} is damaged: {error}") from error
    try:
        answer: object = fsm.restore(source)  # type: ignore[func-returns-value]  # the user's code
        check_restored(answer, source)
        if body.startswith(RESTORED_MAGIC):
            renumber(fsm)  # from the loaded numbers alone: so each node has the same ones
    except RAISED as error:
        restore_failed(fsm, state.index, where, error)
    return LoadedSnapshot(state, sessions)


def _checksum(data: bytes | bytearray | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=CHECKSUM_BYTES).digest()
