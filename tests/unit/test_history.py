"""The record of what clients did: what a recorder writes down, and its stored form."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.errors import DeadlineExceeded, OperationError, Outcome
from syncline.testing.linearizability.history import (
    ABSENT,
    Call,
    CallCompare,
    DeleteCall,
    NotApplied,
    Operation,
    PutCall,
    Ran,
    ReadCall,
    Recorder,
    Refused,
    Result,
    Seen,
    TxnCall,
    Written,
    keys_of,
    read_history,
    write_history,
)

blobs = st.binary(max_size=4)
revisions = st.integers(0, 2**63 - 1)
expects = st.none() | st.integers(-1, 100)
steps = st.builds(PutCall, blobs, blobs) | st.builds(DeleteCall, blobs) | st.builds(ReadCall, blobs)
compares = st.builds(CallCompare, blobs, blobs | revisions, st.booleans())
requests: st.SearchStrategy[Call] = st.one_of(
    st.builds(PutCall, blobs, blobs, expects),
    st.builds(DeleteCall, blobs, expects),
    st.builds(ReadCall, blobs, st.booleans(), st.none() | st.floats(0, 60)),
    st.builds(TxnCall, st.tuples(compares), st.lists(steps).map(tuple), st.lists(steps).map(tuple)),
)
answers = st.builds(Written, revisions, st.none() | st.booleans()) | st.builds(Seen, st.none() | blobs, revisions)
results: st.SearchStrategy[Result] = st.one_of(
    answers,
    st.builds(Ran, st.booleans(), revisions, st.lists(answers).map(tuple)),
    st.builds(Refused, st.none() | revisions),
    st.builds(NotApplied, st.text(max_size=3)),
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def open_operation(client: str, request: Call, call_s: float) -> Operation:
    return Operation(client=client, request=request, call_s=call_s)


def stored(operations: list[Operation]) -> io.BytesIO:
    file = io.BytesIO()
    write_history(file, operations, {"seed": 7})
    file.seek(0)
    return file


def test_a_recorder_keeps_calls_and_returns_in_order() -> None:
    recorder = Recorder(Clock())
    slow = recorder.call("c1", PutCall(b"k", b"1"), node="a")
    quick = recorder.call("c2", ReadCall(b"k"))
    recorder.returned(quick, Seen(None))
    recorder.returned(slow, Written(1))
    assert recorder.history() == [
        Operation(client="c1", request=PutCall(b"k", b"1"), call_s=1, return_s=4, result=Written(1), node="a"),
        Operation(client="c2", request=ReadCall(b"k"), call_s=2, return_s=3, result=Seen(None)),
    ]


def test_what_is_still_open_is_of_unknown_fate() -> None:
    recorder = Recorder(Clock())
    recorder.call("c1", DeleteCall(b"k"))
    (operation,) = recorder.history()
    assert operation.unknown
    assert operation.return_s is None


def test_history_ends_what_was_not_applied_and_leaves_unknown_open() -> None:
    recorder = Recorder(Clock())
    recorder.failed(recorder.call("c1", PutCall(b"k", b"1")), OperationError("no", outcome=Outcome.NOT_APPLIED))
    recorder.failed(recorder.call("c1", PutCall(b"k", b"2")), DeadlineExceeded("late", outcome=Outcome.UNKNOWN))
    first, second = recorder.history()
    assert first.result == NotApplied("operation_failed")
    assert second.unknown


def test_an_operation_ends_once() -> None:
    recorder = Recorder(Clock())
    token = recorder.call("c1", PutCall(b"k", b"1"))
    recorder.returned(token, Written(1))
    with pytest.raises(KeyError):
        recorder.returned(token, Written(1))


@pytest.mark.parametrize(("return_s", "result"), [(None, Written(1)), (2.0, None), (0.5, Written(1))])
def test_an_operation_that_makes_no_sense_is_refused(return_s: float | None, result: Result | None) -> None:
    with pytest.raises(ValueError, match="return"):
        Operation(client="c1", request=PutCall(b"k", b"1"), call_s=1.0, return_s=return_s, result=result)


@given(st.lists(st.tuples(requests, st.none() | results)))
def test_a_stored_history_is_read_back_as_it_was(made: list[tuple[Call, Result | None]]) -> None:
    history = [
        Operation(client="c", request=request, call_s=at, return_s=None if result is None else at + 0.5, result=result)
        for at, (request, result) in enumerate(made)
    ]
    assert read_history(stored(history)) == history


def test_histories_of_several_recorders_are_put_together_by_time() -> None:
    one = [open_operation("a", DeleteCall(b"k"), 1.0), open_operation("a", DeleteCall(b"k"), 3.0)]
    other = [open_operation("b", DeleteCall(b"k"), 2.0)]
    assert [operation.call_s for operation in read_history(stored(one), stored(other))] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b'{"history":2}\n', 1),
        (b'{"client":"c"}\n', 1),
        (b'{"history":1}\n{"client":"c","call_s":1}\n', 2),
        (
            b'{"history":1}\n{"client":"c","request":{"op":"put","key":"aw==","value":"aw=="},"call_s":2,"return_s":1}\n',
            2,
        ),
    ],
)
def test_what_is_not_a_history_is_refused_with_its_line(text: bytes, line: int) -> None:
    with pytest.raises(ValueError, match=f"line {line} is not of a history"):
        read_history(io.BytesIO(text))


def test_the_keys_of_a_request() -> None:
    assert keys_of(PutCall(b"k", b"v", ABSENT)) == (b"k",)
    assert keys_of(
        TxnCall((CallCompare(b"a", b"1"),), (PutCall(b"b", b"2"), ReadCall(b"a")), (DeleteCall(b"c"),)),
    ) == (b"a", b"b", b"c")
