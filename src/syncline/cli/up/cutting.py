"""Cut a node of `up` off from the other nodes, and connect it again: what its lab and its nodes agree on.

The order comes through a pipe whose other end `up` alone holds. No request, setting or variable reaches it. A node that
`up` has not started has no such pipe, and the usual network, which can't be cut.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
import stat
from typing import Final, cast

from syncline.errors import ConfigError
from syncline.platform.network import Listener, ProtocolFactory, TcpNetwork

__all__ = ["CONNECT_ORDER", "CUT_ORDER", "CuttableNetwork", "check_order_pipe", "follow_orders"]

CUT_ORDER: Final = b"c"
CONNECT_ORDER: Final = b"o"
"""One byte each: a pipe gives all of it or nothing."""

ORDERS_AT_ONCE: Final = 64


class CuttableNetwork(TcpNetwork):
    """The network of a node whose links to its peers can be cut.

    Cut, it ends the connections that the node has dialled and those that came in at `peer_port`, and makes no new ones,
    in both directions. What listens at other ports, for clients, is served as before.
    """

    def __init__(self, peer_port: int) -> None:
        super().__init__()
        self._peer_port = peer_port
        self._links: list[asyncio.BaseTransport] = []
        self._is_cut = False

    def cut(self) -> None:
        """End all links, and make none."""
        self._is_cut = True
        links, self._links = self._links, []
        for link in links:
            _abort(link)

    def connect_again(self) -> None:
        """Let the node make links again."""
        self._is_cut = False

    async def listen(
        self, factory: ProtocolFactory, host: str, port: int, *, tls: ssl.SSLContext | None = None
    ) -> Listener:
        """Bind. Connections to the port for peers are refused while the node is cut off."""
        if port != self._peer_port:
            return await super().listen(factory, host, port, tls=tls)

        def accepted() -> asyncio.BaseProtocol:
            return _Refused() if self._is_cut else _Accepted(factory(), self)

        return await super().listen(accepted, host, port, tls=tls)

    async def connect(
        self,
        factory: ProtocolFactory,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        timeout_s: float,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Dial, unless the node is cut off."""
        self._check()
        link, protocol = await super().connect(factory, host, port, tls=tls, timeout_s=timeout_s)
        if self._is_cut:  # while it was dialled
            link.abort()
            self._check()
        self.keep(link)
        return link, protocol

    def keep(self, link: asyncio.BaseTransport) -> None:
        """Note a link, which a cut ends."""
        self._links = [other for other in self._links if not other.is_closing()]
        self._links.append(link)

    def _check(self) -> None:
        if self._is_cut:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the lab of 'syncline up' has cut this node off")


class _Accepted(asyncio.Protocol):
    """Stands at a new connection until it is made: the network notes its transport, and the owner takes it over."""

    def __init__(self, owner: asyncio.BaseProtocol, network: CuttableNetwork) -> None:
        self._owner = owner
        self._network = network

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._network.keep(transport)
        transport.set_protocol(self._owner)
        self._owner.connection_made(transport)


class _Refused(asyncio.Protocol):
    """A connection to a node that is cut off."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        _abort(transport)


def _abort(link: asyncio.BaseTransport) -> None:
    cast("asyncio.Transport", link).abort()


def check_order_pipe(descriptor: int, parent_fd: int | None) -> None:
    """Raise `ConfigError` unless the descriptor is a pipe, and the node has a parent: `up` gives both to its nodes."""
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        is_pipe = False
    if not is_pipe or parent_fd is None or parent_fd == descriptor:
        raise ConfigError("--lab-fd is for nodes that 'syncline up' starts: leave it out")


def follow_orders(loop: asyncio.AbstractEventLoop, descriptor: int, network: CuttableNetwork) -> None:
    """Do what `up` writes to the pipe, until it closes its end."""
    os.set_blocking(descriptor, False)

    def take() -> None:
        try:
            orders = os.read(descriptor, ORDERS_AT_ONCE)
        except BlockingIOError:
            return
        if not orders:
            loop.remove_reader(descriptor)
            return
        (network.cut if orders[-1:] == CUT_ORDER else network.connect_again)()

    loop.add_reader(descriptor, take)
