"""The key-value state machine: an FSM like any user's, with no privileges.

`apply` changes the store by one command and answers with a small struct; a command whose expectation does not hold is
refused with `Rejected` and the key's current revision. Nothing here reads a clock, a file or a random number: the
state after entry *n* depends on the entries up to *n* alone, on every node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO, Final, TypeAlias

from syncline.errors import NodeFailed, Rejected
from syncline.kv.commands import Delete, DeleteRange, Put, Txn, decode_command
from syncline.kv.digest import DIGEST_VERSION
from syncline.kv.records import DeleteAnswer, DeleteRangeAnswer, PutAnswer, TxnAnswer
from syncline.kv.sizes import LARGEST_OVERHEAD_BYTES, growth
from syncline.kv.snapshots import KvSnapshot, read_snapshot
from syncline.kv.store import Store, StoreTooLarge
from syncline.kv.txn import apply_delete_range, apply_txn, check_expectation, check_lease
from syncline.kv.versions import MACHINE_VERSION, is_later
from syncline.node.fsm import Entry

__all__ = ["CommandResult", "KvMachine"]

CommandResult: TypeAlias = PutAnswer | DeleteAnswer | DeleteRangeAnswer | TxnAnswer


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

    def __init__(self, *, max_bytes: int = 0, memory_bytes: int = 0) -> None:
        """`max_bytes`: the leader refuses commands that would enlarge the store above it (0: no limit).
        `memory_bytes`: a larger snapshot is not loaded (0: not known).
        """
        self.store: Store = Store()
        self.max_bytes = max_bytes
        self._loadable_bytes = max(max_bytes, memory_bytes) if memory_bytes else 0

    def apply(self, entry: Entry) -> CommandResult:
        """Apply one command.

        Raises `Rejected`, with the state as it was: `bad_command`, `precondition_failed` (details: `revision`, the
        key's mod_revision, 0 if absent; `store_revision`), `lease_not_found`, `range_too_large`,
        `reads_too_large`. Raises `NodeFailed` for a command of a later version: this node is too old to apply it.
        """
        try:
            return self._apply(entry.data)
        except Rejected as refusal:
            _check_version(entry, refusal)
            raise

    def apply_batch(self, entries: Sequence[Entry]) -> list[CommandResult | Rejected]:
        """Apply commands in order. Each has its own revision and its own answer; a refused one is answered with its
        error.
        """
        results: list[CommandResult | Rejected] = []
        for entry in entries:
            try:
                results.append(self._apply(entry.data))
            except Rejected as refusal:
                _check_version(entry, refusal)
                results.append(refusal)
        return results

    def snapshot(self) -> KvSnapshot:
        """A view of the state as it is now, in time that does not grow with keys or values."""
        return KvSnapshot(self.store.view())

    def digest(self) -> bytes:
        """The digest of the state as it is now, in time that does not grow with it; see `DigestingFSM`."""
        return self.store.digest.to_bytes(16, "big")

    @property
    def size_bytes(self) -> int:
        """The size of the store, as `kv.sizes` counts it."""
        return self.store.size_bytes

    def growth(self, data: bytes) -> int:
        """By how many bytes the command can enlarge the store at most. Raises `Rejected` if it can't be read."""
        return growth(self.store, decode_command(data))

    def restore(self, source: BinaryIO) -> None:
        """Replace the state. A stream that can't be read raises `CorruptionError` or `FormatVersionError`, one that
        is larger than the memory `NodeFailed`; the state is then as it was.
        """
        try:
            store = read_snapshot(source, max_bytes=self._loadable_bytes)
        except StoreTooLarge as error:
            raise NodeFailed(
                f"the snapshot does not fit into memory: its records count for more than {error.size_bytes} bytes, and"
                f" {self._loadable_bytes} bytes of memory are there for them. Start the node where it has more memory"
                " (or a higher limit of its control group). --max-store-bytes above the size of the store makes it try"
                " all the same"
            ) from error
        replaced = self.store.view()
        self.store = store
        replaced.release()  # frees records in small steps; readers of the old store keep theirs

    def check(self, data: bytes) -> None:
        """Raise `Rejected` (code `bad_command`) for a command that can't be read: it does not enter the log."""
        decode_command(data)

    def _apply(self, data: bytes) -> CommandResult:
        command = decode_command(data)
        store = self.store
        if type(command) is Put:
            if command.expect is not None:
                check_expectation(store, command.key, command.expect)
            if command.lease:
                check_lease(command.lease)
            revision = store.revision + 1
            previous = store.put(command.key, command.value, 0, revision)
            if previous is None:
                return PutAnswer(revision, True, 0)
            return PutAnswer(revision, False, previous.mod_revision)
        if type(command) is Delete:
            if command.expect is not None:
                check_expectation(store, command.key, command.expect)
            removed = store.delete(command.key, store.revision + 1)
            return DeleteAnswer(removed is not None, store.revision)
        if type(command) is DeleteRange:
            return apply_delete_range(store, command, store.revision + 1)
        assert type(command) is Txn
        return apply_txn(store, command)


def _check_version(entry: Entry, refusal: Rejected) -> None:
    """Raise NodeFailed if the command could not be read because it is of a later version."""
    if refusal.code == "bad_command" and is_later(entry.data):
        raise NodeFailed(
            f"log entry {entry.index} holds a command of a later version of the key-value machine, and this version can"
            f" do machine version {MACHINE_VERSION}: start the node with the newer version that wrote it"
        ) from None
