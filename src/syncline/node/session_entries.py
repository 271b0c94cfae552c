"""Entries about sessions in a batch that is being applied: which commands run, and the answers of the others.

Decisions about a batch are made before any of it is applied: they depend on keys alone (`sessions.table`). So a batch
is not divided for the sake of its sessions. A second command with the key of one that runs in the same batch gets the
same answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from syncline.consensus.types import LogEntry
from syncline.node.envelope import Kind, Proposal, StampedProposal, decode_session_change, decode_session_command
from syncline.node.fsm import FSM, AnswerKeepingFSM
from syncline.node.fsm import Entry as Command
from syncline.node.futures import Repeated
from syncline.sessions.answers import AnswerCodec, not_kept, verdict_error
from syncline.sessions.entries import OnceKey, SessionCommand
from syncline.sessions.table import CommandState, KeyFault, SessionTable, state_of

__all__ = ["SessionBatch", "SessionEntries", "codec_of"]

Given = TypeVar("Given")
Made = TypeVar("Made")

log: logging.Logger = logging.getLogger("syncline.node")


def codec_of(fsm: FSM[object]) -> AnswerCodec:
    """The functions that write and read the answers of this state machine. Their first fault is logged."""
    told: list[str] = []

    def failed(text: str) -> None:
        if not told:
            told.append(text)
            log.warning(
                "%s.%s: the answer is not kept for a repeated command. Further faults are not logged",
                *(type(fsm).__name__, text),
            )

    if isinstance(fsm, AnswerKeepingFSM):
        return AnswerCodec(_not_cancelled(fsm.dump_answer), _not_cancelled(fsm.load_answer), failed)
    return AnswerCodec(failed=failed)


def _not_cancelled(function: Callable[[Given], Made]) -> Callable[[Given], Made]:
    """The function, with another error in place of a cancellation: that is no `Exception`, and would pass by all that
    handles errors.
    """

    def called(argument: Given) -> Made:
        try:
            return function(argument)
        except asyncio.CancelledError as error:
            raise RuntimeError(f"it raised {type(error).__name__}") from error

    return called


class _FirstRun(msgspec.Struct, frozen=True):
    """A command of the batch that is applied for the first time, and its position among the batch's commands."""

    key: OnceKey
    position: int


class _Repeat(msgspec.Struct, frozen=True):
    """A repeated command of this node that gets the answer of one in the same batch."""

    number: int
    index: int
    term: int
    position: int


class SessionBatch:
    """The commands of sessions in one batch."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.running: dict[OnceKey, _FirstRun] = {}
        """By key, without its floor."""
        self.waiting: list[_Repeat] = []


class SessionEntries:
    """The table of sessions of one node, for its applier. Used on the state machine's thread alone."""

    def __init__(self, table: SessionTable, codec: AnswerCodec, node_id: int) -> None:
        self.table = table
        self._codec = codec
        self._node_id = node_id

    def change(self, entry: LogEntry, proposal: Proposal) -> bool:
        """Apply a `Kind.SESSION` entry. Returns whether it had an effect. Raises Unreadable."""
        return self.table.change(decode_session_change(proposal.data), entry.index, entry.term)

    def take(
        self,
        entry: LogEntry,
        proposal: StampedProposal,
        commands: list[Command],
        batch: SessionBatch,
        answers: list[tuple[int, int, int, object]],
        time_s: float = 0.0,
    ) -> bool:
        """Decide about a `Kind.SESSION_COMMAND` entry; whether its command was added to `commands`. Raises Unreadable.

        `time_s` is the entry's time. If it is not applied and of this node, its answer goes into `answers`, at once or
        with `finish`.
        """
        assert proposal.kind == Kind.SESSION_COMMAND
        command = decode_session_command(proposal.data)
        held = self.table.begin(command, entry.index)
        if held is None:
            batch.running[_identity(command)] = _FirstRun(command.key, len(commands))
            commands.append(Command(entry.index, entry.term, command.data, proposal.extensions, time_s, proposal.seed))
            return True
        if proposal.origin != self._node_id:
            return False
        number, index, term = proposal.number, entry.index, entry.term
        if isinstance(held, KeyFault):
            answers.append((number, index, term, verdict_error(held)))
        elif state_of(held) is CommandState.APPLYING:
            batch.waiting.append(_Repeat(number, index, term, batch.running[_identity(command)].position))
        else:
            answers.append((number, index, term, Repeated(self._codec.load(held))))
        return False

    def finish(
        self,
        batch: SessionBatch,
        commands: Sequence[Command],
        answers: Sequence[object],
        durable_index: int,
        given: list[tuple[int, int, int, object]],
    ) -> None:
        """Record the answers of the batch. Those up to `durable_index` were applied before this start: they have none.

        `given` takes the answers of repeated commands.
        """
        for running in batch.running.values():
            position = running.position
            if commands[position].index <= durable_index:
                self.table.finish(running.key, CommandState.NOT_KEPT)
            else:
                self.table.finish(running.key, *self._codec.dump(answers[position]))
        for waiting in batch.waiting:
            skipped = commands[waiting.position].index <= durable_index
            answer = not_kept() if skipped else answers[waiting.position]
            given.append((waiting.number, waiting.index, waiting.term, Repeated(answer)))


def _identity(command: SessionCommand) -> OnceKey:
    key = command.key
    return OnceKey(text=key.text) if key.text else OnceKey(key.session, key.sequence)
