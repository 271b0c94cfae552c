"""Apply committed entries to the state machine, in log order and one call at a time, and return the answers.

Work goes to a thread of its own, or to the event loop if the state machine says `apply_on_loop = True`. A state machine
does so if its applies are cheap and it is read on the loop. A restore is always on the thread; later work waits.

On the thread, entries are applied in pieces of some milliseconds (`apply_pace`); answers are delivered at intervals.
So callers of a slow state machine are answered one after the other, and `close` does not wait for a backlog: the log
has it, and the next start applies it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import msgspec

from syncline.consensus.types import EntryType, LogEntry, Message, NodeId, SnapshotMeta
from syncline.errors import NodeFailed, Rejected
from syncline.node.apply_pace import TURN_S, Pace
from syncline.node.envelope import (
    LARGEST_KIND,
    Kind,
    LevelChange,
    MemberRecord,
    Proposal,
    Unreadable,
    decode_level,
    decode_member,
    decode_proposal,
)
from syncline.node.fsm import FSM, BatchingFSM, DurableFSM, FSMSnapshot
from syncline.node.fsm import Entry as Command
from syncline.node.looks import LookWork
from syncline.node.machine import (
    apply_failed,
    check_answer,
    check_answers,
    check_restored,
    check_view,
    release,
    restore_failed,
)
from syncline.node.state_digest import DIGEST_INTERVAL, DigestSource, room_before_point
from syncline.platform.worker import Worker, Workers
from syncline.storage.snapshots.store import SnapshotReader

__all__ = [
    "Applied",
    "Applier",
    "ApplyWork",
    "NotViewed",
    "Outcome",
    "RestoreWork",
    "Restored",
    "SnapshotWork",
    "Viewed",
    "restore",
]


class ApplyWork(msgspec.Struct, frozen=True):
    """Committed entries, in order, and the core's message for when they are applied."""

    entries: Sequence[LogEntry]
    responses: Sequence[Message]


class RestoreWork(msgspec.Struct, frozen=True):
    """A snapshot that replaces all state."""

    reader: SnapshotReader
    meta: SnapshotMeta
    runtime: bytes


class SnapshotWork(msgspec.Struct, frozen=True):
    """A request for a view of the present state."""


class Applied(msgspec.Struct):
    """The outcome of a batch of entries. `answers` are for proposals of this node: number, index, term, answer."""

    responses: Sequence[Message]
    first_index: int
    last_index: int
    last_term: int
    size_bytes: int = 0
    answers: list[tuple[int, int, int, object]] = []
    runtime: list[LogEntry | MemberRecord | LevelChange] = []
    """The runtime's own entries in log order: changes of the membership, announcements, changes of the levels. The
    effect of one can depend on the ones before it."""
    ignored: list[tuple[int, str]] = []
    """Entries that have no effect: index, and why."""
    at_point: bool = False
    """Whether the last entry is a point: the state at it has a digest to be compared."""
    digest: bytes | None = None
    """At a point: the digest of the state machine (`DigestSource.take`)."""
    compared: bytes | None = None
    """The data of the last entry if that compares digests."""


class Restored(msgspec.Struct, frozen=True):
    meta: SnapshotMeta
    runtime: bytes


class Viewed(msgspec.Struct, frozen=True):
    """The state machine's view of itself after the entries applied before."""

    view: FSMSnapshot


class NotViewed(msgspec.Struct, frozen=True):
    """The state machine gave no view of itself. Its state is untouched."""

    error: Exception


RAISED: Final = (Exception, asyncio.CancelledError)
"""Errors of the user's code that become a `NodeFailed` with a name. A cancellation is no `Exception`; on the
event loop it would bypass the code that stops the node."""

Work: TypeAlias = ApplyWork | RestoreWork | SnapshotWork | LookWork[object]
Outcome: TypeAlias = Applied | Restored | Viewed | NotViewed | LookWork[object]


class GoOn(msgspec.Struct, frozen=True):
    """No new work: the thread continues with the rest."""


def restore(fsm: FSM[object], reader: SnapshotReader) -> None:
    """Load a snapshot into the state machine completely, and verify it.

    Raises CorruptionError if the file is damaged, NodeFailed if the state machine could not load it.
    """
    with reader, reader.buffered() as source:
        try:
            answer: object = fsm.restore(source)  # type: ignore[func-returns-value]  # the user's code
            check_restored(answer, source)
        except Exception as error:  # noqa: BLE001 - the user's code; it is raised again with a name
            if not source.closed:
                reader.verify()  # corruption is another error: an older snapshot may be intact
            restore_failed(fsm, reader.manifest.index, reader.path, error)
        reader.verify()


def _part_of(responses: Sequence[Message], entries: Sequence[LogEntry]) -> list[Message]:
    """The core's message for a part of the entries: the core need not wait for the rest."""
    return [msgspec.structs.replace(response, entries=entries) for response in responses]


def check_kind(kind: int, index: int) -> None:
    """Raise NodeFailed for a kind of entry that only a later version can have written."""
    if max(Kind) < kind <= LARGEST_KIND:
        raise NodeFailed(
            f"log entry {index} is of kind {kind}, which this version does not know: start the node with the newer"
            " version that wrote it"
        )


class Applier:
    """Runs the state machine. `deliver` is called on the event loop with each outcome, in order."""

    def __init__(
        self,
        fsm: FSM[object],
        node_id: NodeId,
        workers: Workers,
        deliver: Callable[[Outcome], None],
        failed: Callable[[BaseException], None],
        digest_interval: int = DIGEST_INTERVAL,
    ) -> None:
        self._fsm = fsm
        self.digests: DigestSource = DigestSource(fsm, digest_interval)
        self._node_id = node_id
        self._deliver = deliver
        self._failed = failed
        self._batching = fsm if isinstance(fsm, BatchingFSM) else None
        self._durable_index = fsm.applied_index if isinstance(fsm, DurableFSM) else 0
        self._on_loop = bool(getattr(fsm, "apply_on_loop", False))
        self._behind_restore: deque[Work] = deque()
        self._restoring = False
        self._stopped = False
        self._pace = Pace()
        self._plain_types: set[type] = set()
        """Types of answers that are not awaitable: see `check_answers`."""
        self._now_s = workers.now_s
        self._left: deque[Work] = deque()
        """For the thread alone: work that it has taken and not done; the first may be a rest."""
        self._worker: Worker[Work | GoOn] = workers.start("syncline-apply", self._process, self._delivered, self._fail)

    def put(self, work: Work) -> None:
        """Queue work. With an on-loop state machine it may be done, and delivered, before this returns."""
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
        self._left.extend(self._behind_restore)
        self._behind_restore.clear()
        self._abandon()  # the thread has ended, perhaps with work left

    def _run_here(self, work: Work) -> None:
        if self._stopped:
            return
        rest: Work | None = work
        while rest is not None:
            try:
                outcome, rest = self._do(rest)
            except Exception as error:  # noqa: BLE001 - whatever a state machine raises, its state is in doubt: stop
                self._stopped = True
                self._fail(error)
                return
            # Before the next piece is applied: a snapshot that is asked for now is of the state as of this outcome.
            self._deliver(outcome)

    def _process(self, items: list[Work | GoOn]) -> tuple[list[Outcome], bool]:
        """Work for `TURN_S` or a little more. Returns the outcomes, and whether work is left."""
        self._left.extend(work for work in items if not isinstance(work, GoOn))
        outcomes: list[Outcome] = []
        try:
            self._work_until(self._now_s() + TURN_S, outcomes)
        except BaseException:
            for outcome in outcomes:  # no caller waits for these any more
                if isinstance(outcome, Viewed):
                    release(outcome.view)
            raise
        return outcomes, bool(self._left)

    def _work_until(self, end_s: float, outcomes: list[Outcome]) -> None:
        while True:
            if self._stopped:
                self._abandon()
                return
            if not self._left:
                return
            outcome, rest = self._do(self._left.popleft())
            if rest is not None:
                self._left.appendleft(rest)
            outcomes.append(outcome)
            if not (self._on_loop or self._stopped) and self._now_s() >= end_s:
                return

    def _abandon(self) -> None:
        """Drop the rest: the node closes. Committed entries that are not applied are in the log for the next start."""
        for work in self._left:
            if isinstance(work, RestoreWork):
                work.reader.close()
        self._left.clear()

    def _delivered(self, result: tuple[list[Outcome], bool]) -> None:
        outcomes, unfinished = result
        if unfinished:
            self._worker.put(GoOn())
        self._restoring = False  # an on-loop state machine has restores here, one at a time
        for outcome in outcomes:
            self._deliver(outcome)
        while self._behind_restore and not self._restoring:
            self.put(self._behind_restore.popleft())

    def _fail(self, error: BaseException) -> None:
        self._failed(error)

    def _do(self, work: Work) -> tuple[Outcome, Work | None]:
        """Do the work, or its first piece. Returns its outcome and the rest."""
        if isinstance(work, ApplyWork):
            return self._apply_piece(work)
        if isinstance(work, RestoreWork):
            restore(self._fsm, work.reader)
            return Restored(work.meta, work.runtime), None
        if isinstance(work, LookWork):
            work.run()
            return work, None
        try:
            return Viewed(check_view(self._fsm, self._fsm.snapshot())), None
        except Exception as error:  # noqa: BLE001 - the user's code; nothing is lost but this snapshot
            return NotViewed(error), None

    def _apply_piece(self, work: ApplyWork) -> tuple[Applied, ApplyWork | None]:
        """Apply the entries up to the next point at which the digest is taken, or the first entry that compares
        digests.

        So a comparison uses the state and the membership of its own index on every node. On the thread the entries
        are also cut into pieces of some milliseconds.
        """
        entries, interval = work.entries, self.digests.interval
        room = room_before_point(entries[0].index, interval)
        if self._on_loop:
            done = self._apply(entries if room >= len(entries) else entries[:room])
        else:
            begun_s = self._now_s()
            done = self._apply(entries[: min(room, self._pace.entries)])
            self._pace.took(done.last_index - done.first_index + 1, self._now_s() - begun_s)
        index = done.last_index
        if not index % interval:
            done.at_point = True
            done.digest = self.digests.take() if index >= self._durable_index else None
        count = index - done.first_index + 1
        if count == len(entries):
            done.responses = work.responses
            return done, None
        done.responses, rest = _part_of(work.responses, entries[:count]), entries[count:]
        return done, ApplyWork(rest, _part_of(work.responses, rest))

    def _apply(self, entries: Sequence[LogEntry]) -> Applied:
        done = Applied((), entries[0].index, entries[-1].index, entries[-1].term)
        commands: list[Command] = []
        mine: list[tuple[int, int]] = []  # number, position among the commands
        node_id, command_kind, size_bytes = self._node_id, int(Kind.COMMAND), 0
        for entry in entries:
            data = entry.data
            if entry.type is not EntryType.NORMAL:
                done.runtime.append(entry)
            elif data:
                size_bytes += len(data)
                try:
                    proposal = decode_proposal(data)
                    if proposal.kind != command_kind:
                        if proposal.kind == Kind.DIGEST:
                            done.compared, done.last_index, done.last_term = proposal.data, entry.index, entry.term
                            break
                        self._apply_own(entry, proposal, done)
                        continue
                except Unreadable as error:
                    done.ignored.append((entry.index, str(error)))
                    continue
                if proposal.origin == node_id:
                    mine.append((proposal.number, len(commands)))
                commands.append(Command(entry.index, entry.term, proposal.data, proposal.extensions))
        done.size_bytes = size_bytes
        answers = self._apply_commands(commands)
        for number, position in mine:
            command = commands[position]
            done.answers.append((number, command.index, command.term, answers[position]))
        return done

    def _apply_own(self, entry: LogEntry, proposal: Proposal, done: Applied) -> None:
        """Decode an entry of the runtime's own. Raises Unreadable if it has no effect, on every node alike."""
        if proposal.origin == self._node_id:
            done.answers.append((proposal.number, entry.index, entry.term, None))
        if proposal.kind == Kind.ANNOUNCE:
            member = decode_member(proposal.data)
            if member.id != proposal.origin:
                raise Unreadable(f"node {proposal.origin:016x} announces node {member.id:016x}")
            done.runtime.append(member)
        elif proposal.kind == Kind.LEVEL:
            done.runtime.append(decode_level(proposal.data))
        elif proposal.kind != Kind.BARRIER:
            check_kind(proposal.kind, entry.index)
            raise Unreadable(f"{proposal.kind} is not the number of a kind of entry")

    def _apply_commands(self, commands: list[Command]) -> Sequence[object]:
        if not commands:
            return ()
        skipped: list[object] = []
        if commands[0].index <= self._durable_index:  # the state machine has these on its own disk already
            kept = [command for command in commands if command.index > self._durable_index]
            skipped = [None] * (len(commands) - len(kept))
            commands = kept
        if self._batching is not None and commands:
            answers = self._apply_batch(self._batching, commands)
        else:
            answers = [self._apply_one(command) for command in commands]
        return [*skipped, *answers] if skipped else answers

    def _apply_batch(self, machine: BatchingFSM, commands: list[Command]) -> Sequence[object]:
        try:
            return check_answers(self._fsm, commands, machine.apply_batch(commands), self._plain_types)
        except RAISED as error:
            apply_failed(self._fsm, "apply_batch", commands, error)

    def _apply_one(self, command: Command) -> object:
        try:
            return check_answer(self._fsm, command, self._fsm.apply(command))
        except Rejected as refusal:
            return refusal
        except RAISED as error:
            apply_failed(self._fsm, "apply", [command], error)
