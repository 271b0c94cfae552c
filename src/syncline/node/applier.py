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
from typing import Final, Protocol, TypeAlias, runtime_checkable

import msgspec

from syncline.consensus.types import EntryType, LogEntry, Message, NodeId, SnapshotMeta
from syncline.errors import NodeFailed, Rejected, StorageError, UsageError
from syncline.node.apply_pace import TURN_S, Pace
from syncline.node.entry_stamps import EntryTimes
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
    decode_restore,
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
from syncline.node.renumbering import restore_renumbered
from syncline.node.restore_entries import ArrivingState, RestoreEntry, RestoreStep
from syncline.node.session_entries import SessionBatch, SessionEntries, codec_of
from syncline.node.session_snapshots import SessionsView, read_sessions
from syncline.node.state_digest import DIGEST_INTERVAL, DigestSource, room_before_point
from syncline.platform.worker import Worker, Workers
from syncline.sessions.table import SessionTable
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
    time_s: float = 0.0
    """The time of its last entry, as `runtime` has it."""


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
    sessions: bytes = b""
    """At a point: the digest of the table of sessions."""
    compared: bytes | None = None
    """The data of the last entry if that compares digests."""
    replaced: bool = False
    """Whether the last entry has replaced the state by that of a snapshot (`Raft.restore`)."""
    time_s: float = 0.0
    """The time of the last entry (`EntryTimes`)."""
    took_s: float = 0.0
    """Seconds that the entries took."""


class Restored(msgspec.Struct, frozen=True):
    meta: SnapshotMeta
    runtime: bytes


class Viewed(msgspec.Struct, frozen=True):
    """The state machine's view of itself after the entries applied before."""

    view: FSMSnapshot


class NotViewed(msgspec.Struct, frozen=True):
    """The state machine gave no view of itself. Its state is untouched."""

    error: Exception


RAISED: Final = (Exception, asyncio.CancelledError, SystemExit, GeneratorExit)
"""Errors of the user's code that become a `NodeFailed` with a name. The last three are no `Exception`; on the event
loop they would bypass the code that stops the node. Ctrl-C may come during an apply there, and is not the code's."""

Work: TypeAlias = ApplyWork | RestoreWork | SnapshotWork | LookWork[object]
Outcome: TypeAlias = Applied | Restored | Viewed | NotViewed | LookWork[object]


class GoOn(msgspec.Struct, frozen=True):
    """No new work: the thread continues with the rest."""


def restore(fsm: FSM[object], reader: SnapshotReader) -> SessionTable:
    """Load a snapshot into the state machine completely, and verify it. Returns the table of sessions in it.

    Raises CorruptionError if the file is damaged, NodeFailed if the state machine could not load it.
    """
    with reader, reader.buffered() as source:
        table = read_sessions(reader, source)
        try:
            answer: object = fsm.restore(source)  # type: ignore[func-returns-value]  # the user's code
            check_restored(answer, source)
        except RAISED as error:
            if not source.closed:
                reader.verify()  # corruption is another error: an older snapshot may be intact
            restore_failed(fsm, reader.manifest.index, reader.path, error)
        reader.verify()
    return table


def _part_of(responses: Sequence[Message], entries: Sequence[LogEntry]) -> list[Message]:
    """The core's message for a part of the entries: the core need not wait for the rest."""
    return [msgspec.structs.replace(response, entries=entries) for response in responses]


def _split(work: ApplyWork, count: int) -> tuple[ApplyWork, ApplyWork]:
    first, rest = work.entries[:count], work.entries[count:]
    return ApplyWork(first, _part_of(work.responses, first)), ApplyWork(rest, _part_of(work.responses, rest))


def _last_step(entry: LogEntry) -> RestoreEntry | None:
    """The last step of a restore, if that is what an entry holds."""
    if entry.type is not EntryType.NORMAL or not entry.data:
        return None
    try:
        proposal = decode_proposal(entry.data)
        step = decode_restore(proposal.data) if proposal.kind == Kind.RESTORE else None
    except Unreadable:
        return None
    return step if step is not None and step.step is RestoreStep.FINISH else None


def check_kind(kind: int, index: int) -> None:
    """Raise NodeFailed for a kind of entry that only a later version can have written."""
    if max(Kind) < kind <= LARGEST_KIND:
        raise NodeFailed(
            f"log entry {index} is of kind {kind}, which this version does not know: start the node with the newer"
            " version that wrote it"
        )


@runtime_checkable
class _WithLimits(Protocol):
    """A state machine that loads no snapshot above limits which it was made with."""

    def empty_machine(self) -> FSM[object]: ...


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
        sessions: SessionTable | None = None,
        time_s: float = 0.0,
    ) -> None:
        self._fsm = fsm
        self._times = EntryTimes(time_s)
        table = SessionTable() if sessions is None else sessions
        self.sessions: SessionEntries = SessionEntries(table, codec_of(fsm), node_id)
        self.digests: DigestSource = DigestSource(fsm, digest_interval)
        self._node_id = node_id
        self._deliver = deliver
        self._failed = failed
        self._batching = fsm if isinstance(fsm, BatchingFSM) else None
        self._durable_index = fsm.applied_index if isinstance(fsm, DurableFSM) else 0
        self._on_loop = bool(getattr(fsm, "apply_on_loop", False))
        self._behind_restore: deque[Work] = deque()
        self._restoring = False
        self._arriving = ArrivingState()
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

    def empty_machine(self) -> FSM[object]:
        """A new state machine with the limits of this one, if it has a method `empty_machine`; else one of the same
        class, made without arguments. Raises TypeError if the class needs some.
        """
        if isinstance(self._fsm, _WithLimits):
            return self._fsm.empty_machine()
        return type(self._fsm)()

    def check_trial(self, trial: FSM[object]) -> None:
        """Raise UsageError if a snapshot that `trial` loads says nothing about this state machine, or changes it."""
        if trial is self._fsm:
            raise UsageError("`trial` is the state machine of this node, and loading would change it: give another one")
        if type(trial) is not type(self._fsm):
            needed, given = type(self._fsm).__name__, type(trial).__name__
            raise UsageError(
                f"`trial` must be an empty {needed}, not {given}: all nodes load the snapshot into {needed}"
            )

    def _run_here(self, work: Work) -> None:
        if self._stopped:
            return
        rest: Work | None = work
        while rest is not None:
            if self._replaces_state(rest):
                self._replace_beside(rest)
                return
            try:
                outcome, rest = self._do(rest)
            except BaseException as error:  # whatever is raised in a state machine, its state is in doubt: stop
                self._stopped = True
                self._fail(error)
                if not isinstance(error, Exception):  # Ctrl-C: it is for the program, too
                    raise
                return
            # Before the next piece is applied: a snapshot that is asked for now is of the state as of this outcome.
            self._deliver(outcome)

    def _replaces_state(self, work: Work) -> bool:
        """Whether the first entry of the work is the last step of a restore."""
        if not self._arriving.active or not isinstance(work, ApplyWork):
            return False
        return _last_step(work.entries[0]) is not None

    def _replace_beside(self, work: Work) -> None:
        """Load the state of a restore on the thread; the work behind it waits."""
        assert isinstance(work, ApplyWork), work
        first = work
        if len(work.entries) > 1:
            first, rest = _split(work, 1)
            self._behind_restore.appendleft(rest)
        self._restoring = True
        self._worker.put(first)

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
            self._arriving.clear()
            self.sessions.table = restore(self._fsm, work.reader)
            self._times = EntryTimes(work.time_s)
            return Restored(work.meta, work.runtime), None
        if isinstance(work, LookWork):
            work.run()
            return work, None
        if self._arriving.active:
            return NotViewed(StorageError("a restore of the state is under way")), None
        try:
            view = check_view(self._fsm, self._fsm.snapshot())
            return Viewed(SessionsView(self.sessions.table.view(), view)), None
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
        begun_s = self._now_s()
        if self._on_loop:
            done = self._apply(entries if room >= len(entries) else entries[:room])
            done.took_s = self._now_s() - begun_s
        else:
            done = self._apply(entries[: min(room, self._pace.entries)])
            done.took_s = self._now_s() - begun_s
            self._pace.took(done.last_index - done.first_index + 1, done.took_s)
        index = done.last_index
        if not index % interval:
            done.at_point = True
            done.digest = self.digests.take() if index >= self._durable_index else None
            done.sessions = self.sessions.table.digest()
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
        once: SessionBatch | None = None
        times, newest_s = self._times, self._times.newest_s
        for entry in entries:
            data = entry.data
            if entry.type is not EntryType.NORMAL:
                done.runtime.append(entry)
            elif data:
                size_bytes += len(data)
                try:
                    proposal = decode_proposal(data)
                    time_s = proposal.time_s
                    if time_s != newest_s:  # the leader stamps all entries of one turn alike
                        time_s = newest_s = times.of(time_s)
                    if proposal.kind != command_kind:
                        if proposal.kind == Kind.DIGEST:
                            done.compared, done.last_index, done.last_term = proposal.data, entry.index, entry.term
                            break
                        if proposal.kind == Kind.RESTORE and _last_step(entry) is not None:
                            if entry is entries[0]:
                                self._replace_state(entry, proposal, done)
                            else:  # after the commands before it, as a piece of its own
                                before = entries[entry.index - done.first_index - 1]
                                done.last_index, done.last_term = before.index, before.term
                            break
                        if proposal.kind != Kind.SESSION_COMMAND:
                            self._apply_own(entry, proposal, done)
                            continue
                        once = once or SessionBatch()
                        if self.sessions.take(entry, proposal, commands, once, done.answers, time_s) and (
                            proposal.origin == node_id
                        ):
                            mine.append((proposal.number, len(commands) - 1))
                        continue
                except Unreadable as error:
                    done.ignored.append((entry.index, str(error)))
                    continue
                if proposal.origin == node_id:
                    mine.append((proposal.number, len(commands)))
                commands.append(
                    Command(entry.index, entry.term, proposal.data, proposal.extensions, time_s, proposal.seed)
                )
        done.size_bytes, done.time_s = size_bytes, times.newest_s
        answers = self._apply_commands(commands)
        for number, position in mine:
            command = commands[position]
            done.answers.append((number, command.index, command.term, answers[position]))
        if once is not None:
            self.sessions.finish(once, commands, answers, self._durable_index, done.answers)
        if self._arriving.active:
            self._arriving.passed(done.last_index, done.last_term)
        return done

    def _replace_state(self, entry: LogEntry, proposal: Proposal, done: Applied) -> None:
        """The last step of a restore: load the state that has arrived. All sessions end."""
        done.last_index, done.last_term = entry.index, entry.term
        source = self._arriving.finish(decode_restore(proposal.data), entry.index, entry.term)
        refusal: Rejected | None = None
        if isinstance(source, Rejected):
            refusal = source
        elif isinstance(self._fsm, DurableFSM):
            refusal = Rejected("a state machine with a state of its own on disk is not restored through the log")
        else:
            try:
                check_restored(restore_renumbered(self._fsm, source), source)
            except RAISED as error:
                restore_failed(self._fsm, entry.index, "of a restore through the log", error)
            self.sessions.table = SessionTable(self.sessions.table.limits)
            done.replaced = True
        if proposal.origin == self._node_id:
            done.answers.append((proposal.number, entry.index, entry.term, refusal))

    def _restore_step(self, entry: LogEntry, proposal: Proposal, done: Applied) -> None:
        """Any step of a restore but the last."""
        refusal = self._arriving.take(decode_restore(proposal.data), entry.index, entry.term)
        if proposal.origin == self._node_id:
            done.answers.append((proposal.number, entry.index, entry.term, refusal))

    def _apply_own(self, entry: LogEntry, proposal: Proposal, done: Applied) -> None:
        """Decode an entry of the runtime's own. Raises Unreadable if it has no effect, on every node alike."""
        if proposal.kind == Kind.RESTORE:
            self._restore_step(entry, proposal, done)
            return
        answer = self.sessions.change(entry, proposal) if proposal.kind == Kind.SESSION else None
        if proposal.origin == self._node_id:
            done.answers.append((proposal.number, entry.index, entry.term, answer))
        if proposal.kind == Kind.SESSION:
            return
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
