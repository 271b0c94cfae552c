"""Reads of one moment wait together: which may join which, and that each is answered."""

from __future__ import annotations

import asyncio
import math
import random

from syncline.consensus.types import ReadState
from syncline.errors import NoLeader
from syncline.kv.serving.reads import ConfirmedReads
from syncline.node.futures import ReadFuture
from syncline.node.read_batches import ReadBatches as NodeReads
from syncline.server.api.site import _faulted
from syncline.server.http.response import Respond, Response
from tests.helpers.kv_node import FakeBackend

STEP_S = 0.125


class NodeBackend(FakeBackend):
    """The reads of a node, whose clock and leader the test plays."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.contexts: list[bytes] = []
        self.node = NodeReads(random.Random(1), retry_s=1.0, ask=self.contexts.append)

    def read_index(self, timeout_s: float) -> ReadFuture:
        self.reads += 1
        return self.node.new(asyncio.get_running_loop(), self.now_s + timeout_s, STEP_S)

    def confirm(self, index: int) -> None:
        self.node.confirmed(ReadState(index=index, context=self.contexts[-1]))
        self.node.applied(index)


class Readers:
    """Clients that read, and what became of them."""

    def __init__(self) -> None:
        self.backend = NodeBackend()
        self.reads: ConfirmedReads[Respond] = ConfirmedReads(self.backend, faulted=_faulted)
        self.reads._now_s = self.now_s
        self.ended: list[tuple[str, BaseException | None]] = []
        self.answers: list[Response] = []

    def now_s(self) -> float:
        return self.backend.now_s

    def come(self, name: str, timeout_s: float = 5.0) -> None:
        self.reads.within(timeout_s, self.read, name, self.answers.append)
        self.reads._now_s = self.now_s

    def read(self, name: str, respond: object, error: BaseException | None) -> None:
        if name == "broken":
            raise ValueError(name)
        self.ended.append((name, error))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.ended]


async def test_reads_of_one_moment_are_one_to_the_node() -> None:
    readers = Readers()
    for name in "abc":
        readers.come(name)
    assert readers.backend.reads == 1
    readers.backend.node.ask(0.0)
    readers.backend.confirm(1)
    await asyncio.sleep(0)
    assert readers.ended == [("a", None), ("b", None), ("c", None)]


async def test_a_read_never_joins_one_whose_confirmation_has_been_asked_for() -> None:
    readers = Readers()
    readers.come("early")
    readers.backend.node.ask(0.0)
    readers.come("late")
    readers.come("later")
    assert readers.backend.reads == 2
    readers.backend.confirm(1)
    await asyncio.sleep(0)
    assert readers.names == ["early"]
    readers.backend.node.ask(0.1)
    readers.come("last")
    readers.backend.confirm(1)
    await asyncio.sleep(0)
    assert readers.names == ["early", "late", "later"]


async def test_a_read_joins_only_what_ends_with_its_own_deadline() -> None:
    readers = Readers()
    readers.come("a")
    readers.backend.now_s = 0.09
    readers.come("b")
    assert readers.backend.reads == 1
    readers.backend.now_s = 3.0
    readers.come("c")
    assert readers.backend.reads == 2
    readers.come("shorter", 1.0)
    assert readers.backend.reads == 3
    node = readers.backend.node
    for now_s, ended in (
        (4.0, []),
        (4.125, ["shorter"]),
        (5.0, ["shorter"]),
        (5.125, ["shorter", "a", "b"]),
        (8.0, ["shorter", "a", "b"]),
        (8.125, ["shorter", "a", "b", "c"]),
    ):
        node.expire(now_s, 0)
        await asyncio.sleep(0)
        assert readers.names == ended, now_s
    assert all(isinstance(error, NoLeader) for _, error in readers.ended)


async def test_read_joins_no_batch_that_has_ended() -> None:
    readers = Readers()
    readers.come("a")
    future = readers.reads._shared
    assert future is not None
    readers.backend.node.fail_all(NoLeader("gone"))
    assert future.joined_before_s == -math.inf
    readers.come("b")
    await asyncio.sleep(0)
    assert readers.backend.reads == 2
    assert readers.names == ["a"]


async def test_a_read_that_fails_does_not_leave_the_others_without_an_answer() -> None:
    readers = Readers()
    for name in ("a", "broken", "b"):
        readers.come(name)
    readers.backend.node.ask(0.0)
    readers.backend.confirm(1)
    await asyncio.sleep(0)
    assert readers.names == ["a", "b"]
    assert [answer.status for answer in readers.answers] == [500]
