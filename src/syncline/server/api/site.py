"""The application: every route, over one backend. It uses no sockets; `HttpServer` and ASGI both serve it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import msgspec

from syncline.client.schemas import NodeStatus
from syncline.errors import OperationError
from syncline.server.api.backend import Backend
from syncline.server.api.cluster import RaftRoutes
from syncline.server.api.errors import error_response
from syncline.server.api.health import HealthRoutes
from syncline.server.api.keys import DEFAULT_MAX_KEY_BYTES, DEFAULT_MAX_VALUE_BYTES, KeyRoutes
from syncline.server.api.list import ListingRoutes
from syncline.server.api.reads import ConfirmedReads
from syncline.server.api.router import Router
from syncline.server.api.txn import TxnRoutes
from syncline.server.http.cross_site import CrossSitePolicy
from syncline.server.http.request import Request
from syncline.server.http.response import Respond, Response
from syncline.server.http.shortcuts import FastGet
from syncline.server.tasks import Tasks
from syncline.version import __version__

__all__ = ["Site"]


class Site:
    """The routes of one node. Call it with a request and the function for its answer.

    `metrics` renders `/metrics`; `clock` is for the uptime; `policy` decides about requests of web pages and unknown
    hosts.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        name: str,
        max_key_bytes: int = DEFAULT_MAX_KEY_BYTES,
        max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES,
        metrics: Callable[[], bytes] = bytes,
        clock: Callable[[], float] = time.monotonic,
        policy: CrossSitePolicy | None = None,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._opened_s = clock()
        self.tasks: Tasks = Tasks()
        self.router: Router = Router(explain=self.explain, explain_read=self.explain_read, policy=policy)
        reads, explain = ConfirmedReads(backend), self.explain
        self._health = HealthRoutes(backend, reads, name=name, metrics=metrics, routes=lambda: self.router.patterns)
        keys = KeyRoutes(
            backend,
            reads,
            explain=explain,
            explain_read=self.explain_read,
            max_key_bytes=max_key_bytes,
            max_value_bytes=max_value_bytes,
        )
        keys.add_to(self.router)
        self.fast_get: FastGet = keys.fast_get
        ListingRoutes(backend, reads, explain=self.explain_read).add_to(self.router)
        TxnRoutes(backend, explain=explain, max_key_bytes=max_key_bytes, max_value_bytes=max_value_bytes).add_to(
            self.router
        )
        RaftRoutes(backend, self.tasks, explain=explain, status=self.status).add_to(self.router)
        self._health.add_to(self.router)

    def __call__(self, request: Request, respond: Respond) -> None:
        self.router.handle(request, respond)

    def stopping(self) -> None:
        """Whether `/readyz` fails because the server stops, so that no new clients are sent here."""
        self._health.stopping = True

    async def close(self) -> None:
        """End running tasks; call it when the connections are closed."""
        await self.tasks.close()

    def status(self) -> NodeStatus:
        """The node's view, and the process around it."""
        store = self._backend.store
        return NodeStatus(
            **msgspec.structs.asdict(self._backend.view()),
            pid=os.getpid(),
            version=__version__,
            uptime_s=round(self._clock() - self._opened_s, 3),
            revision=store.revision,
            digest=f"{store.digest:032x}",
        )

    def explain(self, error: BaseException) -> Response:
        """An error as an answer, with the leader if the error names one."""
        self._backend.note_refusal(error)
        return error_response(error, leader=self._leader_in(error))

    def explain_read(self, error: BaseException) -> Response:
        """`explain` for a request that only reads: it had no effect."""
        return error_response(error, leader=self._leader_in(error), read=True)

    def _leader_in(self, error: BaseException) -> tuple[str, str, str] | None:
        if isinstance(error, OperationError) and error.leader:
            known = self._backend.leader()
            if known is not None and known.id == f"{error.leader:016x}":
                return (known.id, known.name, known.http)
        return None
