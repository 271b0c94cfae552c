"""The checker of histories: known good ones, known bad ones, and made-up ones beside a naive checker."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from syncline.testing.linearizability.checker import check_part, parts_of
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
    Refused,
    Result,
    Seen,
    TxnCall,
    Written,
)
from syncline.testing.linearizability.kv_model import Numbers, told
from syncline.testing.linearizability.verdict import Undecided, assert_linearizable, judge
from tests.helpers.histories import brute_force, forget, made_up, random_request

K, L = b"k", b"l"
replace = msgspec.structs.replace


def op(
    client: str, call_s: float, return_s: float | None, request: Call, result: Result | None = None, node: str = ""
) -> Operation:
    return Operation(client=client, request=request, call_s=call_s, return_s=return_s, result=result, node=node)


def linearizable(history: Sequence[Operation]) -> bool:
    return all(check_part(part).linearizable for part in parts_of(history))


GOOD: dict[str, list[Operation]] = {
    "nothing": [],
    "a read of what was never written": [op("a", 0, 1, ReadCall(K), Seen(None))],
    "a read beside a write sees the old or the new": [
        op("a", 0, 9, PutCall(K, b"1"), Written()),
        op("b", 1, 2, ReadCall(K), Seen(None)),
        op("b", 3, 4, ReadCall(K), Seen(b"1")),
    ],
    "an unknown write that shows late": [
        op("a", 0, None, PutCall(K, b"1")),
        op("b", 1, 2, ReadCall(K), Seen(None)),
        op("b", 3, 4, PutCall(K, b"2"), Written()),
        op("b", 5, 6, ReadCall(K), Seen(b"2")),
        op("b", 7, 8, ReadCall(K), Seen(b"1")),
    ],
    "an unknown write that never shows": [
        op("a", 0, None, PutCall(K, b"1")),
        op("b", 1, 2, ReadCall(K), Seen(None)),
        op("b", 3, 4, DeleteCall(K), Written(existed=False)),
    ],
    "a swap that fails because of an unknown write": [
        op("a", 0, None, PutCall(K, b"1")),
        op("b", 1, 2, PutCall(K, b"2", ABSENT), Refused()),
        op("b", 3, 4, ReadCall(K), Seen(b"1")),
    ],
    "an unknown write helps another unknown one": [
        op("a", 0, None, PutCall(K, b"1")),
        op("b", 0, None, TxnCall((CallCompare(K, b"1"),), (PutCall(K, b"2"),))),
        op("c", 1, 2, ReadCall(K), Seen(b"2")),
    ],
    "an unknown transaction is overwritten in part before it is seen": [
        op("a", 0, None, TxnCall((), (PutCall(K, b"1"), PutCall(L, b"1")))),
        op("b", 1, 2, PutCall(K, b"2"), Written()),
        op("b", 3, 4, ReadCall(L), Seen(b"1")),
        op("b", 5, 6, ReadCall(K), Seen(b"2")),
    ],
    "two unknown writes to two keys, seen by one transaction": [
        op("a", 0, None, PutCall(K, b"1")),
        op("b", 0, None, PutCall(L, b"1")),
        op("c", 1, 2, TxnCall((), (ReadCall(K), ReadCall(L))), Ran(True, 0, (Seen(b"1"), Seen(b"1")))),
    ],
    "a deletion of which it is not told whether there was something": [
        op("a", 0, 3, DeleteCall(K), Written(2)),
        op("b", 1, 2, PutCall(K, b"1", ABSENT), Written(1)),
        op("b", 4, 5, DeleteCall(K), Written(2, existed=False)),
    ],
    "revisions decide where the clock does not": [
        op("a", 0, 9, PutCall(K, b"1"), Written(2)),
        op("b", 0, 9, PutCall(K, b"2"), Written(1)),
        op("c", 10, 11, ReadCall(K), Seen(b"1", 2, 2)),
    ],
    "a not_applied write leaves no trace": [
        op("a", 0, 1, PutCall(K, b"1"), NotApplied("dropped")),
        op("a", 2, 3, ReadCall(K), Seen(None)),
    ],
    "a stale read within its bound": [
        op("a", 0, 1, PutCall(K, b"1"), Written(1)),
        op("a", 2, 3, PutCall(K, b"2"), Written(2)),
        op("b", 4, 5, ReadCall(K, stale=True, max_stale_s=2.0), Seen(b"1", 1, 1), node="n1"),
    ],
    "a stale read on another node may be older": [
        op("a", 0, 1, PutCall(K, b"1"), Written(1)),
        op("b", 2, 3, ReadCall(K, stale=True), Seen(b"1", 1, 1), node="n1"),
        op("b", 4, 5, ReadCall(K, stale=True), Seen(None, 0, 0), node="n2"),
    ],
}

BAD: dict[str, tuple[str, list[Operation]]] = {
    "a stale read called linearizable": (
        "no order",
        [
            op("a", 0, 1, PutCall(K, b"1"), Written()),
            op("a", 2, 3, PutCall(K, b"2"), Written()),
            op("b", 4, 5, ReadCall(K), Seen(b"1")),
        ],
    ),
    "a lost write": (
        "no order",
        [op("a", 0, 1, PutCall(K, b"1"), Written(1)), op("b", 2, 3, ReadCall(K), Seen(None))],
    ),
    "a resurrected write": (
        "no order",
        [
            op("a", 0, 1, PutCall(K, b"1"), Written(1)),
            op("a", 2, 3, DeleteCall(K), Written(2, existed=True)),
            op("b", 4, 5, ReadCall(K), Seen(None)),
            op("b", 6, 7, ReadCall(K), Seen(b"1")),
        ],
    ),
    "a double apply": (
        "applied twice",
        [
            op("a", 0, None, PutCall(K, b"1")),
            op("b", 1, 2, ReadCall(K), Seen(b"1", 1, 1)),
            op("b", 3, 4, PutCall(K, b"2"), Written(2)),
            op("b", 5, 6, ReadCall(K), Seen(b"1", 3, 3)),
        ],
    ),
    "a double apply, without revisions": (
        "no order",
        [
            op("a", 0, None, PutCall(K, b"1")),
            op("b", 1, 2, ReadCall(K), Seen(b"1")),
            op("b", 3, 4, PutCall(K, b"2"), Written()),
            op("b", 5, 6, ReadCall(K), Seen(b"1")),
        ],
    ),
    "a dirty read of a not_applied write": (
        "not_applied was seen",
        [op("a", 0, 1, PutCall(K, b"1"), NotApplied()), op("b", 2, 3, ReadCall(K), Seen(b"1"))],
    ),
    "a dirty stale read of a not_applied write": (
        "not_applied was seen",
        [op("a", 0, 1, PutCall(K, b"1"), NotApplied()), op("b", 2, 3, ReadCall(K, stale=True), Seen(b"1"))],
    ),
    "a split brain: two swaps from one state": (
        "no order",
        [
            op("a", 0, 1, PutCall(K, b"1", ABSENT), Written(1)),
            op("b", 0, 1, PutCall(K, b"2", ABSENT), Written(2)),
        ],
    ),
    "a split brain: two writes with one revision": (
        "same revision",
        [op("a", 0, 1, PutCall(K, b"1"), Written(1)), op("b", 0, 1, PutCall(L, b"2"), Written(1))],
    ),
    "a split brain: revisions of two keys against the clock": (
        "revision went back",
        [op("a", 0, 1, PutCall(K, b"1"), Written(2)), op("b", 2, 3, PutCall(L, b"2"), Written(1))],
    ),
    "a stale linearizable read of another key": (
        "revision went back",
        [op("a", 0, 1, PutCall(K, b"1"), Written(2)), op("b", 2, 3, ReadCall(L), Seen(None, 0, 1))],
    ),
    "a torn transaction": (
        "no order",
        [
            op("a", 0, 1, TxnCall((), (PutCall(K, b"1"), PutCall(L, b"1"))), Ran(True)),
            op("b", 2, 3, TxnCall((), (ReadCall(K), ReadCall(L))), Ran(True, 0, (Seen(b"1"), Seen(None)))),
        ],
    ),
    "a transaction whose compare did not hold": (
        "no order",
        [
            op("a", 0, 1, PutCall(K, b"1"), Written()),
            op("b", 2, 3, TxnCall((CallCompare(K, b"2"),), (PutCall(K, b"3"),)), Ran(True)),
        ],
    ),
    "a swap refused without a reason": (
        "no order",
        [op("a", 0, 1, PutCall(K, b"1"), Written(1)), op("b", 2, 3, PutCall(K, b"2", 1), Refused())],
    ),
    "a stale read older than its bound": (
        "older than its bound",
        [
            op("a", 0, 1, PutCall(K, b"1"), Written(1)),
            op("a", 2, 3, PutCall(K, b"2"), Written(2)),
            op("b", 6, 7, ReadCall(K, stale=True, max_stale_s=2.0), Seen(b"1", 1, 1)),
        ],
    ),
    "a stale read that went back": (
        "went back",
        [
            op("a", 0, 1, PutCall(K, b"1"), Written(1)),
            op("b", 2, 3, ReadCall(K, stale=True), Seen(b"1", 1, 1), node="n1"),
            op("a", 3, 4, PutCall(K, b"2"), Written(2)),
            op("b", 5, 6, ReadCall(K, stale=True), Seen(b"2", 2, 2), node="n1"),
            op("b", 7, 8, ReadCall(K, stale=True), Seen(b"1", 1, 1), node="n1"),
        ],
    ),
    "a stale read from the future": (
        "nobody had written",
        [op("b", 0, 1, ReadCall(K, stale=True), Seen(b"1")), op("a", 2, 3, PutCall(K, b"1"), Written(1))],
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_passes(name: str) -> None:
    assert judge(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_found_and_explained(name: str) -> None:
    expected, history = BAD[name]
    anomalies = judge(history)
    assert expected in "\n".join(map(str, anomalies))
    with pytest.raises(AssertionError, match=expected):
        assert_linearizable(history)


def test_the_final_state_holds_all_that_was_acknowledged() -> None:
    history = [op("a", 0, 1, PutCall(K, b"1"), Written(1)), op("a", 2, None, PutCall(K, b"2"))]
    assert not judge(history, final={K: Seen(b"1", 1)})
    assert not judge(history, final={K: Seen(b"2", 2)})
    (lost,) = judge(history, final={K: Seen(None)})
    assert re.search(r"\(final\) +read k -> no such key", str(lost))


def test_the_state_before_the_history_counts() -> None:
    history = [op("a", 0, 1, ReadCall(K), Seen(b"0", 5, 9)), op("a", 2, 3, PutCall(K, b"1", 5), Written(10))]
    assert judge(history)
    assert not judge(history, initial={K: Seen(b"0", 5)})


def test_an_explanation_is_small_however_long_the_history() -> None:
    rng = random.Random(1)
    history = made_up(rng, operations=600, clients=8, keys=[K, L], unknown=0.02)
    reads = [place for place, operation in enumerate(history) if isinstance(operation.result, Seen)]
    late, early = reads[-20], history[reads[20]]
    history[late] = replace(history[late], request=early.request, result=early.result)
    (anomaly,) = [found for found in judge(history) if "no order" in found.promise]
    assert history[late] in anomaly.operations
    assert len(anomaly.operations) <= 4
    assert not linearizable([operation for operation in anomaly.operations if not operation.unknown])


def test_a_search_that_gives_up_says_so() -> None:
    history = [op(f"c{n}", 0, 100, PutCall(K, b"%d" % n), Written()) for n in range(40)]
    history += [op("d", 101 + n, 102 + n, ReadCall(K), Seen(b"%d" % n)) for n in range(2)]
    with pytest.raises(Undecided, match="no verdict"):
        judge(history, max_steps=10_000)


# -- made-up histories


def perturbed(rng: random.Random, result: Result | None) -> Result | None:
    """Something else than what happened, if only a little."""
    match result:
        case Seen():
            other = Seen(rng.choice([None, b"0", b"1", b"2"]), rng.choice([0, result.mod_revision]), result.revision)
            return rng.choice([other, replace(result, mod_revision=rng.randint(1, 4) if result.value else 0)])
        case Written():
            return rng.choice(
                [replace(result, existed=not result.existed), replace(result, revision=rng.randint(1, 5))]
            )
        case Refused():
            return replace(result, mod_revision=rng.randrange(4))
        case Ran() if result.results and rng.random() < 0.7:
            place = rng.randrange(len(result.results))
            changed = list(result.results)
            other_answer = perturbed(rng, changed[place])
            assert isinstance(other_answer, Seen | Written)
            changed[place] = replace(other_answer, revision=0)
            return replace(result, results=tuple(changed))
        case Ran():
            return Ran(not result.succeeded, result.revision)
        case _:
            return result


def less_told(rng: random.Random, result: Result | None) -> Result | None:
    if rng.random() < 0.5:
        result = forget(result, rng.choice(["mod_revisions", "nothing"]))
    if isinstance(result, Written) and rng.random() < 0.3:
        return replace(result, existed=None)
    if isinstance(result, Ran) and rng.random() < 0.3:
        return replace(result, results=())
    return result


def tiny_history(seed: int) -> list[Operation]:
    """A handful of operations, made to happen, then told less of and made wrong, or not."""
    rng = random.Random(seed)
    few_values = rng.random() < 0.5
    history = made_up(
        rng,
        operations=rng.randint(2, 5),
        clients=rng.randint(2, 6),
        keys=[K, L][: rng.randint(1, 2)],
        unknown=rng.choice([0.0, 0.1, 0.4, 0.8]),
        ask=lambda rng, keys, value, store: random_request(
            rng, keys, b"%d" % (int(value) % (2 if few_values else 9)), store
        ),
    )
    if rng.random() < 0.7:
        place = rng.randrange(len(history))
        history[place] = replace(history[place], result=perturbed(rng, history[place].result))
    if rng.random() < 0.7:
        history = [replace(operation, result=less_told(rng, operation.result)) for operation in history]
    return history


def naive_verdict(history: Sequence[Operation]) -> bool:
    """Part by part, as the checker does it: each part may count on the numbers that no other part has."""
    taken = Numbers(history).taken
    most = 2 * max(5, len(history))  # none told is above 5 or the length, and each operation may need one behind those
    for part in parts_of(history):
        operations = [operation for operation in history if operation.request in [o.request for o in part.operations]]
        own = {told(operation)[0] for operation in operations}
        numbers = [number for number in range(1, most + 1) if number not in taken or number in own]
        if not brute_force([_as_specified(operation) for operation in operations], numbers):
            return False
    return True


def _as_specified(operation: Operation) -> Operation:
    """A revision that says nothing (see `Written`) is not told."""
    if isinstance(operation.result, Written | Ran):
        return replace(operation, result=replace(operation.result, revision=told(operation)[0]))
    return operation


@given(st.integers(0, 2**32))
@example(255)  # the highest number is told first, and another write comes behind it
@settings(max_examples=120, deadline=None)
def test_the_verdict_on_a_tiny_history_is_that_of_trying_all_orders(seed: int) -> None:
    history = tiny_history(seed)
    assert linearizable(history) == naive_verdict(history), history


def test_tiny_histories_are_of_both_kinds() -> None:
    verdicts = [linearizable(tiny_history(seed)) for seed in range(500)]
    assert 100 < sum(verdicts) < 400


@pytest.mark.parametrize(
    ("told_of", "operations", "clients"), [("revisions", 2000, 64), ("mod_revisions", 200, 6), ("nothing", 40, 4)]
)
@pytest.mark.parametrize("keys", [1, 5])
@pytest.mark.parametrize("seed", range(3))
def test_what_happened_in_some_order_is_linearizable(
    told_of: str, operations: int, clients: int, keys: int, seed: int
) -> None:
    rng = random.Random(seed)
    names = [b"key%d" % number for number in range(keys)]
    history = made_up(rng, operations=operations, clients=clients, keys=names, unknown=0.03)
    history = [replace(operation, result=forget(operation.result, told_of)) for operation in history]
    assert judge(history) == []
