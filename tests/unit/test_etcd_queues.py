"""etcd's services Lock and Election, and snapshots, over the face of a fake node."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from syncline.server.etcd.errors import EtcdError
from syncline.server.etcd.face import EtcdCaller, EtcdFace
from syncline.server.etcd.messages import Message
from syncline.server.etcd.methods import METHODS
from tests.helpers.etcd_wire import EtcdWire

LOCK, UNLOCK = "/v3lockpb.Lock/Lock", "/v3lockpb.Lock/Unlock"
KV = "/etcdserverpb.KV/"
ELECTION = "/v3electionpb.Election/"


class Calls:
    """Calls of one face, by the names of methods."""

    def __init__(self) -> None:
        self.wire = EtcdWire()
        self.face: EtcdFace = self.wire.face
        self._tasks: list[asyncio.Task[None]] = []

    async def call(self, name: str, request: Message) -> dict[str, Any]:
        return await self.face.call(METHODS[name], request, EtcdCaller())

    async def lease(self) -> int:
        return int((await self.call("/etcdserverpb.Lease/LeaseGrant", {"TTL": 60}))["ID"])

    def start(self, name: str, request: Message) -> asyncio.Task[dict[str, Any]]:
        return asyncio.ensure_future(self.call(name, request))

    async def turns(self) -> None:
        for _ in range(60):
            await asyncio.sleep(0)

    async def keys(self, prefix: bytes) -> list[bytes]:
        found = await self.call(KV + "Range", {"key": prefix, "range_end": prefix[:-1] + bytes((prefix[-1] + 1,))})
        return [record["key"] for record in found["kvs"]]

    def stream(self, name: str, request: Message) -> tuple[list[dict[str, Any]], asyncio.Task[None]]:
        received: list[dict[str, Any]] = []

        async def send(message: Message) -> None:
            received.append(message)

        task = asyncio.ensure_future(self.face.stream(METHODS[name], _one(request), send, EtcdCaller()))
        return received, task


async def _one(request: Message) -> AsyncIterator[Message]:
    yield request


async def test_lock_is_owned_by_the_first_and_others_wait() -> None:
    calls = Calls()
    first, second = await calls.lease(), await calls.lease()
    held = await calls.call(LOCK, {"name": b"l", "lease": first})
    assert held["key"] == b"l/%x" % first
    waiting = calls.start(LOCK, {"name": b"l", "lease": second})
    await calls.turns()
    assert not waiting.done()
    await calls.call(UNLOCK, {"key": held["key"]})
    assert (await waiting)["key"] == b"l/%x" % second


async def test_lock_asked_for_again_with_the_same_lease_is_the_same_lock() -> None:
    calls = Calls()
    lease = await calls.lease()
    held = await calls.call(LOCK, {"name": b"l", "lease": lease})
    assert (await calls.call(LOCK, {"name": b"l", "lease": lease}))["key"] == held["key"]


async def test_lock_without_a_lease_gets_one() -> None:
    calls = Calls()
    held = await calls.call(LOCK, {"name": b"l"})
    lease = int(held["key"].removeprefix(b"l/"), 16)
    left = await calls.call("/etcdserverpb.Lease/LeaseTimeToLive", {"ID": lease, "keys": True})
    assert (left["grantedTTL"], left["keys"]) == (60, [held["key"]])


async def test_lock_passes_on_when_the_lease_of_its_owner_ends() -> None:
    calls = Calls()
    first, second = await calls.lease(), await calls.lease()
    await calls.call(LOCK, {"name": b"l", "lease": first})
    waiting = calls.start(LOCK, {"name": b"l", "lease": second})
    await calls.turns()
    await calls.call("/etcdserverpb.Lease/LeaseRevoke", {"ID": first})
    assert (await waiting)["key"] == b"l/%x" % second


async def test_lock_waiter_that_leaves_gives_up_its_place() -> None:
    calls = Calls()
    leases = [await calls.lease() for _ in range(3)]
    held = await calls.call(LOCK, {"name": b"l", "lease": leases[0]})
    leaves = calls.start(LOCK, {"name": b"l", "lease": leases[1]})
    await calls.turns()
    stays = calls.start(LOCK, {"name": b"l", "lease": leases[2]})
    await calls.turns()
    leaves.cancel()
    await calls.turns()
    assert sorted(await calls.keys(b"l/")) == sorted([b"l/%x" % leases[0], b"l/%x" % leases[2]])
    await calls.call(UNLOCK, {"key": held["key"]})
    assert (await stays)["key"] == b"l/%x" % leases[2]


async def test_lock_waiter_whose_lease_ends_is_told() -> None:
    calls = Calls()
    first, second = await calls.lease(), await calls.lease()
    held = await calls.call(LOCK, {"name": b"l", "lease": first})
    waiting = calls.start(LOCK, {"name": b"l", "lease": second})
    await calls.turns()
    await calls.call("/etcdserverpb.Lease/LeaseRevoke", {"ID": second})
    await calls.call(UNLOCK, {"key": held["key"]})
    with pytest.raises(EtcdError, match="session is expired"):
        await waiting


@pytest.mark.parametrize(
    ("method", "request_", "text"),
    [
        (LOCK, {}, "key is not provided"),
        (LOCK, {"name": b"l", "lease": 77}, "requested lease not found"),
        (UNLOCK, {}, "key is not provided"),
        (ELECTION + "Campaign", {}, "key is not provided"),
        (ELECTION + "Leader", {"name": b"e"}, "election: no leader"),
        (ELECTION + "Proclaim", {}, '"leader" field must be provided'),
        (ELECTION + "Resign", {}, '"leader" field must be provided'),
        (ELECTION + "Proclaim", {"leader": {"name": b"e", "key": b"e/1", "rev": 5}}, "election: not leader"),
    ],
)
async def test_lock_and_election_refusals(method: str, request_: Message, text: str) -> None:
    with pytest.raises(EtcdError, match=text):
        await Calls().call(method, request_)


async def test_election_leader_announces_resigns_and_is_followed() -> None:
    calls = Calls()
    first, second = await calls.lease(), await calls.lease()
    won = await calls.call(ELECTION + "Campaign", {"name": b"e", "lease": first, "value": b"one"})
    leader = won["leader"]
    assert (leader["name"], leader["key"], leader["lease"]) == (b"e", b"e/%x" % first, first)
    waiting = calls.start(ELECTION + "Campaign", {"name": b"e", "lease": second, "value": b"two"})
    await calls.turns()
    assert not waiting.done()
    await calls.call(ELECTION + "Proclaim", {"leader": leader, "value": b"one more"})
    assert (await calls.call(ELECTION + "Leader", {"name": b"e"}))["kv"]["value"] == b"one more"
    await calls.call(ELECTION + "Resign", {"leader": leader})
    await calls.call(ELECTION + "Resign", {"leader": leader})
    assert (await waiting)["leader"]["key"] == b"e/%x" % second
    assert (await calls.call(ELECTION + "Leader", {"name": b"e"}))["kv"]["value"] == b"two"
    with pytest.raises(EtcdError, match="not leader"):
        await calls.call(ELECTION + "Proclaim", {"leader": leader, "value": b"late"})


async def test_election_observers_see_leaders_and_their_values() -> None:
    calls = Calls()
    seen, observing = calls.stream(ELECTION + "Observe", {"name": b"e"})
    await calls.turns()
    assert seen == []
    lease, other = await calls.lease(), await calls.lease()
    won = await calls.call(ELECTION + "Campaign", {"name": b"e", "lease": lease, "value": b"1"})
    await calls.turns()
    await calls.call(ELECTION + "Proclaim", {"leader": won["leader"], "value": b"2"})
    await calls.turns()
    waiting = calls.start(ELECTION + "Campaign", {"name": b"e", "lease": other, "value": b"3"})
    await calls.turns()
    await calls.call(ELECTION + "Resign", {"leader": won["leader"]})
    await waiting
    await calls.turns()
    assert [message["kv"]["value"] for message in seen] == [b"1", b"2", b"3"]
    observing.cancel()
    await asyncio.wait([observing])


async def test_snapshot_is_complete_at_one_revision_with_its_sha256() -> None:
    calls = Calls()
    for number in range(600):
        await calls.call(KV + "Put", {"key": b"k%03d" % number, "value": b"v" * 50})
    received: list[dict[str, Any]] = []

    async def send(message: Message) -> None:
        received.append(message)
        await calls.call(KV + "Put", {"key": b"k000", "value": b"written meanwhile"})

    snapshot = METHODS["/etcdserverpb.Maintenance/Snapshot"]
    await calls.face.stream(snapshot, _one({}), send, EtcdCaller())
    data = b"".join(message["blob"] for message in received)
    content, digest = data[:-32], data[-32:]
    assert (len(content) % 512, digest) == (0, hashlib.sha256(content).digest())
    first, *lines = [json.loads(line) for line in content.splitlines() if line.strip()]
    assert first["format"] == "syncline-keys-1"
    assert [line["key"] for line in lines] == [f"k{number:03d}" for number in range(600)]
    assert max(line["mod_revision"] for line in lines) <= first["revision"]
    assert len(received) > 3
