"""Calls of etcd's interface that go on: what they may do ends when the permission ends, or when users are needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from syncline.errors import NotLeader
from syncline.kv.auth.commands import AuthSwitch
from syncline.kv.commands import LeaseGrant, Put
from syncline.kv.lease_calls import decode_call
from syncline.server.etcd.errors import PERMISSION_DENIED, UNAUTHENTICATED, EtcdError
from syncline.server.etcd.face import EtcdCaller
from syncline.server.etcd.messages import Message
from syncline.server.etcd.methods import METHODS
from tests.helpers.auth_site import apply, grant, token_of, withdraw
from tests.helpers.etcd_wire import GuardedEtcdWire

KEEP_ALIVE = METHODS["/etcdserverpb.Lease/LeaseKeepAlive"]
SNAPSHOT = METHODS["/etcdserverpb.Maintenance/Snapshot"]


class Lasting:
    """One stream of a client that sends when the test says so."""

    def __init__(self, wire: GuardedEtcdWire, name: str, user: str = "") -> None:
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.received: asyncio.Queue[Message] = asyncio.Queue()
        caller = EtcdCaller(token=token_of(user).encode() if user else b"")
        self.task = asyncio.ensure_future(wire.face.stream(METHODS[name], self._inbox(), self.received.put, caller))

    async def _inbox(self) -> AsyncIterator[Message]:
        while True:
            yield await self.sent.get()

    async def ask(self, message: Message) -> Message:
        await self.sent.put(message)
        return await self.received.get()

    async def error(self, message: Message) -> EtcdError:
        await self.sent.put(message)
        with pytest.raises(EtcdError) as refusal:
            await self.task
        return refusal.value


def guarded_with_lease() -> GuardedEtcdWire:
    wire = GuardedEtcdWire()
    grant(wire.backend, reads=[(b"a", b"b")], writes=[(b"a", b"b")])
    apply(wire.backend, LeaseGrant(7, 60_000))
    apply(wire.backend, Put(b"a", b"", 7))
    return wire


async def test_etcd_keep_alive_without_a_user_ends_when_users_are_needed() -> None:
    wire = guarded_with_lease()
    apply(wire.backend, AuthSwitch(False))
    stream = Lasting(wire, KEEP_ALIVE.name)
    assert (await stream.ask({"ID": 7}))["TTL"] == 60
    apply(wire.backend, AuthSwitch(True))
    assert (await stream.error({"ID": 7})).code == UNAUTHENTICATED


async def test_etcd_keep_alive_ends_with_the_permission_on_its_keys() -> None:
    wire = guarded_with_lease()
    stream = Lasting(wire, KEEP_ALIVE.name, "ann")
    assert (await stream.ask({"ID": 7}))["TTL"] == 60
    withdraw(wire.backend)
    assert (await stream.error({"ID": 7})).code == PERMISSION_DENIED


async def test_etcd_keep_alives_of_one_stream_wait_for_the_leader_together(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = guarded_with_lease()
    apply(wire.backend, LeaseGrant(8, 90_000))
    ask_leader, asked = wire.backend.ask_leader, 0
    all_asked, free = asyncio.Event(), asyncio.Event()

    async def ask_late(data: bytes, *, timeout: float) -> bytes:
        nonlocal asked
        asked += 1
        if asked == 4:
            all_asked.set()
        if decode_call(data).leases == (7,):
            await free.wait()  # the first answer comes last
        return await ask_leader(data, timeout=timeout)

    monkeypatch.setattr(wire.backend, "ask_leader", ask_late)
    stream = Lasting(wire, KEEP_ALIVE.name, "root")
    for lease in (7, 8, 9, 0, 8):
        await stream.sent.put({"ID": lease})
    await all_asked.wait()
    assert stream.received.empty(), "answers leave in the order of their messages"
    free.set()
    answers = [await stream.received.get() for _ in range(5)]
    assert [(one["ID"], one["TTL"]) for one in answers] == [(7, 60), (8, 90), (9, 0), (0, 0), (8, 90)]
    wire.backend.propose_error = NotLeader("no")
    assert "not leader" in str(await stream.error({"ID": 7}))


async def test_etcd_keep_alive_of_a_client_that_has_left_leaves_nothing_behind() -> None:
    wire = guarded_with_lease()
    stream = Lasting(wire, KEEP_ALIVE.name, "root")
    await stream.ask({"ID": 7})
    before = asyncio.all_tasks()
    stream.task.cancel()
    await asyncio.wait([stream.task])
    assert stream.task.cancelled()
    assert len(before - asyncio.all_tasks()) == 3


@pytest.mark.parametrize("off", [True, False], ids=["no user", "root"])
async def test_etcd_snapshot_ends_when_its_permission_does(off: bool) -> None:
    wire = GuardedEtcdWire()
    for number in range(2000):
        apply(wire.backend, Put(b"k%04d" % number, b""))
    if off:
        apply(wire.backend, AuthSwitch(False))
    received = 0

    async def inbox() -> AsyncIterator[Message]:
        yield {}

    async def send(_message: Message) -> None:
        nonlocal received
        received += 1
        if received == 2:
            apply(wire.backend, AuthSwitch(True))
            wire.wall_s += 1e12  # the token has expired

    caller = EtcdCaller(token=b"" if off else token_of("root").encode())
    with pytest.raises(EtcdError) as refusal:
        await wire.face.stream(SNAPSHOT, inbox(), send, caller)
    assert (refusal.value.code, received) == (UNAUTHENTICATED, 2)


async def test_etcd_refused_stream_is_in_the_audit_log(caplog: pytest.LogCaptureFixture) -> None:
    wire = GuardedEtcdWire()
    with caplog.at_level(logging.INFO, "syncline.audit"):
        stream = Lasting(wire, SNAPSHOT.name, "ann")
        assert (await stream.error({})).code == PERMISSION_DENIED
    lines = [(one.message, vars(one)["user"], vars(one)["route"], vars(one)["status"]) for one in caplog.records]
    assert lines == [("refused", "ann", SNAPSHOT.name, 403)]
