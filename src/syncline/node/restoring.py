"""`Raft.restore`: replace the state of a live cluster by that of a snapshot, on all nodes at one entry of the log."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Final, TypeVar

import msgspec

from syncline.consensus.types import StateType
from syncline.decoding import UNDECODABLE
from syncline.errors import (
    CorruptionError,
    Dropped,
    FormatVersionError,
    NoSpace,
    NotLeader,
    OperationError,
    Rejected,
    StorageError,
    TooLarge,
    UsageError,
)
from syncline.node.administration import Administration
from syncline.node.arguments import check_timeout
from syncline.node.envelope import Kind, encode
from syncline.node.fsm import FSM, DurableFSM, LimitedFSM
from syncline.node.futures import ApplyFuture
from syncline.node.levels import LEARNING_S
from syncline.node.machine import check_machine, check_restored
from syncline.node.member_registry import RegistryState
from syncline.node.renumbering import restore_renumbered
from syncline.node.restore_entries import LARGEST_RESTORE_BYTES, RESTORE_LEVEL, RestoreEntry, RestoreStep
from syncline.node.session_snapshots import read_sessions
from syncline.node.stats import SnapshotInfo
from syncline.platform.texts import named_error
from syncline.storage.snapshots.file import (
    HEADER_LIMIT_BYTES,
    SnapshotManifest,
    SnapshotReader,
    check_length,
    read_header,
)

__all__ = ["Restoring"]

R_co = TypeVar("R_co", covariant=True)

PIECE_BYTES: Final = 512 << 10
"""Bytes of one entry: a message of the size that followers get at once."""

PIECES_AHEAD: Final = 4
"""Pieces under way: enough to keep the disks busy, and little beside the writes of clients."""

GIVE_UP_S: Final = 5.0
"""Limit of the entry that tells the nodes that a restore has ended early."""


class Restoring(Administration[R_co]):
    """The restore of a snapshot into a live cluster. Base of `Raft`."""

    async def restore(
        self, source: BinaryIO, *, trial: FSM[object] | None = None, timeout: float = 600.0
    ) -> SnapshotInfo:
        """Replace the state of the whole cluster by that of a snapshot file, while the cluster runs.

        All writes that are not in the snapshot are gone, also those that were acknowledged until the moment at which
        it takes effect. The membership stays. All sessions end. A state machine with numbers that must only rise goes
        on far above all that are known (`RenumberingFSM`). The answer has the log index of that moment.

            with open("0000000000000010-0000000000000002.snap", "rb") as file:
                print((await raft.restore(file)).index)

        The snapshot may be of this cluster or of another one. It travels through the log as pieces, so each node
        replaces its state at the same index. A snapshot that can't be loaded would stop all nodes. So it is loaded
        first into `trial`, an empty state machine of the same class and with the same limits. If it is not given, the
        state machine's method `empty_machine` makes it, or its class without arguments. Only the leader restores:
        another node takes over the leadership first. `timeout` bounds the whole.

        Raises:
            TypeError: `source` is no binary file, or `trial` no state machine.
            CorruptionError, FormatVersionError: the file is no intact snapshot, or a later version's.
            Rejected: `trial` could not load it, or it needs a later machine version (`not_applied`).
            TooLarge, NoSpace: it has more than 1 GiB, or more than the limit of the state (`not_applied`).
            UsageError: `trial` is needed, or is no other object of the same class; the state machine keeps its own
                state on disk; or the cluster's level is too low.
            NotLeader, TransferFailed: this node can't lead (`not_applied`).
            Dropped: the leadership or the deadline was lost before the end: the state is as it was (`not_applied`).
            DeadlineExceeded: the last step was not applied before the deadline (`unknown`).
            Closed, NodeFailed: the node has stopped.
        """
        driver = self._driver
        deadline_s = driver.loop.time() + check_timeout(timeout)
        driver.running.check()
        if not callable(getattr(source, "read", None)):
            raise TypeError(f"source must be a binary file, not {type(source).__name__}")
        if not await self.reach_level(RESTORE_LEVEL, timeout=min(timeout, LEARNING_S)):
            raise UsageError(
                f"a restore needs feature level {RESTORE_LEVEL}, and the cluster is at level {self.level}: upgrade all"
                " members first, and finalize the upgrade if it is held"
            )
        machine = driver.parts.machine
        if trial is None:
            try:
                trial = machine.empty_machine()
            except TypeError as error:
                raise UsageError(f"give an empty state machine as `trial`: {error}") from error
        check_machine(trial)
        machine.check_trial(trial)
        if isinstance(trial, DurableFSM):
            raise UsageError("a state machine with a state of its own on disk is restored by a command of its own")
        loaded = await driver.parts.persister.run(partial(_loaded, source, trial, self.machine_version))
        self._check_limit(trial)
        term = await self._lead(deadline_s)
        return await self._replicate(loaded, term, deadline_s)

    def _check_limit(self, trial: FSM[object]) -> None:
        max_bytes = self._driver.parts.intake.max_state_bytes
        if isinstance(trial, LimitedFSM) and 0 < max_bytes < trial.size_bytes:
            raise NoSpace(f"the state of the snapshot counts for {trial.size_bytes} bytes; the limit is {max_bytes}")

    async def _lead(self, deadline_s: float) -> int:
        """The term in which this node leads; it takes over the leadership if it can."""
        left_s = self._left_s(deadline_s)
        core = self._driver.core
        if core.state is not StateType.LEADER:
            own = core.raft.id
            if own not in core.membership.voters:
                raise NotLeader("only a voter can restore a snapshot: call it on another node", leader=self._leader_id)
            await self.transfer_leadership(own, timeout=left_s)
        return await self.verify_leader(timeout=self._left_s(deadline_s))

    async def _replicate(self, loaded: _Loaded, term: int, deadline_s: float) -> SnapshotInfo:
        state = loaded.state
        restore_id = self._driver.rng.getrandbits(62) + 1

        def propose(step: RestoreStep, position: int = 0, data: bytes = b"") -> ApplyFuture[R_co]:
            entry = encode(RestoreEntry(step, restore_id, position, data))
            return self._apply(int(Kind.RESTORE), entry, self._left_s(deadline_s), b"", term)

        ahead: list[ApplyFuture[R_co]] = []
        piece_bytes = min(PIECE_BYTES, self._driver.config.max_entry_bytes // 2)
        try:
            await propose(RestoreStep.BEGIN, len(state), loaded.sha256)
            for offset in range(0, len(state), piece_bytes):
                ahead.append(propose(RestoreStep.PIECE, offset, state[offset : offset + piece_bytes]))
                if len(ahead) >= PIECES_AHEAD:
                    await ahead.pop(0)
            for piece in ahead:
                await piece
        except BaseException as error:
            self._give_up(restore_id, term)
            if isinstance(error, OperationError | StorageError):
                raise Dropped(f"the restore was given up, and the state is as it was: {error}") from error
            raise
        last = propose(RestoreStep.FINISH, len(state))
        await last
        return SnapshotInfo(last.index, last.term, loaded.manifest.size_bytes)

    def _give_up(self, restore_id: int, term: int) -> None:
        """Tell the nodes that no further piece comes. If this is lost too, later entries tell them."""
        entry = encode(RestoreEntry(RestoreStep.GIVE_UP, restore_id))
        self._apply(int(Kind.RESTORE), entry, GIVE_UP_S, b"", term)

    def _left_s(self, deadline_s: float) -> float:
        return max(self._driver.config.heartbeat_s, deadline_s - self._driver.loop.time())


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A snapshot file that `trial` could load: its manifest, and the state machine's data with their SHA-256."""

    manifest: SnapshotManifest
    state: bytes
    sha256: bytes


def _loaded(source: BinaryIO, trial: FSM[object], machine_version: int) -> _Loaded:
    """Read a snapshot file and load it into `trial`, as the nodes will. On a thread: it takes time."""
    limit = LARGEST_RESTORE_BYTES + HEADER_LIMIT_BYTES
    content = _read(source, limit + 1)
    if len(content) > limit:
        raise TooLarge(f"the snapshot has more than {LARGEST_RESTORE_BYTES} bytes")
    file = _MemoryFile(str(getattr(source, "name", "the snapshot")), content)
    manifest, offset = read_header(file)
    check_length(file, manifest, offset)
    SnapshotReader(file, manifest, offset).verify()
    _check_version(manifest, machine_version)
    reader = SnapshotReader(file, manifest, offset)
    with reader.buffered() as data:
        read_sessions(reader, data)
        state = data.read()
    if len(state) > LARGEST_RESTORE_BYTES:
        raise TooLarge(f"the state has {len(state)} bytes; the limit is {LARGEST_RESTORE_BYTES}")
    try:
        held = io.BytesIO(state)
        check_restored(restore_renumbered(trial, held), held)
    except FormatVersionError:
        raise
    except Exception as error:
        raise Rejected(
            f"{type(trial).__name__}.restore can't load the snapshot: {named_error(error)}. Nothing was changed",
            code="snapshot_refused",
        ) from error
    return _Loaded(manifest, state, hashlib.sha256(state).digest())


def _read(source: BinaryIO, size: int) -> bytes:
    """Read up to so many bytes; a raw file may give fewer at a time."""
    pieces: list[bytes] = []
    while size > 0:
        piece = source.read(size)
        if not isinstance(piece, bytes):
            raise TypeError(f"source must be a binary file: it gave {type(piece).__name__}. Open it with mode 'rb'")
        if not piece:
            break
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _check_version(manifest: SnapshotManifest, machine_version: int) -> None:
    try:
        needed = msgspec.msgpack.decode(manifest.runtime, type=RegistryState).levels.machine_version
    except UNDECODABLE as error:
        raise CorruptionError(f"the snapshot's member registry can't be read: {error}", file="manifest") from error
    if needed > machine_version:
        raise Rejected(
            f"the snapshot needs machine version {needed}, and the cluster is at version {machine_version}: upgrade all"
            " members first",
            code="needs_upgrade",
        )


class _MemoryFile:
    """Bytes as a file that is read."""

    def __init__(self, path: str, content: bytes) -> None:
        self.path = path
        self._content = memoryview(content)

    def read_at(self, offset: int, size: int) -> bytes:
        return bytes(self._content[offset : offset + size])

    def size(self) -> int:
        return len(self._content)

    def close(self) -> None:
        """Do nothing: the bytes belong to the caller."""
