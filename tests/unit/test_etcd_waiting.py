"""Calls of etcd's gateway that wait for other clients: they end, also if their client has left unseen."""

from __future__ import annotations

import asyncio

import pytest

from syncline.kv.watch import WatchLimits
from syncline.kv.watch_hub import WatchHub
from syncline.server.etcd.errors import RESOURCE_EXHAUSTED, EtcdError
from syncline.server.etcd.gateway import LONGEST_WAIT_S
from syncline.server.etcd.gateway_stream import BEGIN_S
from syncline.server.etcd.messages import Message
from syncline.testing.sim.loop import SimLoop, run_simulation
from tests.helpers.etcd_wire import EtcdWire, b64
from tests.helpers.http_wire import answers_so_far
from tests.unit.test_etcd_queues import ELECTION, LOCK, Calls


@pytest.mark.parametrize("route", ["lock/lock", "election/campaign"])
def test_etcd_gateway_call_that_waits_ends_and_gives_up_its_place(route: str) -> None:
    async def main(loop: SimLoop) -> None:
        wire = EtcdWire()
        await wire.good("kv/put", {"key": b64("l/other"), "value": b64("")})
        lease = (await wire.good("lease/grant", {"TTL": "600"}))["ID"]
        began_s = loop.time()
        await wire.open(route, {"name": b64("l"), "lease": lease})
        await asyncio.sleep(LONGEST_WAIT_S - 1)
        assert len(wire.site.tasks) == 1
        assert wire.backend.store.get(b"l/%x" % int(lease)) is not None
        await asyncio.sleep(2)
        await wire.settle()
        answer = answers_so_far(wire.received)[-1]
        assert (answer.status, b"request timed out" in answer.body) == (503, True)
        assert len(wire.site.tasks) == 0
        assert wire.backend.store.get(b"l/%x" % int(lease)) is None
        assert loop.time() - began_s < LONGEST_WAIT_S + 3

    run_simulation(main)


@pytest.mark.parametrize("route", ["lock/lock", "election/campaign"])
async def test_etcd_gateway_call_that_waits_ends_when_its_client_leaves(route: str) -> None:
    wire = EtcdWire()
    await wire.good("kv/put", {"key": b64("l/other"), "value": b64("")})
    lease = (await wire.good("lease/grant", {"TTL": "600"}))["ID"]
    await wire.open(route, {"name": b64("l"), "lease": lease})
    await wire.settle()
    assert wire.backend.store.get(b"l/%x" % int(lease)) is not None
    wire.transport.abort()
    await wire.settle()
    assert len(wire.site.tasks) == 0
    assert wire.backend.store.get(b"l/%x" % int(lease)) is None


async def test_etcd_gateway_calls_that_wait_may_follow_one_another() -> None:
    wire = EtcdWire()
    for _ in range(3):
        lease = (await wire.good("lease/grant", {"TTL": "600"}))["ID"]
        key = (await wire.good("lock/lock", {"name": b64("l"), "lease": lease}))["key"]
        await wire.good("lock/unlock", {"key": key})
    wire.transport.abort()
    await wire.settle()
    assert len(wire.site.tasks) == 0


async def leave_while_asking(calls: Calls, lease: int) -> None:
    """Ask for the lock, and leave before the key is made."""
    backend = calls.wire.backend
    backend.hold = True
    waiting = calls.start(LOCK, {"name": b"l", "lease": lease})
    await calls.turns()
    waiting.cancel()
    await calls.turns()
    assert waiting.cancelled()
    backend.hold = False
    backend.release()
    await calls.turns()


async def test_etcd_caller_that_leaves_while_its_place_is_made_leaves_no_key() -> None:
    calls = Calls()
    lease = await calls.lease()
    await leave_while_asking(calls, lease)
    assert await calls.keys(b"l/") == []


async def test_etcd_caller_that_leaves_while_it_asks_again_keeps_what_it_holds() -> None:
    calls = Calls()
    lease = await calls.lease()
    held = await calls.call(LOCK, {"name": b"l", "lease": lease})
    await leave_while_asking(calls, lease)
    assert await calls.keys(b"l/") == [held["key"]]


def test_etcd_observer_that_leaves_before_a_leader_is_forgotten() -> None:
    async def main(_loop: SimLoop) -> None:
        wire = EtcdWire()
        await wire.open("election/observe", {"name": b64("e")})
        await asyncio.sleep(BEGIN_S + 1)
        await wire.settle()
        assert wire.messages == []
        wire.transport.abort()
        await wire.settle()
        assert len(wire.site.tasks) == 0

    run_simulation(main)


async def test_etcd_queues_end_when_their_watch_is_refused() -> None:
    """To ask again at once would be refused again, without an end."""
    calls = Calls()
    first, second = await calls.lease(), await calls.lease()
    await calls.call(LOCK, {"name": b"l", "lease": first})
    hub: WatchHub = calls.wire.site.watches
    hub.limits = WatchLimits(max_watches=0)
    waiting = calls.start(LOCK, {"name": b"l", "lease": second})
    requests: tuple[Message, ...] = ({"name": b"l"}, {"name": b"nobody"})
    streams = [calls.stream(ELECTION + "Observe", request)[1] for request in requests]
    for task in (waiting, *streams):
        with pytest.raises(EtcdError, match="has 0 watches already") as refusal:
            await task
        assert refusal.value.code == RESOURCE_EXHAUSTED
