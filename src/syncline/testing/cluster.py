"""A cluster of complete nodes in one process, on virtual time. One seed decides everything.

    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=7)
        await cluster.start(3)
        leader = await cluster.leader()
        cluster.server("n2").crash()
        ...

    run_simulation(main)

Each node is the complete product on a simulated disk, network and clock (`SimServer`). Faults are method calls,
waiting takes simulated time, and nothing happens by itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from syncline.consensus.types import ChangeType, NodeId
from syncline.errors import UsageError
from syncline.kv.compactor import DEFAULT_HISTORY_REVISIONS
from syncline.kv.machine import KvMachine
from syncline.node.config import Config
from syncline.node.fsm import FSM
from syncline.node.member_registry import Membership, derive_cluster_id, derive_node_id
from syncline.node.raft import Raft
from syncline.node.runtime import Driver
from syncline.node.state_digest import DIGEST_INTERVAL
from syncline.platform.entropy import Entropy
from syncline.testing.sim.disk import Survival
from syncline.testing.sim.loop import BEGAN_S, SimLoop
from syncline.testing.sim.net import SimNetwork
from syncline.testing.sim.server import SimServer
from syncline.testing.sim.workers import Delay, usual_delay

__all__ = [
    "CLOCKS_OFF_S",
    "LOOK_S",
    "PEER_PORT",
    "Answer",
    "Observer",
    "Settings",
    "SimCluster",
    "check_no_loop",
    "check_nodes",
]

PEER_PORT: Final = 7100
CLUSTER_NAME: Final = "simulation"
SECRET_SHARE: Final = 0.5
LEASE_CHECKPOINT_S: Final = 5.0
UNREAD_BYTES: Final = 1024 * 1024
CLOCKS_OFF_S: Final = 60.0
"""By how much wall clocks are wrong in the simulations of this package: a change of leader can set the time back."""
LOOK_S: Final = 0.01
"""How often a condition is checked, in simulated time."""


def check_no_loop(what: str) -> None:
    """Raise UsageError in a coroutine: a simulated loop can't run inside another one."""
    if asyncio._get_running_loop() is not None:
        raise UsageError(f"{what} runs a loop of its own, and this thread runs one: write `def`, not `async def`")


def check_nodes(nodes: int) -> None:
    """Raise UsageError for a number of nodes that makes no cluster, TypeError for what is no number."""
    if type(nodes) is not int:
        raise TypeError(f"nodes must be an int, not {type(nodes).__name__}")
    if nodes < 1:
        raise UsageError(f"nodes is {nodes}: a cluster has at least 1")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes' settings. Small, so that a short run rotates segments, compacts, and installs snapshots."""

    heartbeat_s: float = 0.05
    election_s: float = 0.5
    segment_bytes: int = 4096
    reserve_bytes: int = 0
    snapshot_entries: int = 50
    snapshots_retained: int = 2
    trailing_entries: int = 10
    max_inflight_messages: int = 128
    session_idle_s: float = 3600.0


class Answer(msgspec.Struct, frozen=True):
    """A server's answer to a change of the membership.

    `changes` were asked for (empty: not known). The server knew the membership of `since` at that time.
    """

    membership: Membership
    changes: tuple[tuple[ChangeType, NodeId], ...]
    since: int


class Observer:
    """An observer of the cluster. Does nothing by itself, and must not change the course of events."""

    def note(self, subject: str, text: str) -> None:
        """A server was changed from outside: a start, a crash, a fault."""

    def assembled(self, server: SimServer, driver: Driver) -> None:
        """A process has put its node together from its data directory; nothing of it ran yet."""

    def opened(self, server: SimServer) -> None:
        """`Raft.open` has returned."""

    def ended(self, server: SimServer) -> None:
        """A process ends by itself: its node has stopped itself, or has refused to start."""

    def answered(self, server: SimServer, answer: Answer) -> None:
        """A server has answered that a change of the membership is done."""

    def wiped(self, server: SimServer) -> None:
        """A disk was replaced by an empty one."""

    def doubted(self, server: SimServer) -> None:
        """A disk was replaced by an older copy, or copied: promises of its node do not count any more."""


class SimCluster:
    """Servers by name, the network between them, and an operator's actions. Made on a running `SimLoop`."""

    def __init__(
        self,
        loop: SimLoop,
        *,
        seed: int | str,
        machine: Callable[[], FSM[object]] = KvMachine,
        settings: Settings | None = None,
        observer: Observer | None = None,
        digest_interval: int = DIGEST_INTERVAL,
        lease_checkpoint_s: float = LEASE_CHECKPOINT_S,
        history_revisions: int = DEFAULT_HISTORY_REVISIONS,
        unread_bytes: int = UNREAD_BYTES,
        serves_http: bool = False,
        clocks_off_s: float = 0.0,
    ) -> None:
        self.loop = loop
        self.digest_interval = digest_interval
        """Entries from one comparison of the nodes' states to the next."""
        self.lease_checkpoint_s = lease_checkpoint_s
        """After so long without a keep-alive the rest of a lease is recorded."""
        self.history_revisions = history_revisions
        """How many revisions can be read before the leader compacts them."""
        self.unread_bytes = unread_bytes
        """What may wait for the reader of a watch before it is cut off."""
        self.serves_http = serves_http
        """Whether the servers listen for clients (`ClientProcess`), each on its host's `HTTP_PORT`."""
        self.clocks_off_s = clocks_off_s
        """By how much a server's wall clock may be wrong, ahead or behind; by another time after each start."""
        self.settings: Settings = settings or Settings()
        self.observer: Observer = observer or Observer()
        self.network: SimNetwork = SimNetwork(random.Random(f"{seed} network"))
        self.servers: dict[str, SimServer] = {}
        self.make_machine = machine
        self.delays: dict[str, Delay] = {}
        """How long the work of a server's threads takes, if that is not as usual."""
        self._rng = random.Random(f"{seed} cluster")
        self._secret = _secret_of(seed)
        self._seed = seed
        self._peers: dict[str, str] = {}
        self._met: set[str] = set()
        self._last_number = 0

    # -- servers ------------------------------------------------------------------------------------------------------

    async def start(self, count: int = 3) -> None:
        """Start the first members, `n1` to `n<count>`, and wait until they are open."""
        self._peers = {name: f"{name}:{PEER_PORT}" for name in (self.new_name() for _ in range(count))}
        for name in self._peers:
            self._add(name, cluster_id=0, node_id=0)
            self.servers[name].start()
        await self.until(lambda: all(server.running for server in self.servers.values()), timeout_s=30.0)

    def server(self, name: str) -> SimServer:
        """The server of this name. Raises UsageError if there is none."""
        found = self.servers.get(name)
        if found is None:
            raise UsageError(f"there is no node {name!r} among {', '.join(self.servers)}")
        return found

    @property
    def running(self) -> list[SimServer]:
        """Servers whose node is open, in the order of their creation."""
        return [server for server in self.servers.values() if server.running]

    @property
    def cluster_id(self) -> int:
        return derive_cluster_id(CLUSTER_NAME, self._peers)

    @property
    def has_begun(self) -> bool:
        """Whether all initial members have been connected. Before that the loss of one disk makes the first start
        impossible.
        """
        for server in self.servers.values():
            if server.driver is not None and not server.driver.bootstrap.waiting:
                self._met.add(server.name)
        return self._met >= self._peers.keys()

    def node_id(self, server: SimServer) -> NodeId:
        """The id of a server's node."""
        return server.known_id or server.config.node_id or derive_node_id(self.cluster_id, server.name)

    def new_name(self) -> str:
        """A name that no server has had."""
        self._last_number += 1
        return f"n{self._last_number}"

    def add_server(self, name: str, node_id: NodeId) -> SimServer:
        """A machine for a member that was added; not started yet."""
        return self._add(name, cluster_id=self.cluster_id, node_id=int(node_id))

    def _add(self, name: str, *, cluster_id: int, node_id: int) -> SimServer:
        assert name not in self.servers, name
        config = Config(
            name=name,
            data_dir="data",
            listen=f"{name}:{PEER_PORT}",
            cluster=CLUSTER_NAME,
            peers={} if cluster_id else self._peers,
            cluster_id=cluster_id,
            node_id=node_id,
            secret=self._secret,
            insecure_peers=self._secret is None,
            **msgspec.structs.asdict(self.settings),
        )
        server = self.servers[name] = SimServer(name, self, config, random.Random(self._rng.getrandbits(64)))
        return server

    def twin(self, server: SimServer) -> SimServer:
        """Another machine with a copy of a server's disk, not started yet.

        From now on promises of both do not count.
        """
        assert not server.up, server
        name = f"{server.name}-twin{server.lives}"
        address = f"{name}:{PEER_PORT}"
        config = msgspec.structs.replace(server.config, listen=address, advertise=address)
        twin = SimServer(name, self, config, random.Random(self._rng.getrandbits(64)))
        twin.disk = server.disk.crashed(Survival.EVERYTHING)
        twin.twin_of, twin.damages = server, 1
        server.lost = True
        self.note(name, f"has a copy of the disk of {server.name}")
        self.doubted(server)
        return twin

    def current_leader(self) -> SimServer | None:
        """The running leader of the highest term, if there is one; its cluster may not know yet, or no longer."""
        leaders = [server for server in self.running if server.is_leader and server.driver is not None]
        return max(leaders, key=lambda server: server.driver.core.term if server.driver else 0, default=None)

    async def leader(self, timeout_s: float = 30.0) -> SimServer:
        """Wait for a leader that a majority of its voters follow."""
        await self.until(lambda: self._followed_leader() is not None, timeout_s=timeout_s)
        leader = self._followed_leader()
        assert leader is not None
        return leader

    def _followed_leader(self) -> SimServer | None:
        leader = self.current_leader()
        if leader is None or leader.raft is None:
            return None
        voters = [member.name for member in leader.raft.membership().members.values() if member.voter]
        rafts = [self.servers[name].raft for name in voters if name in self.servers]
        known = [raft.leader for raft in rafts if raft is not None]
        following = sum(followed is not None and followed.id == leader.raft.node_id for followed in known)
        return leader if 2 * following > len(voters) else None

    async def until(self, condition: Callable[[], bool], *, timeout_s: float) -> None:
        """Wait until the condition holds. Raises TimeoutError after that much simulated time."""
        end_s = self.loop.true_time() + timeout_s
        while not condition():
            if self.loop.true_time() > end_s:
                raise TimeoutError(f"not within {timeout_s:g} simulated seconds: {self.describe()}")
            await asyncio.sleep(LOOK_S)

    def describe(self) -> str:
        """The state of the nodes, in one line."""
        return "; ".join(_describe(server) for server in self.servers.values())

    # -- the network --------------------------------------------------------------------------------------------------

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut the network between groups of servers; servers in no group form one group."""
        self.note("network", "partition " + " | ".join(" ".join(group) for group in map(list, groups)))
        self.network.partition(*groups)

    def heal(self) -> None:
        """End every fault of the network."""
        self.note("network", "heal")
        self.network.heal_all()

    # -- for servers --------------------------------------------------------------------------------------------------

    def note(self, subject: str, text: str) -> None:
        """Report an action from outside on the cluster."""
        self.observer.note(subject, text)

    def opened(self, server: SimServer) -> None:
        self.observer.opened(server)

    def ended(self, server: SimServer) -> None:
        self.observer.ended(server)

    def answered(self, server: SimServer, answer: Answer) -> None:
        self.observer.answered(server, answer)

    def wiped(self, server: SimServer) -> None:
        self.observer.wiped(server)

    def entropy_of(self, server: SimServer) -> Entropy:
        """The random bytes of a server's present process, from its seed."""
        return random.Random(f"{self._seed} entropy of {server.name} in life {server.lives}").randbytes

    def wall_clock_of(self, server: SimServer) -> Callable[[], float]:
        """The wall clock of a server's present process, as wrong as its seed says."""
        rng = random.Random(f"{self._seed} wall clock of {server.name} in life {server.lives}")
        began_s = BEGAN_S + rng.uniform(-self.clocks_off_s, self.clocks_off_s)
        return lambda: began_s + self.loop.true_time()

    def doubted(self, server: SimServer) -> None:
        self.observer.doubted(server)

    def delay_of(self, server: SimServer) -> Delay:
        """The duration of a batch on a server's threads, drawn for each batch."""

        def delay(worker: str, rng: random.Random) -> float:
            return self.delays.get(server.name, usual_delay)(worker, rng)

        return delay

    def raft_class(self, server: SimServer) -> type[Raft[object]]:
        """`Raft`, but the cluster and its observer see the node before anything of it runs."""

        class SeenRaft(Raft[object]):
            def __setattr__(self, name: str, value: object) -> None:
                super().__setattr__(name, value)
                if isinstance(value, Driver):
                    server.adopt(value)
                    cluster.observer.assembled(server, value)

        cluster = self
        return SeenRaft


def _secret_of(seed: int | str) -> bytes | None:
    """Half of the seeds run with a cluster secret."""
    rng = random.Random(f"{seed} secret")
    return rng.randbytes(32) if rng.random() < SECRET_SHARE else None


def _describe(server: SimServer) -> str:
    driver = server.driver
    if driver is None or not server.up:
        why = f" ({server.error})" if server.error is not None else ""
        return f"{server.name}{' (retired)' if server.retired else ''} {server.condition.value}{why}"
    core = driver.core
    paused = " paused" if server.paused else ""
    return (
        f"{server.name}{paused} {core.state.name.lower()} of term {core.term},"
        f" commit {core.commit_index}, applied {driver.applied}"
    )
