"""The servers that a client knows: their addresses, their idle connections, and which one to ask next."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from syncline.client.connection import ClientConnection, ClientResponse
from syncline.client.streaming import StreamConnection
from syncline.client.tls import describe_failure
from syncline.errors import ConfigError, UsageError
from syncline.platform.network import Network
from syncline.platform.tls import NotTls, TlsContext, is_untrusted

__all__ = ["ConnectFailed", "Endpoint", "EndpointSet", "parse_endpoint", "parse_endpoints"]

MAX_ENDPOINTS: Final = 64
"""In one client. Clusters have up to nine voters; the rest is room for learners."""

IDLE_CONNECTIONS: Final = 64
"""Kept open per endpoint between requests."""

IDLE_LIMIT_S: Final = 20.0
"""An idle connection older than this is not used again: the server may be closing it at this moment, which would
leave the next request in doubt. Servers keep theirs open for longer."""

CONNECT_LIMIT_S: Final = 2.0
"""Time limit of one dial, so that a dead machine costs a part of the deadline only. Longer than a lost first SYN
takes (1 s)."""

PENALTY_S: Final = 0.5
"""How long an endpoint that failed is asked last, at first; doubles with every failure in a row."""

PENALTY_LIMIT_S: Final = 8.0

KEY_ROUTE: Final = "key"
"""First part of the path of a key on a server: `/key/NAME`."""


class ConnectFailed(Exception):
    """No connection could be made, so nothing was sent. `refused`: the machine has no server on that port.

    `untrusted`: its certificate can't be trusted, or it speaks no TLS. That hardly changes soon.
    """

    def __init__(self, message: str, *, refused: bool, untrusted: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
        self.untrusted = untrusted


class Endpoint:
    """One server's address and its idle connections."""

    def __init__(self, url: str, *, network: Network, tls: TlsContext | None = None) -> None:
        self.url = url
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = tls if parts.scheme == "https" else None
        self.host_header: str = parts.netloc
        self.base_path: str = parts.path.rstrip("/")
        self._network = network
        self._idle: list[ClientConnection] = []
        self._busy: set[ClientConnection] = set()
        self._streams: set[StreamConnection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.failures: int = 0
        self.ask_last_until_s: float = 0.0

    async def connect(self) -> ClientConnection:
        """An idle connection, or a new one, for one `send`. Nothing was sent before this returns.

        Raises `ConnectFailed`, and `UsageError` if the client is in use on another event loop.
        """
        self._bind_to_loop()
        if (idle := self._take_idle()) is not None:
            return idle
        connection = ClientConnection()
        await self._dial(connection)
        return connection

    async def connect_stream(self) -> StreamConnection:
        """A connection of its own, for an answer that is read as it comes. Raises what `connect` raises.

        The caller ends it with `abort`; `close` does, too.
        """
        self._bind_to_loop()
        connection = StreamConnection()
        await self._dial(connection)
        self._streams = {stream for stream in self._streams if stream.is_open}
        self._streams.add(connection)
        return connection

    def _bind_to_loop(self) -> None:
        """Connections belong to the loop that made them. Those of a loop that is closed are gone with it."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None:
            if not self._loop.is_closed():
                raise UsageError(
                    "a client belongs to one event loop, and this one is in use on another: make a client for each loop"
                )
            self._idle.clear()
            self._busy.clear()
            self._streams.clear()
            self.worked()
        self._loop = loop

    async def send(self, connection: ClientConnection, head: bytes, body: bytes) -> ClientResponse:
        """Send a request. Cancelling it ends the connection. Raises what `ClientConnection.request` raises."""
        self._busy.add(connection)
        try:
            response = await connection.request(head, body)
        finally:
            self._busy.discard(connection)
        if connection.usable and len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.abort()
        return response

    def failed(self, now_s: float) -> None:
        """Ask it last for a while."""
        self.ask_last_until_s = now_s + min(PENALTY_LIMIT_S, PENALTY_S * 2 ** min(self.failures, 8))
        self.failures += 1

    def worked(self) -> None:
        self.failures = 0
        self.ask_last_until_s = 0.0

    async def close(self) -> None:
        """End all its connections."""
        connections = [*self._idle, *self._busy, *self._streams]
        self._idle.clear()
        if self._loop is not asyncio.get_running_loop():
            return  # their loop is closed, and they with it
        for connection in connections:
            connection.abort()
        for connection in connections:
            await connection.wait_closed()

    def _take_idle(self) -> ClientConnection | None:
        oldest_s = asyncio.get_running_loop().time() - IDLE_LIMIT_S
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.last_used_s >= oldest_s:
                return connection
            connection.abort()
        return None

    async def _dial(self, protocol: ClientConnection) -> None:
        try:
            await self._network.connect(
                lambda: protocol, self._host, self._port, tls=self._tls, timeout_s=CONNECT_LIMIT_S
            )
        except asyncio.CancelledError:
            protocol.abort()  # a TLS handshake would go on without an owner
            raise
        except OSError as error:
            refused = isinstance(error, ConnectionRefusedError)
            untrusted = isinstance(error, NotTls) or is_untrusted(error)
            raise ConnectFailed(_reason(error, self._host), refused=refused, untrusted=untrusted) from error
        if not protocol.usable:  # a server that is killed may end it between the dial and the first request
            await protocol.wait_closed()  # which tells the reason
            if protocol.tls_refusal is not None:
                raise ConnectFailed(str(protocol.tls_refusal), refused=False, untrusted=True)
            raise ConnectFailed("the connection was lost as soon as it was made", refused=False)


class EndpointSet:
    """Which endpoint to ask next: the one that worked last, or the leader, as long as it works."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        assert endpoints
        self._endpoints = list(endpoints)
        self._current = 0

    def __len__(self) -> int:
        return len(self._endpoints)

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._endpoints)

    def pick(self, now_s: float, tried: set[Endpoint]) -> Endpoint | None:
        """The best endpoint that is not in `tried`: one without a recent failure, nearest after the current one."""
        current = self._endpoints[self._current]
        if current.ask_last_until_s <= now_s and current not in tried:  # nearly always
            return current
        best: tuple[bool, int] | None = None
        chosen = None
        count = len(self._endpoints)
        for offset in range(count):
            endpoint = self._endpoints[(self._current + offset) % count]
            rank = (endpoint.ask_last_until_s > now_s, offset)
            if endpoint not in tried and (best is None or rank < best):
                best, chosen = rank, endpoint
        return chosen

    def worked(self, endpoint: Endpoint, now_s: float) -> None:
        """It answered. It becomes the current one if the current one is failing."""
        endpoint.worked()
        if self._endpoints[self._current].ask_last_until_s > now_s:
            self._current = self._endpoints.index(endpoint)

    def follow(self, leader: str, now_s: float) -> None:
        """The node at this URL leads: ask it first from now on, if it is an endpoint and has not just failed."""
        for at, endpoint in enumerate(self._endpoints):
            if endpoint.url == leader and endpoint.ask_last_until_s <= now_s:
                self._current = at
                return

    async def close(self) -> None:
        for endpoint in self._endpoints:
            await endpoint.close()


def parse_endpoints(given: str | Iterable[str]) -> list[str]:
    """The URLs in a comma-separated text, or in several, in order and without repeats.

    Raises `ConfigError`, and `TypeError` for what is no text.
    """
    texts = [given] if isinstance(given, str) else _texts(given)
    urls = dict.fromkeys(parse_endpoint(part) for text in texts for part in text.split(",") if part.strip())
    if not urls:
        raise ConfigError("no endpoint given: name at least one server, such as http://127.0.0.1:8080")
    if len(urls) > MAX_ENDPOINTS:
        raise ConfigError(f"{len(urls)} endpoints given, at most {MAX_ENDPOINTS} can be used")
    return list(urls)


def _texts(given: object) -> list[str]:
    texts: list[str] = []
    for text in given if isinstance(given, Iterable) else (given,):
        if not isinstance(text, str):
            raise TypeError(f"endpoints must be a str or several, such as http://host:port, not {type(text).__name__}")
        texts.append(text)
    return texts


def parse_endpoint(text: str) -> str:
    """One URL in its plain form: `http://host:port`. `host:port` alone is taken as HTTP. Raises `ConfigError`.

    A path is that of a proxy, and comes before each route.
    """
    url = text.strip()
    url = (url if "://" in url else f"http://{url}").rstrip("/")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"endpoint {text!r} is not a URL: {error}") from error
    if parts.scheme not in {"http", "https"}:
        raise ConfigError(f"endpoint {text!r}: the scheme must be http or https")
    plain = url.isascii() and url.isprintable() and " " not in url
    if parts.username is not None:
        raise ConfigError("an endpoint holds no user and no password, since URLs are logged: give them apart")
    if not parts.hostname or port == 0 or not plain or parts.query or parts.fragment or parts.username is not None:
        raise ConfigError(f"endpoint {text!r} is not usable: it should look like http://host:port")
    if KEY_ROUTE in parts.path.split("/"):  # each request below it would be one about a key: reads would find none
        raise ConfigError(
            f"endpoint {text!r} is the address of a key: give http://host:port alone, and name the key in each call"
        )
    return parts.scheme + url[len(parts.scheme) :]  # in lower case: others look for `https://`


def _reason(error: OSError, host: str) -> str:
    if isinstance(error, TimeoutError):
        return "no answer to the dial in time"
    if isinstance(error, ssl.SSLError):
        return describe_failure(error, host)
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return (error.strerror or str(error) or type(error).__name__).lower()
