"""One machine of a simulated cluster: a disk, a place on the network, and a process that can be started, killed,
paused, and started again on its disk.

The process is the complete product above `platform`: `Raft` with its log, snapshots, transport and state machine. For
the key-value machine it has the server's routes, without sockets; if the cluster `serves_http`, they are reached over
the simulated network too, by HTTP.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol, TypeVar

import msgspec

from syncline.errors import Closed, DirectoryLocked, SynclineError
from syncline.kv.compactor import Compactor
from syncline.kv.lease_caller import LeaseCaller
from syncline.kv.lessor import Lessor
from syncline.kv.machine import KvMachine
from syncline.kv.watch import WatchLimits
from syncline.node.config import Config
from syncline.node.fsm import FSM
from syncline.node.raft import Raft
from syncline.node.runtime import Driver
from syncline.platform.entropy import Entropy
from syncline.platform.world import World
from syncline.server.api.raft_backend import NodeBackend
from syncline.server.api.site import Site
from syncline.server.etcd.gateway import JsonGateway
from syncline.server.etcd.setup import open_face
from syncline.server.http.request import Request
from syncline.server.http.response import Deferred, Response
from syncline.server.http.server import HttpServer
from syncline.testing.sim.disk import SimDisk, Survival
from syncline.testing.sim.loop import SimLoop, SimNode
from syncline.testing.sim.net import SimHost, SimNetwork
from syncline.testing.sim.workers import Delay, SimWorkers

__all__ = ["HTTP_PORT", "Condition", "SimCrash", "SimServer", "SimWorld"]

HTTP_PORT: Final = 8080
"""Where the servers of a cluster with `serves_http` listen for clients."""

ETCD_PROGRESS_S: Final = 1.0
"""Often enough that a watch of a short run is told of its progress."""

Result = TypeVar("Result")


class SimCrash(BaseException):
    """Raised out of a disk operation at which the process was killed: nothing after it may run."""


class Condition(Enum):
    """The state of a server's process."""

    NEW = "was never started"
    STARTING = "opens its data directory"
    RUNNING = "runs"
    CRASHED = "was killed"
    FAILED = "has stopped itself"
    REFUSED = "refused to start"
    CLOSED = "was closed"


class SimWorld(Protocol):
    """What a server sees of its cluster (`SimCluster`)."""

    loop: SimLoop
    network: SimNetwork
    make_machine: Callable[[], FSM[object]]
    digest_interval: int
    lease_checkpoint_s: float
    history_revisions: int
    unread_bytes: int
    serves_http: bool

    def note(self, subject: str, text: str) -> None:
        """Something was done to the server from outside."""
        ...

    def raft_class(self, server: SimServer) -> type[Raft[object]]:
        """What the server's process opens."""
        ...

    def entropy_of(self, server: SimServer) -> Entropy:
        """The random bytes of its present life."""
        ...

    def wall_clock_of(self, server: SimServer) -> Callable[[], float]:
        """What the wall clock of its present life shows."""
        ...

    def delay_of(self, server: SimServer) -> Delay:
        """How long a batch of its threads takes."""
        ...

    def opened(self, server: SimServer) -> None: ...

    def ended(self, server: SimServer) -> None: ...

    def wiped(self, server: SimServer) -> None: ...

    def doubted(self, server: SimServer) -> None: ...


class SimServer:
    """A machine. Made by `SimCluster`; `raft` and `machine` are those of its process while that runs."""

    def __init__(self, name: str, cluster: SimWorld, config: Config, rng: random.Random) -> None:
        self.name = name
        self.config: Config = config
        self.host: SimHost = cluster.network.host(name)
        self.disk: SimDisk = SimDisk(random.Random(rng.getrandbits(64)))
        self.condition: Condition = Condition.NEW
        self.raft: Raft[object] | None = None
        self.driver: Driver | None = None
        self.machine: FSM[object] | None = None
        self.error: BaseException | None = None
        """Why it failed or refused to start."""
        self.process: SimNode | None = None
        self.workers: SimWorkers | None = None
        self.clock_rate: float = 1.0
        self.lives: int = 0
        self._first_settings: dict[str, object] = {}
        """Its first settings of the cluster, if hints replaced them; empty: not replaced."""
        self.moves: int = 0
        """How often it has changed its address."""
        self.retired = False
        """Removed from the cluster by its operator, for good."""
        self.leaving = False
        """It was asked to leave, and may have to stay: its node may stop itself, and is needed until then."""
        self.damages = 0
        """Faults of its disk, present or left behind."""
        self.lost: bool = False
        """Its disk was replaced by an empty one or by an older copy: it can only come back as a new member."""
        self.known_id: int = 0
        """The id that a cluster gave it, if its settings do not tell it any more."""
        self.twin_of: SimServer | None = None
        """The server of whose directory this one has a copy: it belongs to the cluster's adversary."""
        self._cluster = cluster
        self._rng = rng
        self._context: contextvars.Context | None = None
        self._site: Site | None = None
        self.lease_calls: LeaseCaller | None = None
        """Keeps leases alive for clients of this node, if it has a key-value store."""

    def __repr__(self) -> str:
        return f"<SimServer {self.name}: {self.condition.value}>"

    @property
    def sound(self) -> bool:
        """Whether its disk is as a disk should be: its node has no reason to stop itself, or to refuse to start."""
        return not self.damages and not self.lost

    @property
    def up(self) -> bool:
        """Whether its process is there, be it paused or still starting."""
        return self.condition in (Condition.STARTING, Condition.RUNNING)

    @property
    def running(self) -> bool:
        return self.condition is Condition.RUNNING

    @property
    def paused(self) -> bool:
        return self.up and self.process is not None and self.process.paused

    @property
    def is_leader(self) -> bool:
        return self.running and self.raft is not None and self.raft.is_leader

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process. It opens its data directory in the simulation's time: see `condition`."""
        assert not self.up, self
        cluster = self._cluster
        self.lives += 1
        self.condition, self.error = Condition.STARTING, None
        self.raft = self.driver = self._site = self.lease_calls = None
        cluster.network.boot(self.name)
        self.process = process = cluster.loop.add_node(self.name)
        process.rate = self.clock_rate
        self.machine = cluster.make_machine()
        with cluster.loop.inside(process):
            self._context = contextvars.copy_context()
            self.workers = SimWorkers(random.Random(self._rng.getrandbits(64)), delay=cluster.delay_of(self))
            cluster.loop.create_task(self._live(self.workers, self.machine), name=f"life of {self.name}")
        cluster.note(self.name, "start")

    async def _live(self, workers: SimWorkers, machine: FSM[object]) -> None:
        node = self._cluster.raft_class(self)
        rng = random.Random(self._rng.getrandbits(64))
        try:
            self.raft = raft = await node.open(
                self.config,
                machine,
                world=World(
                    disk=self.disk,
                    network=self.host,
                    workers=workers,
                    rng=rng,
                    entropy=self._cluster.entropy_of(self),
                    wall_time_s=self._cluster.wall_clock_of(self),
                    digest_interval=self._cluster.digest_interval,
                ),
            )
        except (SynclineError, OSError, ValueError, AssertionError) as error:
            self._ended(Condition.REFUSED, error)
            return
        except SimCrash:
            return
        if isinstance(machine, KvMachine):
            lessor = Lessor(raft, machine, checkpoint_s=self._cluster.lease_checkpoint_s)
            lessor.start()
            Compactor(raft, machine, history_revisions=self._cluster.history_revisions).start()
            backend = NodeBackend(raft, machine, entropy=self._cluster.entropy_of(self))
            backend.lease_calls.answer_here(lessor)
            self.lease_calls = backend.lease_calls
            self._site = Site(
                backend,
                name=self.name,
                clock=asyncio.get_running_loop().time,
                watch_limits=WatchLimits(max_unread_bytes=self._cluster.unread_bytes),
            )
            self._offer_etcd(backend, self._site)
            if self._cluster.serves_http:
                await self._serve_http(self._site)
        self.condition = Condition.RUNNING
        self._cluster.opened(self)
        try:
            failure = await raft.failed()
        except Closed:
            return  # the program has closed its node, and goes on
        self._ended(Condition.FAILED, failure)

    def _offer_etcd(self, backend: NodeBackend, site: Site) -> None:
        """Have the routes of etcd's JSON gateway, too."""
        face = open_face(
            backend,
            gate=site.gate,
            watches=site.watches,
            tasks=site.tasks,
            entropy=self._cluster.entropy_of(self),
            watch_progress_s=ETCD_PROGRESS_S,
        )
        JsonGateway(face, site.tasks).add_to(site.router)

    async def _serve_http(self, site: Site) -> None:
        """Listen for clients on the simulated network, with the server's own parser and routes."""
        clock = asyncio.get_running_loop().time
        http = HttpServer(site.router.handle, clock=clock, wall_time_s=clock)
        http.serve(site.router.handle, site.fast_get, site.fast_writes)
        site.watches.given = http.write_streams
        await http.start(self.host, self.name, HTTP_PORT)

    def _ended(self, condition: Condition, error: BaseException) -> None:
        """The process ends by itself, as a program does that finds its node stopped."""
        self.condition, self.error = condition, error
        self._cluster.note(self.name, f"{condition.value}: {error!r}")
        self._cluster.ended(self)
        self._leave(power_loss=False)
        self.disk.kill()

    def _leave(self, *, power_loss: bool) -> None:
        assert self.process is not None
        assert self.workers is not None
        self.process.kill()
        self._cluster.network.crash(self.name, silent=power_loss)
        self.raft = self.driver = self._site = self.lease_calls = None

    def crash(self, survival: Survival | None = None) -> None:
        """Kill the process at this moment. With `survival` the machine lost its power, and its disk what that says."""
        assert self.up, self
        self.condition = Condition.CRASHED
        self._cluster.note(self.name, "kill" if survival is None else f"power loss, what survives: {survival.value}")
        self._leave(power_loss=survival is not None)
        if survival is None:
            self.disk.kill()
        else:
            self._replace_disk(survival)

    def crash_at_disk_operation(self, count: int, survival: Survival) -> None:
        """Cut the power in the middle of the `count`-th operation from now that changes or syncs its disk."""
        disk, left = self.disk, count

        def before(operation: str, path: str) -> None:
            nonlocal left
            left -= 1
            if left <= 0 and self.disk is disk and self.up:
                self._cluster.note(self.name, f"power fails at {operation} {path}")
                self.crash(survival)
                raise SimCrash

        disk.before = before

    def _replace_disk(self, survival: Survival) -> None:
        """The old one stays behind with the code that the crash interrupted."""
        self.disk.before = None
        self.disk = self.disk.crashed(survival)

    def pause(self) -> None:
        assert self.process is not None
        self._cluster.note(self.name, "pause")
        self.process.pause()

    def resume(self) -> None:
        """Go on, if it is paused."""
        assert self.process is not None
        self._cluster.note(self.name, "resume")
        self.process.resume()

    def is_locked(self) -> bool:
        """Whether a second process would be kept out of the data directory."""
        try:
            lock = self.disk.lock(f"{self.config.data_dir}/LOCK", b"")
        except DirectoryLocked:
            return True
        lock.release()
        return False

    def wipe(self) -> None:
        """Its disk is replaced by an empty one."""
        assert not self.up, self
        self._cluster.note(self.name, "wipe")
        # With hints in place of its first settings it would bootstrap another cluster.
        self.config = msgspec.structs.replace(self.config, **self._first_settings)
        self.disk = SimDisk(random.Random(self._rng.getrandbits(64)))
        self.lost = True
        self._cluster.wiped(self)

    def roll_back(self, old: SimDisk) -> None:
        """Its disk is restored from an older copy: later promises are lost."""
        assert not self.up, self
        self._cluster.note(self.name, "its disk is put back from an older copy")
        self.disk = old
        self.lost = True
        self._cluster.doubted(self)

    def move(self) -> None:
        """From its next start on it is reached at another address."""
        assert not self.up, self
        host, _, port = self.config.address.rpartition(":")
        address = f"{host}:{int(port) + 1}"
        self.moves += 1
        self._cluster.note(self.name, f"moves to {address}")
        self.config = msgspec.structs.replace(self.config, listen=address, advertise=address)

    def hint(self, addresses: dict[str, str]) -> None:
        """From its next start on its settings tell where the others are. What it is stands in its directory."""
        assert not self.up, self
        self.known_id = self.known_id or self.config.node_id
        if not self._first_settings:
            kept = ("peers", "cluster_id", "node_id")
            self._first_settings = {name: getattr(self.config, name) for name in kept}
        self.config = msgspec.structs.replace(self.config, peers=addresses, cluster_id=0, node_id=0)

    async def close(self) -> None:
        """End the process in order."""
        raft = self.raft
        assert raft is not None
        self.condition = Condition.CLOSED
        done = self.call(lambda: asyncio.ensure_future(raft.close()))
        task = await done
        await asyncio.wait([task])
        self._leave(power_loss=False)
        self.disk.kill()

    # -- what goes on inside ------------------------------------------------------------------------------------------

    def adopt(self, driver: Driver) -> None:
        """The process has put its node together; it is not open yet."""
        self.driver = driver

    def call(self, function: Callable[[], Result]) -> asyncio.Future[Result]:
        """Run `function` inside the process: by its clock, and only while it is not paused.

        The future is the caller's, outside; it never ends if the process is gone first. What `function` calls must
        be of this process: a `raft` that was taken before an `await` may be of one that was killed.
        """
        loop = self._cluster.loop
        answer: asyncio.Future[Result] = loop.create_future()
        outside = contextvars.copy_context()

        def run() -> None:
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 - handed to the caller
                loop.call_soon(_fail, answer, error, context=outside)
            else:
                loop.call_soon(_settle, answer, result, context=outside)

        loop.call_soon(run, context=self._context)
        return answer

    def serve(self, request: Request) -> asyncio.Future[Response]:
        """Give a request to the server's routes; what they answer, if they do before the process is gone."""
        loop = self._cluster.loop
        answer: asyncio.Future[Response] = loop.create_future()
        outside = contextvars.copy_context()

        def respond(response: Response) -> None:
            made = response.make() if isinstance(response, Deferred) else response
            loop.call_soon(_settle, answer, made, context=outside)

        def run() -> None:
            if self._site is not None:
                self._site(request, respond)

        loop.call_soon(run, context=self._context)
        return answer


def _settle(future: asyncio.Future[Result], result: Result) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Result], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
