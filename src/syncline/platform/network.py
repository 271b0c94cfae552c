"""Access to sockets: listen and dial. Everything above uses asyncio's transports and protocols, so that
the simulator's network can replace the real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import ssl
import stat
import weakref
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from syncline.platform.forks import forget_in_child
from syncline.platform.resolver import AddressInfo, Resolver
from syncline.platform.tls import ALERT_TIMEOUT_S, TlsContext, TlsHandshake
from syncline.platform.waiting import result_of

__all__ = ["TLS_TIMEOUT_S", "Listener", "Network", "TcpNetwork", "is_loopback", "name_doubt"]

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class Listener(Protocol):
    """A bound port. Example: `Network`."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port as bound (the port is the real one if 0 was asked for)."""
        ...

    async def close(self) -> None:
        """Stop listening. Open connections are not touched."""
        ...


class Network(Protocol):
    """A way to listen and to dial. A test replaces it by `World`.

        class Slow(TcpNetwork):
            async def connect(self, factory, host, port, *, tls=None, timeout_s):
                await asyncio.sleep(0.2)
                return await super().connect(factory, host, port, tls=tls, timeout_s=timeout_s)

        raft = await Raft.open(config, fsm, world=World(network=Slow()))

    The system's is `syncline.platform.network.TcpNetwork`.
    """

    async def listen(
        self, factory: ProtocolFactory, host: str, port: int, *, tls: ssl.SSLContext | None = None
    ) -> Listener:
        """Bind a port and listen.

        Raises:
            OSError: the address can't be bound.
        """
        ...

    async def connect(
        self,
        factory: ProtocolFactory,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        timeout_s: float,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Dial. The host name is resolved at each call.

        Raises:
            OSError: there is no connection (a timeout is one).
        """
        ...


BACKLOG: Final = 1024
"""Connections that the system holds until we take them. A whole cluster, or all clients, may come back at once."""

ACCEPTS_A_TURN: Final = 32
"""Connections that one turn of the event loop takes: about 3 ms. uvloop by itself takes one, so new connections would
wait for seconds behind clients that keep the turns long. asyncio takes `BACKLOG`, so a burst would hold up the loop."""

TLS_TIMEOUT_S: Final = 5.0
"""Seconds for a TLS handshake or its end: a client that connects and sends nothing is disconnected after this."""


LOOKUP_TIMEOUT_S: Final = 2.0
"""To look up a name that may be local: a resolver that does not answer must not delay a start for long."""


async def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`: a loopback address, or a name that has no other addresses.

    A wildcard is not loopback. A name that can't be resolved counts as another machine's.
    """
    found = await _addresses(host)
    return bool(found) and all(address.is_loopback for address in found)


async def name_doubt(host: str) -> str:
    """What an error says beside that a host is another machine's, if the reason is that its name can't be resolved."""
    if await _addresses(host):
        return ""
    return f" (the name {host} can't be resolved now, so it counts as another machine's)"


async def _addresses(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses of a host; none if its name can't be resolved."""
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LOOKUP_TIMEOUT_S):
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(address[0]) for *_, address in found]


class TcpNetwork:
    """The network of the operating system, by the running event loop."""

    def __init__(self) -> None:
        self._resolver = Resolver()
        self._dialled: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        forget_in_child(self)

    def descriptors(self) -> list[int]:
        """Descriptors of dialled connections, for `forks`."""
        return [number for dialled in self._dialled if (number := dialled.fileno()) >= 0]

    async def listen(
        self, factory: ProtocolFactory, host: str, port: int, *, tls: ssl.SSLContext | None = None
    ) -> Listener:
        """Bind. A host name is bound at all its addresses; raises `OSError` that names the address and what to do."""
        loop = asyncio.get_running_loop()
        try:
            found = await self._resolver.addresses(host, port)
            accepted = _AcceptTurns(factory) if tls is None and not isinstance(loop, asyncio.BaseEventLoop) else None
            server = await loop.create_server(
                factory if accepted is None else accepted.first,
                list(dict.fromkeys(_numeric(address) for *_, address in found)),
                port,
                ssl=tls,
                backlog=ACCEPTS_A_TURN if isinstance(loop, asyncio.BaseEventLoop) else BACKLOG,
                # A restarted node must get its port back while connections of its last life are in TIME_WAIT.
                reuse_address=True,
                ssl_handshake_timeout=TLS_TIMEOUT_S if tls is not None else None,
            )
        except (OSError, UnicodeError) as error:
            raise _listen_error(error, f"{host}:{port}") from error
        if not server.sockets:
            raise _listen_error(_why_no_socket(), f"{host}:{port}")
        for listening in server.sockets:
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
            with _same_socket(listening.fileno()) as same:
                same.listen(BACKLOG)  # asyncio takes so many in a turn as it was told to let wait
        if accepted is not None:
            accepted.sockets = [_same_socket(listening.fileno()) for listening in server.sockets]
        return _TcpListener(server, accepted)

    async def connect(
        self,
        factory: ProtocolFactory,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        timeout_s: float,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Dial; the addresses of a name are tried in turn. `timeout_s` covers the look-up; TLS has its own limit.

        Once the socket is connected nothing cancels it any more. If a connection is cancelled between `connection_made`
        and the end of `create_connection`, uvloop closes it without `connection_lost`. A loop that stood still for a
        while (a large state being loaded) would meet a time limit just there.
        """
        loop, handshake = asyncio.get_running_loop(), TlsHandshake()
        try:
            async with asyncio.timeout(timeout_s):
                connected = await _connected_socket(loop, await self._resolver.addresses(host, port))
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._dialled.add(connected)
            making = loop.create_task(
                loop.create_connection(
                    factory,
                    sock=connected,
                    ssl=tls.observed(handshake) if isinstance(tls, TlsContext) else tls,
                    server_hostname=host if tls is not None else None,
                    ssl_handshake_timeout=TLS_TIMEOUT_S if tls is not None else None,
                )
            )
            handshake.failed = lambda: _end_later(loop, making, connected)
            making.add_done_callback(lambda made: _let_go(made, connected))  # the dialler may be gone
            return await result_of(making)
        except TimeoutError as error:
            raise TimeoutError(f"no answer within {timeout_s:g} s") from error
        except (OSError, UnicodeError) as error:
            if handshake.failure is not None:  # the loop raises what came of it
                raise handshake.failure from error
            raise _connect_error(error, host) from error


def _numeric(address: tuple[object, ...]) -> str:
    """The form of an address that the event loop need not look up; a link-local one keeps its scope."""
    scope = f"%{address[3]}" if len(address) == 4 and address[3] else ""
    return f"{address[0]}{scope}"


async def _connected_socket(loop: asyncio.AbstractEventLoop, addresses: Sequence[AddressInfo]) -> socket.socket:
    """The first of a host's addresses that answers; the last one's error if none does."""
    failure: OSError = OSError(errno.EHOSTUNREACH, "it has no address")
    for family, kind, protocol, _, address in addresses:
        try:
            dialled = socket.socket(family, kind, protocol)
        except OSError as error:  # a name may have IPv6 addresses on a machine that has no IPv6
            failure = error
            continue
        dialled.setblocking(False)
        try:
            await loop.sock_connect(dialled, address)
        except OSError as error:
            dialled.close()
            failure = error
        except BaseException:
            dialled.close()
            raise
        else:
            return dialled
    raise failure


def _end_later(
    loop: asyncio.AbstractEventLoop,
    making: asyncio.Task[tuple[asyncio.Transport, asyncio.BaseProtocol]],
    dialled: socket.socket,
) -> None:
    """End a handshake that this end has refused, if the other end does not close when it has the alert."""

    def end() -> None:
        if not making.done():
            with contextlib.suppress(OSError):  # the other end has just closed
                dialled.shutdown(socket.SHUT_RDWR)

    loop.call_later(ALERT_TIMEOUT_S, end)


def _let_go(made: asyncio.Task[tuple[asyncio.Transport, asyncio.BaseProtocol]], dialled: socket.socket) -> None:
    """Take the descriptor from a socket whose connection uvloop has closed before `create_connection` had ended.

    uvloop closes the descriptor then, and the socket still has its number. Collected later, it would close whatever has
    got that number meanwhile: another connection, or the log.
    """
    if made.cancelled():
        return  # the loop ends
    failed = made.exception() is not None
    if (failed or made.result()[0].is_closing()) and not isinstance(made.get_loop(), asyncio.BaseEventLoop):
        dialled.detach()


def _same_socket(descriptor: int) -> socket.socket:
    """A socket object of our own for a socket of the event loop."""
    return socket.socket(fileno=os.dup(descriptor))


class _AcceptTurns:
    """Takes further connections in the turns in which uvloop takes one: `ACCEPTS_A_TURN` in all."""

    def __init__(self, factory: ProtocolFactory) -> None:
        self.sockets: list[socket.socket] = []
        """The listening ones."""
        self._factory = factory
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._making: set[asyncio.Task[object]] = set()

    def first(self) -> asyncio.BaseProtocol:
        """The protocol of the connection that the event loop has taken by itself."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._take_others)
        return self._factory()

    def close(self) -> None:
        """Take no more."""
        for listening in self.sockets:
            listening.close()
        self.sockets.clear()

    def _take_others(self) -> None:
        self._scheduled = False
        left = ACCEPTS_A_TURN - 1
        for listening in self.sockets:
            while left > 0 and self._take(listening):
                left -= 1

    def _take(self, listening: socket.socket) -> bool:
        """Take one connection; False if none waits, or none can be taken: the event loop tells of that."""
        try:
            taken, _ = listening.accept()
        except OSError:
            return False
        taken.setblocking(False)
        making: asyncio.Task[tuple[asyncio.Transport, asyncio.BaseProtocol]]
        making = self._loop.create_task(self._loop.connect_accepted_socket(self._factory, taken))
        self._making.add(making)
        making.add_done_callback(self._making.discard)
        making.add_done_callback(lambda made: _let_go(made, taken))
        return True


class _TcpListener:
    def __init__(self, server: asyncio.Server, accepted: _AcceptTurns | None) -> None:
        self._server = server
        self._accepted = accepted
        host, port = server.sockets[0].getsockname()[:2]
        self._address = (str(host), int(port))
        forget_in_child(self)

    def descriptors(self) -> list[int]:
        """The listening sockets and the connections that came through them, for `forks`."""
        return [number for number in _open_descriptors() if _local_port(number) == self._address[1]]

    @property
    def address(self) -> tuple[str, int]:
        return self._address

    async def close(self) -> None:
        # asyncio (not uvloop) gives a connection that it has just accepted to a task of its own. The task leaves the
        # socket open if the server is closed before it runs: accept no more first, and let those tasks have a turn.
        loop = asyncio.get_running_loop()
        if isinstance(loop, asyncio.SelectorEventLoop):
            for listening in self._server.sockets:
                loop.remove_reader(listening.fileno())
            await asyncio.sleep(0)
        if self._accepted is not None:
            self._accepted.close()
        # Not `wait_closed`: from Python 3.12 on it waits for the open connections too.
        self._server.close()
        await asyncio.sleep(0)  # the loop gives up its socket


def _open_descriptors() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/dev/fd")]
    except OSError:  # a system without that directory
        return []


def _local_port(descriptor: int) -> int | None:
    """The port of a TCP socket's own end; None if it is something else."""
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return None
    except OSError:  # closed meanwhile
        return None
    with _same_socket(descriptor) as looked_at:
        if looked_at.family not in (socket.AF_INET, socket.AF_INET6) or looked_at.type != socket.SOCK_STREAM:
            return None
        return int(looked_at.getsockname()[1])


_LISTEN_ADVICE: Final = {
    errno.EADDRINUSE: "another process holds the port (another node?): stop it or choose another port",
    errno.EADDRNOTAVAIL: "this machine has no such address: listen on one of its own, or on 0.0.0.0",
    errno.EACCES: "ports below 1024 need a privilege: choose a higher one",
}


def _listen_error(error: OSError | UnicodeError, address: str) -> OSError:
    if isinstance(error, socket.gaierror | UnicodeError):
        return OSError(errno.EADDRNOTAVAIL, f"can't listen on {address}: the host name can't be resolved: {error}")
    if error.errno is None:
        error = _why_no_socket()
    code = error.errno or 0
    advice = _LISTEN_ADVICE.get(code, error.strerror or str(error))
    return OSError(code, f"can't listen on {address}: {advice}")


def _why_no_socket() -> OSError:
    """Return the error for a `listen` that ended without a socket, and without an error number or without any error.

    The event loops skip an address family for which they can't make a socket; a newer asyncio (that of Python 3.13,
    not of 3.11) also skips an address that the machine does not have. If no address is left, it raises an error
    without a number, as it does if a name has no address at all. uvloop and an older asyncio then listen on nothing.
    """
    try:
        socket.socket().close()
    except OSError as error:  # the address is right: the process may have no file descriptors left
        return error
    return OSError(errno.EADDRNOTAVAIL, "none of its addresses is one of this machine")


def _connect_error(error: OSError | UnicodeError, host: str) -> OSError:
    """Shorten a connect error to a few words. The caller adds the address."""
    if isinstance(error, socket.gaierror | UnicodeError):
        return OSError(errno.EHOSTUNREACH, f"the host name {host!r} can't be resolved: {error}")
    if isinstance(error, ConnectionRefusedError):
        return ConnectionRefusedError(errno.ECONNREFUSED, "nothing listens there")
    return error
