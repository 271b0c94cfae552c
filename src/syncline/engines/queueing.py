"""Queue a command of one node: the checks that come before it."""

from __future__ import annotations

from typing import Final, Generic, TypeVar, cast

from syncline.engines.driver import EngineDriver
from syncline.engines.outbox import MAX_COMMAND_BYTES
from syncline.engines.waiting import PendingCommand
from syncline.errors import NoSpace, TooLarge
from syncline.node.arguments import check_timeout, checked_bytes
from syncline.node.envelope import Kind
from syncline.node.fsm import LimitedFSM
from syncline.node.futures import ApplyFuture
from syncline.node.operations import ENDED_AT_ONCE

__all__ = ["CommandQueue"]

R_co = TypeVar("R_co", covariant=True)
"""What the state machine answers to a command."""

_COMMAND: Final = int(Kind.COMMAND)


class CommandQueue(Generic[R_co]):
    """Base of `LogReplica`."""

    _driver: EngineDriver

    def _queue(
        self,
        future: ApplyFuture[R_co],
        kind: int,
        data: bytes,
        timeout_s: float,
        extensions: bytes = b"",
        *,
        command: bytes | None = None,
    ) -> None:
        """Queue a command; `command` is the state machine's own, if `data` has more than that."""
        data, extensions = checked_bytes(data), checked_bytes(extensions, "extensions")
        check_timeout(timeout_s)
        driver = self._driver
        future._running = driver.running
        try:
            driver.running.check()
            driver.check_backlog()
            size = len(data) + len(extensions)
            if size > MAX_COMMAND_BYTES:
                raise TooLarge(f"a command of {size} bytes; the limit is {MAX_COMMAND_BYTES} on {driver.backend.name}")
            if kind == _COMMAND or command is not None:
                self._check(data if command is None else command)
            pending = PendingCommand(cast("ApplyFuture[object]", future), kind, data, extensions, future.fence)
            driver.commands.add(pending, timeout_s)
        except ENDED_AT_ONCE as error:
            future.failed(error)
            return
        driver.outbox.kick()

    def _check(self, command: bytes) -> None:
        """Refuse what the state machine could not read, or has no room for."""
        driver = self._driver
        if driver.check is not None:
            driver.check(command)
        fsm = driver.fsm
        if not isinstance(fsm, LimitedFSM) or not fsm.max_bytes:
            return
        growth = fsm.growth(command)
        if growth and fsm.size_bytes + growth > fsm.max_bytes:
            raise NoSpace(f"the state has {fsm.size_bytes} bytes; the limit is {fsm.max_bytes}: delete something")
