"""Observe the nodes of a simulation and call the onlookers.

Production code does not know this: the objects of each node are wrapped from outside after its assembly. Each call
into its core ends with a check, so no state in between is missed. Messages to the transport and writes to the log are
reported on their way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import (
    MembershipChange,
    MembershipState,
    Message,
    MessageType,
    NodeId,
    Ready,
    StateType,
    StepRefusal,
)
from syncline.node.runtime import Driver
from syncline.platform.disk import File
from syncline.storage.snapshots.store import SnapshotManifest, snapshot_name
from syncline.storage.snapshots.write import SnapshotWriter
from syncline.storage.wal.writer import WalWrite, WriteResult
from syncline.testing.cluster import Answer, Observer
from syncline.testing.invariants.base import Facts, Onlooker, Promised, Verdict, WatchedMember
from syncline.testing.sim.disk import SimDisk
from syncline.testing.sim.durable_log import DurableLog
from syncline.testing.sim.loop import SimNode
from syncline.testing.sim.server import Condition, SimServer
from syncline.transport.messages import PeerMessage

__all__ = ["Watch"]

OnlookerCalls: TypeAlias = list[Callable[..., None]]
"""A method of each onlooker that has something of its own to do there."""

PROMISES = frozenset({MessageType.VOTE_RESP, MessageType.APP_RESP})


class Watch(Observer):
    """The observer of a cluster that calls the onlookers. Use it as the loop's `after_event`."""

    def __init__(
        self, facts: Facts, verdict: Verdict, onlookers: Iterable[Onlooker], notes: Callable[[str, str], None]
    ) -> None:
        self.facts = facts
        self._verdict = verdict
        self._onlookers = list(onlookers)
        self._notes = notes
        self._by_process: dict[SimNode, WatchedMember] = {}
        self._names: dict[str, NodeId] = {}
        self.on_started: OnlookerCalls = self._who("started")
        self.on_looked: OnlookerCalls = self._who("looked")
        self.on_appended: OnlookerCalls = self._who("appended")
        self.on_promised: OnlookerCalls = self._who("promised")
        self.on_sent: OnlookerCalls = self._who("sent")
        self.on_wrote: OnlookerCalls = self._who("wrote")
        self.on_changed: OnlookerCalls = self._who("changed")
        self.on_installed: OnlookerCalls = self._who("installed")
        self.on_applied: OnlookerCalls = self._who("applied")
        self.on_ticked: OnlookerCalls = self._who("ticked")
        self.on_deposed: OnlookerCalls = self._who("deposed")
        self.on_heard: OnlookerCalls = self._who("heard")
        self.on_asked: OnlookerCalls = self._who("asked")
        self.on_snapshotted: OnlookerCalls = self._who("snapshotted")
        self.on_kept: OnlookerCalls = self._who("kept")
        self.on_answered: OnlookerCalls = self._who("answered")

    def _who(self, method: str) -> OnlookerCalls:
        """The onlookers that override this method."""
        return [
            getattr(onlooker, method)
            for onlooker in self._onlookers
            if getattr(type(onlooker), method) is not getattr(Onlooker, method)
        ]

    # -- from the cluster ---------------------------------------------------------------------------------------------

    def note(self, subject: str, text: str) -> None:
        self._notes(subject, text)

    def assembled(self, server: SimServer, driver: Driver) -> None:
        core = driver.core
        view = self._view_of(server, core.raft.id)
        view.core, view.driver = core, driver
        for call in self.on_started:
            call(view)
        view.lives += 1
        view.starts += 1
        _settle(view, driver)
        process = server.process
        assert process is not None
        self._by_process = {living: held for living, held in self._by_process.items() if not living.killed}
        self._by_process[process] = view
        core.__class__ = _watched_core(self, view)
        _watch_log(self, view, driver, process)
        _watch_transport(self, view, driver, process)
        _watch_snapshots(self, view, driver, server.disk)
        self._applied(view)

    def _view_of(self, server: SimServer, node_id: NodeId) -> WatchedMember:
        """The view of a member; a twin has one of its own, and no quorum counts on it."""
        if server.twin_of is not None:
            view = WatchedMember(node_id, server.name)
            view.doubtful = True
            return view
        self._names[server.name] = node_id
        return self.facts.views.setdefault(node_id, WatchedMember(node_id, server.name))

    def ended(self, server: SimServer) -> None:
        """A process has ended by itself: it must have a reason."""
        if not server.sound or ((server.retired or server.leaving) and server.condition is Condition.FAILED):
            return
        kind = "a sound node starts" if server.condition is Condition.REFUSED else "a sound node goes on"
        self._verdict.broken(kind, f"{server.name} {server.condition.value}: {server.error}")

    def acts(self, view: WatchedMember, process: SimNode, what: str) -> None:
        """A process writes or sends. If it was killed, the test kit has called into it: what follows proves nothing."""
        if process.killed:
            self._verdict.broken("a killed process does nothing", f"a killed process of {view.name} {what}")

    def answered(self, server: SimServer, answer: Answer) -> None:
        for call in self.on_answered:
            call(server.name, answer)

    def wiped(self, server: SimServer) -> None:
        node_id = self._names.get(server.name)
        if node_id is not None:
            view = self.facts.views[node_id]
            view.lost, view.durable = view.durable, DurableLog()
            view.most_applied = view.lives = 0

    def doubted(self, server: SimServer) -> None:
        self.wiped(server)
        node_id = self._names.get(server.name)
        if node_id is not None:
            self.facts.views[node_id].doubtful = True

    # -- from the loop ------------------------------------------------------------------------------------------------

    def after_event(self, process: SimNode) -> None:
        view = self._by_process.get(process)
        if view is not None and view.driver.applied != view.applied:
            self._applied(view)

    def _applied(self, view: WatchedMember) -> None:
        if view.driver.applied:
            for call in self.on_applied:
                call(view)
        view.applied = view.driver.applied
        view.most_applied = max(view.most_applied, view.applied)

    # -- from a node's core -------------------------------------------------------------------------------------------

    def look(self, view: WatchedMember) -> None:
        """Something was done with the core: see what it has become."""
        raft = view.core.raft
        if (
            raft.term != view.term
            or raft.log.commit_index != view.commit
            or raft.state is not view.state
            or raft.vote != view.vote
        ):
            for call in self.on_looked:
                call(view)
            view.term, view.vote, view.state, view.commit = raft.term, raft.vote, raft.state, raft.log.commit_index
        if raft.tracker.configuration is not view.configuration or raft.restored_index != view.restored:
            view.configuration, view.restored = raft.tracker.configuration, raft.restored_index
            snapshot = raft.log.unstable.snapshot
            if snapshot is not None:
                for call in self.on_installed:
                    call(view, snapshot.meta.index, raft.tracker.configuration.state())


def _settle(view: WatchedMember, driver: Driver) -> None:
    """Begin the account of a life with what the node has found on its disk."""
    raft, durable = view.core.raft, view.durable
    view.term, view.vote, view.state, view.commit = raft.term, raft.vote, raft.state, raft.log.commit_index
    view.configuration, view.restored = raft.tracker.configuration, raft.restored_index
    view.applied = 0
    durable.writing = ()
    durable.hard_state = driver.parts.log.hard_state
    durable.restart(raft.log.first_index - 1)
    durable.last = raft.log.last_index
    for index in range(raft.log.first_index, durable.last + 1):
        durable.terms[index] = raft.log.term(index)


def _watched_core(watch: Watch, view: WatchedMember) -> type[RawNode]:
    """`RawNode`, with a look at it after all that can change it."""

    class WatchedCore(RawNode):
        __slots__ = ()

        def tick(self) -> None:
            raft = self.raft
            led = raft.state is StateType.LEADER
            RawNode.tick(self)
            watch.look(view)
            for call in watch.on_deposed if led and raft.state is not StateType.LEADER else watch.on_ticked:
                call(view)

        def step(self, message: Message) -> StepRefusal | None:
            if message.sender == view.id and message.type in PROMISES:
                for call in watch.on_promised:
                    call(view, view.id, message)
            before = Promised.of(self) if message.type is MessageType.PRE_VOTE else None
            refusal = RawNode.step(self, message)
            watch.look(view)
            if before is not None:
                for call in watch.on_asked:
                    call(view, before)
            if refusal is None and message.sender != view.id:
                for call in watch.on_heard:
                    call(view, message)
            return refusal

        def propose_batch(self, batch: list[bytes]) -> tuple[int, int]:
            placed = RawNode.propose_batch(self, batch)
            watch.look(view)
            return placed

        def apply_membership(self, change: MembershipChange, *, index: int = 0) -> MembershipState:
            before = self.raft.tracker.configuration
            membership = RawNode.apply_membership(self, change, index=index)
            if self.raft.tracker.configuration is not before:
                for call in watch.on_changed:
                    call(view, index, membership)
            watch.look(view)
            return membership

        def transfer_leadership(self, to: NodeId) -> None:
            RawNode.transfer_leadership(self, to)
            watch.look(view)

        def ready(self) -> Ready:
            ready = RawNode.ready(self)
            if ready.entries:
                for call in watch.on_appended:
                    call(view, ready.entries)
            return ready

    return WatchedCore


def _watch_log(watch: Watch, view: WatchedMember, driver: Driver, process: SimNode) -> None:
    wal, durable = driver.parts.wal, view.durable
    original_begin, original_finish, original_write = wal.begin, wal.finish, wal.write

    def begin(batch: Sequence[WalWrite]) -> File | None:
        watch.acts(view, process, "writes to its log")
        durable.writing = batch
        return original_begin(batch)

    def finish(error: BaseException | None) -> WriteResult:
        result = original_finish(error)
        durable.wrote()
        for call in watch.on_wrote:
            call(view)
        return result

    def write(batch: Sequence[WalWrite]) -> WriteResult:
        watch.acts(view, process, "writes to its log")
        durable.writing = batch
        return original_write(batch)

    for replacement in (begin, finish, write):
        setattr(wal, replacement.__name__, replacement)


def _watch_transport(watch: Watch, view: WatchedMember, driver: Driver, process: SimNode) -> None:
    transport = driver.parts.transport
    original = transport.send

    def send(to: NodeId, message: PeerMessage) -> bool:
        watch.acts(view, process, "sends a message")
        if isinstance(message, Message) and message.type in PROMISES:
            for call in watch.on_promised:
                call(view, to, message)
        for call in watch.on_sent:
            call(view, to, message)
        return original(to, message)

    setattr(transport, "send", send)  # noqa: B010 - as above


def _watch_snapshots(watch: Watch, view: WatchedMember, driver: Driver, disk: SimDisk) -> None:
    store = driver.parts.snapshots
    original, original_adopt = store.create, store.adopt

    def create(
        index: int, term: int, membership: MembershipState, runtime: bytes = b"", *, sessions: int = 0
    ) -> SnapshotWriter:
        for call in watch.on_snapshotted:
            call(view, index, membership)
        return original(index, term, membership, runtime, sessions=sessions)

    def adopt(path: str, manifest: SnapshotManifest) -> None:
        original_adopt(path, manifest)
        for call in watch.on_kept:
            call(view, f"{store.path}/{snapshot_name(manifest.index, manifest.term)}", disk)

    for replacement in (create, adopt):
        setattr(store, replacement.__name__, replacement)
