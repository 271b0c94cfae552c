"""`GET /events`: what a node tells about itself, from the past on, to clients that may see its status."""

from __future__ import annotations

import json
from typing import Any

import pytest

from syncline.client.event_schemas import EventItem
from syncline.kv.auth.flag import AuthFlag
from syncline.node.events import LeaderChanged, NodeStopped, PeerDown, SnapshotTaken
from syncline.server.api.event_feed import EVENTS_KEPT, EventFeed
from syncline.server.api.events import EventSource
from syncline.server.auth.principal import NoUser
from tests.helpers.kv_node import KvWire, error_in


class EventWire(KvWire):
    """A connection with a stream of events."""

    def __init__(self) -> None:
        super().__init__()
        self.feed = self.site.events

    def tell(self, *terms: int) -> None:
        for term in terms:
            self.feed.record(EventItem(type="started", term=term, index=0, at=0.0))

    async def open(self, query: str = "", *fields: str) -> None:
        self.send("\r\n".join([f"GET /events{query} HTTP/1.1", "Host: x", *fields, "", ""]).encode())
        await self.settle()

    def heard(self) -> list[dict[str, Any]]:
        lines = bytes(self.received).decode().split("\r\n")
        data = "".join(lines).split("data: ")[1:]
        return [json.loads(one.split("\n", 1)[0]) for one in data]


async def test_events_begin_with_the_past_and_go_on() -> None:
    wire = EventWire()
    wire.tell(1, 2)
    await wire.open()
    assert [one["term"] for one in wire.heard()] == [1, 2]
    wire.tell(3)
    await wire.settle()
    assert [one["term"] for one in wire.heard()] == [1, 2, 3]
    assert b"text/event-stream" in wire.received


async def test_events_resume_after_the_last_one_received() -> None:
    wire = EventWire()
    wire.tell(1, 2, 3)
    await wire.open("", f"Last-Event-ID: {wire.feed.oldest}")
    assert [one["term"] for one in wire.heard()] == [2, 3]


async def test_events_without_the_past_begin_with_the_next_one() -> None:
    wire = EventWire()
    wire.tell(1)
    await wire.open("?past=0")
    wire.tell(2)
    await wire.settle()
    assert [one["term"] for one in wire.heard()] == [2]


async def test_events_resumed_from_before_the_kept_ones_begin_with_the_oldest() -> None:
    wire = EventWire()
    wire.tell(1)
    first = wire.feed.oldest
    wire.tell(*range(2, EVENTS_KEPT + 5))
    await wire.open("", f"Last-Event-ID: {first}")
    assert [one["term"] for one in wire.heard()][:2] == [5, 6]


def test_events_tell_a_slow_client_what_it_has_missed() -> None:
    wire = EventFeed(wall=lambda: 1.0, name_of=lambda _: "")
    source = EventSource(wire, wire.next, NoUser(AuthFlag()))
    assert source.read() == b":\n\n"
    for term in range(EVENTS_KEPT + 4):
        wire.record(EventItem(type="started", term=term, index=0, at=0.0))
    piece = source.read()
    assert piece is not None
    assert piece.startswith(b'event: missed\ndata: {"missed":4}\n\nid: ')


@pytest.mark.parametrize("last", ["x", "-1", "1" * 20])
async def test_events_with_a_bad_id_are_refused(last: str) -> None:
    wire = KvWire()
    answer = await wire.ask("GET", "/events", b"", f"Last-Event-ID: {last}")
    assert (answer.status, error_in(answer)["code"]) == (400, "bad_request")


@pytest.mark.parametrize("query", ["?past=-1", "?past=513", "?past=x", "?since=1"])
async def test_events_with_a_bad_parameter_are_refused(query: str) -> None:
    assert (await KvWire().ask("GET", f"/events{query}")).status == 400


async def test_events_beyond_the_limit_of_streams_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.server.api.events.MAX_STREAMS", 1)
    wire = EventWire()
    wire.feed.add(lambda: None)
    answer = await wire.ask("GET", "/events")
    assert (answer.status, error_in(answer)["code"]) == (429, "limit")


async def test_events_stream_is_dropped_when_the_client_leaves() -> None:
    wire = EventWire()
    await wire.open()
    assert len(wire.feed) == 1
    wire.connection.connection_lost(None)
    assert len(wire.feed) == 0


async def test_events_end_when_the_server_drains() -> None:
    """Else the stop of a server would wait for each open console until its time for draining is over."""
    wire = EventWire()
    wire.tell(1)
    await wire.open()
    wire.site.stopping()
    await wire.settle()
    assert bytes(wire.received).endswith(b"0\r\n\r\n")
    assert len(wire.feed) == 0


async def test_event_feed_follows_the_node_and_ends_with_it() -> None:
    wire = EventWire()
    node = next(iter(wire.backend.names.values()))

    async def events() -> Any:
        yield LeaderChanged(leader=node, term=3, index=9)  # type: ignore[arg-type]
        yield LeaderChanged(leader=None, term=3, index=9)
        yield PeerDown(peer=node, reason="reset", term=3, index=9)  # type: ignore[arg-type]
        yield SnapshotTaken(snapshot_index=7, term=3, index=9)
        yield NodeStopped(reason="closed", term=3, index=9)

    await wire.open()
    await wire.feed.follow(events())
    await wire.settle()
    told = wire.heard()
    assert [one["type"] for one in told] == [
        *("started", "leader_changed", "leader_changed", "peer_down", "snapshot_taken", "node_stopped"),
    ]
    assert told[1]["leader"]["id"] == f"{node:016x}"
    assert "leader" not in told[2]
    assert (told[3]["reason"], told[4]["snapshot_index"]) == ("reset", 7)
    assert bytes(wire.received).endswith(b"0\r\n\r\n")
