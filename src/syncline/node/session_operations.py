"""Sessions, and commands that take effect exactly once: a part of `Raft`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final, TypeVar, cast

from syncline.errors import ConfigError
from syncline.node.arguments import check_timeout, checked_bytes, checked_flag
from syncline.node.envelope import Kind
from syncline.node.futures import ApplyFuture, Waiter
from syncline.node.naming import check_id
from syncline.node.operations import ENDED_AT_ONCE, Operations
from syncline.node.session import Session, until_known
from syncline.node.session_calls import SessionCall, SessionFuture, ThenOnce
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

__all__ = ["SessionOperations"]

_SESSION, _SESSION_COMMAND = int(Kind.SESSION), int(Kind.SESSION_COMMAND)

ATTEMPT_ELECTIONS: Final = 2
"""Election timeouts until an attempt without an answer is made again: a change of leader is over by then."""

ID_BITS: Final = 128

R_co = TypeVar("R_co", covariant=True)
"""What the state machine answers to a command."""


class SessionOperations(Operations[R_co]):
    """Commands that take effect exactly once. Base of `Raft`."""

    def session(self, *, timeout: float = 5.0) -> Startup[Session[R_co]]:
        """Open a session, for commands that take effect exactly once (docs/exactly-once.md).

            async with raft.session() as session:            # ended at the end of the block
                answer = await session.apply(b"a command")
            session = await raft.session()                   # the caller calls `close`

        `timeout` (seconds) bounds the opening. The leader ends a session that is idle for `Config.session_idle_s`.

        Raises:
            ConfigError, TypeError: `timeout` is out of range.
            OperationError: as `apply` does; no session is open then, or one that ends because it is idle.
        """
        check_timeout(timeout)
        return Startup(self._session(timeout), Session.close)

    async def _session(self, timeout_s: float) -> Session[R_co]:
        session_id = await self.open_session(timeout=timeout_s)
        driver = self._driver
        return Session(session_id, self._proposing, self._ending, clock=driver.loop.time, attempt_s=self._attempt_s)

    async def open_session(self, *, timeout: float = 5.0) -> int:
        """Open a session, and return its id: for a program that gives its callers' keys to `apply_once`.

            session_id = await raft.open_session()

        Raises:
            ConfigError, TypeError: `timeout` is out of range.
            OperationError: as `apply` does; no session is open then, or one that ends because it is idle.
        """
        check_timeout(timeout)
        drawn: list[int] = []

        def attempt(timeout_s: float) -> ApplyFuture[object]:
            drawn.append(self._draw_id())  # another one each time: a session that has ended must not be opened again
            change = encode_change(SessionChange(opened=drawn[-1]))
            return cast("ApplyFuture[object]", self._apply(_SESSION, change, timeout_s, b""))

        await until_known(attempt, timeout, clock=self._driver.loop.time, attempt_s=self._attempt_s)
        return drawn[-1]

    async def end_session(self, session_id: int, *, timeout: float = 5.0) -> bool:
        """End a session. Returns whether it was open; after an unknown outcome of an attempt it may say False.

            print(await raft.end_session(0x5f46c9d1))

        Raises:
            ConfigError, TypeError: an argument is out of range.
            OperationError: as `apply` does.
        """
        check_timeout(timeout)
        attempt = self._ending(check_id(session_id, "session_id"))
        return bool(await until_known(attempt, timeout, clock=self._driver.loop.time, attempt_s=self._attempt_s))

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
        """`apply` for a command that takes effect once for its key: for a program that is given its callers' keys.

            key = OnceKey(await raft.open_session(), sequence=1)
            future = raft.apply_once(b"a command", key)
            print(await future, future.repeated)

        If the outcome is unknown, call it again with the same key. `fingerprint` tells the caller's request from other
        ones, if the same request does not always make the same `data`; by default it is made of `data`.

        Raises:
            TypeError: `data`, `extensions` or `fingerprint` are not bytes, or `key` no `OnceKey`.
            ConfigError: `timeout` is out of range, or `key` is no key.

        The future fails as that of `apply` does, and with:
            SessionExpired: the session has ended, or the sequence is below its floor. This attempt is not applied.
            IdempotencyMismatch: the key was used for another command.
            AnswerNotKept: the command was applied before, and its answer is not kept.
        """
        future: SessionFuture[R_co] = SessionFuture(loop=self._driver.loop)
        future._running = self._driver.running
        if frees_space is not False and checked_flag(frees_space, "frees_space"):
            future.frees_space = True
        try:
            self._propose_once(future, data, key, timeout, extensions, fingerprint, checked=False)
        except ENDED_AT_ONCE as error:
            future.failed(error)
        return future

    def _apply_once_then(
        self,
        data: bytes,
        key: OnceKey,
        then: ThenOnce,
        *,
        timeout: float = 5.0,
        checked: bool = False,
        frees_space: bool = False,
        fingerprint: bytes = b"",
    ) -> None:
        """`apply_once` with a callback in place of a future: see `_apply_then`."""
        if not callable(then):
            raise TypeError(f"then must be a function of an answer and an error, not {type(then).__name__}")
        call = SessionCall(then)
        if frees_space:
            call.frees_space = True
        try:
            self._propose_once(call, data, key, timeout, b"", fingerprint, checked=checked)
        except ENDED_AT_ONCE as error:
            call.failed(error)

    def _propose_once(
        self,
        waiter: Waiter,
        data: bytes,
        key: OnceKey,
        timeout_s: float,
        extensions: bytes,
        fingerprint: bytes,
        *,
        checked: bool,
    ) -> None:
        _check_key(key)
        data = checked_bytes(data)
        check = self._driver.parts.check
        if not checked and check is not None:
            self._driver.running.check()
            check(data)
        command = SessionCommand(key, fingerprint_of(checked_bytes(fingerprint, "fingerprint") or data), data)
        encoded = encode_command(command)
        self._driver.proposer.propose(waiter, _SESSION_COMMAND, encoded, timeout_s, extensions, True)

    def _proposing(
        self, data: bytes, key: OnceKey, timeout_s: float, extensions: bytes, frees_space: bool
    ) -> SessionFuture[R_co]:
        return self.apply_once(data, key, timeout=timeout_s, extensions=extensions, frees_space=frees_space)

    def _ending(self, session_id: int) -> Callable[[float], ApplyFuture[object]]:
        change = encode_change(SessionChange(ended=(session_id,)))

        def attempt(timeout_s: float) -> ApplyFuture[object]:
            return cast("ApplyFuture[object]", self._apply(_SESSION, change, timeout_s, b"", frees_space=True))

        return attempt

    def _draw_id(self) -> int:
        # Hashed: callers see it, and the node's own random numbers must not follow from it.
        drawn = self._driver.rng.getrandbits(ID_BITS).to_bytes(ID_BITS // 8, "big")
        return int.from_bytes(hashlib.blake2b(drawn, digest_size=8).digest(), "big") % LARGEST_SEQUENCE + 1

    @property
    def _attempt_s(self) -> float:
        return ATTEMPT_ELECTIONS * self._driver.config.election_s


def _check_key(key: object) -> None:
    """Raise if this is no key: it must not be replicated."""
    if not isinstance(key, OnceKey):
        raise TypeError(f"key must be a syncline.OnceKey, not {type(key).__name__}")
    for field in ("session", "sequence", "floor"):
        check_id(getattr(key, field), f"the {field} of the key", none=True)
    text: object = key.text
    if type(text) is not bytes:
        raise TypeError(f"the text of the key must be bytes, not {type(text).__name__}")
    if len(text) > MAX_TEXT_BYTES:
        raise ConfigError(f"the text of the key has {len(text)} bytes; the limit is {MAX_TEXT_BYTES}")
    if fault := key.fault:
        raise ConfigError(f"key is {key!r}: {fault}")
