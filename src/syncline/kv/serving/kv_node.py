"""`KvNode`: a `Raft` node with a `KvMachine`, as `ServingNode` describes it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Final

from syncline.errors import Closed, Dropped, Rejected, SynclineError
from syncline.kv.commands import authorised
from syncline.kv.lease_caller import LeaseCaller
from syncline.kv.limits import MAX_LEASE_ID
from syncline.kv.machine import KvMachine
from syncline.kv.observers import on_loop
from syncline.kv.store import KeyStore
from syncline.kv.versions import MACHINE_VERSION, USERS_VERSION, check_version
from syncline.node.futures import ReadFuture, Then
from syncline.node.levels import LEARNING_S
from syncline.node.raft import Raft
from syncline.node.session_calls import ThenOnce
from syncline.platform.entropy import Entropy, system_entropy
from syncline.sessions.entries import OnceKey

__all__ = ["KvNode"]

LEAST_S: Final = 0.001
"""The time that is left to a command which has waited."""

MOST_WAITING_BYTES: Final = 16 << 20
"""Commands that wait for what the members can do: all that clients of a new cluster send within `LEARNING_S`."""

OVERHEAD_BYTES: Final = 4096
"""What a waiting command takes beside its bytes: its task, and its timer."""


class KvNode:
    """One running node. Make it when the node is open; `close` it before the node is closed."""

    def __init__(self, raft: Raft[object], machine: KvMachine, *, entropy: Entropy = system_entropy) -> None:
        self._raft = raft
        self._machine = machine
        self._entropy = entropy
        self._failed = asyncio.ensure_future(raft.failed())
        self.lease_calls: LeaseCaller = LeaseCaller(raft)
        self._all_commands = False
        """Whether all members can apply all commands of this version."""
        self._waiting: set[asyncio.Task[None]] = set()
        """Commands that wait for what the members can do."""
        self._waiting_bytes = 0

    async def close(self) -> None:
        """Release the node."""
        for waiting in self._waiting:
            waiting.cancel()
        await self.lease_calls.close()
        self._failed.cancel()
        with contextlib.suppress(asyncio.CancelledError, Closed):  # the program may have closed the node before
            await self._failed

    @property
    def store(self) -> KeyStore:
        return self._machine.store

    @property
    def is_leader(self) -> bool:
        return self._raft.is_leader

    @property
    def state_age_s(self) -> float | None:
        return self._raft.state_age_s

    @property
    def catching_up(self) -> bool:
        return self._raft.catching_up

    @property
    def failure(self) -> BaseException | None:
        if not self._failed.done() or self._failed.cancelled():
            return None
        return self._failed.exception() or self._failed.result()

    def leader(self) -> object | None:
        return self._raft.leader

    def observe_leader(self, callback: Callable[[], None]) -> None:
        """Call `callback` on the event loop after each change of the leader, of members or of their addresses."""
        self._raft._observe(callback)

    def propose(self, command: bytes, timeout_s: float, then: Then, *, frees_space: bool = False) -> None:
        if not self._all_commands and (refusal := self._too_new(command)) is not None:
            again = partial(self.propose, command, then=then, frees_space=frees_space)
            self._when_known(refusal, len(command), timeout_s, again, lambda error: then(None, error))
            return
        # `encode_command` has made it, so it need not be checked.
        self._raft._apply_then(command, then, timeout=timeout_s, checked=True, frees_space=frees_space)

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
        if not self._all_commands and (refusal := self._too_new(command)) is not None:
            again = partial(
                self.propose_once, command, key, then=then, frees_space=frees_space, fingerprint=fingerprint
            )
            self._when_known(refusal, len(command), timeout_s, again, lambda error: then(None, error, False))
            return
        self._raft._apply_once_then(
            command,
            key,
            then,
            timeout=timeout_s,
            checked=True,
            frees_space=frees_space,
            fingerprint=fingerprint,
        )

    def member_command(self, command: bytes) -> bytes:
        # This node may not know yet that clients need credentials, so the command always says that it is a member's.
        # While some member can't read that, users can't exist: the commands that make them need the same version.
        if not self._all_commands and self._raft.machine_version < USERS_VERSION:
            return command
        return authorised(command, "", b"", self.store.auth.revision)

    def _when_known(
        self,
        refusal: Rejected,
        size_bytes: int,
        timeout_s: float,
        propose: Callable[[float], None],
        fail: Callable[[SynclineError], None],
    ) -> None:
        """Propose a command later, if all members turn out to know it; else refuse it.

        A cluster learns only after its founding what its members can do. A client that comes before that must not be
        told to upgrade.
        """
        cost = size_bytes + OVERHEAD_BYTES
        if self._waiting_bytes + cost > MOST_WAITING_BYTES:
            fail(Dropped(f"{len(self._waiting)} commands wait for what the members of the cluster can do: try later"))
            return
        loop = asyncio.get_running_loop()

        async def wait() -> None:
            ends_s = loop.time() + timeout_s
            needed = int(refusal.details["needed"])
            try:
                if not await self._raft.reach_machine_version(needed, timeout=min(timeout_s, LEARNING_S)):
                    raise self._raft._not_known_yet(needed) or refusal
            except SynclineError as error:
                fail(error)
            else:
                propose(max(LEAST_S, ends_s - loop.time()))

        def ended(waiting: asyncio.Task[None]) -> None:
            self._waiting.discard(waiting)
            self._waiting_bytes -= cost
            if waiting.cancelled():
                fail(Closed("this node is closed"))

        waiting = loop.create_task(wait())
        self._waiting.add(waiting)
        self._waiting_bytes += cost
        waiting.add_done_callback(ended)

    def _too_new(self, command: bytes) -> Rejected | None:
        """The refusal of a command that a member can't apply yet."""
        version = self._raft.machine_version
        self._all_commands = version >= MACHINE_VERSION  # it never falls, so the rest need not be asked
        try:
            check_version(command, version)
        except Rejected as refusal:
            return refusal
        return None

    @property
    def session_idle_s(self) -> float:
        return self._raft.config.session_idle_s

    async def open_session(self, timeout_s: float) -> int:
        return await self._raft.open_session(timeout=timeout_s)

    async def end_session(self, session_id: int, timeout_s: float) -> bool:
        return await self._raft.end_session(session_id, timeout=timeout_s)

    def observe(self, callback: Callable[[], None]) -> None:
        self._machine.observe(on_loop(callback))

    def new_lease(self) -> int:
        return int.from_bytes(self._entropy(8), "big") % MAX_LEASE_ID + 1

    @property
    def election_s(self) -> float:
        return self._raft.config.election_s

    def read_index(self, timeout_s: float) -> ReadFuture:
        return self._raft.read_index(timeout=timeout_s)
