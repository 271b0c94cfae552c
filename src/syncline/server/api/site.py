"""The application: every route, over one backend. It uses no sockets; `HttpServer` and ASGI both serve it."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable

import msgspec

from syncline.client.schemas import NodeStatus
from syncline.errors import OperationError
from syncline.kv.serving.reads import ConfirmedReads
from syncline.kv.watch import WatchLimits
from syncline.kv.watch_hub import WatchHub
from syncline.node.events import Event
from syncline.platform.entropy import Entropy, system_entropy
from syncline.platform.worker import Workers
from syncline.server.api.auth_context import AuthContext
from syncline.server.api.backend import Backend
from syncline.server.api.backup import BackupRoutes
from syncline.server.api.batch import BatchRoutes
from syncline.server.api.cluster import RaftRoutes
from syncline.server.api.compact import CompactRoutes
from syncline.server.api.errors import error_response, internal_error
from syncline.server.api.event_feed import EventFeed
from syncline.server.api.events import EventRoutes
from syncline.server.api.fast_keys import FastKeyRoutes
from syncline.server.api.fast_leases import fast_keep_alive
from syncline.server.api.health import HealthRoutes
from syncline.server.api.keys import DEFAULT_MAX_KEY_BYTES, DEFAULT_MAX_VALUE_BYTES, KeyRoutes
from syncline.server.api.leases import LeaseRoutes
from syncline.server.api.list import ListingRoutes
from syncline.server.api.openapi import DocumentRoute
from syncline.server.api.operations import OperationReader
from syncline.server.api.roles import RoleRoutes
from syncline.server.api.router import Router
from syncline.server.api.sessions import SessionRoutes
from syncline.server.api.txn import TxnRoutes
from syncline.server.api.users import UserRoutes
from syncline.server.api.watch import WatchRoutes
from syncline.server.auth.gate import AccessGate
from syncline.server.auth.passwords import PasswordCost
from syncline.server.console.routes import Console, ConsoleRoutes, origins_of
from syncline.server.http.cross_site import CrossSitePolicy
from syncline.server.http.request import Request
from syncline.server.http.response import Respond, Response
from syncline.server.http.shortcuts import FastRoute
from syncline.server.tasks import Tasks
from syncline.version import __version__

__all__ = ["Site"]


class Site:
    """The routes of one node. Call it with a request and the function for its answer.

    `metrics` renders `/metrics`; `clock` is for the uptime; `policy` decides about requests of web pages and unknown
    hosts. `max_user_requests` and `max_user_write_bytes`: of one user at a time (0: no limit). `wall` is the time
    since 1970, for the end of tokens; `workers` and `entropy` are for passwords and tokens.
    Without a `console`, or with one that is off, there is none.
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
        watch_limits: WatchLimits | None = None,
        max_user_requests: int = 0,
        max_user_write_bytes: int = 0,
        wall: Callable[[], float] = time.time,
        workers: Workers | None = None,
        entropy: Entropy = system_entropy,
        password_cost: PasswordCost | None = None,
        console: Console | None = None,
    ) -> None:
        self._backend = backend
        self._name = name
        self._clock = clock
        self._opened_s = clock()
        self.tasks: Tasks = Tasks()
        self.gate: AccessGate = AccessGate(
            backend,
            clock=clock,
            wall=wall,
            workers=workers,
            entropy=entropy,
            cost=password_cost,
            explain=self._explain_either,
            max_user_requests=max_user_requests,
            max_user_write_bytes=max_user_write_bytes,
        )
        gate = self.gate
        self.router: Router = Router(explain=self.explain, explain_read=self.explain_read, policy=policy, gate=gate)
        reads = ConfirmedReads(backend, faulted=_faulted)
        self._health = HealthRoutes(
            backend,
            reads,
            name=name,
            metrics=metrics,
            routes=lambda: self.router.patterns,
            console=console is not None and console.mode != "off",
        )
        self.watches: WatchHub = WatchHub(
            lambda: backend.store,
            has_leader=lambda: backend.leader() is not None,
            confirm=backend.read_index,
            election_s=backend.election_s,
            limits=watch_limits,
        )
        backend.observe(self.watches.changed)
        fast = self._add_key_routes(reads, max_key_bytes, max_value_bytes)
        self.fast_get: FastRoute = fast.get
        self.fast_writes: tuple[FastRoute, ...] = (
            fast.put,
            fast_keep_alive(backend, explain=self.explain, handle=self.router.handle),
        )
        ListingRoutes(backend, reads, gate=gate, explain=self.explain_read).add_to(self.router)
        BackupRoutes(backend, reads, explain=self.explain_read).add_to(self.router)
        self._add_store_routes(reads, max_key_bytes, max_value_bytes)
        self._add_user_routes(entropy)
        self._health.add_to(self.router)
        self.events: EventFeed = EventFeed(wall=wall, name_of=self._name_of)
        self._add_console_routes(console, name)
        DocumentRoute(lambda: self.router.declared).add_to(self.router)

    def _add_key_routes(
        self, reads: ConfirmedReads[Respond], max_key_bytes: int, max_value_bytes: int
    ) -> FastKeyRoutes:
        keys = KeyRoutes(
            self._backend,
            reads,
            self.watches,
            explain=self.explain,
            explain_read=self.explain_read,
            gate=self.gate,
            max_key_bytes=max_key_bytes,
            max_value_bytes=max_value_bytes,
        )
        keys.add_to(self.router)
        return FastKeyRoutes(
            self._backend,
            reads,
            explain=self.explain,
            explain_read=self.explain_read,
            gate=self.gate,
            handle=self.router.handle,
            max_key_bytes=max_key_bytes,
            max_value_bytes=max_value_bytes,
        )

    def _add_store_routes(self, reads: ConfirmedReads[Respond], max_key_bytes: int, max_value_bytes: int) -> None:
        backend, gate, explain = self._backend, self.gate, self.explain
        reader = OperationReader(
            max_key_bytes=max_key_bytes, max_value_bytes=max_value_bytes, new_lease=backend.new_lease
        )
        TxnRoutes(backend, reader, explain=explain).add_to(self.router)
        BatchRoutes(backend, reads, reader, gate=gate, explain=explain, explain_read=self.explain_read).add_to(
            self.router
        )
        CompactRoutes(backend, explain=explain).add_to(self.router)
        LeaseRoutes(
            backend, self.tasks, explain=explain, explain_read=self.explain_read, max_key_bytes=max_key_bytes
        ).add_to(self.router)
        SessionRoutes(backend, self.tasks, explain=explain).add_to(self.router)
        WatchRoutes(
            backend,
            self.watches,
            name=self._name,
            gate=gate,
            explain=self.explain_read,
            max_key_bytes=max_key_bytes,
        ).add_to(self.router)
        RaftRoutes(backend, self.tasks, explain=explain, status=self.status).add_to(self.router)

    def _add_user_routes(self, entropy: Entropy) -> None:
        context = AuthContext(
            self._backend,
            self.tasks,
            self.gate,
            wall_ms=self.gate.wall_ms,
            entropy=entropy,
            explain=self.explain,
        )
        UserRoutes(context, explain_read=self.explain_read).add_to(self.router)
        RoleRoutes(context, explain_read=self.explain_read).add_to(self.router)

    def follow(self, events: AsyncIterator[Event]) -> None:
        """Give the node's events to `/events` until they end.

            site.follow(raft.events())

        Call it once, on the event loop.
        """
        self.tasks.spawn(self.events.follow(events), name="events")

    def member_origins(self) -> set[str]:
        """Return the origins of the cluster's nodes, as far as they announce one.

            policy.member_origins = site.member_origins

        Pages of these origins may read from this node. A node at 127.0.0.1 is opened as localhost, too.
        """
        found = origins_of(member.http for member in self._backend.members().members)
        return found | {origin.replace("//127.0.0.1:", "//localhost:") for origin in found}

    def _name_of(self, node_id: int) -> str:
        wanted = f"{node_id:016x}"
        return next((one.name for one in self._backend.members().members if one.id == wanted), "")

    def _add_console_routes(self, console: Console | None, name: str) -> None:
        self._backend.observe_auth(self.events.wake)
        EventRoutes(self.events, no_user=self.gate.no_user).add_to(self.router)
        if console is not None and console.mode != "off":
            ConsoleRoutes(console, name=name, origins=self.member_origins).add_to(self.router)

    def offer_etcd(self, version: str) -> None:
        """Show in `/version` that clients of this version of etcd are served.

            site.offer_etcd("3.5.0")

        Some of them send a body with a GET.
        """
        self._health.etcd_version = version
        self.router.ignore_body("/version")
        self.router.ignore_body("/health")

    def __call__(self, request: Request, respond: Respond) -> None:
        self.router.handle(request, respond)

    def stopping(self) -> None:
        """Let `/readyz` fail, so that no new clients are sent here, and end the watches: they go on elsewhere."""
        self._health.stopping = True
        self.watches.close()
        self.events.close()

    async def close(self) -> None:
        """End running tasks; call it when the connections are closed."""
        self.watches.close()
        await self.tasks.close()
        await self.gate.close()

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

    def _explain_either(self, error: BaseException, read: bool) -> Response:
        return (self.explain_read if read else self.explain)(error)

    def _leader_in(self, error: BaseException) -> tuple[str, str, str] | None:
        if isinstance(error, OperationError) and error.leader:
            known = self._backend.leader()
            if known is not None and known.id == f"{error.leader:016x}":
                return (known.id, known.name, known.http)
        return None


def _faulted(respond: Respond, fault: Exception) -> None:
    respond(internal_error(fault, read=True))
