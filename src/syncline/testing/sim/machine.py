"""The key-value machine as simulations run it: the product's own, which also remembers its digest at recent indexes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO, Final

from syncline.errors import Rejected
from syncline.kv.machine import CommandResult, KvMachine
from syncline.kv.snapshots import KvSnapshot
from syncline.node.fsm import FSM, Entry
from syncline.testing.sim.changes import ChangeRecord

__all__ = ["MachineBug", "SimMachine", "ThreadedSimMachine", "digest_at"]

REMEMBERED: Final = 256
"""Digests: more than a state machine on a thread is ever ahead of what its node has heard of."""


class MachineBug(Exception):
    """The exception of a planted bug in a user's machine."""


class SimMachine(KvMachine):
    """Applied on the event loop, as in the server."""

    def __init__(self) -> None:
        super().__init__()
        self.last_index: int = 0
        self.digests: dict[int, int] = {}
        self.ran: list[int] = []
        """Indexes of the entries that it was given since an observer looked last."""
        self.times: list[tuple[int, float, int]] = []
        """Index, time and seed of the entries that it was given since another observer looked last."""
        self.changes: ChangeRecord | None = None
        """Takes what each entry changes."""
        self._leases = 0
        self.raises_in_apply = False
        self.raises_in_snapshot = False

    def snapshot(self) -> KvSnapshot:
        if self.raises_in_snapshot:
            raise MachineBug("a planted bug of the machine, in snapshot()")
        return super().snapshot()

    def apply_batch(self, entries: Sequence[Entry]) -> list[CommandResult | Rejected]:
        results: list[CommandResult | Rejected] = []
        for entry in entries:
            if self.raises_in_apply:
                raise MachineBug(f"a planted bug of the machine, in apply() at {entry.index}")
            before = self.store.revision
            results += super().apply_batch([entry])
            if self.changes is not None:
                self.changes.applied(self.store, before)
                self._check_leases(before)
            self.ran.append(entry.index)
            self.times.append((entry.index, entry.time_s, entry.seed))
            self.last_index = entry.index
            self.digests[entry.index] = self.store.digest
        while len(self.digests) > REMEMBERED:
            del self.digests[next(iter(self.digests))]
        return results

    def _check_leases(self, before: int) -> None:
        """After each command that changes keys or leases: no key has a lease that has ended."""
        leases = len(self.store.leases)
        if self.changes is not None and (leases, self.store.revision) != (self._leases, before):
            self.changes.check_leases(self.store)
        self._leases = leases

    def restore(self, source: BinaryIO) -> None:
        super().restore(source)
        self.last_index = 0
        self.digests.clear()


class ThreadedSimMachine(SimMachine):
    """Applied beside the event loop, as a user's machine is by default."""

    apply_on_loop = False  # type: ignore[misc]  # the server's machine is final in this


def digest_at(machine: FSM[object], index: int) -> int | None:
    """The digest of the state of a node that has applied `index`; None if it is not known any more."""
    assert isinstance(machine, SimMachine)
    if machine.last_index <= index:
        return machine.store.digest
    return machine.digests.get(index)
