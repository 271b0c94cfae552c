"""The asynchronous client: the server's operations as methods, which stand in one class per subject.

One client serves any number of tasks at once. It keeps connections open; close it, or use `async with`.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self

from syncline.client.arguments import checked_flag, checked_timeout_s
from syncline.client.caller import Caller, ClientRequest
from syncline.client.cluster import ClusterCalls
from syncline.client.connection import ClientResponse
from syncline.client.coordination.data_words import DataWords
from syncline.client.coordination.lock_words import LockWords
from syncline.client.credentials import authorization
from syncline.client.endpoints import Endpoint, EndpointSet, parse_endpoints
from syncline.client.gathering import Gathering
from syncline.client.held_lease import HeldLeases, KeepAlives
from syncline.client.json_values import JsonCalls
from syncline.client.keys import KeyCalls
from syncline.client.leases import LeaseCalls
from syncline.client.listing import ListingCalls
from syncline.client.many import ManyCalls
from syncline.client.own_session import OwnSession
from syncline.client.sessions import SessionCalls
from syncline.client.transaction import TransactionCalls
from syncline.client.updates import UpdateCalls
from syncline.client.users import UserCalls
from syncline.client.watch import WatchCalls
from syncline.errors import OperationError
from syncline.platform.network import TcpNetwork
from syncline.platform.tls import new_context
from syncline.platform.waiting import result_of
from syncline.platform.world import World
from syncline.version import __version__

__all__ = ["DEFAULT_TIMEOUT_S", "AsyncClient"]

DEFAULT_TIMEOUT_S: Final = 5.0

LEASES_END_S: Final = 1.0
"""Limit of the end of the leases that are held when the client is closed."""


class AsyncClient(
    KeyCalls,
    JsonCalls,
    UpdateCalls,
    ManyCalls,
    TransactionCalls,
    ListingCalls,
    SessionCalls,
    LeaseCalls,
    WatchCalls,
    ClusterCalls,
    LockWords,
    DataWords,
    UserCalls,
):
    """A client of one cluster.

    `endpoints` are URLs of any of its nodes (a list, or one comma-separated text); more than one lets the client go on
    when a node is away. A path in a URL is that of a proxy, and comes before each route.

    `timeout` (seconds) bounds one operation, retries included, unless a call gives its own.
    `retry_refused=False` fails at once where every endpoint refuses the connection (or is no Syncline server), instead
    of waiting for one to come back.

    `retry_writes=False`: a write of unknown outcome is not sent again, and no session is opened for it: for a single
    write, which would take a second round trip. `batching=False`: each operation leaves alone.

    `on_retry` is told why, each time before another attempt is made. `tls` is for https endpoints; without it the
    system's certificate authorities are trusted. If no endpoint's certificate can be trusted, a call fails at once.
    `user` and `password`, or a `token`, are the credential of a cluster that needs one. `world` replaces what is
    outside the client, for tests.

    Keys are bytes; a `str` is taken as its UTF-8. Methods raise `errors.OperationError` (look at `outcome`): the class
    that the library itself would raise, `Unreachable`, or `RequestFailed`.
    """

    def __init__(
        self,
        endpoints: str | Iterable[str],
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        retry_refused: bool = True,
        retry_writes: bool = True,
        batching: bool = True,
        tls: ssl.SSLContext | None = None,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        world: World | None = None,
        on_retry: Callable[[OperationError], None] | None = None,
    ) -> None:
        self.endpoints: list[str] = parse_endpoints(endpoints)
        if tls is not None and not isinstance(tls, ssl.SSLContext):
            raise TypeError(f"tls must be an ssl.SSLContext, not {type(tls).__name__}")
        if world is not None and not isinstance(world, World):
            raise TypeError(f"world must be a World, not {type(world).__name__}: leave it out but in tests")
        network = TcpNetwork() if world is None else world.network
        secure = any(url.startswith("https://") for url in self.endpoints)
        own = new_context(tls or ssl.create_default_context(), server_side=False) if secure else None
        self._set = EndpointSet([Endpoint(url, network=network, tls=own) for url in self.endpoints])
        self._timeout_s = checked_timeout_s(timeout)
        outside = World() if world is None else world
        self._entropy = outside.entropy
        self._asleep_s = outside.workers.asleep_s
        self._wall_time_s = outside.wall_time_s
        self._closing: asyncio.Task[None] | None = None
        self._held_leases = HeldLeases()
        self._keep_alives = KeepAlives(lambda names, timeout_s: self.keep_alive(names, timeout=timeout_s))
        self._caller = Caller(
            self._set,
            rng=random.Random() if world is None else world.rng,
            user_agent=f"syncline/{__version__}",
            retry_refused=retry_refused,
            on_retry=on_retry,
            authorization=authorization(user, password, token),
        )
        self._own_session = OwnSession() if checked_flag(retry_writes, "retry_writes") else None
        self._keys = self._own_session
        if checked_flag(batching, "batching"):
            self._gathered_reads = Gathering(self._caller.call, reads=True)
            self._gathered_writes = Gathering(self._send_write, reads=False)

    async def __aenter__(self) -> Self:
        self._held_leases.check()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End what is held by it, its session, and all connections. A call after that is a `UsageError`.

            await kv.close()

        Operations under way fail with `Unreachable`. Leases in open blocks end, and with them locks, terms of
        leadership, registrations and claims: their holders are told first. That takes a second at most, and the end of
        the session another one: what no server has answered by then ends by itself.
        """
        closing = self._closing
        if closing is None or closing.cancelled() or closing.get_loop().is_closed():
            self._closing = closing = asyncio.create_task(self._close(), name="close of a client")
        # In a task: the caller may hold one of the locks, and be cancelled when it is lost.
        await result_of(closing)

    async def _close(self) -> None:
        for gathering in (self._gathered_reads, self._gathered_writes):
            if gathering is not None:
                gathering.close()
        await self._held_leases.end(LEASES_END_S)
        if self._own_session is not None:
            await self._own_session.end(self._caller)
        self._caller.close()
        await self._set.close()

    def _conflict_pause_s(self, attempts: int) -> float:
        return self._caller.conflict_pause_s(attempts)

    async def _send_write(self, request: ClientRequest, timeout_s: float) -> ClientResponse:
        """Send a batch of writes, with a key if the client retries writes."""
        if self._own_session is None:
            return await self._caller.call(request, timeout_s)
        return await self._own_session.call(self._caller, request, timeout_s)
