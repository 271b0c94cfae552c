"""Move the state of a machine from one engine to another: its own state, its sessions, its index and its time."""

from __future__ import annotations

import hashlib
import io
import secrets
from typing import Final, cast

import msgspec

from syncline.consensus.types import MembershipState
from syncline.engines.backend import LogBackend, StoredSnapshot
from syncline.engines.protocol import Engine
from syncline.engines.records import RecordBody, encode_record
from syncline.engines.replica import LogReplica
from syncline.engines.stored import dump_snapshot
from syncline.engines.taking import LogTaker
from syncline.errors import ConfigError, UsageError
from syncline.node.envelope import encode
from syncline.node.fsm import FSM, BytesSnapshot, FSMSnapshot
from syncline.node.machine import check_log_machine, machine_name, persist, release
from syncline.node.member_registry import RegistryState
from syncline.node.raft import Raft
from syncline.sessions.snapshot import SECTION_FORMAT, write_section
from syncline.sessions.table import TableView
from syncline.storage.snapshots.file import SnapshotManifest, encode_header
from syncline.version import __version__

__all__ = ["MachineState", "export_state", "import_into_log", "import_into_raft", "manifest_of", "state_bytes"]

EXPORT_S: Final = 60.0
PAGE_BYTES: Final = 8 << 20


class MachineState(msgspec.Struct, frozen=True):
    """The state of a machine at one index."""

    index: int
    time_s: float
    sessions: bytes
    """The table of sessions, as in a snapshot."""
    data: bytes
    """The state machine's own."""


async def export_state(engine: Engine[object], fsm: FSM[object]) -> MachineState:
    """Read the state, linearizably. `fsm` is the machine that the engine applies to.

    Raises:
        OperationError: the engine does not confirm it.
        Exception: whatever the state machine's snapshot raises.
    """
    table, view = await engine.read(lambda: (_sessions(engine), fsm.snapshot()), timeout=EXPORT_S)
    sessions = bytearray()
    write_section(table, sessions.extend)
    data = state_bytes(view)
    time_s = engine._driver.time_s if isinstance(engine, LogReplica) else _raft(engine)._driver.parts.book.time_s
    return MachineState(engine.stats().applied, time_s, bytes(sessions), data)


def state_bytes(view: FSMSnapshot) -> bytes:
    """All that a view writes. It is released."""
    data = io.BytesIO()
    try:
        persist(view, data)
    finally:
        release(view)
    return data.getvalue()


def _sessions(engine: Engine[object]) -> TableView:
    if isinstance(engine, LogReplica):
        applier = engine._driver.applier
        if applier is None:
            raise UsageError("a snapshot is loaded in place of the state: try again")
        return applier.sessions.table.view()
    return _raft(engine)._driver.parts.machine.sessions.table.view()


def _raft(engine: Engine[object]) -> Raft[object]:
    assert isinstance(engine, Raft), "there are no others"
    return cast("Raft[object]", engine)


async def import_into_log(
    backend: LogBackend, state: MachineState, *, fsm: FSM[object] | None = None, is_restored: bool = False
) -> None:
    """Begin an empty log with a state. Entries go on behind its index, and their time does not fall.

    `fsm` is a machine as the one of the state; None if it is not known. `is_restored`: clients may have seen a newer
    state. So revisions and fencing tokens go on far above it.

    The log has another id at the end: a node that has it open stops, because its state is not the one of the snapshot.

    Raises:
        ConfigError: the log is not empty.
        NodeFailed: it is of another machine.
        StorageError: the state is above the limit of the backend.
    """
    taker = LogTaker(await backend.start(), backend.name)
    if await backend.stored_position():
        raise _not_empty(backend.name)
    writer = secrets.randbits(62) + 1
    await _take_all(backend, taker)
    if fsm is not None:
        check_log_machine(fsm, await backend.claim(machine_name(fsm)))
    record = encode_record(RecordBody(taker.chain.position, taker.chain.value, ()))
    await backend.append(writer, 1, record, 0, taker.mark)
    await _take_all(backend, taker)
    log_id = secrets.randbits(62) + 1
    taken = msgspec.structs.replace(taker.state(state.time_s), index=state.index, log_id=log_id)
    view = BytesSnapshot(state.sessions + state.data)
    body = dump_snapshot(taken, view, backend.snapshot_bytes, is_restored=is_restored)
    if not await backend.store_snapshot(StoredSnapshot(taken.seen, body), taker.mark):
        raise _not_empty(backend.name)
    await backend.renew(log_id)


async def _take_all(backend: LogBackend, taker: LogTaker) -> None:
    """Read the log. Raises ConfigError if it has entries."""
    while True:
        page = await backend.read(taker.mark, taker.seen, PAGE_BYTES)
        for record in page.records:
            taker.take(record)
        taker.seen = max(taker.seen, page.seen)
        if taker.index or page.trimmed:
            raise _not_empty(backend.name)
        if not page.records and taker.seen >= await backend.confirm(taker.mark):
            return


def _not_empty(name: str) -> ConfigError:
    return ConfigError(f"{name} is not empty: copy into a log of another name, or remove this one first")


async def import_into_raft(engine: Engine[object], fsm: FSM[object], state: MachineState) -> None:
    """Put a state in place of an untouched one, on all nodes. Sessions end (`Raft.restore`).

    Raises:
        ConfigError: the machine is not as it was made.
        OperationError, StorageError, UsageError: as `Raft.restore` does.
    """
    trial = type(fsm)()
    view = await engine.read(fsm.snapshot, timeout=EXPORT_S)
    if state_bytes(view) != state_bytes(trial.snapshot()):
        raise ConfigError("the machine on this cluster of Raft is not empty: copy into a new cluster")
    data = state.sessions + state.data
    manifest = manifest_of(data, state.index, state.time_s)
    await _raft(engine).restore(io.BytesIO(encode_header(manifest) + data), trial=trial)


def manifest_of(data: bytes, index: int, time_s: float) -> SnapshotManifest:
    """The manifest of a snapshot file for a state that did not come out of Raft. `data`: sessions, then the machine."""
    sha256 = hashlib.sha256(data).hexdigest()
    registry = encode(RegistryState(0, (), (), time_s=time_s))
    return SnapshotManifest(
        *(max(1, index), 1, MembershipState(), 0, len(data), sha256, __version__),
        runtime=registry,
        sessions=SECTION_FORMAT,
    )
