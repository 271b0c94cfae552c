"""The hub of watches against the naive model: whatever happens, each watch is told of each revision once, in order."""

from __future__ import annotations

from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.errors import RevisionCompacted, WatchEnded
from syncline.kv import watch_hub
from syncline.kv.commands import Command, Compact, OperationBatch
from syncline.kv.watch import WatchLimits
from tests.helpers import kv_commands
from tests.helpers.async_tests import run
from tests.helpers.kv_commands import accepted, bounds, contents
from tests.helpers.watches import Event, WatchedNode, WatchReader, settle

LIMITS = WatchLimits(max_unread_bytes=60, max_total_unread_bytes=200)

commands = kv_commands.commands.filter(lambda one: accepted(one) and not isinstance(one, OperationBatch))
"""A batch has several revisions: the model, which compares what is before and after a command, does not see each."""
Step: TypeAlias = tuple[str, object]
spans = st.one_of(
    st.sampled_from(kv_commands.KEYS).map(lambda key: {"key": key}),
    bounds.map(lambda prefix: {"prefix": prefix}),
    st.tuples(bounds, kv_commands.ends).map(lambda pair: {"start": pair[0], "end": pair[1]}),
)
watches = st.tuples(
    spans, st.none() | st.integers(-12, 6), st.sampled_from([(True, True), (True, True), (True, False), (False, True)])
)
steps: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("write"), commands),
    st.tuples(st.just("write"), commands),
    st.tuples(st.just("write"), commands),
    st.tuples(st.just("follow"), st.integers(1, 6)),
    st.tuples(st.just("follow"), st.integers(1, 6)),
    st.tuples(st.just("watch"), watches),
    st.tuples(st.just("watch"), watches),
    st.tuples(st.just("read"), st.tuples(st.integers(0, 9), st.integers(1, 4))),
    st.tuples(st.just("read"), st.tuples(st.integers(0, 9), st.integers(1, 4))),
    st.tuples(st.just("turn"), st.none()),
    st.tuples(st.just("compact"), st.integers(0, 12)),
    st.tuples(st.just("install"), st.none()),
    st.tuples(st.just("close"), st.integers(0, 9)),
)


class Followed:
    """A leader, a node that follows it with a delay or by its snapshots, and watches on that node."""

    def __init__(self) -> None:
        self.leader = WatchedNode()
        self.node = WatchedNode(limits=LIMITS)
        self.pending: list[Command] = []
        self.history: list[tuple[int, list[Event]]] = []
        self.readers: list[WatchReader] = []
        self.closed: list[WatchReader] = []

    async def step(self, kind: str, argument: object) -> None:
        if kind == "turn":
            await settle()
        else:
            getattr(self, kind)(argument)

    def write(self, command: Command) -> None:
        before = self.values()
        self.leader.apply(command)
        after = self.values()
        self.pending.append(command)
        changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
        if changed:
            events: list[Event] = [
                (
                    "put" if key in after else "delete",
                    key,
                    after.get(key, (b"", 0))[0],
                    before[key][0] if key in before else None,
                )
                for key in changed
            ]
            self.history.append((self.leader.revision, events))

    def values(self) -> dict[bytes, tuple[bytes, int]]:
        return {record.key: (record.value, record.mod_revision) for record in contents(self.leader.machine.store)}

    def follow(self, count: int) -> None:
        commands, self.pending = self.pending[:count], self.pending[count:]
        if commands:
            self.node.apply(*commands)

    def compact(self, back: int) -> None:
        if self.leader.revision > back:
            self.write(Compact(self.leader.revision - back))

    def install(self, _: object) -> None:
        self.node.install(self.leader)
        self.pending.clear()

    def watch(self, wanted: tuple[dict[str, bytes], int | None, tuple[bool, bool]]) -> None:
        span, offset, (puts, deletes) = wanted
        first = 0 if offset is None else max(1, self.node.revision + offset)
        oldest = self.node.machine.store.oldest
        if first and first < oldest:
            with pytest.raises(RevisionCompacted) as refusal:
                WatchReader(self.node, from_revision=first, **span)  # type: ignore[arg-type]
            assert refusal.value.oldest == oldest
            return
        reader = WatchReader(self.node, from_revision=first, puts=puts, deletes=deletes, **span)  # type: ignore[arg-type]
        self.readers.append(reader)

    def read(self, what: tuple[int, int]) -> None:
        place, count = what
        if self.readers:
            self.readers[place % len(self.readers)].read(count)

    def close(self, place: int) -> None:
        if self.readers:
            reader = self.readers.pop(place % len(self.readers))
            reader.watch.close()
            self.closed.append(reader)

    async def finish(self) -> None:
        """Let the node follow to the end, and all readers read."""
        self.follow(len(self.pending))
        for _ in range(200):
            await settle()
            if not [reader for reader in self.readers if reader.read()]:
                return
        raise AssertionError("the readers never come to an end")

    def check(self) -> None:
        for reader in self.readers:
            error = reader.error
            if error is None:
                assert reader.told == reader.expected(self.history)
            elif isinstance(error, WatchEnded):
                assert error.code == "slow_watcher"
                assert reader.told == reader.expected(self.history, before=error.resume)
            else:
                assert isinstance(error, RevisionCompacted)
                assert reader.watch.next < error.oldest
                assert reader.told == reader.expected(self.history, before=reader.watch.next)
        for reader in self.closed:
            assert reader.told == reader.expected(self.history)[: len(reader.told)]
        hub = self.node.hub
        assert len(hub) == len(self.readers)
        assert hub.unread_bytes == 0
        for reader in self.readers:
            reader.watch.close()
        assert len(hub) == 0
        hub.check()


async def run_steps(steps: list[Step]) -> None:
    followed = Followed()
    for kind, argument in steps:
        await followed.step(kind, argument)
        followed.node.hub.check()
    await followed.finish()
    followed.check()


@settings(max_examples=300)
@given(st.lists(steps, max_size=60))
def test_watch_hub_tells_each_watch_what_the_list_of_revisions_has(given_steps: list[Step]) -> None:
    """Random watches, changes, compactions, installed snapshots, and readers that are slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch_hub, "SLICE_CHANGES", 3)
        patch.setattr(watch_hub, "SLICE_BYTES", 30)
        patch.setattr(watch_hub, "FULL_BYTES", 30)
        run(run_steps(given_steps))
