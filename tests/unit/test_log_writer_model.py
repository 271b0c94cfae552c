"""The log's writer against a model: whatever is asked of it, no promise comes before the disk has what it rests on.

Syncs and the thread end when the example says so. After each step the power fails on a copy of the disk, and what a
restart finds must be a state that the log was asked to reach, no older than what was promised.
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from syncline.consensus.types import LOCAL_APPEND, Message, MessageType, Snapshot, SnapshotMeta
from syncline.node.log_writer import LogWriter
from syncline.platform.disk import File
from syncline.platform.worker import Flusher
from syncline.storage.stored_log import StoredLog
from syncline.storage.wal import writer as wal_module
from syncline.storage.wal.writer import Wal
from syncline.testing.sim.disk import SimDisk, Survival
from tests.helpers.storage import held, open_wal, row

NODE, PEER = 1, 2
PATH = "/wal"
SEGMENT_BYTES = 4096
LARGE = 1500
"""Above what the loop writes by itself here: it goes to the thread."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class HandFlusher:
    def __init__(self, done: Callable[[BaseException | None], None]) -> None:
        self.done = done
        self.file: File | None = None

    def flush(self, file: File) -> None:
        assert self.file is None
        self.file = file

    def end(self, error: OSError | None = None) -> None:
        file, self.file = self.file, None
        if file is not None:
            if error is None:
                file.sync()
            self.done(error)

    async def close(self) -> None:
        assert self.file is None


class HandWorker(Generic[Item, Result]):
    def __init__(
        self,
        process: Callable[[list[Item]], Result],
        deliver: Callable[[Result], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._process = process
        self._deliver = deliver
        self._failed = failed
        self._items: list[Item] = []

    def put(self, item: Item) -> None:
        self._items.append(item)

    @property
    def queued(self) -> int:
        return len(self._items)

    def end(self) -> None:
        items, self._items = self._items, []
        if items:
            try:
                result = self._process(items)
            except OSError as error:
                self._failed(error)
            else:
                self._deliver(result)

    async def close(self) -> None:
        assert not self._items


class HandWorkers:
    def __init__(self, *, with_flusher: bool) -> None:
        self.flusher_: HandFlusher | None = None
        self.worker: HandWorker[object, object] | None = None
        self._with_flusher = with_flusher

    def asleep_s(self) -> float:
        return 0.0

    def now_s(self) -> float:
        return 0.0

    def start(
        self,
        name: str,
        process: Callable[[list[Item]], Result],
        deliver: Callable[[Result], None],
        failed: Callable[[BaseException], None],
    ) -> HandWorker[Item, Result]:
        worker = HandWorker(process, deliver, failed)
        self.worker = worker  # type: ignore[assignment]
        return worker

    def flusher(self, file: File, done: Callable[[BaseException | None], None]) -> Flusher | None:
        if self._with_flusher:
            self.flusher_ = HandFlusher(done)
        return self.flusher_

    def end(self, error: OSError | None = None) -> None:
        """What is under way comes to its end."""
        if self.flusher_ is not None:
            self.flusher_.end(error)
        assert self.worker is not None
        self.worker.end()


class State(msgspec.Struct, frozen=True):
    """What the log was asked to reach. Entries are told apart by their terms."""

    term: int
    vote: int
    base: int
    terms: tuple[int, ...]

    @property
    def last(self) -> int:
        return self.base + len(self.terms)


class Example:
    """A writer, and what is known of what it was asked for."""

    def __init__(self, *, with_flusher: bool) -> None:
        self.disk = SimDisk(random.Random(1))
        self.workers = HandWorkers(with_flusher=with_flusher)
        self.wal = open_wal(PATH, disk=self.disk, segment_bytes=SEGMENT_BYTES)
        self.log = StoredLog.open(self.wal, None)
        self.delivered: list[int] = []
        self.failures: list[BaseException] = []
        self.writer = LogWriter(self.wal, self.log, self.workers, self._durable, self.failures.append)
        self.state = State(0, 0, 0, ())
        self.commit = 0
        self.history = [self.state]
        self.rests_on: list[int] = [0]
        """For each promise, in order, how much of the history it rests on."""

    def _durable(self, responses: list[Message]) -> None:
        self.delivered += [response.index for response in responses]

    def ask(self, message: Message, state: State) -> None:
        """Ask for `message`, which leads to `state`, and for a promise."""
        message.to, message.sender = LOCAL_APPEND, NODE
        message.term, message.vote, message.commit = state.term, state.vote, self.commit
        if state != self.state:
            self.history.append(state)
        self.state = state
        self.rests_on.append(len(self.history) - 1)
        message.responses = [Message(MessageType.APP_RESP, to=PEER, index=len(self.rests_on) - 1)]
        self.writer.append(message)

    # -- what may happen ----------------------------------------------------------------------------------------------

    def entries(self, number: int) -> None:
        """Some behind the last one."""
        self._append(self.state.last + 1, self.state.term or 1, 1 + number % 3, LARGE if number % 5 == 4 else 20)

    def overwrite(self, number: int) -> None:
        """Another leader's, in place of some that are not committed."""
        first = max(self.commit, self.state.base, self.state.last - number % 4) + 1
        self._append(first, self.state.term + 1, 1 + number % 2, 20)

    def _append(self, first: int, term: int, count: int, size: int) -> None:
        state = self.state
        terms = (*state.terms[: first - 1 - state.base], *[term] * count)
        vote = state.vote if term == state.term else 0
        message = Message(MessageType.STORAGE_APPEND, entries=row(first, first + count - 1, term, size))
        self.ask(message, State(term, vote, state.base, terms))

    def vote(self, _: int) -> None:
        state = msgspec.structs.replace(self.state, term=self.state.term + 1, vote=PEER)
        self.ask(Message(MessageType.STORAGE_APPEND), state)

    def commit_some(self, number: int) -> None:
        self.commit = min(self.state.last, self.commit + number)
        self.ask(Message(MessageType.STORAGE_APPEND), self.state)

    def answer(self, _: int) -> None:
        """What promises nothing new."""
        message = Message(MessageType.STORAGE_APPEND)
        self.rests_on.append(len(self.history) - 1)
        message.responses = [Message(MessageType.APP_RESP, to=PEER, index=len(self.rests_on) - 1)]
        self.writer.append(message)

    def install(self, number: int) -> None:
        """A leader's snapshot in place of the log."""
        index, term = self.state.last + 1 + number % 3, self.state.term or 1
        self.commit = index
        message = Message(MessageType.STORAGE_APPEND, snapshot=Snapshot(SnapshotMeta(index, term)))
        self.ask(message, State(term, self.state.vote, index, ()))

    def compact(self, number: int) -> None:
        """Give up what is committed, and in the log as it was committed: hence it may be in a snapshot."""
        index = min(self.commit, self.log.last_index(), self.log.first_index() + number)
        if index < self.log.first_index() or index <= self.state.base:
            return
        term = self.log.term(index)
        if term == self.state.terms[index - 1 - self.state.base]:
            self.log.installed(SnapshotMeta(index, term))
            self.writer.compact(index)

    def settle(self, _: int) -> None:
        self.writer._on_timer()

    def end(self, _: int) -> None:
        self.workers.end()

    def fail(self, _: int) -> None:
        self.workers.end(OSError(errno.EIO, "as told"))

    # -- what must hold -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        count = len(self.delivered)
        assert self.delivered == list(range(1, count + 1)), "each promise once, in their order"
        for survival in (Survival.NOTHING, Survival.EVERYTHING):
            found = open_wal(PATH, disk=self.disk.crashed(survival), segment_bytes=SEGMENT_BYTES)
            self._check_found(found, self.rests_on[count])
            found.close()

    def _check_found(self, found: Wal, promised: int) -> None:
        recovery = found.recovery
        state, first = recovery.hard_state, recovery.first_index
        terms = [entry.term for entry in held(found)]
        assert recovery.last_index == first + len(terms) - 1

        def is_it(asked: State) -> bool:
            return (
                (state.term, state.vote, recovery.last_index) == (asked.term, asked.vote, asked.last)
                and first > asked.base
                and list(asked.terms[first - 1 - asked.base :]) == terms
            )

        assert any(map(is_it, self.history[promised:])), (recovery, promised, self.history)
        assert first - 1 <= state.commit <= min(self.commit, recovery.last_index), "only what is committed is given up"


STEPS = (
    Example.entries,
    Example.overwrite,
    Example.vote,
    Example.commit_some,
    Example.answer,
    Example.install,
    Example.compact,
    Example.settle,
    Example.end,
    Example.end,
)

steps = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 9)), max_size=40)


async def play(
    chosen: Sequence[tuple[Callable[[Example, int], None], int]], *, with_flusher: bool, fails: bool
) -> None:
    one = Example(with_flusher=with_flusher)
    for step, number in chosen:
        step(one, number)
        one.check()
    if fails:
        one.fail(0)
        one.check()
    closing = asyncio.ensure_future(one.writer.close())
    async with asyncio.timeout(10):
        while not closing.done():
            await asyncio.sleep(0)
            one.end(0)
            one.check()
    if not one.failures:
        assert len(one.delivered) == len(one.rests_on) - 1, "every promise is kept in the end"


@settings(max_examples=150, deadline=None)
@given(chosen=steps, with_flusher=st.booleans(), fails=st.booleans())
# All that is in the log is given up, and nothing has taken along yet that it is committed.
@example(
    chosen=[
        (Example.entries, 4),
        (Example.end, 0),
        (Example.commit_some, 9),
        (Example.compact, 9),
        (Example.end, 0),
    ],
    with_flusher=True,
    fails=False,
)
async def test_no_promise_comes_before_what_it_rests_on_is_durable(
    chosen: Sequence[tuple[Callable[[Example, int], None], int]], with_flusher: bool, fails: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wal_module, "BEGIN_BYTES", LARGE - 1)
        await play(chosen, with_flusher=with_flusher, fails=fails)
