"""The contact of one node with its backend: time limits of attempts, pauses between them, and events."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from syncline.engines.backend import BackendLost
from syncline.errors import ConfigError, StorageError
from syncline.node.events import Event

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
        self._pause_s = FIRST_PAUSE_S
        self.trouble: str = ""
        """Why the backend is not reached; empty while it is."""

    async def attempt(self, request: Awaitable[Answer]) -> Answer:
        """Await a request for `ATTEMPT_S`.

        Raises:
            BackendLost: there is no answer. A setting of the backend that can't be used any more counts as well: an
                operator may correct it.
        """
        try:
            async with asyncio.timeout(ATTEMPT_S):
                answer = await request
        except TimeoutError:
            raise BackendLost(f"{self._name} did not answer within {ATTEMPT_S:g} s", sent=True) from None
        except (ConfigError, StorageError) as error:
            raise BackendLost(str(error), sent=False) from error
        if self.trouble:
            self.trouble = ""
            log.info("%s is reached again", self._name)
            self._told(BackendUp())
        self._pause_s = FIRST_PAUSE_S
        return answer

    async def pause(self, error: BackendLost) -> None:
        """Take note of a failed attempt, and wait before the next one."""
        reason = str(error)
        if not self.trouble:
            log.warning("%s; it is tried again", reason)
            self._told(BackendDown(reason=reason))
        self.trouble = reason
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        await asyncio.sleep(pause_s * (0.5 + self._rng.random()))
