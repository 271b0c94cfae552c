"""Tell the service manager (systemd) how this process is: ready, stopping, alive.

The protocol is that of sd_notify(3): lines `NAME=VALUE` in a datagram to the socket that `NOTIFY_SOCKET` names. With
`WATCHDOG_USEC` the manager restarts a process that has told nothing for so long. The event loop itself tells it, so a
loop that hangs is noticed; a thread would go on telling.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from typing import Final

__all__ = ["ServiceManager"]

WATCHDOG_SHARE: Final = 1 / 2
"""Of the watchdog's time: sd_watchdog_enabled(3) recommends to tell at each half of it."""

LEAST_BEAT_S: Final = 0.01
"""A watchdog that wants to be told more often would take the whole event loop: it is told so often, and logged."""

START_LOOK_S: Final = 10.0
START_EXTENSION_S: Final = 60.0
"""A start may load a large state or wait for a cluster. As long as the loop runs it asks for this much more time."""

MICROSECONDS: Final = 1_000_000

_log = logging.getLogger("syncline.cli.serve")


class ServiceManager:
    """The manager of this process, if there is one; else every call does nothing.

    manager = ServiceManager.of(os.environ)
    manager.starting(loop)
    manager.ready(loop, "serves http://127.0.0.1:8080")
    manager.stopping()
    manager.close()
    """

    def __init__(self, address: str, watchdog_s: float) -> None:
        """`address` is a path, or a name with a leading @ (Linux's abstract sockets); empty: no manager."""
        self.address: str = address
        self.watchdog_s: float = watchdog_s
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failed = False

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> ServiceManager:
        """The manager that the environment names. Values that can't be used are logged, and stand for none."""
        address = environment.get("NOTIFY_SOCKET", "")
        if address and address[0] not in "/@":
            _log.warning(
                "NOTIFY_SOCKET is %.200r: it must begin with / or @. The service manager is told nothing", address
            )
            address = ""
        return cls(address, _watchdog_s(environment) if address else 0.0)

    def starting(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ask for more time, now and then, until `ready`: the manager ends a start that takes too long."""
        if not self.address:
            return
        self.tell(f"EXTEND_TIMEOUT_USEC={int(START_EXTENSION_S * MICROSECONDS)}", "STATUS=starting")
        self._timer = loop.call_later(START_LOOK_S, self.starting, loop)

    def ready(self, loop: asyncio.AbstractEventLoop, status: str) -> None:
        """Tell that clients are served, and from now on that the loop runs."""
        self._cancel()
        self.tell("READY=1", f"STATUS={status}")
        self._beat(loop)

    def stopping(self) -> None:
        """Tell that the process ends. The watchdog is told until `close`."""
        self.tell("STOPPING=1", "STATUS=stopping")

    def close(self) -> None:
        """End the timer and close the socket."""
        self._cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def tell(self, *lines: str) -> None:
        """Send lines as one datagram. It never waits; the first failure is logged."""
        if not self.address:
            return
        name = "\0" + self.address[1:] if self.address[0] == "@" else self.address
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)
            self._socket.sendto("\n".join(lines).encode(), name)
            self._failed = False
        except (OSError, ValueError) as error:
            if not self._failed:
                _log.warning("the service manager at %.200s can't be told %s: %s", self.address, lines[0], error)
            self._failed = True

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.watchdog_s:
            self.tell("WATCHDOG=1")
            self._timer = loop.call_later(max(LEAST_BEAT_S, self.watchdog_s * WATCHDOG_SHARE), self._beat, loop)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """The time of the watchdog, in seconds; 0: none, or it watches another process."""
    text = environment.get("WATCHDOG_USEC", "")
    if not text or environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    if not (text.isascii() and text.isdigit()) or len(text) > 18 or not int(text):
        _log.warning("WATCHDOG_USEC is %.40r and no number of microseconds: the watchdog is told nothing", text)
        return 0.0
    watchdog_s = int(text) / MICROSECONDS
    if watchdog_s * WATCHDOG_SHARE < LEAST_BEAT_S:
        _log.warning("WATCHDOG_USEC is %s: the watchdog is told each %g s, which is too late", text, LEAST_BEAT_S)
    return watchdog_s
