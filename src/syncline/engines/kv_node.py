"""`LogKvNode`: a node on a log backend with a key-value machine, as `MemberNode` describes it.

There is no leader. Reads are confirmed by the backend, and what a leader does for a store on Raft each node does here:
it ends leases (`LogLessor`) and compacts the history.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, cast

import msgspec

from syncline.engines.replica import LogReplica
from syncline.errors import Closed, SynclineError
from syncline.kv.compactor import DEFAULT_HISTORY_BYTES, DEFAULT_HISTORY_REVISIONS, Compactor
from syncline.kv.lease_caller import LeaseCaller
from syncline.kv.limits import MAX_LEASE_ID
from syncline.kv.log_lessor import LogLessor, member_command
from syncline.kv.machine import KvMachine
from syncline.kv.observers import on_loop
from syncline.kv.store import KeyStore
from syncline.node.futures import ReadFuture, Then
from syncline.node.session_calls import SessionFuture, ThenOnce
from syncline.platform.world import World
from syncline.sessions.entries import OnceKey

__all__ = ["LogKvNode", "LogUpkeep"]

PATIENCE_S: Final = 1.0
"""In place of an election timeout: an attempt of a session, and watches without a backend, wait for some of it."""


class LogKvNode:
    """One open node. Make it when the node is open; `close` it before the node is closed."""

    def __init__(self, replica: LogReplica[object], machine: KvMachine, lessor: LogLessor, world: World) -> None:
        self._replica = replica
        self._machine = machine
        self._entropy = world.entropy
        self._loop = asyncio.get_running_loop()
        self._failed = asyncio.ensure_future(replica.failed())
        self._confirmed_s = self._loop.time()
        """When the newest confirmed read was asked for. The open of a node is one."""
        self.lease_calls: LeaseCaller = LeaseCaller(lessor)

    async def close(self) -> None:
        """Release the node."""
        await self.lease_calls.close()
        self._failed.cancel()
        with contextlib.suppress(asyncio.CancelledError, Closed):  # the program may have closed the node before
            await self._failed

    @property
    def store(self) -> KeyStore:
        return self._machine.store

    @property
    def is_leader(self) -> bool:
        """No node may answer without the backend."""
        return False

    @property
    def state_age_s(self) -> float | None:
        return self._loop.time() - self._confirmed_s

    @property
    def catching_up(self) -> bool:
        """A node is open when it has applied all that the log had before."""
        return False

    @property
    def failure(self) -> BaseException | None:
        if not self._failed.done() or self._failed.cancelled():
            return None
        return self._failed.exception() or self._failed.result()

    def leader(self) -> object | None:
        """The backend, while it is reached."""
        stats = self._replica.stats()
        return None if stats.trouble or stats.role == "stopped" else stats.engine

    def observe(self, callback: Callable[[], None]) -> None:
        self._machine.observe(on_loop(callback))

    def propose(self, command: bytes, timeout_s: float, then: Then, *, frees_space: bool = False) -> None:
        future = self._replica.apply(command, timeout=timeout_s, frees_space=frees_space)
        future.add_done_callback(partial(_ended, then))

    def propose_once(
        self,
        command: bytes,
        key: OnceKey,
        timeout_s: float,
        then: ThenOnce,
        *,
        frees_space: bool = False,
        fingerprint: bytes = b"",
    ) -> None:
        future = self._replica.apply_once(
            command, key, timeout=timeout_s, frees_space=frees_space, fingerprint=fingerprint
        )
        future.add_done_callback(partial(_ended_once, then))

    def member_command(self, command: bytes) -> bytes:
        return member_command(self._machine, command)

    @property
    def session_idle_s(self) -> float:
        """Idle sessions do not end: see `LogReplica.session`."""
        return math.inf

    async def open_session(self, timeout_s: float) -> int:
        return await self._replica.open_session(timeout=timeout_s)

    async def end_session(self, session_id: int, timeout_s: float) -> bool:
        return await self._replica.end_session(session_id, timeout=timeout_s)

    def new_lease(self) -> int:
        return int.from_bytes(self._entropy(8), "big") % MAX_LEASE_ID + 1

    @property
    def election_s(self) -> float:
        return PATIENCE_S

    def read_index(self, timeout_s: float) -> ReadFuture:
        future = self._replica.read_index(timeout=timeout_s)
        future.add_done_callback(partial(self._confirmed, self._loop.time()))
        return future

    def _confirmed(self, asked_s: float, future: asyncio.Future[object]) -> None:
        if future.exception() is None:
            self._confirmed_s = max(self._confirmed_s, asked_s)


class LogUpkeep:
    """What a node does for its store beside the commands: it ends leases, and compacts the history.

    All nodes do so. A compaction has no effect behind another one, so the smallest limits of all nodes count.
    """

    def __init__(
        self,
        replica: LogReplica[object],
        machine: KvMachine,
        world: World,
        *,
        history_revisions: int = DEFAULT_HISTORY_REVISIONS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> None:
        self.lessor: LogLessor = LogLessor(replica, machine, rng=world.rng)
        self.compactor: Compactor = Compactor(
            _Compacting(replica, machine),
            machine,
            history_revisions=history_revisions,
            history_bytes=history_bytes,
        )

    def start(self) -> None:
        """Take up the work."""
        self.lessor.start()
        self.compactor.start()

    async def close(self) -> None:
        """End the work. What was proposed goes on."""
        await self.compactor.close()
        await self.lessor.close()


class _NoShortage(msgspec.Struct, frozen=True):
    """The backend has the disk, and this node knows nothing of it."""

    disk_shortage: int = 0


class _Compacting:
    """A node as the compactor knows it: one that may propose."""

    def __init__(self, replica: LogReplica[object], machine: KvMachine) -> None:
        self._replica = replica
        self._machine = machine

    @property
    def is_leader(self) -> bool:
        return True

    def stats(self) -> _NoShortage:
        return _NoShortage()

    def apply(
        self,
        data: bytes,
        *,
        timeout: float,
        term: int | None = None,  # noqa: ARG002 - a compaction of any node is as good
        frees_space: bool = False,
    ) -> Awaitable[object]:
        command = member_command(self._machine, data)
        return self._replica.apply(command, timeout=timeout, frees_space=frees_space)

    async def verify_leader(self, *, timeout: float) -> int:
        """Return the term of all entries of such a log."""
        await self._replica.read_index(timeout=timeout)
        return 0

    async def snapshot(self, *, timeout: float) -> object:
        return await self._replica.snapshot(timeout=timeout)


def _ended(then: Then, future: asyncio.Future[object]) -> None:
    error = future.exception()
    if error is None:
        then(future.result(), None)
    else:
        then(None, cast("SynclineError", error))


def _ended_once(then: ThenOnce, future: asyncio.Future[object]) -> None:
    repeated = cast("SessionFuture[object]", future).repeated
    _ended(lambda answer, error: then(answer, error, repeated), future)
