"""The ready machines keep the contract of state machines, and do what their docstrings say."""

from __future__ import annotations

import math

import pytest

from syncline.errors import Rejected
from syncline.machines import (
    Machine,
    ReplicatedCounter,
    ReplicatedDict,
    ReplicatedList,
    ReplicatedLock,
    ReplicatedPriorityQueue,
    ReplicatedQueue,
    ReplicatedSet,
)
from syncline.testing import check_fsm

COMMANDS: dict[type[Machine], list[bytes]] = {
    ReplicatedCounter: [
        ReplicatedCounter.add.encode(5), ReplicatedCounter.add.encode(2**63 - 1), ReplicatedCounter.reset.encode(-1),
        ReplicatedCounter.reset.encode(-(2**63)), ReplicatedCounter.add.encode(),
    ],
    ReplicatedDict: [
        ReplicatedDict.put.encode("b", 1), ReplicatedDict.setdefault.encode("a", None),
        ReplicatedDict.update.encode({"z": 1.5, "b": "x"}), ReplicatedDict.put_if.encode("z", 2, 1.5),
        ReplicatedDict.pop.encode("none"), ReplicatedDict.clear.encode(), ReplicatedDict.put.encode("", True),
    ],
    ReplicatedList: [
        ReplicatedList.append.encode(3), ReplicatedList.extend.encode([1, 2.5, True]), ReplicatedList.sort.encode(),
        ReplicatedList.insert.encode(-(2**62), "x"), ReplicatedList.sort.encode(True),
        ReplicatedList.put.encode(7, "y"), ReplicatedList.put.encode(-1, "y"), ReplicatedList.pop.encode(0),
        ReplicatedList.pop.encode(99), ReplicatedList.remove.encode(1), ReplicatedList.remove.encode("none"),
        ReplicatedList.clear.encode(), ReplicatedList.pop.encode(),
    ],
    ReplicatedLock: [
        ReplicatedLock.acquire.encode("p", "w1"), ReplicatedLock.acquire.encode("p", "w2"),
        ReplicatedLock.release.encode("p", 9), ReplicatedLock.release.encode("p", 1),
        ReplicatedLock.acquire.encode("p", "w2"),
    ],
    ReplicatedPriorityQueue: [
        ReplicatedPriorityQueue.put.encode("b", 5), ReplicatedPriorityQueue.put.encode(1, -1.5),
        ReplicatedPriorityQueue.put.encode(None, 5), ReplicatedPriorityQueue.put.encode("x", math.nan),
        ReplicatedPriorityQueue.put.encode("last", math.inf), ReplicatedPriorityQueue.take.encode(),
        ReplicatedPriorityQueue.take.encode(), ReplicatedPriorityQueue.put.encode("a"),
    ],
    ReplicatedQueue: [
        ReplicatedQueue.put.encode("a"), ReplicatedQueue.put.encode(2), ReplicatedQueue.take.encode(),
        ReplicatedQueue.take.encode(), ReplicatedQueue.take.encode(), ReplicatedQueue.put.encode(None),
    ],
    ReplicatedSet: [
        ReplicatedSet.update.encode(["b", "a", "c"]), ReplicatedSet.add.encode("a"), ReplicatedSet.pop.encode(),
        ReplicatedSet.discard.encode("z"), ReplicatedSet.add.encode("longer"), ReplicatedSet.clear.encode(),
        ReplicatedSet.pop.encode(),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
def test_ready_machine_keeps_the_contract(kind: type[Machine]) -> None:
    """In processes of their own too, where sets of texts have other orders: only for the set, to save time."""
    check_fsm(kind, COMMANDS[kind], processes=kind is ReplicatedSet)


def test_ready_machines_are_all_checked() -> None:
    import syncline.machines

    ready = {name for name in syncline.machines.__all__ if name.startswith("Replicated")}
    assert ready == {kind.__name__ for kind in COMMANDS}


def test_replicated_list_does_as_a_list_does() -> None:
    values = ReplicatedList()
    assert ReplicatedList.append(values, "b") == 0
    assert ReplicatedList.extend(values, ["c", "a"]) == 3
    ReplicatedList.insert(values, 1, "x")
    assert ReplicatedList.items(values) == ["b", "x", "c", "a"]
    assert ReplicatedList.put(values, -1, "d") == "a"
    assert ReplicatedList.pop(values, 1) == "x"
    ReplicatedList.sort(values, reverse=True)
    assert ReplicatedList.items(values) == ["d", "c", "b"]
    assert (ReplicatedList.index(values, "c"), ReplicatedList.index(values, "x")) == (1, None)
    assert (ReplicatedList.get(values, -1), ReplicatedList.count(values, "d"), ReplicatedList.size(values)) == (
        "b",
        1,
        3,
    )
    assert [ReplicatedList.remove(values, "d"), ReplicatedList.remove(values, "d")] == [True, False]
    assert ReplicatedList.clear(values) == 2


def test_replicated_list_refuses_what_would_stop_its_nodes() -> None:
    values = ReplicatedList()
    with pytest.raises(Rejected, match="no position 0: the list has 0"):
        ReplicatedList.pop(values, 0)
    ReplicatedList.extend(values, [1, "a"])
    with pytest.raises(Rejected) as refused:
        ReplicatedList.sort(values)
    assert refused.value.code == "not_comparable"
    assert ReplicatedList.items(values) == [1, "a"]


def test_replicated_priority_queue_takes_the_lowest_first() -> None:
    queue = ReplicatedPriorityQueue()
    numbers = [ReplicatedPriorityQueue.put(queue, *one) for one in (("b", 2.0), ("a", 1.0), (None, 1.0), ("z", 0.0))]
    assert numbers == [1, 2, 3, 4]
    assert ReplicatedPriorityQueue.first(queue, 3) == ["z", "a", None]
    taken = [ReplicatedPriorityQueue.take(queue) for _ in range(5)]
    assert taken == [(4, "z"), (2, "a"), (3, None), (1, "b"), None]
    assert ReplicatedPriorityQueue.size(queue) == 0


def test_replicated_dict_set_and_counter_change_as_a_whole() -> None:
    entries, members, hits = ReplicatedDict(), ReplicatedSet(), ReplicatedCounter()
    assert ReplicatedDict.update(entries, {"a": 1, "b": None}) == 2
    assert [ReplicatedDict.setdefault(entries, "a", 9), ReplicatedDict.setdefault(entries, "c", 9)] == [1, 9]
    assert [ReplicatedDict.has(entries, "b"), ReplicatedDict.has(entries, "x")] == [True, False]
    assert (ReplicatedDict.clear(entries), ReplicatedDict.size(entries)) == (3, 0)
    assert (ReplicatedSet.update(members, ["b", "a", "b"]), ReplicatedSet.size(members)) == (2, 2)
    assert [ReplicatedSet.pop(members), ReplicatedSet.clear(members), ReplicatedSet.pop(members)] == ["a", 1, None]
    ReplicatedCounter.add(hits, 5)
    assert [ReplicatedCounter.reset(hits, 7), ReplicatedCounter.reset(hits), ReplicatedCounter.value(hits)] == [5, 7, 0]
