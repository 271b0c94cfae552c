"""The blocking client: the calls of `AsyncClient` for threads and pre-fork servers."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Self

from syncline.client.blocking.cluster import BlockingClusterCalls
from syncline.client.blocking.data_words import BlockingDataWords
from syncline.client.blocking.json_values import BlockingJsonCalls
from syncline.client.blocking.keys import BlockingKeyCalls
from syncline.client.blocking.leases import BlockingLeaseCalls
from syncline.client.blocking.listing import BlockingListingCalls
from syncline.client.blocking.lock_words import BlockingLockWords
from syncline.client.blocking.many import BlockingManyCalls
from syncline.client.blocking.operations import BlockingOperationCalls
from syncline.client.blocking.portal import Portal
from syncline.client.blocking.sessions import BlockingSessionCalls
from syncline.client.blocking.transaction import BlockingTransactionCalls
from syncline.client.blocking.updates import BlockingUpdateCalls
from syncline.client.blocking.users import BlockingUserCalls
from syncline.client.blocking.watch import BlockingWatchCalls
from syncline.client.client import DEFAULT_TIMEOUT_S, AsyncClient
from syncline.client.endpoints import parse_endpoints
from syncline.errors import OperationError
from syncline.platform.world import World

__all__ = ["Client"]


class Client(
    BlockingKeyCalls,
    BlockingJsonCalls,
    BlockingUpdateCalls,
    BlockingManyCalls,
    BlockingTransactionCalls,
    BlockingListingCalls,
    BlockingOperationCalls,
    BlockingSessionCalls,
    BlockingLeaseCalls,
    BlockingWatchCalls,
    BlockingClusterCalls,
    BlockingDataWords,
    BlockingLockWords,
    BlockingUserCalls,
):
    """A client of one cluster for code without async: the calls, arguments, results and errors of `AsyncClient`.

        kv = Client("http://127.0.0.1:8080")
        kv.put("greeting", "hello")
        found = kv.get("greeting")

    Any number of threads may share it. It works on one thread of its own, which begins with the first call; calls of
    several threads at one moment travel together. After a fork the child has a thread and connections of its own, so a
    pre-fork server may make it before it forks. KeyboardInterrupt cancels a call.

    Close it, or use `with`. A program that ends without `close` ends at once. In a thread that runs an event loop each
    call is a `UsageError`: use `AsyncClient` there. `on_retry` is called on the client's thread.
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
        given = parse_endpoints(endpoints)  # here, on the caller's thread: it may be a generator
        make = partial(
            AsyncClient,
            given,
            timeout=timeout,
            retry_refused=retry_refused,
            retry_writes=retry_writes,
            batching=batching,
        )
        credential = {"user": user, "password": password, "token": token}
        clients = _Clients(partial(make, tls=tls, world=world, on_retry=on_retry, **credential))
        super().__init__(Portal(last=clients.close), clients.next)
        self.endpoints: list[str] = clients.first.endpoints
        self._again: Callable[[], Client] | None = None
        """Makes a client like this one in another process; None: that can't be done."""
        if tls is None and world is None and on_retry is None and not any(credential.values()):
            self._again = partial(Client, *make.args, **make.keywords)

    def __reduce__(self) -> tuple[Callable[[], Client], tuple[()]]:
        """For `multiprocessing`: a process that gets this client as an argument makes one like it."""
        if self._again is None:
            raise TypeError(
                "a client with tls, credentials, world or on_retry, or of a session, can't be sent to another process:"
                " make one there"
            )
        return self._again, ()

    def __enter__(self) -> Self:
        self._portal.check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all connections, and the client's thread.

            kv.close()

        Operations under way fail with `Unreachable` or `Closed`, in whichever thread. The second call does nothing.
        """
        self._portal.close()

    def _like(self, make: Callable[[], AsyncClient]) -> Self:
        other = super()._like(make)
        other._again = None
        return other


class _Clients:
    """Makes the `AsyncClient` of each process, and closes it."""

    def __init__(self, make: Callable[[], AsyncClient]) -> None:
        self.first = make()
        """Made at once, and not used: what can't be used is refused before the first call.

        Children that are forked before the first call would share its random numbers: their pauses would end together.
        """
        self._make = make
        self._last: AsyncClient | None = None

    def next(self) -> AsyncClient:
        """For a process that has none. On the loop's thread."""
        self._last = self._make()
        return self._last

    async def close(self) -> None:
        if self._last is not None:
            await self._last.close()
