"""Resolve host names so that a slow lookup delays no other one.

The system's resolver blocks, for a minute and more if a name server does not answer. Each name is looked up on a
thread of its own, once at a time: all callers for a name share one lookup. A resolved name keeps its last address
until a lookup succeeds again, so that a name server that is down costs no connection.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final, TypeAlias

from syncline.platform.once import start_once

__all__ = ["AddressInfo", "Resolver"]

AddressInfo: TypeAlias = tuple[int, int, int, str, tuple[object, ...]]
"""As `socket.getaddrinfo` gives it."""

MAX_LOOKUPS: Final = 64
"""Names that are looked up at a time: more than a cluster has members. Each takes a thread."""

PATIENCE_S: Final = 0.5
"""After this time the last address of the name is used instead of the lookup."""

MAX_KNOWN: Final = 1024
"""Names whose last address is kept; the least recently used name is dropped first."""


class Resolver:
    """Looks up host names. Any number of event loops and threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[str, Future[Sequence[AddressInfo]]] = {}
        self._known: dict[str, Sequence[AddressInfo]] = {}

    async def addresses(self, host: str, port: int) -> Sequence[AddressInfo]:
        """The addresses of `host`, with `port` in them. Raises `OSError` or `UnicodeError`, as the system does."""
        if (numeric := _numeric(host, port)) is not None:
            return numeric
        known = self._known.get(host)
        try:
            lookup = asyncio.wrap_future(self._look_up(host))
            if known is None:
                found = await lookup
            else:
                async with asyncio.timeout(PATIENCE_S):
                    found = await lookup
        except (OSError, RuntimeError):
            if known is None:
                raise
            found = known
        return [(family, kind, protocol, name, _with_port(at, port)) for family, kind, protocol, name, at in found]

    def _look_up(self, host: str) -> Future[Sequence[AddressInfo]]:
        with self._lock:
            lookup = self._under_way.get(host)
            if lookup is not None:
                return lookup
            if len(self._under_way) >= MAX_LOOKUPS:
                raise OSError(errno.EAGAIN, f"{MAX_LOOKUPS} host names are being looked up and have no answer yet")
            lookup = self._under_way[host] = start_once("syncline-resolve", lambda: _ask_system(host))
        lookup.add_done_callback(lambda done: self._ended(host, done))
        return lookup

    def _ended(self, host: str, lookup: Future[Sequence[AddressInfo]]) -> None:
        with self._lock:
            del self._under_way[host]
            if lookup.exception() is not None:
                return
            self._known.pop(host, None)
            self._known[host] = lookup.result()
            if len(self._known) > MAX_KNOWN:
                del self._known[next(iter(self._known))]


def _numeric(host: str, port: int) -> Sequence[AddressInfo] | None:
    """The address that `host` is; None if it is a name."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return None


def _ask_system(host: str) -> Sequence[AddressInfo]:
    return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)


def _with_port(address: tuple[object, ...], port: int) -> tuple[object, ...]:
    return (address[0], port, *address[2:])
