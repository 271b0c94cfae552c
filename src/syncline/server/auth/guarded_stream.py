"""Streams of a user end when the permission, or the credential, goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from syncline.client.schemas import ErrorBody
from syncline.errors import Rejected
from syncline.server.api.errors import operation_error
from syncline.server.auth.principal import NoUser, Principal
from syncline.server.http.stream import StreamSource

__all__ = ["GuardedSource", "GuardedStreams"]

LONGEST_TIMER_S: Final = 3600.0
"""A timer is set again after this time: the wall clock may be changed meanwhile."""


class GuardedStreams:
    """The streams of one server that belong to users."""

    def __init__(self) -> None:
        self._open: set[GuardedSource] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, source: GuardedSource) -> None:
        """A stream has begun."""
        self._open.add(source)

    def remove(self, source: GuardedSource) -> None:
        """A stream has ended."""
        self._open.discard(source)

    def recheck(self) -> None:
        """The users have changed: end those that may not go on."""
        for source in tuple(self._open):
            source.recheck()


class GuardedSource:
    """A source that ends with an error, made by `error`, when its user may not read `[start, end)` any more."""

    def __init__(
        self,
        source: StreamSource,
        principal: Principal | NoUser,
        start: bytes,
        end: bytes | None,
        *,
        streams: GuardedStreams,
        wall_ms: Callable[[], float],
        error: Callable[[ErrorBody], bytes],
    ) -> None:
        self._source = source
        self._principal = principal
        self._range = (start, end)
        self._streams = streams
        self._wall_ms = wall_ms
        self._error = error
        self._refusal: Rejected | None = None
        self._told = False
        self._wake: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        streams.add(self)
        self._set_timer()

    def start(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._source.start(wake)

    @property
    def has_more(self) -> bool:
        return self._told or self._refusal is not None or self._source.has_more

    def read(self) -> bytes | None:
        # Asked each time: a change may stand between the event that woke the stream and this call.
        refusal = self._refusal or self._principal.read_refusal(*self._range)
        if refusal is None:
            return self._source.read()
        if self._told:
            return None
        self._told = True
        return self._error(operation_error(refusal)[1])

    def recheck(self) -> None:
        """Find out whether it may go on; wake it if it may not."""
        if self._refusal is None:
            self._refusal = self._principal.read_refusal(*self._range)
            if self._refusal is not None and self._wake is not None:
                self._wake()

    def close(self) -> None:
        self._streams.remove(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._source.close()

    def _set_timer(self) -> None:
        expires_ms = self._principal.expires_ms
        if expires_ms and self._refusal is None:
            left_s = max(0.0, (expires_ms - self._wall_ms()) / 1000) + 0.01
            self._timer = asyncio.get_running_loop().call_later(min(left_s, LONGEST_TIMER_S), self._expired)

    def _expired(self) -> None:
        self.recheck()
        self._set_timer()
