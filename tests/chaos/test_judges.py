"""The judges find what they are for: each rule with a history that keeps it and one that breaks it."""

from __future__ import annotations

import pytest

from syncline.client import KeyInfo, NodeStatus
from syncline.testing.linearizability.history import (
    Call,
    DeleteCall,
    NotApplied,
    Operation,
    PutCall,
    Ran,
    ReadCall,
    Refused,
    Result,
    Seen,
    TxnCall,
    Written,
)
from tests.chaos.agreement import Agreement, written_twice
from tests.chaos.clients import LEDGER
from tests.chaos.fleet import Fleet
from tests.chaos.judge import judge_history
from tests.chaos.observer import Observer

A = PutCall(b"k", b"a")
B = PutCall(b"k", b"b")


def op(at: float, request: Call, result: Result | None, *, until: float | None = None) -> Operation:
    """An operation that takes half a second, unless it is told when it ends."""
    return_s = None if result is None else at + 0.5 if until is None else until
    return Operation(client="c1", request=request, call_s=at, return_s=return_s, result=result, node="n1")


def seen(value: bytes, at: int, revision: int) -> Seen:
    return Seen(value, mod_revision=at, revision=revision)


STALE = ReadCall(b"k", stale=True)
BOTH = TxnCall(then=(PutCall(b"k", b"t1"), PutCall(b"j", b"t2")), else_=(ReadCall(b"k"), ReadCall(b"j")))

GOOD = [
    pytest.param([op(0, A, Written(1)), op(1, B, Written(2)), op(2, ReadCall(b"k"), seen(b"b", 2, 2))], id="in order"),
    pytest.param([op(0, A, Written(2), until=5), op(1, B, Written(1))], id="concurrent, the later call first"),
    pytest.param(
        [op(0, A, Written(1)), op(1, B, None), op(2, ReadCall(b"k"), seen(b"b", 2, 2))], id="in doubt, and done"
    ),
    pytest.param(
        [op(0, A, Written(1)), op(1, B, None), op(2, ReadCall(b"k"), seen(b"a", 1, 1))], id="in doubt, not done"
    ),
    pytest.param([op(0, A, Written(1)), op(1, B, Written(2)), op(2, STALE, seen(b"a", 1, 1))], id="a stale read"),
    pytest.param([op(0, BOTH, Ran(True, 1)), op(1, ReadCall(b"j"), seen(b"t2", 1, 1))], id="a transaction"),
    pytest.param([op(0, DeleteCall(b"k"), Written(0, existed=False)), op(1, A, Written(1))], id="nothing to delete"),
]

BAD = [
    pytest.param([op(0, A, Written(1)), op(0, B, Written(1))], id="one revision twice"),
    pytest.param([op(0, A, Written(2)), op(1, B, Written(1))], id="back in time"),
    pytest.param(
        [op(0, A, Written(1)), op(1, B, Written(2)), op(2, ReadCall(b"k"), seen(b"a", 1, 1))],
        id="stale, though linearizable",
    ),
    pytest.param(
        [op(0, A, Written(1)), op(1, B, Written(2)), op(2, ReadCall(b"k"), seen(b"a", 1, 2))],
        id="a lost write",
    ),
    pytest.param(
        [
            op(0, A, Written(1)),
            op(1, DeleteCall(b"k"), Written(2, existed=True)),
            op(2, ReadCall(b"k"), seen(b"a", 1, 2)),
        ],
        id="deleted, and there",
    ),
    pytest.param(
        [op(0, A, Written(1)), op(1, STALE, seen(b"a", 1, 3)), op(2, STALE, seen(b"a", 1, 2))],
        id="a node goes back",
    ),
    pytest.param([op(0, ReadCall(b"k"), seen(b"x", 1, 1))], id="out of nowhere"),
    pytest.param(
        [op(0, A, NotApplied("no_leader")), op(1, ReadCall(b"k"), seen(b"a", 1, 1))],
        id="refused, and done",
    ),
    pytest.param(
        [op(0, PutCall(b"k", b"a", expect=7), Refused(0)), op(1, ReadCall(b"k"), seen(b"a", 1, 1))],
        id="condition failed, and done",
    ),
    pytest.param(
        [op(0, A, None), op(1, ReadCall(b"k"), seen(b"a", 1, 1)), op(2, ReadCall(b"k"), seen(b"a", 2, 2))],
        id="done twice",
    ),
    pytest.param([op(0, A, Written(1)), op(1, ReadCall(b"k"), seen(b"a", 2, 2))], id="another revision"),
    pytest.param([op(0, A, None), op(1, ReadCall(b"k"), seen(b"a", 3, 2))], id="from the future"),
    pytest.param(
        [
            op(0, BOTH, Ran(True, 1, (Written(1), Written(1)))),
            op(1, TxnCall(then=(ReadCall(b"k"), ReadCall(b"j"))), Ran(True, 1, (seen(b"t1", 1, 1), seen(b"t1", 1, 1)))),
        ],
        id="a transaction's values mixed up",
    ),
]


@pytest.mark.parametrize("history", GOOD)
def test_a_good_history_passes(history: list[Operation]) -> None:
    assert judge_history(history, None) == []


@pytest.mark.parametrize("history", BAD)
def test_a_bad_history_is_found(history: list[Operation]) -> None:
    assert judge_history(history, None)


# -- the ledger


def item(value: bytes, revision: int, version: int = 1) -> KeyInfo:
    return KeyInfo(
        LEDGER + b"1", mod_revision=revision, create_revision=revision, version=version, size_bytes=1, value=value
    )


ENTRY = PutCall(LEDGER + b"1", b"1")


@pytest.mark.parametrize(
    ("result", "held", "good"),
    [
        (Written(3), item(b"1", 3), True),
        (Written(3), None, False),
        (Written(3), item(b"1", 4), False),
        (NotApplied("dropped"), None, True),
        (NotApplied("dropped"), item(b"1", 3), False),
        (None, None, True),
        (None, item(b"1", 3), True),
        (None, item(b"2", 3), False),
    ],
)
def test_final_state_holds_the_acknowledged_and_not_the_refused(
    result: Result | None, held: KeyInfo | None, good: bool
) -> None:
    agreement = Agreement(revision=5, digest="", items={} if held is None else {held.key: held})
    found = judge_history([op(0, ENTRY, result)], agreement)
    assert (found == []) is good, found


def test_an_entry_of_the_ledger_is_written_once() -> None:
    once, twice = item(b"1", 3), item(b"1", 3, version=2)
    assert written_twice({once.key: once, b"pair/0/0/a": KeyInfo(b"pair/0/0/a", 3, 1, 2, 1)}) == []
    assert written_twice({twice.key: twice}) == [f"{twice.key!r} was written once, and is there in version 2"]


# -- the nodes


def status(**fields: object) -> NodeStatus:
    plain: dict[str, object] = {
        "cluster_id": "c", "id": "1", "name": "n1", "role": "follower", "term": 1, "commit": 5, "applied": 5,
        "last_index": 5, "pid": 1, "data_dir": "d", "revision": 3, "digest": "x",
    }  # fmt: skip
    return NodeStatus(**{**plain, **fields})  # type: ignore[arg-type]


def observer(tmp_path: object) -> Observer:
    return Observer(Fleet(str(tmp_path), 3, None))


def test_an_observer_is_content_with_progress(tmp_path: object) -> None:
    watching = observer(tmp_path)
    watching.seen("n1", status(role="leader"))
    watching.seen("n2", status(id="2"))
    watching.seen("n1", status(role="leader", term=2, commit=6, applied=6, revision=4, digest="y"))
    watching.seen("n2", status(id="2", role="leader", term=3, commit=6, applied=6, revision=4, digest="y"))
    assert (watching.anomalies, watching.elections) == ([], 3)


@pytest.mark.parametrize("field", ["term", "commit", "applied", "revision"])
def test_an_observer_sees_a_node_go_back(field: str, tmp_path: object) -> None:
    watching = observer(tmp_path)
    watching.seen("n1", status())
    watching.seen("n1", status(**{field: 0}))
    assert [text for text in watching.anomalies if f"the {field} of n1 went back" in text]


def test_observer_of_a_restart_allows_less_commit_but_no_second_vote(tmp_path: object) -> None:
    watching = observer(tmp_path)
    watching.seen("n1", status())
    watching.shown("n1", 3)
    watching.seen("n1", status(pid=2, commit=4, applied=4, revision=2, digest="w"))
    watching.shown("n1", 3)
    assert watching.anomalies == []
    watching.seen("n1", status(pid=3, term=0))
    watching.shown("n1", 2)
    assert watching.anomalies == [
        "the term of n1 went back from 1 to 0",
        "the shown revision of n1 went back from 3 to 2",
    ]


def test_an_observer_sees_two_leaders_and_two_digests(tmp_path: object) -> None:
    watching = observer(tmp_path)
    watching.seen("n1", status(role="leader"))
    watching.seen("n2", status(id="2", role="leader"))
    watching.seen("n3", status(id="3", digest="z"))
    assert ["two leaders" in text for text in watching.anomalies] == [True, False]
    assert "has digest z" in watching.anomalies[1]


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("2026-01-01T00:00:00.000+00:00 WARNING n1 transport: no link to node 1: reset by the other end\n", 0),
        ("2026-01-01T00:00:00.000+00:00 ERROR   n1 server: a request failed by a fault of the server\n", 1),
        ("Traceback (most recent call last):\n  File …\n", 1),
        ("Error: node n1 stopped itself: the log on disk …\n", 1),
        ("Error: node n1 stopped itself: node n1 (1) was removed from the cluster and has stopped.\n", 1),
    ],
)
def test_what_a_node_should_not_say_is_heard_once(text: str, faults: int, tmp_path: object) -> None:
    node = Fleet(str(tmp_path), 3, None).nodes[0]
    with open(node.log_path, "w", encoding="utf-8") as log:
        log.write(text)
    assert len(node.new_faults()) == faults
    assert node.new_faults() == []


def test_a_removed_node_may_say_farewell(tmp_path: object) -> None:
    node = Fleet(str(tmp_path), 3, None).nodes[0]
    node.leaving = True
    with open(node.log_path, "w", encoding="utf-8") as log:
        log.write("Error: node n1 stopped itself: node n1 (1) was removed from the cluster and has stopped.\n")
    assert node.new_faults() == []


def test_a_process_that_ends_unasked_is_told_once_and_a_leaving_one_is_not(tmp_path: object) -> None:
    fleet = Fleet(str(tmp_path), 3, None)
    for node in fleet.nodes:
        node.program = ("false",)
        node.start()
    fleet.nodes[2].leaving = True
    for node in fleet.nodes:
        node.wait()
    fleet.nodes[0].wanted = False
    assert [text.split(" ended")[0] for text in fleet.ended_by_themselves()] == ["n2"]
    assert list(fleet.ended_by_themselves()) == []
