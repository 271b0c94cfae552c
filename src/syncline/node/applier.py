"""The state machine's turn: committed entries in, answers out, in log order and never two calls at once.

Work goes to a thread of its own, or, for a state machine that says `apply_on_loop = True` because its applies are
cheap and its readers live on the loop, to the event loop. A restore is always on the thread; what follows waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from syncline.consensus.types import Entry, EntryType, Message, NodeId, SnapshotMeta
from syncline.errors import Rejected
from syncline.node.envelope import Kind, decode_proposal
from syncline.node.fsm import FSM, BatchingFSM, DurableFSM, FSMSnapshot
from syncline.node.fsm import Entry as Command
from syncline.node.looks import LookWork
from syncline.platform.worker import Workers
from syncline.storage.snapshots import SnapshotReader

__all__ = ["Applied", "Applier", "ApplyWork", "Outcome", "RestoreWork", "Restored", "SnapshotWork", "Viewed", "restore"]


class ApplyWork(msgspec.Struct, frozen=True):
    """Committed entries, in order, and what the core is to be told once they are applied."""

    entries: Sequence[Entry]
    responses: Sequence[Message]


class RestoreWork(msgspec.Struct, frozen=True):
    """A snapshot to load in place of all state."""

    reader: SnapshotReader
    meta: SnapshotMeta
    runtime: bytes


class SnapshotWork(msgspec.Struct, frozen=True):
    """A request for a view of the state as of now."""


class Applied(msgspec.Struct):
    """What a batch of entries came to. `answers` are for proposals of this node: number, index, term, answer."""

    responses: Sequence[Message]
    first_index: int
    last_index: int
    last_term: int
    size_bytes: int = 0
    answers: list[tuple[int, int, int, object]] = []
    changes: list[Entry] = []
    announced: list[bytes] = []


class Restored(msgspec.Struct, frozen=True):
    meta: SnapshotMeta
    runtime: bytes


class Viewed(msgspec.Struct, frozen=True):
    """The state machine's view of itself as of what was applied before."""

    view: FSMSnapshot


Work: TypeAlias = ApplyWork | RestoreWork | SnapshotWork | LookWork[object]
Outcome: TypeAlias = Applied | Restored | Viewed | LookWork[object]


def restore(fsm: FSM, reader: SnapshotReader) -> None:
    """Load a snapshot into the state machine, all of it and verified."""
    with reader, reader.buffered() as source:
        fsm.restore(source)
        reader.verify()


class Applier:
    """Runs the state machine. `deliver` is called on the event loop with each outcome, in order."""

    def __init__(
        self,
        fsm: FSM,
        node_id: NodeId,
        workers: Workers,
        deliver: Callable[[Outcome], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._fsm = fsm
        self._node_id = node_id
        self._deliver = deliver
        self._failed = failed
        self._batching = fsm if isinstance(fsm, BatchingFSM) else None
        self._durable_index = fsm.applied_index if isinstance(fsm, DurableFSM) else 0
        self._on_loop = bool(getattr(fsm, "apply_on_loop", False))
        self._behind_restore: deque[Work] = deque()
        self._restoring = False
        self._stopped = False
        self._worker = workers.start("syncline-apply", self._process, self._delivered, self._fail)

    def put(self, work: Work) -> None:
        """Take the next work. With an on-loop state machine it may be done, and delivered, before this returns."""
        if not self._on_loop:
            self._worker.put(work)
        elif self._restoring:
            self._behind_restore.append(work)
        elif isinstance(work, RestoreWork):
            self._restoring = True
            self._worker.put(work)
        else:
            self._run_here(work)

    async def close(self) -> None:
        self._stopped = True
        await self._worker.close()
        for work in self._behind_restore:
            if isinstance(work, RestoreWork):
                work.reader.close()

    def _run_here(self, work: Work) -> None:
        if self._stopped:
            return
        try:
            outcome = self._do(work)
        except Exception as error:  # noqa: BLE001 - whatever a state machine raises, its state is in doubt: stop
            self._stopped = True
            self._fail(error)
            return
        self._deliver(outcome)

    def _process(self, items: list[Work]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        try:
            for work in items:
                outcomes.append(self._do(work))
        except BaseException:
            for outcome in outcomes:  # nobody gets these any more
                if isinstance(outcome, Viewed):
                    outcome.view.release()
            raise
        return outcomes

    def _delivered(self, outcomes: list[Outcome]) -> None:
        self._restoring = False  # an on-loop state machine has restores here, one at a time
        for outcome in outcomes:
            self._deliver(outcome)
        while self._behind_restore and not self._restoring:
            self.put(self._behind_restore.popleft())

    def _fail(self, error: BaseException) -> None:
        self._failed(error)

    def _do(self, work: Work) -> Outcome:
        if isinstance(work, ApplyWork):
            return self._apply(work)
        if isinstance(work, RestoreWork):
            restore(self._fsm, work.reader)
            return Restored(work.meta, work.runtime)
        if isinstance(work, LookWork):
            work.run()
            return work
        return Viewed(self._fsm.snapshot())

    def _apply(self, work: ApplyWork) -> Applied:
        entries = work.entries
        done = Applied(work.responses, entries[0].index, entries[-1].index, entries[-1].term)
        commands: list[Command] = []
        mine: list[tuple[int, int]] = []  # number, position among the commands
        node_id, command_kind, size_bytes = self._node_id, int(Kind.COMMAND), 0
        for entry in entries:
            data = entry.data
            if entry.type is not EntryType.NORMAL:
                done.changes.append(entry)
            elif data:
                size_bytes += len(data)
                proposal = decode_proposal(data, entry.index)
                if proposal.kind == command_kind:
                    if proposal.origin == node_id:
                        mine.append((proposal.number, len(commands)))
                    commands.append(Command(entry.index, entry.term, proposal.data, proposal.extensions))
                else:
                    if proposal.kind == Kind.ANNOUNCE:
                        done.announced.append(proposal.data)
                    if proposal.origin == node_id:
                        done.answers.append((proposal.number, entry.index, entry.term, None))
        done.size_bytes = size_bytes
        answers = self._apply_commands(commands)
        for number, position in mine:
            command = commands[position]
            done.answers.append((number, command.index, command.term, answers[position]))
        return done

    def _apply_commands(self, commands: list[Command]) -> Sequence[object]:
        if not commands:
            return ()
        skipped: list[object] = []
        if commands[0].index <= self._durable_index:  # the state machine has these on its own disk already
            kept = [command for command in commands if command.index > self._durable_index]
            skipped = [None] * (len(commands) - len(kept))
            commands = kept
        if self._batching is not None and commands:
            answers = self._batching.apply_batch(commands)
            if len(answers) != len(commands):
                raise AssertionError(f"apply_batch gave {len(answers)} answers for {len(commands)} entries")
        else:
            answers = [self._apply_one(command) for command in commands]
        return [*skipped, *answers] if skipped else answers

    def _apply_one(self, command: Command) -> object:
        try:
            return self._fsm.apply(command)
        except Rejected as refusal:
            return refusal
