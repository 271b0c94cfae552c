"""Clients of the servers' HTTP ports: no fault of the cluster, but bytes through the whole server, on lines that fail.

Their calls are in the history of the run, on the keys of its other clients, and are judged with it. Holders of leases
keep them alive by HTTP, and are judged as other holders are (`leases.py`). The lines between clients and servers are
cut, late and reset, apart from those between servers: so a client may reach a leader that no follower reaches.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Final

import msgspec

from syncline.client.lease_schemas import LeaseReply
from syncline.kv.serving.reads import DEFAULT_TIMEOUT_S
from syncline.server.http.request import Request
from syncline.testing.faults.base import Trouble
from syncline.testing.faults.leases import Holder
from syncline.testing.linearizability.history import NotApplied, PutCall, ReadCall
from syncline.testing.sim.http_client import HttpSender, HttpSimClient
from syncline.testing.sim.http_connection import ANSWERS
from syncline.testing.sim.recovery import FinalRecovery
from syncline.testing.sim.server import SimServer
from syncline.testing.sim.workload import Chooser

__all__ = ["SERVED", "http_clients"]

SERVED: Final = "each server answers by HTTP after the faults"

CLIENTS: Final = 2
"""Each of them reads and writes keys, and holds a lease, on the same connections."""
WEIGHTS: Final = (10, 8, 1, 1, 1, 1)
"""Mostly plain puts and reads: they have fast paths."""
THINK_S: Final = (0.003, 0.01, 0.02)
"""Between two requests, on average."""
READS_BACK: Final = 0.3
"""Share of the writes after which a client goes to any server at once, and reads the key there."""
PATIENCE_S: Final = (0.5, 2.0, DEFAULT_TIMEOUT_S + 1.0)
"""How long a client waits for an answer: with the last one it also gets the answer at the server's own time limit."""
STAYS: Final = 0.98
"""Share of the requests that a client sends to the same server as the one before."""
MOST_KEEPS: Final = 30
PAUSES: Final = (0.01, 0.3)
TTLS: Final = (1.0, 3.0)
"""Of a holder: short leases that are kept alive often, so that most of it is done by one connection's fast path."""
KEPT_S: Final = 1.0
"""How long a holder waits for an answer."""
FIELDS: Final = b"Host: syncline\r\nUser-Agent: simulation\r\n"
LAST_READS: Final = 12
"""Of which one must be answered. The first ones may be on a connection that is lost, and its client must notice it."""
OK: Final = 200
NOT_FOUND: Final = 404


async def http_clients(trouble: Trouble) -> None:
    """Some clients read, write and keep leases alive by HTTP, on lines that are cut, late and reset."""
    clients = _HttpClients(trouble)
    trouble.http_clients.append(clients)
    await clients.run()


def _own(rng: random.Random) -> random.Random:
    return random.Random(rng.getrandbits(64))


class _Home:
    """The server that a client uses until it can't be reached, or is left by chance."""

    def __init__(self, trouble: Trouble, rng: random.Random) -> None:
        self._trouble = trouble
        self._rng = rng
        self._name = ""

    def leave(self) -> None:
        """Take another server for the next request."""
        self._name = ""

    def server(self) -> SimServer | None:
        servers = {server.name: server for server in self._trouble.cluster.running if not server.retired}
        if self._name not in servers or self._rng.random() >= STAYS:
            self._name = self._rng.choice(list(servers)) if servers else ""
        return servers.get(self._name)


class _Caller:
    """A client that reads and writes the keys of the workload."""

    def __init__(self, trouble: Trouble, sender: HttpSender, home: _Home, name: str, rng: random.Random) -> None:
        workload = trouble.workload
        assert workload is not None, "a scenario has clients"
        self._rng = rng
        self._home = home
        self._chooser = Chooser(workload, name, rng.getrandbits(64), workload.timeout_s, weights=WEIGHTS)
        self._think_s = rng.choice(THINK_S)
        patience_s = rng.choice(PATIENCE_S)
        self.client: HttpSimClient = HttpSimClient(name, sender, workload.recorder, timeout_s=patience_s)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1.0 / self._think_s))
            server = self._home.server()
            if server is not None:
                request = self._chooser.call()
                result = await self.client.ask(server, request)
                if result is not None and not isinstance(result, NotApplied):
                    self._chooser.learn(request, result)
                    if isinstance(request, PutCall) and self._rng.random() < READS_BACK:
                        await self._read_back(request.key)
                    continue
            self._home.leave()
            await asyncio.sleep(self._rng.uniform(0.0, 0.3))

    async def _read_back(self, key: bytes) -> None:
        """Read what was written by another server: it must show it, though it may not have applied it yet."""
        self._home.leave()
        server = self._home.server()
        if server is not None:
            await self.client.ask(server, ReadCall(key))

    async def last_read(self, server: SimServer) -> bool:
        """Read once more, on the connection that is there if it works still. Whether that was answered."""
        result = await self.client.ask(server, self._chooser.read())
        return result is not None and not isinstance(result, NotApplied)


class _HttpHolder(Holder):
    """A holder of leases that keeps them alive by HTTP."""

    def __init__(self, trouble: Trouble, sender: HttpSender, home: _Home, rng: random.Random) -> None:
        super().__init__(trouble, rng, most_keeps=MOST_KEEPS, pauses=PAUSES, ttls=TTLS)
        self._sender = sender
        self._home = home

    async def ask_for_time(self, lease: int) -> int | None:
        server = self._home.server()
        if server is None:
            return None
        request = Request("POST", b"/lease/%016x/keepalive" % lease, b"", {}, b"")
        response = await self._sender.answer(server, request, KEPT_S)
        if response is None or response.status not in (OK, NOT_FOUND):
            self._home.leave()
            return None
        if response.status == NOT_FOUND:
            return 0
        reply = msgspec.json.decode(response.body, type=LeaseReply)
        if reply.id != f"{lease:016x}":
            self._trouble.broken(ANSWERS, f"a keep-alive of the lease {lease:016x} is answered {reply}")
        return round(reply.ttl_s * 1000)


class _HttpClients:
    """The clients of one run."""

    def __init__(self, trouble: Trouble) -> None:
        self._trouble = trouble
        rng = trouble.rng
        self._hosts = [f"h{number}" for number in range(1, CLIENTS + 1)]
        self._senders: list[HttpSender] = []
        self._callers: list[_Caller] = []
        self._holders: list[_HttpHolder] = []
        for name in self._hosts:
            sender, home = self._sender(name, _own(rng)), _Home(trouble, _own(rng))
            self._senders.append(sender)
            self._callers.append(_Caller(trouble, sender, home, name, _own(rng)))
            self._holders.append(_HttpHolder(trouble, sender, home, _own(rng)))

    def _sender(self, name: str, rng: random.Random) -> HttpSender:
        host = self._trouble.cluster.network.host_apart(name)
        return HttpSender(host, rng, fields=FIELDS, broken=self._broken)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for run in (*(one.run for one in self._callers), *(one.run for one in self._holders)):
                group.create_task(run())
            group.create_task(self._disturb())

    async def _disturb(self) -> None:
        """Harm the line of one client and one server at a time."""
        trouble, rng = self._trouble, self._trouble.rng
        cluster = trouble.cluster
        while True:
            await trouble.wait(10.0)
            client, server = rng.choice(self._hosts), rng.choice(list(cluster.servers))
            match rng.randrange(4):
                case 0:
                    cluster.note("network", f"reset between {client} and {server}")
                    cluster.network.reset(client, server)
                case 1:
                    cluster.note("network", f"cut between {client} and {server}")
                    cluster.network.cut(client, server)
                    await trouble.last(0.5, 4.0)
                    cluster.network.heal(client, server)
                case 2:
                    source, target = (client, server) if rng.random() < 0.5 else (server, client)
                    cluster.note("network", f"one way from {source}: {target}")
                    cluster.network.cut(source, target, one_way=True)
                    await trouble.last(0.5, 4.0)
                    cluster.network.heal(client, server)
                case _:
                    source, target = (client, server) if rng.random() < 0.5 else (server, client)
                    cluster.note("network", f"late from {source} to {target}")
                    cluster.network.hold_back(source, target, trouble.election_s * rng.uniform(0.1, 2.0))
                    try:
                        await trouble.last(0.5, 4.0)
                    finally:
                        cluster.network.hold_back(source, target, 0.0)

    async def finish(self, recovery: FinalRecovery) -> None:
        """After the faults: all that was asked is answered, and each server answers once more."""
        await recovery.answers(self._unanswered, DEFAULT_TIMEOUT_S)
        servers = [server for server in self._trouble.cluster.running if not server.retired]
        await asyncio.gather(*(self._last_reads(caller, servers) for caller in self._callers))
        await recovery.answers(self._unanswered, DEFAULT_TIMEOUT_S)

    async def _last_reads(self, caller: _Caller, servers: Iterable[SimServer]) -> None:
        for server in servers:
            for _ in range(LAST_READS):
                if await caller.last_read(server):
                    break
            else:
                self._trouble.broken(
                    SERVED, f"{caller.client.name} is answered by {server.name} to none of {LAST_READS} reads"
                )

    def _unanswered(self) -> list[str]:
        return [text for sender in self._senders for text in sender.unanswered()]

    def _broken(self, what: str) -> None:
        self._trouble.broken(ANSWERS, what)
