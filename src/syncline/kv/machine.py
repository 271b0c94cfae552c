"""The key-value state machine: an FSM like any user's, with no privileges.

`apply` changes the store by one command and answers with a small struct; a command whose expectation does not hold is
refused with `Rejected` and the key's current revision. Nothing here reads a clock, a file or a random number: the
state after entry *n* depends on the entries up to *n* alone, on every node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import BinaryIO, Final

from syncline.errors import CorruptionError, NodeFailed, Rejected
from syncline.kv.answers import CommandResult, dump_answer, load_answer
from syncline.kv.auth.checks import check_authorised, check_unauthorised
from syncline.kv.auth.commands import AuthAnswer, AuthCommand
from syncline.kv.auth.flag import AuthFlag
from syncline.kv.auth.permissions import UserPermissions
from syncline.kv.batch import apply_batch
from syncline.kv.commands import (
    Authorised,
    Compact,
    Delete,
    DeleteRange,
    Increment,
    LeaseCheckpoint,
    LeaseEnd,
    LeaseGrant,
    LeaseRevoke,
    OperationBatch,
    PlainCommand,
    Put,
    Touch,
    Txn,
    decode_command,
)
from syncline.kv.digest import DIGEST_VERSION
from syncline.kv.growth import LARGEST_GROWTH_FACTOR, LARGEST_OVERHEAD_BYTES, growth
from syncline.kv.lease_commands import apply_checkpoint, apply_end, apply_grant, apply_revoke, check_term
from syncline.kv.records import CompactAnswer, DeleteAnswer, PutAnswer
from syncline.kv.snapshots import KvSnapshot, read_snapshot
from syncline.kv.store import KeyStore, StoreTooLarge
from syncline.kv.txn import apply_operation, check_expectation
from syncline.kv.versions import MACHINE_VERSION, is_later
from syncline.kv.work import Work
from syncline.node.fsm import Entry

__all__ = ["CommandResult", "KvMachine"]

MAX_RESTORED_REVISION: Final = 2**62
"""Revision of a snapshot that takes the place of a newer state. Above it a later revision would not fit in the 63 bits
that clients and log entries have for it. Each node would stop there."""


class KvMachine:
    """The store behind the log.

    `store` is replaced as a whole by `restore`: ask the machine for it each time, and don't keep it across an await.
    """

    apply_on_loop: Final = True
    """A command takes microseconds: it is applied on the event loop's thread, where the store is read too: no locks."""

    digest_version: Final = DIGEST_VERSION
    machine_version: Final = MACHINE_VERSION
    """The newest commands that it can apply; see `Raft.machine_version`."""

    growth_overhead_bytes: Final = LARGEST_OVERHEAD_BYTES
    growth_factor: Final = LARGEST_GROWTH_FACTOR

    def __init__(self, *, max_bytes: int = 0, memory_bytes: int = 0, history_bytes: int = 0) -> None:
        """`max_bytes`: the leader refuses commands that would enlarge the store above it (0: no limit).
        `memory_bytes`: a larger snapshot is not loaded (0: not known). `history_bytes`: the history that the compactor
        keeps. A store at `max_bytes` is loaded with it, and with the part above it that is not compacted yet.
        """
        self.store: KeyStore = KeyStore()
        self.max_bytes = max_bytes
        self._loadable_bytes = max(max_bytes + 2 * history_bytes, memory_bytes) if memory_bytes else 0
        self._observers: list[Callable[[], None]] = []
        self._auth_observers: list[Callable[[], None]] = []
        self.auth_flag: AuthFlag = AuthFlag()
        """Whether clients need credentials. It is never off while the store's users say that it is on."""

    def empty_machine(self) -> KvMachine:
        """A new one with the same limits: `Raft.restore` loads a snapshot into it before the nodes do."""
        made = KvMachine(max_bytes=self.max_bytes)
        made._loadable_bytes = self._loadable_bytes
        return made

    def observe(self, observer: Callable[[], None]) -> None:
        """Call `observer` after each apply that changed the store's revision, and after `restore`.

        It runs on the thread of `apply`, once for all commands of a batch of entries, and must not raise.
        """
        self._observers.append(observer)

    def observe_auth(self, observer: Callable[[], None]) -> None:
        """Call `observer` after each change of the auth revision, and after `restore`; as `observe` does."""
        self._auth_observers.append(observer)

    def apply(self, entry: Entry) -> CommandResult:
        """Apply one command.

        Raises `Rejected`, with the state as it was; the codes are in docs/formats.md. Raises `NodeFailed` for a command
        of a later version: this node is too old to apply it.
        """
        before = self.store.revision
        try:
            result = self._apply(entry)
        except Rejected as refusal:
            _check_version(entry, refusal)
            raise
        if self.store.revision != before:
            self._tell()
        return result

    def apply_batch(self, entries: Sequence[Entry]) -> list[CommandResult | Rejected]:
        """Apply commands in order. Each has its own revision and its own answer; a refused one is answered with its
        error.
        """
        results: list[CommandResult | Rejected] = []
        before = self.store.revision
        for entry in entries:
            try:
                results.append(self._apply(entry))
            except Rejected as refusal:
                _check_version(entry, refusal)
                results.append(refusal)
        if self.store.revision != before:
            self._tell()
        return results

    def snapshot(self) -> KvSnapshot:
        """A view of the state as it is now, in time that does not grow with keys or values."""
        return KvSnapshot(self.store.view())

    def digest(self) -> bytes:
        """The digest of the state as it is now, in time that does not grow with it; see `DigestingFSM`."""
        return self.store.digest.to_bytes(16, "big")

    @property
    def size_bytes(self) -> int:
        """The size of the store and its leases, as `kv.sizes` counts it."""
        return self.store.size_bytes

    def growth(self, data: bytes) -> int:
        """By how many bytes the command can enlarge the store at most. Raises `Rejected` if it can't be read."""
        return growth(self.store, decode_command(data))

    def restore(self, source: BinaryIO) -> None:
        """Replace the state. A stream that can't be read raises `CorruptionError` or `FormatVersionError`, one that
        is larger than the memory `NodeFailed`; the state is then as it was.
        """
        self._restore(source, lambda _store: None)

    def _restore(self, source: BinaryIO, prepare: Callable[[KeyStore], None]) -> None:
        """`restore`; `prepare` may change the new store before anything reads it."""
        try:
            store = read_snapshot(source, max_bytes=self._loadable_bytes)
        except StoreTooLarge as error:
            raise NodeFailed(
                f"the snapshot does not fit into memory: its records count for more than {error.size_bytes} bytes, and"
                f" {self._loadable_bytes} bytes of memory are there for them. Start the node where it has more memory"
                " (or a higher limit of its control group). --max-store-bytes above the size of the store makes it try"
                " all the same"
            ) from error
        prepare(store)
        replaced = self.store.view()
        # Requests on the event loop's thread must not see the new keys without the new users.
        self.auth_flag.on = self.auth_flag.on or store.auth.enabled
        self.store = store
        self.auth_flag.on = store.auth.enabled
        replaced.release()  # frees records in small steps; readers of the old store keep theirs
        self._tell()
        self._tell_auth()

    def renumber(self, jump: int, source: BinaryIO | None) -> None:
        """Load the state from `source`, if there is one, and go on from a revision `jump` above all that are known.

        All revisions before it are compacted. The auth revision goes on in the same way, if there ever were users.
        Raises as `restore` does, and `CorruptionError` above `MAX_RESTORED_REVISION`.
        """
        if source is None:
            _renumber(self.store, self.store, jump)
            self._tell()
            self._tell_auth()
        else:
            self._restore(source, partial(_renumber_loaded, self.store, jump))

    def check(self, data: bytes) -> None:
        """Raise `Rejected` (code `bad_command`) for a command that can't be read: it does not enter the log."""
        decode_command(data)

    def dump_answer(self, answer: object) -> bytes:
        """Write an answer of `apply`: a session keeps it for a repeated command."""
        return dump_answer(answer)

    def load_answer(self, data: bytes) -> CommandResult:
        """Read an answer that `dump_answer` wrote."""
        return load_answer(data)

    def _apply(self, entry: Entry) -> CommandResult:
        command = decode_command(entry.data)
        store = self.store
        permissions: UserPermissions | None = None
        if store.auth.enabled or type(command) is Authorised:
            if type(command) is Authorised:
                permissions = check_authorised(store, command)
                command = command.command
            else:
                check_unauthorised(command)
        if type(command) is Put and not command.lease and not command.previous:  # most commands
            if command.expect is not None:
                check_expectation(store, command.key, command.expect)
            revision = store.revision + 1
            replaced = store.put(command.key, command.value, 0, revision)
            if replaced is None:
                return PutAnswer(revision, True, 0)
            return PutAnswer(revision, False, replaced.mod_revision)
        if type(command) is Delete and not command.previous:
            if command.expect is not None:
                check_expectation(store, command.key, command.expect)
            removed = store.delete(command.key, store.revision + 1)
            return DeleteAnswer(removed is not None, store.revision)
        return self._apply_other(command, entry.index, entry.term, permissions)

    def _apply_other(
        self, command: PlainCommand | Authorised, index: int, term: int, permissions: UserPermissions | None
    ) -> CommandResult:
        store = self.store
        store.leases.index = index
        match command:
            case OperationBatch():
                return apply_batch(store, command, permissions)
            case LeaseGrant():
                return apply_grant(store, command)
            case LeaseRevoke():
                return apply_revoke(store, command)
            case LeaseEnd():
                return apply_end(store, command, term)
            case LeaseCheckpoint():
                return apply_checkpoint(store, command, term)
            case Compact(revision, decided):
                if decided:
                    check_term(decided, term)
                store.compact(revision)
                return CompactAnswer(store.oldest, store.revision)
            case Put() | Delete() | DeleteRange() | Txn() | Increment() | Touch():
                return apply_operation(store, command, Work())
            case Authorised():
                raise AssertionError("a command of a user within another one")
            case _:
                return self._apply_auth(command)

    def _apply_auth(self, command: AuthCommand) -> AuthAnswer:
        before = self.store.auth.revision
        answer = self.store.auth.apply(command)
        if answer.revision != before:
            self.auth_flag.on = self.store.auth.enabled
            self._tell_auth()
        return answer

    def _tell(self) -> None:
        for observer in self._observers:
            observer()

    def _tell_auth(self) -> None:
        for observer in self._auth_observers:
            observer()


def _renumber(before: KeyStore, store: KeyStore, jump: int) -> None:
    store.renumber(max(before.revision, store.revision) + jump)
    if newest := max(before.auth.revision, store.auth.revision):
        store.auth.renumber(newest + jump)


def _renumber_loaded(before: KeyStore, jump: int, store: KeyStore) -> None:
    # By the snapshot alone: what one machine loads, all load, whatever their own revisions are.
    newest = max(store.revision, store.auth.revision)
    if newest > MAX_RESTORED_REVISION:
        raise CorruptionError(
            f"the key-value snapshot is at revision {newest}, which no cluster reaches", file="snapshot"
        )
    _renumber(before, store, jump)


def _check_version(entry: Entry, refusal: Rejected) -> None:
    """Raise NodeFailed if the command could not be read because it is of a later version."""
    if refusal.code == "bad_command" and is_later(entry.data):
        raise NodeFailed(
            f"log entry {entry.index} holds a command of a later version of the key-value machine, and this version can"
            f" do machine version {MACHINE_VERSION}: start the node with the newer version that wrote it"
        ) from None
