"""The log as one node has taken it: from records to entries for the state machine.

All nodes do the same with the same records. Everything here is deterministic, but for errors, and is stored with each
snapshot (`TakenState`).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from syncline.consensus.types import LogEntry
from syncline.engines.backend import LogRecord, LogReplaced, Mark
from syncline.engines.records import Chain, decode_record

__all__ = ["LogTaker", "TakenState", "TERM"]

KEPT_WRITERS: Final = 10_000
"""Writers whose newest sequence is kept. A node is one writer from its open to its close."""

TERM: Final = 0
"""`Entry.term` of entries on these engines: there is no leader that writes the log."""


class TakenState(msgspec.Struct, array_like=True, frozen=True):
    """All that a node knows of the log at one position, beside the state machine and its sessions."""

    log_id: int
    seen: int
    mark: tuple[int, int, int]
    chain: bytes
    index: int
    """The number of entries so far: the index of the last one."""
    time_s: float
    """The time of the last entry."""
    writers: tuple[tuple[int, int], ...]
    """Each writer's newest sequence, least recently used first."""


class LogTaker:
    """Takes records one by one, in order. Used on the event loop."""

    def __init__(self, log_id: int, name: str) -> None:
        self._name = name
        self.log_id: int = log_id
        self.seen: int = 0
        self.mark: Mark = Mark()
        self.index: int = 0
        self.chain: Chain = Chain.of_log(log_id)
        self._writers: OrderedDict[int, int] = OrderedDict()

    @classmethod
    def of(cls, state: TakenState, name: str) -> LogTaker:
        """Go on from a snapshot."""
        taker = cls(state.log_id, name)
        taker.seen = state.seen
        taker.mark = Mark(*state.mark)
        taker.index = state.index
        taker.chain = Chain(state.mark[0], state.chain)
        taker._writers.update(state.writers)
        return taker

    def state(self, time_s: float) -> TakenState:
        """What the snapshot of this moment holds."""
        mark = (self.mark.position, self.mark.writer, self.mark.sequence)
        writers = tuple(self._writers.items())
        return TakenState(self.log_id, self.seen, mark, self.chain.value, self.index, time_s, writers)

    def newest(self, writer: int) -> int:
        """The newest sequence of this writer that took effect; 0: none, or the writer is not known any more."""
        return self._writers.get(writer, 0)

    def take(self, record: LogRecord) -> list[LogEntry] | None:
        """The entries of a record; None if it has no effect, because it was appended before.

        A writer's first record is without entries. So a writer that is not known any more, and a repeated first record
        of one, are told apart from a new one.

        Raises:
            LogReplaced: the writer has read another log than this node.
            NodeFailed: the record can't be read.
        """
        where = f"the record at position {record.position} of {self._name}"
        if record.position <= self.mark.position:
            raise LogReplaced(f"{where} comes behind position {self.mark.position}")
        body = decode_record(record.body, where)
        if self.chain.contradicts(body.position, body.chain):
            raise LogReplaced(f"{where} was written by a node that has read other records up to {body.position}")
        self.mark = Mark(record.position, record.writer, record.sequence)
        self.seen = max(self.seen, record.position)
        self.chain.add(record.position, record.body)
        if not self._is_new(record.writer, record.sequence):
            return None
        if record.sequence == 1:
            return []
        first = self.index + 1
        self.index += len(body.payloads)
        return [LogEntry(TERM, index, data=data) for index, data in enumerate(body.payloads, first)]

    def _is_new(self, writer: int, sequence: int) -> bool:
        newest = self._writers.get(writer)
        if newest is None and sequence != 1:
            return False
        if newest is not None:
            self._writers.move_to_end(writer)
            if sequence <= newest:
                return False
        self._writers[writer] = sequence
        if len(self._writers) > KEPT_WRITERS:
            self._writers.popitem(last=False)
        return True
