"""Commands that take effect exactly once, on a log backend."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Final, TypeVar, cast

from syncline.engines.contact import ATTEMPT_S
from syncline.engines.queueing import CommandQueue
from syncline.errors import ConfigError
from syncline.node.arguments import check_timeout, checked_bytes
from syncline.node.envelope import Kind
from syncline.node.futures import ApplyFuture
from syncline.node.naming import check_id
from syncline.node.session import Session, until_known
from syncline.node.session_calls import SessionFuture
from syncline.node.startups import Startup
from syncline.sessions.entries import (
    LARGEST_SEQUENCE,
    MAX_TEXT_BYTES,
    OnceKey,
    SessionChange,
    SessionCommand,
    encode_change,
    encode_command,
    fingerprint_of,
)

__all__ = ["ReplicaSessions"]

R_co = TypeVar("R_co", covariant=True)
"""What the state machine answers to a command."""

_SESSION: Final = int(Kind.SESSION)
_SESSION_COMMAND: Final = int(Kind.SESSION_COMMAND)
ID_BITS: Final = 128


class ReplicaSessions(CommandQueue[R_co]):
    """Sessions. Base of `LogReplica`."""

    def session(self, *, timeout: float = 5.0) -> Startup[Session[R_co]]:
        """Open a session, for commands that take effect exactly once (docs/exactly-once.md).

            async with replica.session() as session:
                answer = await session.apply(b"a command")

        There is no leader that ends idle sessions: of more than 10,000 the one that was used least recently ends.

        Raises:
            ConfigError, TypeError: `timeout` is out of range.
            OperationError: as `apply` does.
        """
        check_timeout(timeout)
        return Startup(self._session(timeout), Session.close)

    async def _session(self, timeout_s: float) -> Session[R_co]:
        session_id = await self.open_session(timeout=timeout_s)
        clock = self._driver.loop.time
        return Session(session_id, self._proposing, self._ending, clock=clock, attempt_s=ATTEMPT_S)

    async def open_session(self, *, timeout: float = 5.0) -> int:
        """Open a session, and return its id: for a program that gives its callers' keys to `apply_once`.

            session_id = await replica.open_session()

        Raises:
            ConfigError, TypeError: `timeout` is out of range.
            OperationError: as `apply` does.
        """
        check_timeout(timeout)
        drawn: list[int] = []

        def attempt(timeout_s: float) -> asyncio.Future[object]:
            drawn.append(self._draw_id())  # another one each time: a session that has ended must not be opened again
            return self._change(SessionChange(opened=drawn[-1]), timeout_s)

        await until_known(attempt, timeout, clock=self._driver.loop.time, attempt_s=ATTEMPT_S)
        return drawn[-1]

    async def end_session(self, session_id: int, *, timeout: float = 5.0) -> bool:
        """End a session. Returns whether it was open; after an unknown outcome of an attempt it may say False.

            print(await replica.end_session(0x5f46c9d1))

        Raises:
            ConfigError, TypeError: an argument is out of range.
            OperationError: as `apply` does.
        """
        check_timeout(timeout)
        attempt = self._ending(check_id(session_id, "session_id"))
        return bool(await until_known(attempt, timeout, clock=self._driver.loop.time, attempt_s=ATTEMPT_S))

    def apply_once(
        self,
        data: bytes,
        key: OnceKey,
        *,
        timeout: float = 5.0,
        extensions: bytes = b"",
        frees_space: bool = False,
        fingerprint: bytes = b"",
    ) -> SessionFuture[R_co]:
        """`apply` for a command that takes effect once for its key: see `Raft.apply_once`.

            key = OnceKey(await replica.open_session(), sequence=1)
            future = replica.apply_once(b"a command", key)
            print(await future, future.repeated)

        Raises:
            TypeError, ConfigError: an argument can't be used.
        """
        _check_key(key)
        data = checked_bytes(data)
        future: SessionFuture[R_co] = SessionFuture(loop=self._driver.loop)
        future.frees_space = frees_space
        command = SessionCommand(key, fingerprint_of(checked_bytes(fingerprint, "fingerprint") or data), data)
        self._queue(future, _SESSION_COMMAND, encode_command(command), timeout, extensions, command=data)
        return future

    def _proposing(
        self, data: bytes, key: OnceKey, timeout_s: float, extensions: bytes, frees_space: bool
    ) -> SessionFuture[R_co]:
        return self.apply_once(data, key, timeout=timeout_s, extensions=extensions, frees_space=frees_space)

    def _ending(self, session_id: int) -> Callable[[float], ApplyFuture[object]]:
        return lambda timeout_s: self._change(SessionChange(ended=(session_id,)), timeout_s)

    def _change(self, change: SessionChange, timeout_s: float) -> ApplyFuture[object]:
        future: ApplyFuture[R_co] = ApplyFuture(loop=self._driver.loop)
        self._queue(future, _SESSION, encode_change(change), timeout_s)
        return cast("ApplyFuture[object]", future)

    def _draw_id(self) -> int:
        # Hashed: callers see it, and the node's own random numbers must not follow from it.
        drawn = self._driver.world.rng.getrandbits(ID_BITS).to_bytes(ID_BITS // 8, "big")
        return int.from_bytes(hashlib.blake2b(drawn, digest_size=8).digest(), "big") % LARGEST_SEQUENCE + 1


def _check_key(key: object) -> None:
    """Raise if this is no key: it must not be replicated."""
    if not isinstance(key, OnceKey):
        raise TypeError(f"key must be a syncline.OnceKey, not {type(key).__name__}")
    for field in ("session", "sequence", "floor"):
        check_id(getattr(key, field), f"the {field} of the key", none=True)
    if len(key.text) > MAX_TEXT_BYTES:
        raise ConfigError(f"the text of the key has {len(key.text)} bytes; the limit is {MAX_TEXT_BYTES}")
    if fault := key.fault:
        raise ConfigError(f"key is {key!r}: {fault}")
