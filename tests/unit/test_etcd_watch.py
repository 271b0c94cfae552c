"""Watches and keep-alives over etcd's gateway: streams of messages, each a chunk of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from syncline.kv.commands import Compact, Delete, Put, Txn, encode_command
from syncline.kv.watch import WatchLimits
from syncline.server.etcd.face import EtcdCaller
from syncline.server.etcd.messages import Message
from syncline.server.etcd.methods import METHODS
from syncline.server.etcd.services.watch import MAX_REQUESTS
from syncline.testing.sim.loop import SimLoop
from tests.helpers.async_tests import LoopFactory
from tests.helpers.etcd_wire import Document, EtcdWire, b64

pytestmark = [pytest.mark.usefixtures("loop_factory"), pytest.mark.deadline(1000.0)]


@pytest.fixture
def loop_factory() -> LoopFactory:
    """Virtual time: a minute passes at once."""
    return SimLoop


CREATED = {"created": True}


def create(key: str | bytes = "w", end: str | bytes = "x", **more: Any) -> Document:
    return {"create_request": {"key": b64(key), "range_end": b64(end), **more}}


def apply(wire: EtcdWire, *commands: Any) -> None:
    for command in commands:
        wire.backend.propose(encode_command(command), 1.0, lambda *_: None)


async def begun() -> EtcdWire:
    """A store at revision 1."""
    wire = EtcdWire()
    apply(wire, Put(b"w", b"0"))
    return wire


async def test_etcd_watch_sends_whole_revisions_in_a_chunk_each() -> None:
    wire = await begun()
    await wire.open("watch", create(prev_kv=True))
    assert wire.messages[0]["result"]["header"] == {
        "cluster_id": "7",
        "member_id": "4369",
        "revision": "1",
        "raft_term": "3",
    }
    apply(wire, Put(b"w", b"1"), Txn((), (Put(b"w1", b"2"), Put(b"w2", b"3"))), Put(b"other", b""), Delete(b"w"))
    await wire.settle()
    apply(wire, Put(b"w", b"9"))
    first, together, last = await wire.results()
    assert first == CREATED, "the id 0 is left out"
    assert [event["kv"]["mod_revision"] for event in together["events"]] == ["2", "3", "3", "5"]
    assert [event["kv"]["mod_revision"] for event in last["events"]] == ["6"]
    gone = together["events"][-1]
    assert gone["type"] == "DELETE"
    assert gone["kv"] == {"key": b64("w"), "mod_revision": "5"}
    assert gone["prev_kv"]["value"] == b64("1")
    chunks = wire.received.decode().partition("\r\n\r\n")[2].split("\r\n")
    assert [chunk[-1:] for chunk in chunks[1::2] if chunk] == ["\n"] * 3, "one message and its line feed in each"


async def test_etcd_watch_from_the_past_catches_up() -> None:
    wire = await begun()
    apply(wire, Put(b"w", b"1"), Put(b"w", b"2"))
    await wire.open("watch", create(start_revision="2"))
    _, together = await wire.results()
    assert [event["kv"]["value"] for event in together["events"]] == [b64("1"), b64("2")]


async def test_etcd_watch_from_a_compacted_revision_stays_open() -> None:
    wire = await begun()
    apply(wire, Put(b"w", b"1"), Put(b"w", b"2"), Compact(3))
    await wire.open("watch", create(start_revision=1), create(key="w", watch_id=4))
    apply(wire, Put(b"w", b"3"))
    created, canceled, other, event = await wire.results()
    assert created == CREATED
    assert canceled == {"canceled": True, "compact_revision": "3"}
    assert other == {"watch_id": "4", "created": True}
    assert event["watch_id"] == "4"


async def test_etcd_watch_ids_are_chosen_or_drawn() -> None:
    wire = await begun()
    await wire.open("watch", create(watch_id=7), create(), create(), create(watch_id="7"), create(watch_id=-3))
    ids = [one.get("watch_id") for one in await wire.results()]
    assert ids == ["7", None, "1", "-1", "-3"]
    assert [one.get("canceled", False) for one in await wire.results()] == [False, False, False, True, False]
    reasons = [one["cancel_reason"] for one in await wire.results() if "cancel_reason" in one]
    assert reasons == ["mvcc: duplicate watch ID provided on the WatchStream"]


async def test_etcd_watch_id_is_not_drawn_again() -> None:
    """Events of the watch that had it may be on their way to the client."""
    wire = await begun()
    cancel: Document = {"cancel_request": {"watch_id": 0}}
    await wire.open("watch", create(), create(watch_id=1), cancel, create(), create())
    created = [one.get("watch_id") for one in await wire.results() if "created" in one]
    assert created == [None, "1", "2", "3"]


async def test_etcd_watch_is_cancelled_on_request() -> None:
    wire = await begun()
    await wire.open("watch", create(), {"cancel_request": {"watch_id": 0}}, {"cancel_request": {"watch_id": 9}})
    apply(wire, Put(b"w", b"1"))
    assert await wire.results() == [CREATED, {"canceled": True}]
    assert not len(wire.site.watches)


async def test_etcd_watch_filters_puts_or_deletes() -> None:
    wire = await begun()
    await wire.open("watch", create(filters=["NOPUT"]), create(filters=[1], watch_id=5))
    apply(wire, Put(b"w", b"1"), Delete(b"w"))
    *_, put, deleted = await wire.results()
    assert (put["watch_id"], put["events"][0]["kv"]["mod_revision"]) == ("5", "2")
    assert ("watch_id" not in deleted, deleted["events"][0]["type"]) == (True, "DELETE")


async def test_etcd_watch_ranges_follow_etcd() -> None:
    wire = await begun()
    await wire.open(
        "watch",
        {"create_request": {"key": b64("w"), "watch_id": 1}},
        create(end=b"\0", watch_id=2),
        {"create_request": {"range_end": b64(b"\0"), "watch_id": 3}},
        create(end="a"),
    )
    apply(wire, Put(b"z", b""), Put(b"a", b""), Put(b"w", b""))
    messages = await wire.results()
    assert (messages[3]["watch_id"], messages[3]["canceled"]) == ("-1", True), "no key is in the range"
    assert messages[3]["cancel_reason"] == "mvcc: watcher range is empty"
    found = sorted((one["watch_id"], len(one["events"])) for one in messages[4:])
    assert found == [("1", 1), ("2", 2), ("3", 3)]


async def test_etcd_watch_answers_a_progress_request() -> None:
    wire = await begun()
    await wire.open("watch", create(start_revision=1), {"progress_request": {}})
    created, event, progress = await wire.results()
    assert (created, event["events"][0]["kv"]["key"]) == (CREATED, b64("w"))
    assert progress == {"watch_id": "-1"}, "after the events up to its revision"
    assert wire.messages[-1]["result"]["header"]["revision"] == "1"


async def test_etcd_watch_is_told_of_progress_if_it_asks() -> None:
    wire = await begun()
    await wire.open("watch", create(progress_notify=True), create(watch_id=2))
    await asyncio.sleep(30)
    marks = (await wire.results())[2:]
    assert marks, "an idle watch is told"
    assert all(mark == {} for mark in marks)
    assert wire.messages[-1]["result"]["header"]["revision"] == "1"


async def test_etcd_watch_of_a_client_that_leaves_is_released() -> None:
    wire = await begun()
    await wire.open("watch", create())
    assert len(wire.site.watches) == 1
    wire.transport.abort()
    await wire.settle()
    assert not len(wire.site.watches)
    assert not len(wire.site.tasks)


async def test_etcd_watch_of_a_slow_client_loses_no_event() -> None:
    """What it has not read is dropped at the hub's limit, and read again from the history."""
    wire = await begun()
    wire.site.watches.limits = WatchLimits(max_unread_bytes=2000)
    await wire.open("watch", create())
    wire.transport.reads_all = False
    for number in range(400):
        apply(wire, Put(b"w%d" % number, b"v" * 1000))
        await asyncio.sleep(0)
    assert wire.site.watches.cut_off
    wire.transport.reads_all = True
    wire.transport.take(10**8)
    await wire.settle()
    for _ in range(100):
        await asyncio.sleep(0.01)
    revisions = [event["kv"]["mod_revision"] for one in (await wire.results())[1:] for event in one["events"]]
    assert revisions == [str(number) for number in range(2, 402)]


async def test_etcd_watch_without_a_leader_ends_with_its_code() -> None:
    wire = await begun()
    await wire.open("watch", create())
    wire.backend.leader_name = None
    await asyncio.sleep(10)
    await wire.settle()
    error = wire.messages[-1]["error"]
    assert (error["grpc_code"], error["http_code"], error["message"]) == (14, 503, "etcdserver: no leader")


async def test_etcd_watch_of_a_bad_body_is_refused() -> None:
    wire = await begun()
    status, code, _ = await wire.refused("watch", b'{"create_request":{"key":"%%%"}}')
    assert (status, code) == (400, 3)


async def test_etcd_watch_without_a_request_ends() -> None:
    wire = await begun()
    answer = await wire.ask("POST", "/v3/watch", b"{}")
    assert (answer.status, answer.body) == (200, b"")


# --- leases


async def test_etcd_keepalive_answers_each_message_and_ends() -> None:
    wire = await begun()
    await wire.good("lease/grant", {"TTL": 600, "ID": 7})
    answer = await wire.ask("POST", "/v3/lease/keepalive", b'{"ID":7}{"ID":"9"}')
    assert answer.headers["transfer-encoding"] == "chunked"
    kept, missing = answer.body.splitlines()
    assert b'"ID":"7","TTL":"600"' in kept
    assert b"TTL" not in missing, "no TTL: there is no such lease"


async def test_etcd_lease_grant_follows_etcd() -> None:
    wire = await begun()
    granted = await wire.good("lease/grant", {"TTL": 0, "ID": 7})
    assert (granted["ID"], granted["TTL"]) == ("7", "2"), "a shorter one is raised"
    assert await wire.refused("lease/grant", {"TTL": 5, "ID": 7}) == (400, 9, "lease already exists")
    assert int((await wire.good("lease/grant", {"TTL": 5}))["ID"]) > 0
    assert (await wire.refused("lease/grant", {"TTL": 5, "ID": -7}))[:2] == (400, 3)
    leases = (await wire.good("lease/leases"))["leases"]
    assert [one["ID"] for one in leases] == ["1", "7"]


async def test_etcd_lease_tells_its_time_and_keys() -> None:
    wire = await begun()
    await wire.good("lease/grant", {"TTL": 600, "ID": 7})
    await wire.good("kv/put", {"key": b64("l"), "lease": "7"})
    told = await wire.good("lease/timetolive", {"ID": 7, "keys": True})
    assert (told["TTL"], told["grantedTTL"], told["keys"]) == ("600", "600", [b64("l")])
    assert "keys" not in await wire.good("kv/lease/timetolive", {"ID": "7"})
    for unknown in (5, 0, -1):
        assert (await wire.good("lease/timetolive", {"ID": unknown}))["TTL"] == "-1"


async def test_etcd_lease_revoke_deletes_its_keys_in_one_revision() -> None:
    wire = await begun()
    await wire.good("lease/grant", {"TTL": 600, "ID": 7})
    await wire.good("kv/put", {"key": b64("w1"), "lease": 7})
    await wire.good("kv/put", {"key": b64("w2"), "lease": 7})
    document = await wire.good("lease/revoke", {"ID": "7"})
    assert document["header"]["revision"] == "4"
    assert "count" not in await wire.good("kv/range", {"key": b64("w1"), "range_end": b64("w9")})


@pytest.mark.parametrize("field", ["key", "range_end"])
async def test_etcd_watch_of_a_key_that_no_store_has_is_refused(field: str) -> None:
    """Each watch keeps its range: a connection may have 1,000, and a message 2 MiB."""
    wire = await begun()
    await wire.open("watch", {"create_request": {"key": b64("a"), field: b64("k" * 4096)}})
    assert (await wire.results())[0]["created"]
    wire = await begun()
    refused = await wire.refused("watch", {"create_request": {"key": b64("a"), field: b64("k" * 4098)}})
    assert refused == (400, 3, "request is too large")


async def test_etcd_watch_requests_are_read_as_they_are_carried_out() -> None:
    """What was read is counted by nobody, so a client that reads no answer must not have its requests read."""
    wire = await begun()
    read: list[int] = []
    blocked = asyncio.Event()

    async def inbox() -> AsyncIterator[Message]:
        for number in range(50):
            read.append(number)
            yield {"create_request": {"key": b"w", "filters": [0] * 1000}}

    async def send(_message: Message) -> None:
        await blocked.wait()

    task = asyncio.ensure_future(wire.face.stream(METHODS["/etcdserverpb.Watch/Watch"], inbox(), send, EtcdCaller()))
    await wire.settle()
    assert len(read) <= MAX_REQUESTS + 1
    blocked.set()
    for _ in range(5):
        await wire.settle()
    assert len(read) == 50
    task.cancel()
    await asyncio.wait([task])


async def test_etcd_watch_from_a_negative_revision_starts_at_the_first() -> None:
    wire = await begun()
    await wire.open("watch", create(start_revision=-5))
    created, event = await wire.results()
    assert created == CREATED
    assert event["events"][0]["kv"]["mod_revision"] == "1"
