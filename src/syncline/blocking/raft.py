"""`BlockingRaft`, which is `syncline.blocking.Raft`: one node of a replicated state machine, on a thread of its own."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import FrameType, TracebackType
from typing import BinaryIO, Final, Generic, Self, TypeVar, overload

from syncline.blocking.administration import BlockingAdministration
from syncline.blocking.leadership import BlockingLeaderOperations
from syncline.client.blocking.iterator import PortalIterator
from syncline.client.blocking.portal import Portal, PortalOwner
from syncline.errors import Closed, DeadlineExceeded, NodeFailed, Outcome, UsageError
from syncline.node.arguments import check_config, check_timeout
from syncline.node.config import Config
from syncline.node.events import AnyEvent, Event
from syncline.node.fsm import FSM
from syncline.node.ids import NodeId
from syncline.node.joining import Ask
from syncline.node.member_registry import Membership
from syncline.node.quorum_loss.report import RecoveryReport
from syncline.node.raft import Raft
from syncline.node.role import Role
from syncline.node.stats import SnapshotInfo, Stats, Timings
from syncline.platform.once import start_once
from syncline.platform.world import World
from syncline.transport.messages import PeerStats

__all__ = ["AskBlocking", "BlockingRaft", "asked_beside"]

R = TypeVar("R")
"""What the state machine answers to a command: in methods that make a node, of which no node knows it yet."""

Own = TypeVar("Own")
"""The same, of one node. Not `R`: of `blocking.Raft`, which is another name of the class, it would be unknown."""

AskBlocking = Callable[[int], int]
"""Has a member of the cluster add the node with this id, and returns the cluster's id. It may block."""

_Handler = Callable[[int, FrameType | None], object] | int | None
"""What the `signal` module has for a signal."""

ASYNC_FACE: Final = "syncline.Raft or syncline.Machine"
AFTER_FORK: Final = (
    "a node has one process. Open it after the fork, or call the cluster through syncline.Client in this process"
)


class BlockingRaft(BlockingAdministration[Own], BlockingLeaderOperations[Own], Generic[Own]):
    """A running node for code without async. Any number of threads may call it.

        with blocking.Raft.open(config, Counter()) as raft:
            print(raft.apply(b"1"))

    The node is a `syncline.Raft` on an event loop on a thread of its own. It runs while the program computes, and ends
    with `close`, with its block, or when nothing refers to it any more. A program that ends without that ends at once,
    as in a crash: nothing that was acknowledged is lost, and the other nodes elect a leader after an election timeout.

    A call in a thread that runs an event loop is a `UsageError`, and so is each call in a forked child. A state
    machine must not call its own node: it would wait for itself until the deadline.
    """

    def __init__(self, portal: Portal, raft: Raft[Own]) -> None:
        """Use `Raft.open`."""
        super().__init__(portal, raft, portal.owner.what)

    def __repr__(self) -> str:
        return f"<blocking {self._held!r}>"

    @classmethod
    def open(cls, config: Config, fsm: FSM[R], *, world: World | None = None) -> BlockingRaft[R]:
        """Start a node from its data directory, or a new one.

            raft = blocking.Raft.open(config, fsm)          # the caller calls `close`
            with blocking.Raft.open(config, fsm) as raft:   # closed at the end of the block
                ...

        Its arguments and errors are those of `syncline.Raft.open`.
        """
        check_config(config)
        return _opened(config, lambda: Raft.open(config, fsm, world=world))

    @classmethod
    def join(cls, config: Config, fsm: FSM[R], ask: AskBlocking, *, world: World | None = None) -> BlockingRaft[R]:
        """`open` for a node that joins a running cluster: `config` has neither `peers` nor ids.

            raft = blocking.Raft.join(config, fsm, ask)

        `ask` is an ordinary function, which may block. Its arguments and errors are those of `syncline.Raft.join`.
        """
        check_config(config)
        return _opened(config, lambda: Raft.join(config, fsm, asked_beside(ask), world=world))

    @classmethod
    def recover(
        cls,
        config: Config,
        fsm: FSM[R],
        *,
        compare: Sequence[str] = (),
        dry_run: bool = False,
        accept_loss: bool = False,
        world: World | None = None,
    ) -> RecoveryReport:
        """After the loss of a quorum for good: make a stopped node's state the first member of a new cluster. Offline.

            report = blocking.Raft.recover(config, Counter(), compare=["data/b"], dry_run=True)

        Its arguments and errors are those of `syncline.Raft.recover`.
        """
        portal = Portal("syncline recover", owner=PortalOwner("the recovery", ASYNC_FACE))
        try:
            return portal.call(
                lambda: Raft.recover(
                    config, fsm, compare=compare, dry_run=dry_run, accept_loss=accept_loss, world=world
                )
            )
        finally:
            if portal.process.thread is not None:
                portal.close()

    def reload(self, config: Config) -> tuple[str, ...]:
        """Take other timers and limits while the node runs. Returns the names of the settings that have changed.

            changed = raft.reload(msgspec.structs.replace(raft.config, snapshot_entries=50_000))

        Its arguments and errors are those of `syncline.Raft.reload`.
        """
        return self._look(lambda raft: raft.reload(config))

    def restore(self, source: BinaryIO, *, trial: FSM[object] | None = None, timeout: float = 600.0) -> SnapshotInfo:
        """Replace the state of the whole cluster by that of a snapshot file, while the cluster runs.

            with open("0000000000000010-0000000000000002.snap", "rb") as file:
                print(raft.restore(file).index)

        Its arguments and errors are those of `syncline.Raft.restore`.
        """
        return self._call(lambda raft: raft.restore(source, trial=trial, timeout=timeout))

    def snapshot(self, *, timeout: float = 600.0) -> SnapshotInfo:
        """Take a snapshot of the state now, and drop the log before it. After `timeout` it goes on unwatched.

            print(raft.snapshot().index)

        Its arguments and errors are those of `syncline.Raft.snapshot`.
        """
        return self._call(lambda raft: raft.snapshot(timeout=timeout))

    # -- what there is to know ----------------------------------------------------------------------------------------

    @property
    def node_id(self) -> NodeId:
        """The id of this node."""
        return self._here().node_id

    @property
    def cluster_id(self) -> int:
        """The id of the cluster that it belongs to."""
        return self._here().cluster_id

    @property
    def config(self) -> Config:
        """Its settings. The data directory has an absolute path."""
        return self._here().config

    @property
    def no_leader(self) -> str:
        """Why there is none, for people; empty while a leader is known."""
        return self._look(lambda raft: raft.no_leader)

    @property
    def is_leader(self) -> bool:
        """Whether this node leads, as far as it knows. False after it has stopped."""
        return self._look(lambda raft: raft.is_leader)

    @property
    def term(self) -> int:
        """The present term of this node. It never falls, restarts included."""
        return self._look(lambda raft: raft.term)

    @property
    def role(self) -> Role:
        """`leader`, `follower`, `candidate`, `learner`, or `stopped`."""
        return self._look(lambda raft: raft.role)

    @property
    def address(self) -> str:
        """Where peers are listened for, with the real port."""
        return self._look(lambda raft: raft.address)

    @property
    def advertised(self) -> str:
        """Where peers reach this node, as it announces it."""
        return self._look(lambda raft: raft.advertised)

    @property
    def catching_up(self) -> bool:
        """Whether the local state may still be older than what this node showed before it was restarted."""
        return self._look(lambda raft: raft.catching_up)

    @property
    def state_age_s(self) -> float | None:
        """How old the local state may be: it has all that was committed so many seconds ago. None: it is not known."""
        return self._look(lambda raft: raft.state_age_s)

    @property
    def state_alarm(self) -> str:
        """Why the state of this node can't be relied on; empty if nothing is known against it."""
        return self._look(lambda raft: raft.state_alarm)

    @property
    def last_contact_s(self) -> float | None:
        """The age of the last word from the leader; 0 on the leader, None before the first."""
        return self._look(lambda raft: raft.last_contact_s)

    def membership(self) -> Membership:
        """The membership in force here, with the index of its last change.

            names = [member.name for member in raft.membership().members.values()]

        Its arguments and errors are those of `syncline.Raft.membership`.
        """
        return self._look(lambda raft: raft.membership())

    def stats(self) -> Stats:
        """The node's figures at this moment.

            print(raft.stats().applied)

        Its arguments and errors are those of `syncline.Raft.stats`.
        """
        return self._look(lambda raft: raft.stats())

    def timings(self) -> Timings:
        """How long syncs, commits, applies and reads took since the start.

            syncs = raft.timings().log_syncs
            mean_s = syncs.sum / max(1, sum(syncs.counts))

        Its arguments and errors are those of `syncline.Raft.timings`.
        """
        return self._look(lambda raft: raft.timings())

    def peers(self) -> dict[int, PeerStats]:
        """The links to the peers, by id (`NodeId`).

            reached = [peer for peer, link in raft.peers().items() if link.connected]

        Its arguments and errors are those of `syncline.Raft.peers`.
        """
        return self._look(lambda raft: raft.peers())

    @overload
    def events(self) -> PortalIterator[Event]: ...

    @overload
    def events(self, *kinds: type[AnyEvent]) -> PortalIterator[AnyEvent]: ...

    def events(self, *kinds: type[Event]) -> PortalIterator[Event]:
        """What happens from now on, until the node closes: all events, or those of some classes.

            for event in raft.events(LeaderChanged):
                print(event.leader)

        `next(timeout=…)` waits for a limited time. Its arguments and errors are those of `syncline.Raft.events`.
        """
        watch = self._look(lambda raft: raft.events(*kinds))  # from this moment on, and not from the first `next`
        return self._portal.iterate(lambda: watch)

    # -- the end ------------------------------------------------------------------------------------------------------

    def failed(self, timeout: float | None = None) -> NodeFailed:
        """Wait until the node has stopped by itself (fail-stop), and return why.

            reason = raft.failed(timeout=5.0)

        Its errors are those of `syncline.Raft.failed`.

        Raises:
            DeadlineExceeded: it has not stopped after `timeout` seconds. None: there is no limit.
        """
        limit_s = None if timeout is None else check_timeout(timeout)
        return self._call(lambda raft: _failed(raft, limit_s))

    def until_stopped(self) -> None:
        """Wait for SIGTERM or Ctrl-C, and then return; `close` is left to the caller. For the main thread.

            with blocking.Raft.open(config, fsm) as raft:
                raft.until_stopped()

        A second signal does what it did before the call: `until_stopped` handles one.

        Raises:
            NodeFailed: the node has stopped by itself.
            Closed: the node was closed.
            UsageError: this is not the main thread, which alone gets signals.
        """
        if threading.current_thread() is not threading.main_thread():
            raise UsageError("until_stopped waits for signals, which only the main thread gets: call it there")
        self._here()
        stop = asyncio.Event()
        signals = StopSignals(partial(self._portal.post, stop.set))
        try:
            signals.begin()
            self._call(lambda raft: _until(raft, stop))
        finally:
            signals.end()

    def close(self) -> None:
        """Stop the node: transfer its leadership if another voter is alive, end what waits, and close the files.

            raft.close()

        Idempotent. Operations under way end with `Closed`, in whichever thread.

        Raises:
            UsageError: an event loop runs in this thread, or the node belongs to the parent of this process.
        """
        self._here()
        if not self._portal.closed:
            try:
                self._call(lambda raft: raft.close())
            except (Closed, UsageError):
                if not self._portal.closed:
                    raise  # else another thread has closed it meanwhile
        self._portal.close()

    def __enter__(self) -> Self:
        self._here()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class StopSignals:
    """Calls `stop` at the first SIGTERM or Ctrl-C. No exception is raised: it could come at any step of the wait."""

    def __init__(self, stop: Callable[[], object]) -> None:
        self._stop = stop
        self._before: dict[int, _Handler] = {}

    def begin(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.getsignal(number)
            signal.signal(number, self._handle)

    def end(self) -> None:
        """Have signals handled as before."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not Python's, and lost

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.end()
        self._stop()


def _opened(config: Config, start: Callable[[], Awaitable[Raft[R]]]) -> BlockingRaft[R]:
    """Open a node on a thread of its own. The thread ends if that fails."""
    opened: list[Raft[R]] = []

    async def close() -> None:
        for raft in opened:
            await raft.close()

    owner = PortalOwner(f"the node {config.name!r}", ASYNC_FACE, "open it again", AFTER_FORK)
    portal = Portal(f"syncline node {config.name}", last=close, owner=owner)

    async def open_it() -> Raft[R]:
        opened.append(await start())
        return opened[0]

    try:
        return BlockingRaft(portal, portal.call(open_it))
    except BaseException:
        if portal.process.thread is not None:
            portal.close()
        raise


def asked_beside(ask: AskBlocking) -> Ask:
    """`ask` for a joining node: on a thread of its own, because it blocks."""

    async def asked(node_id: int) -> int:
        return await asyncio.wrap_future(start_once("syncline join", lambda: ask(node_id)))

    return asked


async def _until(raft: Raft[R], stop: asyncio.Event) -> None:
    failed, stopping = asyncio.ensure_future(raft.failed()), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([failed, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            raise failed.result()
    finally:
        failed.cancel()
        stopping.cancel()


async def _failed(raft: Raft[R], timeout_s: float | None) -> NodeFailed:
    failed = asyncio.ensure_future(raft.failed())
    try:
        await asyncio.wait([failed], timeout=timeout_s)
        if not failed.done():
            raise DeadlineExceeded(f"the node runs after {timeout_s:g} s", outcome=Outcome.NOT_APPLIED)
        return failed.result()
    finally:
        failed.cancel()
