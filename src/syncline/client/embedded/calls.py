"""What the calls of a store are made of: one command or one read, its answer or its error, inside one deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeAlias, TypeVar

from syncline.client.arguments import checked_consistency, checked_revision, checked_timeout_s
from syncline.client.embedded.errors import client_error, node_errors, tried_again
from syncline.client.session_keys import SessionKeys
from syncline.errors import OperationError, SynclineError, UsageError
from syncline.kv.serving.key_limits import KeyLimits, bad_request
from syncline.kv.serving.node import MemberNode
from syncline.kv.serving.reads import MAX_REVISION, MAX_STALE_S, ConfirmedReads, ReadPlan
from syncline.kv.store import KeyStore
from syncline.node.arguments import MAX_TIMEOUT_S
from syncline.node.session import until_known
from syncline.node.session_operations import ATTEMPT_ELECTIONS
from syncline.sessions.entries import OnceKey

__all__ = ["Embedded", "EmbeddedCalls", "check_reading", "read_plan"]

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
"""Between the attempts of a call that the cluster refuses for the moment: as a client pauses."""

Found = TypeVar("Found")
Look: TypeAlias = Callable[[KeyStore], Found]

Once: TypeAlias = "asyncio.Future[tuple[object, bool]]"
"""The answer of a command that takes effect once, and whether it is a recorded one."""


class Embedded:
    """One open node, as the calls of a store and of its sessions share it."""

    def __init__(self, node: MemberNode, *, limits: KeyLimits, timeout_s: float, name: str = "") -> None:
        self.node = node
        self.name = name
        """Of the node; a log of another engine gives none."""
        self.limits = limits
        self.timeout_s = timeout_s
        """The deadline of calls that give none."""
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.reads: ConfirmedReads[asyncio.Future[object]] = ConfirmedReads(node, faulted=_failed)
        self.is_closed = False

    def check(self) -> None:
        """Raise `UsageError` if the store was closed, or if this is not its event loop."""
        if self.is_closed:
            raise UsageError("this store is closed: open another one")
        if asyncio.get_running_loop() is not self.loop:
            raise UsageError(
                "a store belongs to the event loop that opened it, and this is another one: use"
                " asyncio.run_coroutine_threadsafe to call it there"
            )

    def look(self, look: Look[object], future: asyncio.Future[object], error: BaseException | None) -> None:
        """Give a read its result: it is confirmed, or `error` says why not."""
        if future.done():
            return
        if error is not None:
            _failed(future, error)
            return
        try:
            future.set_result(look(self.node.store))
        except SynclineError as refusal:
            _failed(future, refusal)


class EmbeddedCalls:
    """Carries out commands and reads on an embedded node. `Store` sets the field."""

    _embedded: Embedded
    _keys: SessionKeys | None = None
    """Of a session: its writes take effect once."""

    def _limit_s(self, timeout: float | None) -> float:
        """The deadline of a call. Raises `ConfigError` or `TypeError`, and what `Embedded.check` raises."""
        embedded = self._embedded
        embedded.check()
        return embedded.timeout_s if timeout is None else min(checked_timeout_s(timeout), MAX_TIMEOUT_S)

    async def _write(self, command: bytes, timeout_s: float, *, frees_space: bool = False) -> object:
        """Have a command carried out, exactly once in a session; return the state machine's answer."""
        keys = self._keys
        if keys is not None:
            with keys.reserved(1) as (session, sequence):
                key = OnceKey(int(session, 16), sequence)
                return (await self._write_once(command, key, timeout_s, frees_space=frees_space))[0]
        try:
            return await self._proposed(command, frees_space, timeout_s)
        except OperationError as error:
            if not tried_again(error):
                raise
            return await self._again(partial(self._proposed, command, frees_space), timeout_s, error)

    def _proposed(self, command: bytes, frees_space: bool, timeout_s: float) -> asyncio.Future[object]:
        embedded = self._embedded
        future: asyncio.Future[object] = embedded.loop.create_future()
        node = embedded.node
        node.propose(node.member_command(command), timeout_s, partial(_settle, future), frees_space=frees_space)
        return future

    async def _write_once(
        self, command: bytes, key: OnceKey, timeout_s: float, *, frees_space: bool, begun: Once | None = None
    ) -> tuple[object, bool]:
        """Propose a command until its outcome is known. `begun`: the first attempt, if it was made before."""
        embedded = self._embedded
        first = [begun] if begun is not None else []

        def attempt(attempt_s: float) -> Once:
            return first.pop() if first else self._proposed_once(command, key, attempt_s, frees_space=frees_space)

        with node_errors():
            return await until_known(attempt, timeout_s, clock=embedded.loop.time, attempt_s=self._attempt_s)

    def _proposed_once(self, command: bytes, key: OnceKey, timeout_s: float, *, frees_space: bool) -> Once:
        embedded = self._embedded
        future: Once = embedded.loop.create_future()
        node, then = embedded.node, partial(_settle_once, future)
        # The fingerprint is the plain command's: the auth revision may rise from one attempt to the next.
        node.propose_once(
            node.member_command(command), key, timeout_s, then, frees_space=frees_space, fingerprint=command
        )
        return future

    @property
    def _attempt_s(self) -> float:
        return ATTEMPT_ELECTIONS * self._embedded.node.election_s

    async def _read(self, look: Look[Found], plan: ReadPlan) -> Found:
        """Call `look` with the store when it is as fresh as the plan asks; return what it returns."""
        try:
            return await self._looked(look, plan, plan.timeout_s)
        except OperationError as error:
            if not tried_again(error):
                raise
            return await self._again(partial(self._looked, look, plan), plan.timeout_s, error)

    async def _looked(self, look: Look[Found], plan: ReadPlan, timeout_s: float) -> Found:
        embedded = self._embedded
        future: asyncio.Future[Found] = embedded.loop.create_future()
        if timeout_s != plan.timeout_s:
            plan = ReadPlan(plan.level, timeout_s, plan.max_stale_s, plan.revision)
        embedded.reads.confirm(plan, embedded.look, look, future)  # type: ignore[arg-type]  # each future its own type
        return await future

    async def _again(
        self, attempt: Callable[[float], Awaitable[Found]], timeout_s: float, error: OperationError
    ) -> Found:
        """Make the attempts after one that the cluster has refused for the moment, until the deadline."""
        loop, pause_s = self._embedded.loop, FIRST_PAUSE_S
        deadline_s = loop.time() + timeout_s
        while True:
            if loop.time() + pause_s >= deadline_s:
                raise error
            await asyncio.sleep(pause_s)
            self._embedded.check()
            try:
                return await attempt(max(deadline_s - loop.time(), 0.001))
            except OperationError as refusal:
                if not tried_again(refusal):
                    raise
                error = refusal
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def check_reading(consistency: str | None, max_stale_s: float | None, revision: int | None) -> None:
    """Raise `ConfigError` or `TypeError` for arguments of a read that no client takes."""
    if consistency is not None:
        checked_consistency(consistency)
    if max_stale_s is not None:
        checked_timeout_s(max_stale_s, "max_stale_s")
    if revision is not None:
        checked_revision(revision, "revision", 1)


def read_plan(consistency: str | None, max_stale_s: float | None, revision: int | None, timeout_s: float) -> ReadPlan:
    """The freshness that a call asks for. Raises what the same call to a server raises."""
    if consistency is None and max_stale_s is None and revision is None:
        return ReadPlan(timeout_s=timeout_s)
    check_reading(consistency, max_stale_s, revision)
    level, stale_s, past = consistency or "linearizable", max_stale_s, revision or 0
    if stale_s is not None and level != "stale":
        raise bad_request("max_stale is for consistency=stale")
    if stale_s is not None and stale_s > MAX_STALE_S:
        raise bad_request(f"max_stale_s is {stale_s:g}: it must be at most {MAX_STALE_S:g} seconds")
    if past > MAX_REVISION:
        raise bad_request(f"revision is {past}: it must be at most {MAX_REVISION}")
    return ReadPlan(level, timeout_s, stale_s, past)


def _settle(future: asyncio.Future[object], answer: object, error: BaseException | None) -> None:
    """Resolve a write, unless its caller has given up."""
    if future.done():
        return
    if error is None:
        future.set_result(answer)
    else:
        future.set_exception(client_error(error))


def _settle_once(future: Once, answer: object, error: BaseException | None, repeated: bool) -> None:
    if future.done():
        return
    if error is None:
        future.set_result((answer, repeated))
    else:
        future.set_exception(error)
        future.exception()  # another part of the batch may fail first


def _failed(future: asyncio.Future[object], error: BaseException) -> None:
    """End a read with its error, unless its caller has given up."""
    if not future.done():
        future.set_exception(client_error(error, read=True))
