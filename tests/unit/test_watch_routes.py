"""`GET /watch` and the long poll, over a connection in memory. The clock is a virtual one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from syncline.errors import NoLeader
from syncline.kv.commands import Compact, Delete, Put, Txn, encode_command
from syncline.kv.watch import WatchLimits
from syncline.testing.sim.loop import SimLoop
from tests.helpers.async_tests import LoopFactory
from tests.helpers.http_wire import Answer, Wire, answers_so_far, get
from tests.helpers.kv_node import KvWire, error_in

pytestmark = [pytest.mark.usefixtures("loop_factory"), pytest.mark.deadline(1000.0)]
LINES = "Accept: application/x-ndjson"


@pytest.fixture
def loop_factory() -> LoopFactory:
    """Virtual time: a minute passes at once."""
    return SimLoop


class WatchWire(KvWire):
    """A connection that watches."""

    def apply(self, *commands: Any) -> None:
        for command in commands:
            self.backend.propose(encode_command(command), 1.0, lambda *_: None)

    async def watch(self, target: str, *fields: str) -> Answer:
        self.send(get(target, *fields))
        await self.settle()
        return self.so_far

    @property
    def so_far(self) -> Answer:
        return answers_so_far(self.received)[-1]

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.so_far.body.splitlines()]


async def test_watch_gives_one_event_for_each_revision() -> None:
    wire = WatchWire()
    wire.apply(Put(b"a", b"0"))
    answer = await wire.watch("/watch?prefix=")
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["syncline-revision"] == "1"
    assert answer.body == b"id: 1\n\n", "a browser that is cut off now resumes after it"
    wire.apply(Put(b"a", b"1"), Txn((), (Put(b"b", b"2"), Delete(b"a"))))
    await wire.settle()
    assert wire.so_far.body.decode() == (
        "id: 1\n\n"
        'id: 2\ndata: {"revision":2,"events":'
        '[{"type":"put","key":"a","value":"1","create_revision":1,"version":2}]}\n\n'
        'id: 3\ndata: {"revision":3,"events":[{"type":"put","key":"b","value":"2","create_revision":3,"version":1},'
        '{"type":"delete","key":"a"}]}\n\n'
    )


async def test_event_is_written_before_the_end_of_the_turn() -> None:
    """It leaves together with the acknowledgement of the write, and once."""
    wire = WatchWire()
    await wire.watch("/watch?key=a", LINES)
    wire.apply(Put(b"a", b"1"), Put(b"a", b"2"))
    written = wire.received
    assert [line["revision"] for line in wire.lines] == [1, 2]
    await wire.settle()
    assert wire.received == written


async def test_event_of_a_client_that_does_not_read_is_written_later() -> None:
    wire = WatchWire()
    await wire.watch("/watch?key=a", LINES)
    wire.transport.reads_all = False
    wire.apply(*(Put(b"a", b"v" * 900) for _ in range(200)))
    await wire.settle()
    assert len(wire.lines) < 200
    wire.transport.reads_all = True
    wire.transport.take(10**8)
    await wire.settle()
    assert [line["revision"] for line in wire.lines] == [*range(1, 201)]


async def test_watch_as_lines_gives_the_same_objects() -> None:
    wire = WatchWire()
    answer = await wire.watch("/watch?key=a&prev", LINES)
    wire.apply(Put(b"a", b"\xff"), Put(b"b", b""), Delete(b"a"))
    await wire.settle()
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert wire.lines == [
        {
            "revision": 1,
            "events": [{"type": "put", "key": "a", "value_base64": "/w==", "create_revision": 1, "version": 1}],
        },
        {
            "revision": 3,
            "events": [
                {
                    "type": "delete",
                    "key": "a",
                    "prev": {"value_base64": "/w==", "mod_revision": 1, "create_revision": 1, "version": 1},
                }
            ],
        },
    ]


@pytest.mark.parametrize(
    ("target", "keys"),
    [
        ("/watch?key=b&from=1", ["b"]),
        ("/watch?prefix=b&from=1", ["b", "b/1"]),
        ("/watch?prefix=&from=1", ["a", "b", "b/1", "c"]),
        ("/watch?start=b&from=1", ["b", "b/1", "c"]),
        ("/watch?start=b&end=c&from=1", ["b", "b/1"]),
        ("/watch?start=&end=b&from=1", ["a"]),
        ("/watch?prefix=&from=3", ["b/1", "c"]),
    ],
)
async def test_watch_is_of_a_key_a_prefix_or_a_range(target: str, keys: list[str]) -> None:
    wire = WatchWire()
    wire.apply(*[Put(key, b"v") for key in (b"a", b"b", b"b/1", b"c")])
    await wire.watch(target, LINES)
    await wire.settle()
    assert [event["key"] for line in wire.lines for event in line["events"]] == keys


@pytest.mark.parametrize(("events", "revisions"), [("put", [1, 3]), ("delete", [2]), ("delete,put", [1, 2, 3])])
async def test_watch_gives_only_the_events_that_are_asked_for(events: str, revisions: list[int]) -> None:
    wire = WatchWire()
    wire.apply(Put(b"a", b"v"), Delete(b"a"), Put(b"a", b"v"))
    await wire.watch(f"/watch?key=a&from=1&events={events}", LINES)
    assert [line["revision"] for line in wire.lines] == revisions


async def test_last_event_id_wins_over_from() -> None:
    wire = WatchWire()
    wire.apply(*[Put(b"a", b"v")] * 4)
    answer = await wire.watch("/watch?key=a&from=1", "Last-Event-ID: 3")
    assert answer.body.startswith(b"id: 3\n\nid: 4\n")


@pytest.mark.parametrize(
    ("target", "field", "names"),
    [
        ("/watch", "", "key, prefix"),
        ("/watch?key=a&prefix=b", "", "key, prefix"),
        ("/watch?key=a&start=b", "", "key, prefix"),
        ("/watch?key=", "", "key is empty"),
        ("/watch?end=b", "", "key, prefix"),
        ("/watch?key=a&end=b", "", "end needs start"),
        ("/watch?start=b&end=a", "", "end is not above start"),
        ("/watch?start=b&end=", "", "end is not above start"),
        ("/watch?key=a&from=0", "", "from='0'"),
        ("/watch?key=a&from=-1", "", "from='-1'"),
        ("/watch?key=a&from=99999999999999999999", "", "from="),
        ("/watch?key=a&from=x", "", "from='x'"),
        ("/watch?key=a&prev=maybe", "", "prev='maybe'"),
        ("/watch?key=a&events=", "", "events=''"),
        ("/watch?key=a&events=put,put", "", "events='put,put'"),
        ("/watch?key=a&progress=0s", "", "progress='0s'"),
        ("/watch?key=a&progress=10ms", "", "from 1s"),
        ("/watch?key=a&progress=2h", "", "progress='2h'"),
        ("/watch?key=a&revision=3", "", "'revision'"),
        ("/watch?key=a&key=b", "", "'key' is given twice"),
        ("/watch?key=a", "Last-Event-ID: x", "Last-Event-ID"),
        ("/watch?key=a", "Last-Event-ID: -1", "Last-Event-ID"),
        ("/watch?key=a", "Last-Event-ID: 9223372036854775807", "Last-Event-ID"),
        ("/watch?key=a", 'If-None-Match: "1"', "If-None-Match"),
    ],
)
async def test_watch_that_makes_no_sense_is_400_and_names_the_field(target: str, field: str, names: str) -> None:
    wire = WatchWire()
    answer = await wire.ask_as("x", "GET", target, b"", *([field] if field else []))
    assert answer.status == 400
    assert names in error_in(answer)["message"]
    assert len(wire.site.watches) == 0


async def test_watch_of_a_key_above_the_limit_is_413() -> None:
    wire = WatchWire()
    answer = await wire.ask_as("x", "GET", "/watch?key=" + "a" * 101, b"")
    assert (answer.status, error_in(answer)["code"]) == (413, "too_large")


async def test_watch_from_a_compacted_revision_is_410_with_the_oldest() -> None:
    wire = WatchWire()
    wire.apply(*[Put(b"a", b"v")] * 4, Compact(3))
    answer = await wire.ask_as("x", "GET", "/watch?key=a&from=2", b"")
    error = error_in(answer)
    assert (answer.status, error["code"], error["details"], error["outcome"]) == (
        410,
        "compacted",
        {"oldest": 3},
        "not_applied",
    )


async def test_more_watches_than_the_node_takes_are_429() -> None:
    wire = WatchWire()
    wire.site.watches.limits = WatchLimits(max_watches=0)
    for target in ("/watch?key=a", "/key/a?wait=30s"):
        answer = await wire.ask_as("x", "GET", target, b"")
        assert (answer.status, error_in(answer)["code"]) == (429, "limit")


async def test_head_of_a_watch_watches_nothing() -> None:
    wire = WatchWire()
    answer = await wire.ask_as("x", "HEAD", "/watch?key=a", b"")
    assert answer.status == 200
    assert len(wire.site.watches) == 0


async def test_watch_of_a_client_that_leaves_is_forgotten() -> None:
    wire = WatchWire()
    await wire.watch("/watch?key=a")
    assert len(wire.site.watches) == 1
    assert wire.connection.eof_received() is False
    wire.transport.abort()
    assert len(wire.site.watches) == 0


async def test_watchers_of_a_key_are_counted() -> None:
    """Watches of the key, of prefixes and of ranges, from the past too, and reads that wait; none that has ended."""
    wire = WatchWire()
    wire.apply(*[Put(b"a/1", b"x")] * 3)
    targets = ("/watch?key=a/1", "/watch?prefix=a/", "/watch?start=a&end=b", "/watch?prefix=", "/key/a/1?wait=30s")
    others = ("/watch?key=a/2", "/watch?prefix=b", "/watch?start=a/10", "/key/a?wait=30s", "/watch?key=a/1&from=9")
    clients = []
    for target in (*targets, *others):
        client = Wire(server=wire.server)
        client.send(get(target))
        clients.append(client)
    await wire.settle()

    async def counted(key: str) -> Any:
        answer = await wire.ask_as("x", "GET", f"/watchers?key={key}", b"")
        assert answer.status == 200
        return json.loads(answer.body)

    assert await counted("a%2F1") == {"status": "success", "name": "a", "watches": 6}
    assert (await counted("nothing"))["watches"] == 2
    clients[0].transport.abort()
    assert (await counted("a%2F1"))["watches"] == 5


@pytest.mark.parametrize(
    ("query", "status"), [("", 400), ("?key=", 400), ("?key=a&more=1", 400), ("?key=" + "k" * 101, 413)]
)
async def test_watchers_of_no_key_are_refused(query: str, status: int) -> None:
    assert (await WatchWire().ask_as("x", "GET", f"/watchers{query}", b"")).status == status


async def test_slow_watch_is_cut_off_with_where_to_resume() -> None:
    wire = WatchWire(max_value_bytes=10**6)
    await wire.watch("/watch?key=a", LINES)
    wire.transport.reads_all = False
    for _ in range(30):
        wire.apply(Put(b"a", b"x" * 100_000))
        await wire.settle()
    assert wire.site.watches.cut_off == 1
    wire.transport.reads_all = True
    wire.transport.take(10**8)
    await wire.settle()
    *told, last = wire.lines
    revisions = [line["revision"] for line in told]
    assert revisions == [*range(1, len(revisions) + 1)]
    assert last["error"]["code"] == "slow_watcher"
    assert last["error"]["details"] == {"from": len(revisions) + 1}
    assert wire.so_far.complete
    assert len(wire.site.watches) == 0


async def test_stopping_server_ends_watches_with_where_to_resume() -> None:
    wire = WatchWire()
    await wire.watch("/watch?key=a")
    wire.apply(Put(b"a", b"v"))
    wire.site.stopping()
    await wire.settle()
    assert wire.so_far.complete
    name, data = wire.so_far.body.decode().strip().splitlines()[-2:]
    error = json.loads(data.removeprefix("data: "))["error"]
    assert (name, error["code"], error["details"]) == ("event: error", "closed", {"from": 2})
    assert (await wire.watch("/watch?key=a")).status == 503


async def test_node_without_a_leader_ends_its_watches() -> None:
    wire = WatchWire()
    wire.backend.leader_name = None
    await wire.watch("/watch?key=a", LINES)
    await asyncio.sleep(4.0)
    assert wire.lines[-1]["error"]["code"] == "no_leader"
    stale = WatchWire()
    stale.backend.leader_name = None
    await stale.watch("/watch?key=a&stale", LINES)
    await asyncio.sleep(10.0)
    assert not stale.so_far.complete
    wire.send(get("/watch?key=b"))
    await wire.settle()
    assert answers_so_far(wire.received)[-1].status == 200, "without watches a node does not look at its leader"


async def test_progress_is_told_while_a_quorum_confirms_it() -> None:
    wire, lines = WatchWire(), WatchWire()
    lines.apply(Put(b"b", b""))
    await wire.watch("/watch?key=a&progress=2s")
    await lines.watch("/watch?key=a&progress=2s", LINES)
    await asyncio.sleep(3.5)
    assert wire.so_far.body == b'id: 0\n\nid: 0\nevent: progress\ndata: {"revision":0}\n\n'
    assert lines.lines == [{"progress": {"revision": 1}}]
    lines.backend.read_error = NoLeader("no leader")
    await asyncio.sleep(60.0)
    assert len(lines.lines) == 1


async def test_progress_of_a_watch_from_the_future_has_no_id() -> None:
    wire = WatchWire()
    await wire.watch("/watch?key=a&from=8&progress=1s")
    await asyncio.sleep(2.5)
    assert wire.so_far.body.startswith(b'id: 7\n\nevent: progress\ndata: {"revision":0}\n\n')


# --- long poll


async def poll(wire: WatchWire, target: str, *fields: str) -> None:
    wire.send(get(target, *fields))
    await wire.settle()


async def test_long_poll_answers_at_once_if_the_key_has_changed_since() -> None:
    wire = WatchWire()
    wire.apply(Put(b"a", b"v"), Put(b"b", b""))
    answer = await wire.ask_as("x", "GET", "/key/a?wait=30s&from=1", b"")
    assert (answer.status, answer.body, answer.headers["etag"]) == (200, b"v", '"1"')


@pytest.mark.parametrize("field", ["If-Match: x", "If-None-Match: 1.5"])
async def test_long_poll_with_a_condition_that_can_not_be_read_is_400(field: str) -> None:
    """At once: a wait that ends with 304 looks at no condition."""
    wire = KvWire()
    answer = await wire.ask("GET", "/key/a?wait=30s", b"", field)
    assert (answer.status, error_in(answer)["code"]) == (400, "bad_request")
    assert field.partition(":")[0] in error_in(answer)["message"]


async def test_long_poll_waits_for_the_key_alone() -> None:
    wire = WatchWire()
    wire.apply(Put(b"a", b"v"))
    await poll(wire, "/key/a?wait=30s&from=2")
    wire.apply(Put(b"b", b""), Put(b"ab", b""))
    await wire.settle()
    assert wire.received == b""
    wire.apply(Put(b"a", b"w"))
    await wire.settle()
    answer = wire.next_answer()
    assert (answer.status, answer.body, answer.headers["syncline-revision"]) == (200, b"w", "4")
    assert len(wire.site.watches) == 0


async def test_long_poll_without_from_waits_for_the_next_change() -> None:
    wire = WatchWire()
    wire.apply(Put(b"a", b"v"))
    await poll(wire, "/key/a?wait=30s")
    assert wire.received == b""
    wire.apply(Delete(b"a"))
    await wire.settle()
    assert wire.next_answer().status == 404


async def test_long_poll_ends_with_304_and_the_revision() -> None:
    wire = WatchWire()
    wire.apply(Put(b"a", b"v"))
    await poll(wire, "/key?key=a&wait=30s&from=2")
    await asyncio.sleep(29.0)
    assert wire.received == b""
    await asyncio.sleep(2.0)
    answer = wire.next_answer()
    assert (answer.status, answer.headers["syncline-revision"], answer.headers["etag"]) == (304, "1", '"1"')
    assert len(wire.site.watches) == 0


async def test_long_poll_of_a_deleted_key_looks_when_that_was() -> None:
    wire = WatchWire()
    wire.apply(Put(b"a", b"v"), Delete(b"a"))
    assert (await wire.ask_as("x", "GET", "/key/a?wait=30s&from=2", b"")).status == 404
    await poll(wire, "/key/a?wait=30s&from=3")
    wire.apply(Put(b"a", b"w"))
    await wire.settle()
    assert wire.next_answer().body == b"w"


async def test_long_poll_of_an_absent_key_below_the_history_answers_at_once() -> None:
    wire = WatchWire()
    wire.apply(Put(b"a", b"v"), Delete(b"a"), Put(b"b", b""), Compact(3))
    assert (await wire.ask_as("x", "GET", "/key/a?wait=30s&from=2", b"")).status == 404


async def test_long_poll_from_the_future_is_not_told_of_the_past() -> None:
    wire = WatchWire()
    await poll(wire, "/key/a?wait=30s&from=3")
    wire.apply(Put(b"a", b"1"), Put(b"a", b"2"))
    await wire.settle()
    assert wire.received == b""
    wire.apply(Put(b"a", b"3"))
    await wire.settle()
    assert wire.next_answer().body == b"3"


async def test_long_poll_with_a_condition_that_is_none_is_400_at_once() -> None:
    answer = await WatchWire().ask_as("x", "GET", "/key/a?wait=30s", b"", "If-None-Match: rubbish")
    assert answer.status == 400


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("/key/a?from=3", "from is for wait"),
        ("/key/a?wait=30s&from=0", "from='0'"),
        ("/key/a?wait=0s", "wait='0s'"),
        ("/key/a?wait=2m", "wait='2m'"),
        ("/key/a?wait=30s&revision=1", "wait and revision"),
    ],
)
async def test_long_poll_that_makes_no_sense_is_400(target: str, names: str) -> None:
    answer = await WatchWire().ask_as("x", "GET", target, b"")
    assert answer.status == 400
    assert names in error_in(answer)["message"]


async def test_long_poll_of_a_stopping_server_ends_early() -> None:
    wire = WatchWire()
    await poll(wire, "/key/a?wait=30s&from=3")
    wire.site.stopping()
    await wire.settle()
    assert wire.next_answer().status == 304


async def test_long_poll_on_a_node_that_loses_its_leader_is_503() -> None:
    wire = WatchWire()
    await poll(wire, "/key/a?wait=30s&from=3")
    wire.backend.leader_name = None
    await asyncio.sleep(4.0)
    answer = wire.next_answer()
    assert (answer.status, error_in(answer)["code"]) == (503, "no_leader")
