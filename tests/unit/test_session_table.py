"""The table of sessions: which commands take effect, against a naive model; limits, snapshots and the digest."""

from __future__ import annotations

import io
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.sessions.entries import (
    OnceKey,
    SessionChange,
    SessionCommand,
    decode_change,
    decode_command,
    encode_change,
    encode_command,
    fingerprint_of,
)
from syncline.sessions.snapshot import read_section, write_section
from syncline.sessions.table import CommandState, KeyFault, Limits, SessionTable, answer_of, state_of

SMALL = Limits(
    window=4, sessions=3, sequences=8, texts=3, answer_bytes=20, session_bytes=30, table_bytes=60, text_bytes=40
)


def command(session: int, sequence: int, floor: int = 0, data: bytes = b"x") -> SessionCommand:
    return SessionCommand(OnceKey(session, sequence, floor), fingerprint_of(data), data)


def text(key: bytes, data: bytes = b"x") -> SessionCommand:
    return SessionCommand(OnceKey(text=key), fingerprint_of(data), data)


class Log:
    """A table that is given entries one by one."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.table = SessionTable(limits)
        self.index = 0

    def open(self, session: int) -> bool:
        self.index += 1
        return self.table.change(SessionChange(opened=session), self.index, 1)

    def end(self, *sessions: int, term: int = 0, bound: int = 0, entry_term: int = 1) -> bool:
        self.index += 1
        return self.table.change(SessionChange(ended=sessions, term=term, bound=bound), self.index, entry_term)

    def run(self, command: SessionCommand, answer: bytes = b"answer") -> bytes | KeyFault | None:
        """None if it was applied, now with this answer; else the recorded one."""
        self.index += 1
        held = self.table.begin(command, self.index)
        if held is None:
            self.table.finish(command.key, CommandState.ANSWERED, answer)
            return None
        if isinstance(held, KeyFault):
            return held
        return answer_of(held) if state_of(held) is CommandState.ANSWERED else b"not kept"


def copied(table: SessionTable) -> SessionTable:
    parts: list[bytes] = []
    write_section(table.view(), parts.append)
    source = io.BytesIO(b"".join(parts) + b"machine")
    read = read_section(source, table.limits)
    assert source.read() == b"machine", "it is left at the state machine's data"
    return read


# -- the naive model --------------------------------------------------------------------------------------------------


class Naive:
    """The rules, with lists that are searched from end to end."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.sessions: list[tuple[int, int, dict[int, bytes]]] = []
        """(id, floor, commands by sequence), least recently used first."""
        self.texts: list[tuple[bytes, bytes]] = []

    def change(self, change: SessionChange) -> None:
        if change.opened and change.opened not in [one[0] for one in self.sessions]:
            self.sessions.append((change.opened, 1, {}))
            self.sessions = self.sessions[-self.limits.sessions :]
        self.sessions = [one for one in self.sessions if one[0] not in change.ended]

    def applies(self, command: SessionCommand) -> bool | KeyFault:
        """Whether it takes effect."""
        key, data = command.key, command.data
        if key.text:
            for known, before in self.texts:
                if known == key.text:
                    return False if before == data else KeyFault.MISMATCH
            self.texts = [*self.texts, (key.text, data)][-self.limits.texts :]
            return True
        mine = [one for one in self.sessions if one[0] == key.session]
        if not mine:
            return KeyFault.EXPIRED
        id_, floor, done = mine[0]
        floor = max(floor, key.floor, key.sequence - self.limits.window + 1)
        done = {sequence: before for sequence, before in done.items() if sequence >= floor}
        verdict: bool | KeyFault
        if key.sequence < floor:
            verdict = KeyFault.EXPIRED
        elif key.sequence in done:
            verdict = False if done[key.sequence] == data else KeyFault.MISMATCH
        else:
            done[key.sequence] = data
            verdict = True
        self.sessions = [one for one in self.sessions if one[0] != id_] + [(id_, floor, done)]
        while sum(len(one[2]) for one in self.sessions) > self.limits.sequences:
            self.sessions = self.sessions[1:]
        return verdict


changes = st.builds(
    lambda session, opens: SessionChange(opened=session) if opens else SessionChange(ended=(session,)),
    st.integers(1, 5),
    st.sampled_from([True, True, True, False]),
)
keyed = st.builds(
    lambda session, sequence, back, data: command(session, sequence, max(0, sequence - back), data),
    st.integers(1, 5),
    st.integers(1, 12),
    st.integers(0, 12),
    st.sampled_from([b"x", b"x", b"x", b"y"]),
)
free = st.builds(text, st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), st.sampled_from([b"x", b"x", b"y"]))
steps = st.lists(st.one_of(changes, keyed, keyed, keyed, free, st.just("restart"), st.integers(0, 25)), max_size=60)


@settings(max_examples=400, deadline=None)
@given(steps)
def test_session_table_decides_as_a_naive_model(history: list[SessionChange | SessionCommand | str | int]) -> None:
    """Duplicates, any order of arrival, floors, evictions, answers of any size, and a snapshot at any point."""
    log, naive = Log(SMALL), Naive(SMALL)
    answers: dict[OnceKey, bytes] = {}
    size = 3
    for number, step in enumerate(history):
        if isinstance(step, int):
            size = step
        elif isinstance(step, str):
            digest = log.table.digest()
            log.table = copied(log.table)
            assert log.table.digest() == digest
        elif isinstance(step, SessionChange):
            log.index += 1
            log.table.change(step, log.index, 1)
            naive.change(step)
        else:
            identity = OnceKey(step.key.session, step.key.sequence, 0, step.key.text)
            answer = b"%d " % number + bytes(size)
            came, expected = log.run(step, answer), naive.applies(step)
            if expected is True:
                assert came is None
                answers[identity] = answer
            elif isinstance(expected, KeyFault):
                assert came is expected
            else:
                assert came in (answers[identity], b"not kept")
        log.table.check()


# -- single rules -----------------------------------------------------------------------------------------------------


def test_session_command_sent_again_gets_the_recorded_answer() -> None:
    log = Log()
    log.open(7)
    assert log.run(command(7, 1), b"first") is None
    assert log.run(command(7, 1), b"second") == b"first"


def test_session_sequences_in_any_order_each_run_once() -> None:
    log = Log()
    log.open(7)
    order = list(range(1, 51)) * 3
    random.Random(1).shuffle(order)
    ran = [sequence for sequence in order if log.run(command(7, sequence), b"%d" % sequence) is None]
    assert sorted(ran) == list(range(1, 51))


def test_session_sequence_below_the_floor_is_expired() -> None:
    log = Log()
    log.open(7)
    log.run(command(7, 1))
    log.run(command(7, 3, floor=3))
    assert log.run(command(7, 1)) is KeyFault.EXPIRED
    assert log.run(command(7, 2)) is KeyFault.EXPIRED


def test_session_window_moves_with_the_highest_sequence() -> None:
    """Over HTTP no floor travels: a sequence that is 1,024 below the highest is expired."""
    log = Log()
    log.open(7)
    log.run(command(7, 1))
    log.run(command(7, 2))
    log.run(command(7, 1025))
    assert log.run(command(7, 1)) is KeyFault.EXPIRED
    assert log.run(command(7, 2)) == b"answer"


def test_session_key_of_another_command_is_a_mismatch() -> None:
    log = Log()
    log.open(7)
    log.run(command(7, 1, data=b"one"))
    assert log.run(command(7, 1, data=b"two")) is KeyFault.MISMATCH
    log.run(text(b"key", b"one"))
    assert log.run(text(b"key", b"two")) is KeyFault.MISMATCH


def test_session_that_was_never_opened_runs_nothing() -> None:
    assert Log().run(command(7, 1)) is KeyFault.EXPIRED


def test_session_that_has_ended_never_runs_a_command_again() -> None:
    log = Log()
    log.open(7)
    log.run(command(7, 1))
    assert log.end(7)
    assert log.run(command(7, 1)) is KeyFault.EXPIRED
    assert not log.end(7)


def test_session_least_recently_used_ends_above_the_limit() -> None:
    log = Log(SMALL)
    for session in (1, 2, 3):
        log.open(session)
    log.run(command(1, 1))
    log.open(4)
    assert [session in log.table for session in (1, 2, 3, 4)] == [True, False, True, True]


def test_session_of_many_sequences_displaces_the_least_recently_used() -> None:
    log = Log(SMALL)
    for session in (1, 2, 3):
        log.open(session)
        for sequence in range(1, 5):
            log.run(command(session, sequence))
    assert [session in log.table for session in (1, 2, 3)] == [False, True, True]


def test_session_eviction_does_not_depend_on_answers() -> None:
    """A durable state machine has no answers for what it applied before a start: it must decide as the others do."""
    full, bare = Log(SMALL), Log(SMALL)
    for session in (1, 2, 3):
        for log, size in ((full, 20), (bare, 0)):
            log.open(session)
            for sequence in range(1, 4):
                log.run(command(session, sequence), bytes(size))
    assert full.table.digest() == bare.table.digest()
    assert (full.table.answer_bytes, bare.table.answer_bytes) != (0, 0)
    full.table.check()


def test_session_answer_above_its_limit_is_not_kept() -> None:
    log = Log(SMALL)
    log.open(1)
    log.run(command(1, 1), bytes(21))
    assert log.run(command(1, 1)) == b"not kept"


def test_session_answers_of_one_caller_do_not_displace_all_others() -> None:
    log = Log(SMALL)
    log.open(1)
    log.open(2)
    log.run(command(2, 1), b"kept")
    for sequence in range(1, 5):
        log.run(command(1, sequence), bytes(20))
    assert log.run(command(2, 1)) == b"kept"
    assert log.run(command(1, 2)) == b"not kept"


def test_session_idle_end_spares_a_session_that_was_used_since() -> None:
    """The leader decides by its clock; an entry behind its note means that the session is used."""
    log = Log()
    log.open(1)
    log.open(2)
    bound = log.index
    log.run(command(2, 1))
    assert log.table.idle(bound, 10) == (1,)
    assert log.end(1, 2, term=1, bound=bound)
    assert (1 in log.table, 2 in log.table) == (False, True)


def test_session_idle_end_of_a_deposed_leader_has_no_effect() -> None:
    log = Log()
    log.open(1)
    assert not log.end(1, term=1, bound=9, entry_term=2)
    assert 1 in log.table


def test_session_text_is_kept_for_the_newest_keys() -> None:
    log = Log(SMALL)
    for key in (b"a", b"b", b"c"):
        log.run(text(key))
    assert log.run(text(b"a")) == b"answer"
    log.run(text(b"d"))
    assert log.run(text(b"a")) is None


def test_session_command_answered_after_its_session_ended_is_dropped() -> None:
    """Both may stand in one batch: decisions are made first, answers come when all is applied."""
    log = Log()
    log.open(1)
    log.table.begin(command(1, 1), 2)
    log.table.begin(command(1, 3, floor=3), 3)
    log.table.finish(OnceKey(1, 1), CommandState.ANSWERED, b"late")
    log.end(1)
    log.table.finish(OnceKey(1, 3), CommandState.ANSWERED, b"late")
    assert log.table.answer_bytes == 0
    log.table.check()


def test_session_digest_differs_for_each_difference_that_decides() -> None:
    logs = [Log() for _ in range(5)]
    for log in logs:
        log.open(1)
    logs[1].run(command(1, 1))
    logs[2].run(command(1, 2))
    logs[3].run(command(1, 1, data=b"y"))
    logs[4].run(text(b"key"))
    assert len({log.table.digest() for log in logs}) == 5


def test_session_view_does_not_change_with_the_table() -> None:
    """A snapshot is written beside later commands: it is of one moment."""
    log = Log()
    for session in (1, 2, 3):
        log.open(session)
        log.run(command(session, 1), b"before")
    log.run(text(b"a"))
    view = log.table.view()
    before = msgspec.msgpack.encode(view)
    log.run(command(1, 2), b"later")
    log.run(command(2, 9, floor=9), b"later")
    log.end(3)
    log.run(text(b"b"))
    assert msgspec.msgpack.encode(view) == before
    second = log.table.view()
    log.run(command(1, 3), b"latest")
    assert len(second.sessions[0].records) == 2
    log.table.check()


# -- bytes ------------------------------------------------------------------------------------------------------------


def filled(sessions: int = 5, sequences: int = 40) -> SessionTable:
    log = Log()
    for session in range(1, sessions + 1):
        log.open(session)
        for sequence in range(1, sequences + 1):
            log.run(command(session, sequence), b"%d" % sequence * 300)
    for number in range(20):
        log.run(text(b"key %d" % number), b"answer %d" % number)
    return log.table


def test_session_section_of_several_frames_is_read_as_it_was() -> None:
    table = filled(20, 200)
    parts: list[bytes] = []
    write_section(table.view(), parts.append)
    assert len(parts) > 8
    read = copied(table)
    assert read.view() == table.view()
    assert (read.digest(), read.answer_bytes, read.text_answer_bytes) == (
        *(table.digest(), table.answer_bytes, table.text_answer_bytes),
    )
    read.check()


def test_session_section_of_an_empty_table_is_written_too() -> None:
    parts: list[bytes] = []
    write_section(SessionTable().view(), parts.append)
    assert b"".join(parts).hex() == EMPTY_SECTION


EMPTY_SECTION = "53594e435345530a0300000092909000000000a9455d230f4ef2f992a2ebd7c44c1a7d"
"""The golden bytes: docs/formats.md."""


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_session_section_with_a_changed_byte_is_refused(position: int, byte: int) -> None:
    parts: list[bytes] = []
    write_section(filled(2, 3).view(), parts.append)
    data = bytearray(b"".join(parts))
    position %= len(data)
    if data[position] == byte:
        byte ^= 1
    data[position] = byte
    with pytest.raises(ValueError):
        read_section(io.BytesIO(bytes(data)))
    with pytest.raises(ValueError):
        read_section(io.BytesIO(bytes(data[:position])))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_session_entries_of_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        read = decode_command(data)
    except ValueError:
        pass
    else:
        assert decode_command(encode_command(read)) == read
    try:
        changed = decode_change(data)
    except ValueError:
        return
    assert decode_change(encode_change(changed)) == changed


@pytest.mark.parametrize(
    "key",
    [
        OnceKey(),
        OnceKey(1, 0),
        OnceKey(0, 1),
        OnceKey(1, 1, 2),
        OnceKey(1, 1, text=b"x"),
        OnceKey(text=bytes(129)),
        OnceKey(-1, 1),
        OnceKey(2**63, 1),
    ],
)
def test_session_command_with_a_wrong_key_is_refused(key: OnceKey) -> None:
    data = encode_command(SessionCommand(key, bytes(8), b""))
    with pytest.raises(ValueError):
        decode_command(data)


@pytest.mark.parametrize(
    "change",
    [SessionChange(), SessionChange(1, (2,)), SessionChange(0, (0,)), SessionChange(0, tuple(range(1, 1002)))],
)
def test_session_change_that_makes_no_sense_is_refused(change: SessionChange) -> None:
    data = encode_change(change)
    with pytest.raises(ValueError):
        decode_change(data)


def test_session_entries_have_their_golden_bytes() -> None:
    """Part of the log format (docs/formats.md)."""
    assert encode_command(command(7, 2, 1, b"ab")).hex() == "9394070201c400c4080e52b5f187de1088c4026162"
    assert encode_change(SessionChange(opened=7)).hex() == "9407900000"
    assert encode_change(SessionChange(ended=(7, 8), term=3, bound=9)).hex() == "94009207080309"
