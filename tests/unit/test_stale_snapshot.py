"""A snapshot of a leader whose term is over: the follower must still take the later leader's, of whatever index."""

from __future__ import annotations

from pathlib import Path

import msgspec

from syncline import Raft
from syncline.consensus.types import Message, MessageType, Snapshot
from syncline.platform.disk import OsDisk
from syncline.storage.snapshots.file import encode_manifest
from syncline.storage.snapshots.store import SnapshotManifest, SnapshotStore
from syncline.transport.handshake import PROTOCOL_VERSION, Hello, NodeFacts, Purpose, Welcome
from syncline.transport.snapshot_stream.protocol import Accept, Ack, Chunk, Done, End, FromReceiver, Offer, Reject
from syncline.transport.wire import Batch
from tests.helpers.node_cluster import all_apply, cluster, until
from tests.helpers.transport import RawEnd

from_receiver: msgspec.msgpack.Decoder[FromReceiver] = msgspec.msgpack.Decoder(FromReceiver)


class Leader:
    """A stopped member's place, in the hands of the test: it sends what that member could send as a leader."""

    def __init__(self, raft: Raft[object], follower: Raft[object], directory: Path, ends: list[RawEnd]) -> None:
        self._facts: NodeFacts = raft._driver.parts.transport._dialler._facts
        self._id, self._cluster = raft.node_id, raft.cluster_id
        self._follower = follower
        self._ends = ends
        self._store = SnapshotStore.open(OsDisk(), str(directory), cluster_id=raft.cluster_id)

    async def enter(self, purpose: Purpose) -> RawEnd:
        end = await RawEnd.dial(self._follower._driver.parts.transport.address)
        self._ends.append(end)
        facts = self._facts
        hello = Hello(
            PROTOCOL_VERSION,
            PROTOCOL_VERSION,
            self._cluster,
            self._id,
            self._follower.node_id,
            purpose,
            facts.incarnation,
            directory=facts.directory,
            name=facts.name,
            history=facts.history,
            level=facts.level,
            machine_version=facts.machine_version,
        )
        answer = await end.introduce(hello)
        assert isinstance(answer, Welcome), answer
        return end

    async def lead(self, term: int) -> RawEnd:
        end = await self.enter(Purpose.MESSAGES)
        beat = Message(MessageType.HEARTBEAT, to=self._follower.node_id, sender=self._id, term=term)
        end.write(Batch([beat]))
        await until(self._follower, lambda: self._follower.stats().term == term)
        return end

    def snapshot(self, index: int, term: int, items: list[bytes]) -> tuple[SnapshotManifest, bytes]:
        parts = self._follower._driver.parts
        writer = self._store.create(index, term, parts.core.membership, parts.book.dump())
        data = msgspec.msgpack.encode(items)
        writer.write(data)
        return writer.commit(), data

    async def offer(self, term: int, manifest: SnapshotManifest) -> tuple[RawEnd, Accept | Reject]:
        end = await self.enter(Purpose.SNAPSHOT)
        snap = Message(
            MessageType.SNAP, to=self._follower.node_id, sender=self._id, term=term, snapshot=Snapshot(manifest.meta)
        )
        end.write(Offer(snap, encode_manifest(manifest), manifest.size_bytes))
        answer = await self.answer(end)
        assert isinstance(answer, Accept | Reject)
        return end, answer

    async def answer(self, end: RawEnd) -> FromReceiver:
        while isinstance(answer := from_receiver.decode(await end.read_payload()), Ack):
            pass
        return answer


async def test_snapshot_of_an_ended_term_gives_way_to_a_later_leader(tmp_path: Path) -> None:
    """The first leader's snapshot became durable when its term was over, so the core ignored it. The later leader has
    an older one alone. If the follower refused that, it would catch up with nothing but a restart.
    """
    async with cluster(tmp_path) as nodes:
        await all_apply(nodes, b"one")
        await nodes.announced()
        third = nodes.rafts["c"]
        ends: list[RawEnd] = []
        early = Leader(nodes.rafts["a"], third, tmp_path / "early", ends)
        late = Leader(nodes.rafts["b"], third, tmp_path / "late", ends)
        await nodes.stop("a")
        await nodes.stop("b")
        # Above the term of an election that may still be under way. There can be none afterwards: it needs a pre-vote.
        term, last = third.stats().term + 10, third._driver.core.last_index
        await early.lead(term)
        manifest, data = early.snapshot(last + 100, term, [b"early"] * 3)
        stale, answer = await early.offer(term, manifest)
        assert answer == Accept(0)
        stale.write(Chunk(0, data))
        await late.lead(term + 1)
        stale.write(End())
        assert await early.answer(stale) == Done()
        assert third._driver.core.commit_index <= last

        older, _ = late.snapshot(last + 50, term, [b"late"] * 2)
        later, answer = await late.offer(term + 1, older)
        assert answer == Accept(older.size_bytes)
        later.write(End())
        assert await late.answer(later) == Done()
        await until(third, lambda: third._driver.core.commit_index == manifest.index)
        await until(third, lambda: nodes.machines["c"].items == [b"early"] * 3)
        assert not list((tmp_path / "c").rglob("*.part"))
        for end in ends:
            await end.close()
