"""The table of sessions: which commands took effect, and their answers.

A caller gives each command a key (`OnceKey`): a session and a sequence in it, or a free text. A command takes effect
when its key comes for the first time. Later ones with the same key get the recorded answer.

Whether a command takes effect depends on keys alone: on the order of the log, and never on answers. Answers are kept
in addition, as many as there is room for. So all nodes decide alike, even if one of them does not have an answer. That
happens: a state machine that is durable by itself applies no entry again at a start. And another version of a program
may write an answer in more bytes.

Limits (`Limits`) of the keys, kept in log order and alike on all nodes:

- A session keeps the sequences from its floor on, `window` of them. A caller raises the floor. A sequence above the
  window raises it, too. A sequence below the floor is expired.
- There are at most so many `sessions`, with so many `sequences` together. Above it the session that was used least
  recently ends.
- So many of the newest free `texts` are kept.

Limits of the answers, which decide nothing else: `answer_bytes` of one answer, `session_bytes` of one session,
`table_bytes` of all sessions, `text_bytes` of all free texts. An answer above the first two is not kept. Above the
others the answers of the session that was answered least recently, or of the oldest text, are dropped.

The table is used by one thread at a time. It reads no clock.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict, deque
from collections.abc import Iterable
from enum import IntEnum
from typing import Final, TypeAlias

import msgspec

from syncline.sessions.entries import FINGERPRINT_BYTES, OnceKey, SessionChange, SessionCommand, checksum_of

__all__ = [
    "Limits",
    "Record",
    "SessionTable",
    "SessionView",
    "CommandState",
    "TableView",
    "KeyFault",
    "answer_of",
    "state_of",
]


class CommandState(IntEnum):
    """What is known of a command. The byte behind the fingerprint in a record: never renumbered."""

    APPLYING = 0
    """It is in the batch that is being applied."""
    ANSWERED = 1
    """The state machine's answer follows."""
    REFUSED = 2
    """The state machine's refusal follows."""
    NOT_KEPT = 3
    """It was applied, or refused, and its answer is not kept."""


class KeyFault(IntEnum):
    """Why a command is not applied, other than that it was applied before."""

    EXPIRED = 0
    """Its session is not there, or its sequence is below the session's floor."""
    MISMATCH = 1
    """Its key was used for another command."""


Record: TypeAlias = bytes
"""What is kept of a command: its fingerprint, its `CommandState`, and its answer. One object: there may be many."""


class Limits(msgspec.Struct, frozen=True):
    """The limits of a table. All but those in bytes must be the same on all nodes: only tests change them."""

    window: int = 1_024
    """Sequences of one session: as many commands may be under way."""
    sessions: int = 10_000
    sequences: int = 500_000
    """Of all sessions: some 150 bytes of memory each."""
    texts: int = 100_000
    answer_bytes: int = 64 << 10
    session_bytes: int = 4 << 20
    """Answers of one session, so that one caller does not displace the answers of all others."""
    table_bytes: int = 64 << 20
    text_bytes: int = 32 << 20


class _OpenSession:
    __slots__ = ("answer_bytes", "epoch", "floor", "records", "used")

    def __init__(self, floor: int, used: int, records: dict[int, Record]) -> None:
        self.floor = floor
        self.used = used
        """The index of the last entry that used it."""
        self.records = records
        """By sequence, of those from the floor on."""
        self.answer_bytes = 0
        self.epoch = 0
        """`SessionTable._epoch` when the records were copied last: a view that was taken later shares them."""


class SessionView(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One session in a view of the table, and in a snapshot."""

    id: int
    floor: int
    used: int
    records: dict[int, Record]


class TableView(msgspec.Struct, frozen=True):
    """The table at one moment. Sessions and texts are in the order in which they would be dropped."""

    sessions: list[SessionView]
    texts: dict[bytes, Record]


_EMPTY_STATE: Final = bytes([CommandState.APPLYING])
_NOT_KEPT: Final = bytes([CommandState.NOT_KEPT])
_HEAD: Final = FINGERPRINT_BYTES + 1
_MASK: Final = 2**64 - 1
_SESSION: Final = struct.Struct("<QQQ")


class SessionTable:
    """Sessions, free texts, and the recorded answers."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits: Limits = Limits() if limits is None else limits
        self._sessions: OrderedDict[int, _OpenSession] = OrderedDict()
        """Least recently used first."""
        self._answered: OrderedDict[int, None] = OrderedDict()
        """Sessions that have answers, in the order in which these are dropped."""
        self._texts: dict[bytes, Record] = {}
        """Oldest first."""
        self._text_order: deque[bytes] = deque()
        """The same texts: to find the first key of a dict takes long after many were removed."""
        self._answered_texts: OrderedDict[bytes, None] = OrderedDict()
        self._sequences = 0
        self.answer_bytes: int = 0
        """Answers of all sessions."""
        self.text_answer_bytes: int = 0
        self._checksum = 0
        """Sum of the checksums of all keys with their fingerprints."""
        self._epoch = 0
        """Views taken so far."""

    def __len__(self) -> int:
        """The number of open sessions."""
        return len(self._sessions)

    def __contains__(self, session: int) -> bool:
        return session in self._sessions

    @property
    def texts(self) -> int:
        """The number of free texts that are kept."""
        return len(self._texts)

    # -- sessions -----------------------------------------------------------------------------------------------------

    def change(self, change: SessionChange, index: int, term: int) -> bool:
        """Open or end sessions, by the entry at `index`. Returns whether that had an effect."""
        if change.opened:
            return self._open(change.opened, index)
        if change.term not in (0, term):
            return False  # what a leader decided that does not lead any more
        ended = False
        for session_id in change.ended:
            session = self._sessions.get(session_id)
            if session is not None and not (change.term and session.used > change.bound):
                self._drop(session_id)
                ended = True
        return ended

    def _open(self, session_id: int, index: int) -> bool:
        if session_id in self._sessions:
            return False
        self._sessions[session_id] = _OpenSession(1, index, {})
        while len(self._sessions) > self.limits.sessions:
            self._drop(next(iter(self._sessions)))
        return True

    def _drop(self, session_id: int) -> None:
        session = self._sessions.pop(session_id)
        self._answered.pop(session_id, None)
        self._sequences -= len(session.records)
        self.answer_bytes -= session.answer_bytes
        for sequence, record in session.records.items():
            self._uncount(session_id, sequence, record)

    def idle(self, bound: int, most: int) -> tuple[int, ...]:
        """Sessions that no entry above index `bound` has used, at most `most`."""
        found: list[int] = []
        for session_id, session in self._sessions.items():  # least recently used first
            if session.used > bound or len(found) >= most:
                break
            found.append(session_id)
        return tuple(found)

    # -- commands -----------------------------------------------------------------------------------------------------

    def begin(self, command: SessionCommand, index: int) -> Record | KeyFault | None:
        """Decide about the command of the entry at `index`. None: apply it, and call `finish`.

        Else it must not be applied: the record of the first one with its key, or why there is none.
        """
        key, fingerprint = command.key, command.fingerprint
        if key.text:
            return self._begin_text(key.text, fingerprint)
        session = self._sessions.get(key.session)
        if session is None:
            return KeyFault.EXPIRED
        session.used = index
        self._sessions.move_to_end(key.session)
        sequence = key.sequence
        floor = max(key.floor, sequence - self.limits.window + 1)
        if floor > session.floor:
            self._raise_floor(key.session, session, floor)
        if sequence < session.floor:
            return KeyFault.EXPIRED
        held = session.records.get(sequence)
        if held is not None:
            return held if held[:FINGERPRINT_BYTES] == fingerprint else KeyFault.MISMATCH
        self._own(session)[sequence] = fingerprint + _EMPTY_STATE
        self._sequences += 1
        self._checksum += checksum_of(key.session, sequence, fingerprint)
        while self._sequences > self.limits.sequences and len(self._sessions) > 1:
            self._drop(next(iter(self._sessions)))
        return None

    def _begin_text(self, text: bytes, fingerprint: bytes) -> Record | KeyFault | None:
        held = self._texts.get(text)
        if held is not None:
            return held if held[:FINGERPRINT_BYTES] == fingerprint else KeyFault.MISMATCH
        self._texts[text] = fingerprint + _EMPTY_STATE
        self._text_order.append(text)
        self._checksum += checksum_of(0, len(text), text + fingerprint)
        while len(self._texts) > self.limits.texts:
            oldest = self._text_order.popleft()
            record = self._texts.pop(oldest)
            self._answered_texts.pop(oldest, None)
            self.text_answer_bytes -= len(record) - _HEAD
            self._checksum -= checksum_of(0, len(oldest), oldest + record[:FINGERPRINT_BYTES])
        return None

    def _raise_floor(self, session_id: int, session: _OpenSession, floor: int) -> None:
        records = self._own(session)
        below = range(session.floor, floor) if floor - session.floor <= len(records) else sorted(records)
        session.floor = floor
        for sequence in below:
            if sequence >= floor:
                break
            record = records.pop(sequence, None)
            if record is not None:
                self._sequences -= 1
                size = len(record) - _HEAD
                session.answer_bytes -= size
                self.answer_bytes -= size
                self._uncount(session_id, sequence, record)
        if not session.answer_bytes:
            self._answered.pop(session_id, None)

    def _own(self, session: _OpenSession) -> dict[int, Record]:
        """The session's records, to be changed: copied first if a view has them."""
        if session.epoch != self._epoch:
            session.records, session.epoch = session.records.copy(), self._epoch
        return session.records

    def _uncount(self, session_id: int, sequence: int, record: Record) -> None:
        self._checksum -= checksum_of(session_id, sequence, record[:FINGERPRINT_BYTES])

    def finish(self, key: OnceKey, state: CommandState, answer: bytes = b"") -> None:
        """Record the answer of a command that `begin` let pass, unless its key is not kept any more.

        `answer` is empty unless `state` says that one follows.
        """
        if len(answer) > self.limits.answer_bytes:
            state, answer = CommandState.NOT_KEPT, b""
        if key.text:
            self._finish_text(key.text, state, answer)
            return
        session = self._sessions.get(key.session)
        held = session.records.get(key.sequence) if session is not None else None
        if session is None or held is None:
            return  # a later entry of the same batch has ended the session, or raised its floor
        if session.answer_bytes + len(answer) > self.limits.session_bytes:
            state, answer = CommandState.NOT_KEPT, b""
        self._own(session)[key.sequence] = b"%s%c%s" % (held[:FINGERPRINT_BYTES], state, answer)
        if not answer:
            return
        session.answer_bytes += len(answer)
        self.answer_bytes += len(answer)
        self._answered[key.session] = None
        self._answered.move_to_end(key.session)
        while self.answer_bytes > self.limits.table_bytes:
            self._drop_answers(self._answered.popitem(last=False)[0])

    def _drop_answers(self, session_id: int) -> None:
        session = self._sessions[session_id]
        session.records = {sequence: _without_answer(record) for sequence, record in session.records.items()}
        self.answer_bytes -= session.answer_bytes
        session.answer_bytes = 0

    def _finish_text(self, text: bytes, state: CommandState, answer: bytes) -> None:
        held = self._texts.get(text)
        if held is None:
            return
        self._texts[text] = b"%s%c%s" % (held[:FINGERPRINT_BYTES], state, answer)
        if not answer:
            return
        self.text_answer_bytes += len(answer)
        self._answered_texts[text] = None
        while self.text_answer_bytes > self.limits.text_bytes:
            oldest = self._answered_texts.popitem(last=False)[0]
            record = self._texts[oldest]
            self.text_answer_bytes -= len(record) - _HEAD
            self._texts[oldest] = _without_answer(record)

    # -- the state as a whole -----------------------------------------------------------------------------------------

    def digest(self) -> bytes:
        """The digest of all that decides which commands take effect. It does not depend on answers.

        Takes time with the number of sessions, a few milliseconds at most.
        """
        whole = hashlib.blake2b(digest_size=16)
        pack = _SESSION.pack
        whole.update(b"".join([pack(id_, held.floor, held.used) for id_, held in self._sessions.items()]))
        whole.update(_SESSION.pack(len(self._sessions), len(self._texts), self._checksum & _MASK))
        return whole.digest()

    def view(self) -> TableView:
        """The table as it is now, in some milliseconds at most: records are copied when their session changes."""
        self._epoch += 1
        sessions = [SessionView(id_, one.floor, one.used, one.records) for id_, one in self._sessions.items()]
        return TableView(sessions, self._texts.copy())

    @classmethod
    def of(
        cls, sessions: Iterable[SessionView], texts: Iterable[tuple[bytes, Record]], limits: Limits | None = None
    ) -> SessionTable:
        """The table of a view. Raises ValueError if it is none that a table could have given."""
        table = cls(limits)
        for view in sessions:
            table._load(view)
        for text, record in texts:
            _check(len(text) > 0 and text not in table._texts, "a free text is empty, or there twice")
            _check_record(record)
            table._texts[text] = record
            table._text_order.append(text)
            table._checksum += checksum_of(0, len(text), text + record[:FINGERPRINT_BYTES])
            if len(record) > _HEAD:
                table.text_answer_bytes += len(record) - _HEAD
                table._answered_texts[text] = None
        return table

    def _load(self, view: SessionView) -> None:
        last = self._sessions[next(reversed(self._sessions))].used if self._sessions else 0
        _check(view.id > 0 and view.id not in self._sessions, "the id of a session is 0, or there twice")
        _check(view.used >= last and view.floor > 0, "sessions are not in the order of their last use")
        session = _OpenSession(view.floor, view.used, view.records)
        for sequence, record in view.records.items():
            _check(sequence >= view.floor, "a sequence is below the floor of its session")
            _check_record(record)
            session.answer_bytes += len(record) - _HEAD
            self._checksum += checksum_of(view.id, sequence, record[:FINGERPRINT_BYTES])
        self._sessions[view.id] = session
        self._sequences += len(view.records)
        self.answer_bytes += session.answer_bytes
        if session.answer_bytes:
            self._answered[view.id] = None

    def check(self) -> None:
        """Assert the invariants. For tests: it reads the whole table."""
        limits, sessions = self.limits, self._sessions
        records = [record for session in sessions.values() for record in session.records.values()]
        assert len(sessions) <= limits.sessions
        assert self._sequences == len(records) <= max(limits.sequences, limits.window)
        assert self.answer_bytes == sum(len(record) - _HEAD for record in records) <= limits.table_bytes
        assert self.text_answer_bytes == sum(len(held) - _HEAD for held in self._texts.values()) <= limits.text_bytes
        assert len(self._texts) <= limits.texts
        assert list(self._texts) == list(self._text_order)
        assert set(self._answered) == {id_ for id_, session in sessions.items() if session.answer_bytes}
        uses = [session.used for session in sessions.values()]
        assert uses == sorted(uses), "least recently used first"
        for session in sessions.values():
            assert all(session.floor <= sequence for sequence in session.records)
            assert len(session.records) <= limits.window
        view = self.view()
        copy = SessionTable.of(view.sessions, view.texts.items(), limits)
        assert copy.digest() == self.digest(), "the checksum is that of all keys"


def state_of(record: Record) -> CommandState:
    """What is known of the command of a record."""
    return CommandState(record[FINGERPRINT_BYTES])


def answer_of(record: Record) -> bytes:
    """The recorded answer, or refusal, as bytes."""
    return record[_HEAD:]


def _without_answer(record: Record) -> Record:
    if len(record) == _HEAD:
        return record
    return record[:FINGERPRINT_BYTES] + _NOT_KEPT


def _check_record(record: Record) -> None:
    sound = len(record) >= _HEAD and CommandState.APPLYING < record[FINGERPRINT_BYTES] <= CommandState.NOT_KEPT
    _check(
        sound and (len(record) == _HEAD or record[FINGERPRINT_BYTES] != CommandState.NOT_KEPT), "a record is malformed"
    )


def _check(sound: bool, why: str) -> None:
    if not sound:
        raise ValueError(why)
