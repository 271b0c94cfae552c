"""What beat keeps in the store: when each entry ran last, and which run is being sent. Written under a lock."""

from __future__ import annotations

from typing import Final

import msgspec

from syncline.client import BlockingLock, Client, Compare, DeleteOp, Operation, PutOp
from syncline.errors import LockLost

__all__ = ["EntryState", "ScheduleState"]

PAGE: Final = 100
"""Entries that are written in one transaction: far below the limit of its operations."""


class EntryState(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry: the begin of its last run (ISO 8601), how many there were, and the id of the run being sent."""

    last_run_at: str
    total_run_count: int = 0
    sending: str = ""
    """Set before the message is sent, taken back afterwards: after a crash the next beat sends it again."""


class ScheduleState:
    """The states of all entries, below `beat/NAME/`. Each write takes effect only while the lock is held."""

    def __init__(self, kv: Client, name: str, lock: BlockingLock) -> None:
        self._kv = kv
        self._prefix = f"beat/{name}/entries/"
        self._lock = lock
        self._held = Compare(lock.key, target="create_revision", number=lock.token)

    def read(self) -> dict[str, EntryState]:
        """All states by the names of the entries. What is no state is as if it were not there.

        Raises:
            OperationError: the cluster did not answer, or refused it.
        """
        found: dict[str, EntryState] = {}
        for item in self._kv.scan(self._prefix, values=True):
            try:
                state = msgspec.json.decode(item.value or b"", type=EntryState)
                found[item.key.decode()[len(self._prefix) :]] = state
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                continue  # it is written again with the next run of the entry
        return found

    def write(self, states: dict[str, EntryState]) -> None:
        """Write the states of some entries.

        Raises:
            LockLost: the lock is held no longer: another beat may run. Nothing was written.
            OperationError: the cluster did not answer, or refused it. See its `outcome`.
        """
        operations = [PutOp(self._key(name), msgspec.json.encode(state)) for name, state in states.items()]
        self._commit(operations)

    def forget(self, names: list[str]) -> None:
        """Delete the states of some entries. Raises as `write` does."""
        self._commit([DeleteOp(self._key(name)) for name in names])

    def note(self, owner: str) -> None:
        """Write down where beat runs, for people. Raises as `write` does."""
        self._commit([PutOp(self._prefix.removesuffix("entries/").encode() + b"owner", owner.encode())])

    def _commit(self, operations: list[PutOp] | list[DeleteOp]) -> None:
        for at in range(0, len(operations), PAGE):
            page: list[Operation] = [*operations[at : at + PAGE]]
            if not self._kv.txn([self._held], page, idempotent=True).succeeded:
                raise LockLost("the lock of beat is held no longer: another beat may run", key=self._lock.key)

    def _key(self, name: str) -> bytes:
        return (self._prefix + name).encode()
