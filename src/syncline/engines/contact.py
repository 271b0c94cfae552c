"""The contact of one node with its backend: time limits of attempts, pauses between them, and events."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

from syncline.engines.backend import BackendLost
from syncline.errors import ConfigError, StorageError
from syncline.node.events import Event
from syncline.node.ignored_entries import RateLimitedLog

__all__ = ["ATTEMPT_S", "BackendDown", "BackendUp", "Contact"]

ATTEMPT_S: Final = 5.0
"""One attempt of one request. Then its outcome is unknown."""

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0

log: Final = logging.getLogger("syncline.engines")

Answer = TypeVar("Answer")


class BackendDown(Event, frozen=True):
    """The node does not reach its backend (etcd, PostgreSQL) any more. It tries again by itself."""

    reason: str


class BackendUp(Event, frozen=True):
    """The node reaches its backend again."""


class Contact:
    """`told` gets the events; `name` is the backend's."""

    def __init__(self, name: str, rng: random.Random, told: Callable[[Event], None]) -> None:
        self._name = name
        self._rng = rng
        self._told = told
        self._pauses_s: WeakKeyDictionary[asyncio.Task[object], float] = WeakKeyDictionary()
        """The next pause of each task: one kind of request may fail while others do not."""
        self._troubles: WeakKeyDictionary[asyncio.Task[object], str] = WeakKeyDictionary()
        """Why the newest attempt of a task failed. A server that can't write may still answer to those that read."""
        self._is_down = False
        self._log = RateLimitedLog(asyncio.get_running_loop().time)
        self.is_opening: bool = False
        """The node is not open yet: a refusal is for its caller, and is not tried again."""

    @property
    def trouble(self) -> str:
        """Why the backend is not reached; empty while it is."""
        return next((text for task, text in list(self._troubles.items()) if not task.done()), "")

    async def attempt(self, request: Awaitable[Answer], limit_s: float | None = None) -> Answer:
        """Await a request for so many seconds, `ATTEMPT_S` without another limit.

        Raises:
            BackendLost: there is no answer. A setting of the backend that can't be used any more counts as well: an
                operator may correct it.
            ConfigError: the backend refuses this node, which is not open yet.
        """
        limit_s = ATTEMPT_S if limit_s is None else limit_s
        try:
            async with asyncio.timeout(limit_s):
                answer = await request
        except TimeoutError:
            raise BackendLost(f"{self._name} did not answer within {limit_s:g} s", sent=True) from None
        except (ConfigError, StorageError) as error:
            if self.is_opening and isinstance(error, ConfigError):
                raise
            raise BackendLost(str(error), sent=False) from error
        self.idle()
        return answer

    def idle(self) -> None:
        """This task was answered, or asks for nothing now."""
        self._pauses_s.pop(_task(), None)
        self._troubles.pop(_task(), None)
        if self._is_down and not self.trouble:
            self._is_down = False
            log.info("%s is reached again", self._name)
            self._told(BackendUp())

    async def pause(self, error: BackendLost) -> None:
        """Take note of a failed attempt, and wait before the next one."""
        reason = str(error)
        self._troubles[_task()] = reason
        if not self._is_down:
            self._is_down = True
            self._log.warn(f"{reason}; it is tried again")
            self._told(BackendDown(reason=reason))
        pause_s = self._pauses_s.get(_task(), FIRST_PAUSE_S)
        self._pauses_s[_task()] = min(2 * pause_s, LONGEST_PAUSE_S)
        await asyncio.sleep(pause_s * (0.5 + self._rng.random()))


def _task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None
    return task
