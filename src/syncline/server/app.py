"""One server: a node of the cluster, its key-value state machine, and the HTTP server for its clients."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Self

import msgspec

from syncline.errors import ConfigError, UsageError
from syncline.kv.machine import KvMachine
from syncline.kv.serving.memory import new_machine
from syncline.kv.serving.upkeep import Upkeep
from syncline.kv.watch import WatchLimits
from syncline.node.config import Config
from syncline.node.observation import SeenStages
from syncline.node.raft import Raft
from syncline.node.startups import Startup
from syncline.platform.descriptors import connection_limit
from syncline.platform.disk import Disk
from syncline.platform.live_certificate import LiveCertificate
from syncline.platform.world import World
from syncline.server.addresses import check_address, split_address
from syncline.server.api.errors import problem
from syncline.server.api.raft_backend import NodeBackend
from syncline.server.api.site import Site
from syncline.server.auth.start_line import tell_credentials
from syncline.server.config import ServerConfig
from syncline.server.console.routes import Console
from syncline.server.etcd.gateway import JsonGateway
from syncline.server.etcd.grpc.offer import NOT_OFFERED, has_extra, offer_grpc
from syncline.server.etcd.grpc.service import GrpcService
from syncline.server.etcd.services.maintenance import SERVER_VERSION
from syncline.server.etcd.setup import open_face
from syncline.server.exposure import advertised_host, check_exposure, cross_site_policy, offers_etcd
from syncline.server.http.cross_site import CrossSitePolicy
from syncline.server.http.limits import MIB
from syncline.server.http.observing import Observe
from syncline.server.http.request import Request
from syncline.server.http.response import TEXT, Respond, bare
from syncline.server.http.server import HttpServer
from syncline.server.http.tls import MAX_HANDSHAKES, PROTOCOLS, client_certificate
from syncline.server.join import ask_members, find_members, is_new
from syncline.server.metrics import Registry
from syncline.server.process_metrics import add_process_metrics
from syncline.server.saturation import add_saturation_metrics
from syncline.server.slow_log import SlowLog
from syncline.server.telemetry import (
    HttpTelemetry,
    add_certificate_metrics,
    add_lease_metrics,
    add_node_metrics,
    add_watch_metrics,
)
from syncline.transport.candidates import is_wildcard
from syncline.transport.tls import PeerTls

if TYPE_CHECKING:
    from syncline.server.tracing import RequestTracing

__all__ = ["KvServer"]

_log = logging.getLogger("syncline.server")

ENTRY_FACTOR = 2
"""The log must accept every command within the HTTP limits."""


class KvServer:
    """A running server. Make one with `KvServer.open`."""

    config: ServerConfig
    """Its settings."""
    metrics: Registry
    """The metrics of `/metrics`; an embedding program may add to it."""
    http_url: str
    """Where clients reach this server."""

    def __init__(self) -> None:
        self._http: HttpServer
        self._policy: CrossSitePolicy
        self._raft: Raft[object] | None = None
        self._backend: NodeBackend | None = None
        self._upkeep: Upkeep | None = None
        self._site: Site | None = None
        self._finding: asyncio.Task[None] | None = None
        self._certificate: LiveCertificate | None = None
        self._grpc: GrpcService | None = None
        self._telemetry: HttpTelemetry
        self._tracing: RequestTracing | None
        raise UsageError("use `await KvServer.open(config)`")

    @classmethod
    def open(cls, config: ServerConfig, *, world: World | None = None) -> Startup[KvServer]:
        """Start: bind the HTTP port, join the cluster if that is asked for, open the node, serve.

        Until the node is open, `/livez` is answered 200 and other requests 503 `starting`. If it raises, nothing is
        left running. `world` replaces what is outside the server, for tests.

            server = await KvServer.open(config)          # the caller calls `close`
            async with KvServer.open(config) as server:   # closed at the end of the block
                ...

        Raises:
            ConfigError: the settings do not fit each other, or the data directory.
            StorageError: the data directory can't be used.
            OperationError: the cluster could not be joined.
            NodeFailed: the node has stopped itself.
            OSError: a port can't be bound.
        """
        return Startup(cls._open(config, world or World()), KvServer.close)

    @classmethod
    async def _open(cls, config: ServerConfig, world: World) -> KvServer:
        await check_exposure(config)
        registry = Registry()
        limits = config.http_limits()
        beside = limits.vital_connections + limits.refused_connections + MAX_HANDSHAKES * bool(config.http_tls_cert)
        limits = msgspec.structs.replace(limits, max_connections=connection_limit(limits.max_connections, beside))
        policy = await cross_site_policy(config)
        telemetry = HttpTelemetry(registry)
        tracing = _tracing(config, telemetry, world) if config.traces else None
        observe: Observe = telemetry.observe if tracing is None else tracing.observe
        etcd = await offers_etcd(config)
        certificate = _client_certificate(config, PROTOCOLS if etcd and has_extra() else ())
        http = HttpServer(_starting, limits=limits, observe=observe, knows_host=policy.knows_host)
        grpc = offer_grpc(http, observe=telemetry.observe if tracing is None else tracing.observe) if etcd else None
        if not etcd:
            http.explain_http2(NOT_OFFERED)
        http_url = config.http_advertise
        if config.http_listen:
            bind = split_address(config.http_listen, any_port=True)
            tls = certificate.server if certificate is not None else None
            http_url = config.http_url(*await http.start(world.network, *bind, tls=tls))
        server = cls.__new__(cls)
        server.config, server.metrics, server.http_url = config, registry, http_url
        server._http, server._policy, server._certificate = http, policy, certificate
        server._raft = server._backend = server._upkeep = server._site = server._finding = None
        server._grpc = grpc
        server._telemetry, server._tracing = telemetry, tracing
        if certificate is not None:
            certificate.watch()
        try:
            await server._open_node(world)
        except BaseException:
            await server.close(drain_s=0)
            raise
        return server

    async def _open_node(self, world: World) -> None:
        config = self.config
        machine = new_machine(max_store_bytes=config.max_store_bytes, history_bytes=config.history_bytes)
        node = self._node_config(world.disk)
        if config.join:
            ask = partial(ask_members, config, http=self.http_url, world=world)
            raft = await Raft.join(node, machine, ask, world=world)
        else:
            raft = await Raft.open(node, machine, world=world)
        self._raft = raft
        if config.join:  # a node that moved before it had a log knows no member, and none can dial it
            self._finding = asyncio.create_task(find_members(config, raft, world=world))
        self._upkeep = Upkeep(
            raft, machine, history_revisions=config.history_revisions, history_bytes=config.history_bytes
        )
        self._upkeep.start()
        self._backend = NodeBackend(raft, machine, entropy=world.entropy)
        self._backend.lease_calls.answer_here(self._upkeep.lessor)
        self._add_metrics(raft, machine)
        seen = SeenStages(raft)
        if config.slow_request_s:
            self._telemetry.slow = SlowLog(seen.batch, seen.read, seen.now_s)
            self._telemetry.slow_s = config.slow_request_s
        if self._tracing is not None:
            self._tracing.stages = seen
        self._site = Site(
            self._backend,
            name=config.name,
            max_key_bytes=config.max_key_bytes,
            max_value_bytes=config.max_value_bytes,
            metrics=self.metrics.render,
            policy=self._policy,
            watch_limits=WatchLimits(max_watches=config.max_watches, max_user_watches=config.max_user_watches),
            max_user_requests=config.max_user_requests,
            max_user_write_bytes=config.max_user_write_bytes,
            workers=world.workers,
            entropy=world.entropy,
            console=Console(config.console, config.console_lab),
        )
        self._site.follow(raft.events())
        if config.console != "off":
            self._policy.member_origins = self._site.member_origins
        if await offers_etcd(config):
            self._offer_etcd(self._site, self._backend, world)
        add_watch_metrics(self.metrics, self._site.watches)
        add_saturation_metrics(
            self.metrics, raft, machine, self._http, self._site.watches, self._site.gate.user_requests
        )
        self._http.serve(self._site.router.handle, self._site.fast_get, self._site.fast_writes)
        self._site.watches.given = self._http.write_streams
        await tell_credentials(config, needed=machine.auth_flag.on)

    def _offer_etcd(self, site: Site, backend: NodeBackend, world: World) -> None:
        """Serve clients of etcd, too."""
        face = open_face(
            backend,
            gate=site.gate,
            watches=site.watches,
            tasks=site.tasks,
            entropy=world.entropy,
            max_request_bytes=self.config.max_value_bytes,
        )
        JsonGateway(face, site.tasks).add_to(site.router)
        if self._grpc is not None:
            self._grpc.serve(face)
        site.offer_etcd(SERVER_VERSION)

    def _node_config(self, disk: Disk) -> Config:
        config = self.config
        peers = config.initial_cluster
        if not peers and not config.join and is_new(disk, config.data_dir):
            peers = {config.name: check_address(config.peer_advertise or config.peer_listen)}
            _log.info(
                "node %s begins a new cluster in %s, as its only member: no initial_cluster and no join is set. If it"
                " is to enter a running cluster, stop it, remove the directory, and start it with --join",
                *(config.name, config.data_dir),
            )
        return Config(
            name=config.name,
            data_dir=config.data_dir,
            listen=config.peer_listen,
            advertise=config.peer_advertise or self._known_address(),
            http=self.http_url,
            peers=peers,
            cluster=config.cluster,
            heartbeat_s=config.heartbeat_s,
            election_s=config.election_s,
            max_entry_bytes=max(8 * MIB, ENTRY_FACTOR * config.max_value_bytes),
            snapshot_entries=config.snapshot_entries,
            snapshot_bytes=config.snapshot_bytes,
            snapshots_retained=config.snapshots_retained,
            trailing_entries=config.trailing_entries,
            segment_bytes=config.segment_bytes,
            reserve_bytes=config.reserve_bytes,
            peer_tls=_peer_tls(config),
            secret=config.peer_secrets(),
            insecure_peers=config.insecure_peers or config.insecure,
            peer_auth=config.peer_auth,
            hold_level=config.hold_level,
            session_idle_s=config.session_idle_s,
            log_sync=config.log_sync,
        )

    def _known_address(self) -> str:
        """The peers' address of a node that listens on all interfaces, as far as `initial_cluster` has it."""
        host, _ = split_address(self.config.peer_listen)
        return self.config.initial_cluster.get(self.config.name, "") if is_wildcard(host) else ""

    def _add_metrics(self, raft: Raft[object], machine: KvMachine) -> None:
        registry, http = self.metrics, self._http
        add_process_metrics(registry)
        own = self._certificate
        add_certificate_metrics(
            registry, lambda: own.days_left if own is not None else None, lambda: raft.stats().certificate_days_left
        )
        add_node_metrics(registry, raft, lambda: machine.store, name=self.config.name)
        upkeep = self._upkeep
        assert upkeep is not None
        compactor = upkeep.compactor
        add_lease_metrics(registry, lambda: machine.store, upkeep.lessor.counts, lambda: compactor.compactions)
        limit = "What the store may count for; 0: no limit."
        registry.computed("gauge", "syncline_store_max_bytes", limit, (), lambda: (((), machine.max_bytes),))
        requests = "Requests that are being answered."
        registry.computed("gauge", "syncline_http_requests_in_work", requests, (), lambda: (((), http.requests),))
        connections, held = "Open connections of clients.", "Bodies and answers of all clients in memory."
        registry.computed("gauge", "syncline_http_connections", connections, (), lambda: (((), http.connection_count),))
        registry.computed("gauge", "syncline_http_held_bytes", held, (), lambda: (((), http.held_bytes),))

    @property
    def site(self) -> Site:
        """The routes, for `AsgiApp`."""
        assert self._site is not None
        return self._site

    @property
    def raft(self) -> Raft[object]:
        """The node."""
        assert self._raft is not None
        return self._raft

    async def closed_by_fault(self) -> BaseException:
        """Wait until the node has stopped by itself (fail-stop); return its error.

            print(f"the node has stopped: {await server.closed_by_fault()}")

        Raises:
            Closed: the server was closed.
        """
        return await self.raft.failed()

    async def drain(self, *, drain_s: float | None = None, grace_s: float = 0.0) -> None:
        """Take no more clients, and answer open requests, for `drain_s` at most.

            await server.drain(drain_s=5.0, grace_s=1.0)
            await server.close()

        Idle connections stay open for `grace_s`. The node goes on for its peers; `close` ends it.
        """
        if self._site is not None:
            self._site.stopping()
        await self._http.close(drain_s=self.config.drain_s if drain_s is None else drain_s, grace_s=grace_s)

    async def close(self, *, drain_s: float | None = None) -> None:
        """Stop in order: drain (for `drain_s` seconds at most), transfer the leadership, close the node.

            await server.close()

        Idempotent.
        """
        if self._certificate is not None:
            self._certificate.close()
        if self._finding is not None:
            self._finding.cancel()
            await asyncio.wait([self._finding])
        await self.drain(drain_s=drain_s)
        if self._grpc is not None:
            await self._grpc.close()
        if self._site is not None:
            await self._site.close()
        if self._upkeep is not None:
            await self._upkeep.close()
        if self._backend is not None:
            await self._backend.close()
        if self._raft is not None:
            await self._raft.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _tracing(config: ServerConfig, telemetry: HttpTelemetry, world: World) -> RequestTracing:
    try:
        from syncline.server.tracing import RequestTracing
    except ModuleNotFoundError as error:
        text = "traces needs the package opentelemetry-api, which is not installed: pip install 'syncline[otel]'"
        raise ConfigError(text, settings=("traces",)) from error
    return RequestTracing(telemetry.observe, world.wall_time_s, node=config.name)


def _starting(request: Request, respond: Respond) -> None:
    """Answer before the node is open. The process is alive: a supervisor must let it load a large state."""
    if request.method in ("GET", "HEAD") and request.path.startswith(b"/livez"):
        respond(bare(200, TEXT, b"ok: the node is starting\n"))
        return
    respond(problem(503, "starting", "the node is starting: it is not open yet"))


def _client_certificate(config: ServerConfig, protocols: tuple[str, ...]) -> LiveCertificate | None:
    """The certificate for clients, with a look at what clients would stumble over. Raises `ConfigError`."""
    if not config.http_tls_cert:
        return None
    certificate = client_certificate(config.http_tls_cert, config.http_tls_key, config.http_tls_ca, protocols=protocols)
    facts = certificate.facts
    if not facts.for_servers:
        raise ConfigError(
            f"http_tls_cert {config.http_tls_cert!r} is not for a server: its extendedKeyUsage lacks serverAuth"
        )
    host = advertised_host(config)
    if host and not facts.covers(host):
        _log.warning(
            "the certificate for clients, %s, names %s and not %s, where this node is reached: clients that use that"
            " address refuse it",
            *(config.http_tls_cert, ", ".join((*facts.dns, *facts.addresses)) or "nothing", host),
        )
    return certificate


def _peer_tls(config: ServerConfig) -> PeerTls | None:
    if not config.peer_tls_cert:
        return None
    return PeerTls(certificate=config.peer_tls_cert, key=config.peer_tls_key, authority=config.peer_tls_ca)
