"""Clients of the servers' HTTP ports in the simulator: their fast paths are taken, also with users, and are judged."""

from __future__ import annotations

import asyncio
import random
from functools import partial

import pytest

from syncline.kv.auth.commands import AuthCommand, AuthSwitch, UserAdd
from syncline.kv.commands import encode_command
from syncline.server.api.fast_keys import FastKeyRoutes
from syncline.server.http.shortcuts import FastRequest
from syncline.testing.cluster import SimCluster
from syncline.testing.faults.table import APART, FAULTS, LATER
from syncline.testing.linearizability.history import PutCall, ReadCall, Recorder
from syncline.testing.linearizability.verdict import judge
from syncline.testing.sim.http_client import HttpSender, HttpSimClient
from syncline.testing.sim.http_connection import HttpClientConnection
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.scenario import _swarm
from syncline.testing.sim.seeds import Options, run_seed
from syncline.testing.sim.server import HTTP_PORT
from tests.helpers.auth_site import bearer, token_add, verifier

KEYS = (b"a", b"b")
ROUNDS = 3
PATIENCE_S = 2.0
USERS: tuple[AuthCommand, ...] = (UserAdd("root", verifier(), ("root",)), token_add("root"), AuthSwitch(True))


class Visitors:
    """Clients with a credential, one at each server, while one leader after the other is cut off from its followers."""

    def __init__(self, loop: SimLoop, seed: int) -> None:
        self.broken: list[str] = []
        self.recorder: Recorder = Recorder(loop.true_time)
        self._cluster = SimCluster(loop, seed=seed, serves_http=True)
        self._rng = random.Random(seed)

    async def run(self) -> None:
        cluster = self._cluster
        await cluster.start(3)
        raft = (await cluster.leader()).raft
        assert raft is not None
        leader = await cluster.leader()
        for command in USERS:
            data = encode_command(command)
            await (await leader.call(lambda data=data: asyncio.ensure_future(raft.apply(data, timeout=5.0))))  # type: ignore[misc]
        clients = [asyncio.ensure_future(self._visit(name)) for name in list(cluster.servers)]
        for _ in range(ROUNDS):
            cut_off = (await cluster.leader()).name
            await asyncio.sleep(0.3)
            cluster.partition([cut_off], [name for name in cluster.servers if name != cut_off])
            await asyncio.sleep(1.5)
            cluster.heal()
        for client in clients:
            client.cancel()
        await asyncio.wait(clients)

    async def _visit(self, server: str) -> None:
        rng = random.Random(self._rng.getrandbits(64))
        fields = f"Host: syncline\r\n{bearer('root')}\r\n".encode()
        host = self._cluster.network.host_apart(f"h-{server}")
        sender = HttpSender(host, rng, fields=fields, broken=self.broken.append)
        client = HttpSimClient(f"of {server}", sender, self.recorder, timeout_s=PATIENCE_S)
        for count in range(10_000):
            await asyncio.sleep(rng.expovariate(50.0))
            key = rng.choice(KEYS)
            call = PutCall(key, b"%s-%06d" % (server.encode(), count)) if rng.random() < 0.5 else ReadCall(key)
            await client.ask(self._cluster.server(server), call)


def visit(seed: int) -> Visitors:
    """Run it; what the clients were told is in its recorder."""
    seen: list[Visitors] = []

    async def main(loop: SimLoop) -> None:
        seen.append(Visitors(loop, seed))
        await seen[0].run()

    run_simulation(main)
    return seen[0]


def test_http_clients_with_users_see_a_linearizable_history() -> None:
    """Reads and puts with a known credential have fast paths of their own."""
    visitors = visit(1)
    assert not visitors.broken, visitors.broken
    assert judge(visitors.recorder.history()) == []
    assert len(visitors.recorder) > 100


def test_http_fast_read_of_a_user_without_a_quorum_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nothing would show that the fast path of users is taken there."""

    def get(self: FastKeyRoutes, request: FastRequest) -> None:
        self._read(request, request.respond, None)

    monkeypatch.setattr(FastKeyRoutes, "_get_guarded", get)
    assert any(judge(visit(seed).recorder.history()) for seed in range(1, 4))


def test_http_clients_left_out_give_the_seed_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds whose failures are remembered are run without what came later, and must be what they were."""
    assert "http-clients" in APART
    drawn = {seed: _swarm(random.Random(f"{seed} scenario"), seed) for seed in range(1, 60)}
    seed = min((seed for seed in drawn if "http-clients" in drawn[seed]), key=lambda seed: len(drawn[seed]))
    without = run_seed(seed, Options(sim_seconds=0.3, without=("http-clients",)))
    monkeypatch.delitem(FAULTS, "http-clients")
    monkeypatch.delitem(LATER, "http-clients")
    before = run_seed(seed, Options(sim_seconds=0.3))
    assert (without.steps, without.sim_s, without.faults) == (before.steps, before.sim_s, before.faults)


def test_http_connection_reports_an_answer_without_a_request() -> None:
    """A server that answers twice would give the next request the answer of another one."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    broken: list[str] = []

    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=1)
        server, client = cluster.network.host("s"), cluster.network.host("c")

        class Twice(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport

            def data_received(self, _: bytes) -> None:
                assert isinstance(self.transport, asyncio.Transport)
                self.transport.write(answer + answer)

        await server.listen(Twice, "s", HTTP_PORT)
        make = partial(HttpClientConnection, 1, broken.append)
        _, connection = await client.connect(make, "s", HTTP_PORT, timeout_s=1.0)
        assert isinstance(connection, HttpClientConnection)
        [told] = connection.ask(b"GET /key/a HTTP/1.1\r\n\r\n")
        response = await told
        assert response is not None
        assert response.body == b"ok"
        await asyncio.sleep(0.1)

    run_simulation(main)
    assert len(broken) == 1, broken
    assert "without a request" in broken[0]
