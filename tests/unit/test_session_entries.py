"""Entries about sessions in the applier: forged ones have no effect, and what one batch decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from syncline import Entry
from syncline.consensus.types import EntryType, LogEntry
from syncline.errors import AnswerNotKept, Dropped, IdempotencyMismatch, Rejected, SessionExpired
from syncline.node.applier import Applied, Applier, ApplyWork, Outcome
from syncline.node.envelope import Kind, Proposal, encode
from syncline.node.examination import examine_proposal
from syncline.node.futures import Repeated
from syncline.node.session_entries import codec_of
from syncline.platform.worker import ThreadWorkers
from syncline.sessions.answers import AnswerCodec, not_kept
from syncline.sessions.entries import (
    OnceKey,
    SessionChange,
    SessionCommand,
    encode_change,
    encode_command,
    fingerprint_of,
)
from tests.helpers.node_cluster import Listing, LoopListing

ME = 1
SESSION = encode_change(SessionChange(opened=7))


def once(sequence: int, data: bytes = b"x", session: int = 7, floor: int = 0) -> bytes:
    return encode_command(SessionCommand(OnceKey(session, sequence, floor), fingerprint_of(data), data))


def applied(
    machine: Listing, *contents: tuple[Kind, bytes], origin: int = ME
) -> tuple[dict[int, object], list[tuple[int, str]]]:
    """Apply these entries as one batch; the answers by index, and the entries without effect."""

    async def run() -> Applied:
        loop, found = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def deliver(outcome: Outcome) -> None:
            loop.call_soon(found.set_result, outcome)

        applier = Applier(machine, ME, ThreadWorkers(), deliver, found.set_exception)
        entries = [
            LogEntry(1, index, EntryType.NORMAL, encode(Proposal(kind, origin, 100 + index, data)))
            for index, (kind, data) in enumerate(contents, 1)
        ]
        applier.put(ApplyWork(entries, ()))
        outcome = await found
        await applier.close()
        assert isinstance(outcome, Applied)
        return outcome

    done = asyncio.run(run())
    return {index: answer for _, index, _, answer in done.answers}, done.ignored


FORGED = {
    "nothing": b"",
    "another type": msgspec.msgpack.encode({"key": 1}),
    "a short fingerprint": msgspec.msgpack.encode([[7, 1, 0, b""], b"short", b"x"]),
    "no key": msgspec.msgpack.encode([[0, 0, 0, b""], bytes(8), b"x"]),
    "two keys": msgspec.msgpack.encode([[7, 1, 0, b"text"], bytes(8), b"x"]),
    "a floor above the sequence": msgspec.msgpack.encode([[7, 1, 2, b""], bytes(8), b"x"]),
    "a number beyond all": msgspec.msgpack.encode([[2**64 - 1, 1, 0, b""], bytes(8), b"x"]),
    "a negative number": msgspec.msgpack.encode([[7, -1, 0, b""], bytes(8), b"x"]),
    "a long text": msgspec.msgpack.encode([[0, 0, 0, bytes(129)], bytes(8), b"x"]),
    "no command": msgspec.msgpack.encode([[7, 1, 0, b""], bytes(8), None]),
}


@pytest.mark.parametrize("name", FORGED)
def test_session_command_that_is_forged_has_no_effect(name: str) -> None:
    """One of a faulty member must not stop a node; the leader does not append it either."""
    answers, ignored = applied(
        Listing(), (Kind.SESSION, SESSION), (Kind.SESSION_COMMAND, FORGED[name]), (Kind.SESSION_COMMAND, once(1))
    )
    assert [index for index, _ in ignored] == [2]
    assert answers == {1: True, 3: 1}
    with pytest.raises(Dropped):
        examine_proposal(encode(Proposal(Kind.SESSION_COMMAND, ME, 5, FORGED[name])), ME, 5)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        msgspec.msgpack.encode([0, [], 0, 0]),
        msgspec.msgpack.encode([1, [2], 0, 0]),
        msgspec.msgpack.encode([0, list(range(1, 1002)), 0, 0]),
        msgspec.msgpack.encode([-1, [], 0, 0]),
    ],
)
def test_session_change_that_is_forged_has_no_effect(data: bytes) -> None:
    answers, ignored = applied(Listing(), (Kind.SESSION, data), (Kind.COMMAND, b"x"))
    assert [index for index, _ in ignored] == [1]
    assert answers == {2: 1}
    with pytest.raises(Dropped):
        examine_proposal(encode(Proposal(Kind.SESSION, ME, 5, data)), ME, 5)


def test_session_idle_end_of_a_follower_is_not_appended() -> None:
    """Only a leader ends sessions for idleness, by its own clock."""
    data = encode_change(SessionChange(ended=(7,), term=1, bound=9))
    with pytest.raises(Dropped, match="leader alone"):
        examine_proposal(encode(Proposal(Kind.SESSION, ME, 5, data)), ME, 5)


@pytest.mark.parametrize("make", [Listing, LoopListing])
def test_session_commands_in_one_batch_are_decided_in_order(make: Callable[[], Listing]) -> None:
    machine = make()
    answers, ignored = applied(
        machine,
        (Kind.SESSION_COMMAND, once(1)),  # not open yet
        (Kind.SESSION, SESSION),
        (Kind.SESSION_COMMAND, once(1, b"a")),
        (Kind.COMMAND, b"plain"),
        (Kind.SESSION_COMMAND, once(1, b"a")),
        (Kind.SESSION_COMMAND, once(1, b"b")),
        (Kind.SESSION_COMMAND, once(2, b"refuse")),
        (Kind.SESSION_COMMAND, once(2, b"refuse")),
        (Kind.SESSION_COMMAND, once(3, b"c", floor=3)),
        (Kind.SESSION_COMMAND, once(1, b"a")),
        (Kind.SESSION, encode_change(SessionChange(ended=(7,)))),
        (Kind.SESSION_COMMAND, once(3, b"c")),
    )
    assert ignored == []
    assert machine.items == [b"a", b"plain", b"c"]
    assert isinstance(answers[1], SessionExpired)
    assert (answers[2], answers[3], answers[4], answers[9], answers[11]) == (True, 1, 2, 3, True)
    assert answers[5] == Repeated(1)
    assert isinstance(answers[6], IdempotencyMismatch)
    assert isinstance(answers[7], Rejected)
    assert isinstance(answers[8], Repeated)
    assert answers[8].answer is answers[7]
    assert isinstance(answers[10], SessionExpired), "the floor went above it in this batch"
    assert isinstance(answers[12], SessionExpired)


def test_session_commands_of_other_nodes_are_answered_there() -> None:
    answers, _ = applied(
        Listing(), (Kind.SESSION, SESSION), (Kind.SESSION_COMMAND, once(1)), (Kind.SESSION_COMMAND, once(1)), origin=2
    )
    assert answers == {}


# -- answers as bytes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [None, 1, -(2**63), 2**64 - 1, 1.5, "text", b"bytes", True, [1, [2, b"3"]], {"a": [1]}, {}, [], ""]
)
def test_session_answer_of_plain_data_comes_back_equal(answer: object) -> None:
    codec = AnswerCodec()
    state, data = codec.dump(answer)
    assert codec.load(bytes(8) + bytes([state]) + data) == answer


@pytest.mark.parametrize("answer", [object(), (1, 2), {1: object()}, 2**64, {1, 2}, float("nan"), Listing(), 1j])
def test_session_answer_that_would_come_back_another_one_is_not_kept(answer: object) -> None:
    """A tuple would be a list, an object a dict: the caller of a repeated command must not get something else."""
    codec = AnswerCodec()
    state, data = codec.dump(answer)
    assert isinstance(codec.load(bytes(8) + bytes([state]) + data), AnswerNotKept)


def test_session_refusal_comes_back_with_code_and_details() -> None:
    codec = AnswerCodec()
    state, data = codec.dump(Rejected("no", code="refused", details={"at": 7, "why": "late"}))
    again = codec.load(bytes(8) + bytes([state]) + data)
    assert isinstance(again, Rejected)
    assert (str(again), again.code, again.details) == ("no", "refused", {"at": 7, "why": "late"})


class _Mute(Rejected):
    def __str__(self) -> str:
        raise LookupError("no text")


@pytest.mark.parametrize(
    "refusal",
    [
        Rejected("no", details={"at": 2**64}),
        Rejected("\ud800"),
        Rejected("no", code="\udfff"),
        Rejected("no", details={"why": "\ud800"}),
        Rejected("no", details={"why": object()}),  # type: ignore[dict-item]
        Rejected("no", details=[1]),  # type: ignore[arg-type]
        _Mute("no"),
    ],
    ids=["number", "text", "code", "detail", "object", "list", "mute"],
)
def test_session_refusal_that_can_not_be_written_stops_no_node(refusal: Rejected) -> None:
    """It is raised by each node at the same entry, and again at each start: it would stop the cluster for good."""

    class Refusing(Listing):
        def apply(self, entry: Entry) -> object:
            raise refusal

    answers, _ = applied(Refusing(), (Kind.SESSION, SESSION), (Kind.SESSION_COMMAND, once(1)))
    assert answers[2] is refusal
    codec = AnswerCodec()
    state, data = codec.dump(refusal)
    assert str(codec.load(bytes(8) + bytes([state]) + data)) == str(not_kept())


class Faulty(Listing):
    """A machine whose two methods do what the test says."""

    def __init__(self, dumped: object, loaded: object) -> None:
        super().__init__()
        self._dumped, self._loaded = dumped, loaded

    def dump_answer(self, answer: object) -> bytes:
        return _made(self._dumped)  # type: ignore[return-value]  # what a user's code may return

    def load_answer(self, data: bytes) -> object:
        return _made(self._loaded)


def _made(value: object) -> object:
    if isinstance(value, BaseException):
        raise value
    return value


@pytest.mark.parametrize(
    ("dumped", "loaded"),
    [(KeyError("k"), 1), ("text", 1), (b"fine", ValueError("v")), (None, 1), (3, 1), (asyncio.CancelledError(), 1)],
)
def test_session_machine_with_a_faulty_codec_goes_on(
    dumped: object, loaded: object, caplog: pytest.LogCaptureFixture
) -> None:
    """What was applied stays applied: its answer is not kept, and the log says why, once."""
    machine = Faulty(dumped, loaded)
    contents = [(Kind.SESSION, SESSION)]
    contents += [(Kind.SESSION_COMMAND, once(sequence)) for sequence in (1, 2)]
    answers, _ = applied(machine, *contents)
    assert (answers[2], answers[3]) == (1, 2)
    codec = codec_of(machine)
    caplog.clear()
    for _ in range(2):
        state, data = codec.dump(1)
        found = codec.load(bytes(8) + bytes([state]) + data)
        assert str(found) == str(not_kept())
    assert len(caplog.records) == (0 if dumped is None else 1)
