"""Reads of past revisions, listings at one revision, and compaction, over HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.errors import DeadlineExceeded
from syncline.kv.commands import Put, encode_command
from syncline.kv.serving.revision_waits import MAX_WAITING, RevisionWaits
from syncline.server import ServerConfig
from syncline.server.api.keys import DEFAULT_MAX_VALUE_BYTES
from syncline.server.api.list_stream import PIECE_KEYS
from tests.helpers.http_wire import Answer
from tests.helpers.kv_node import KvWire, error_in

NDJSON = "Accept: application/x-ndjson"


async def written(*changes: tuple[str, str | None]) -> KvWire:
    """A store after these changes, one revision each: (key, value), or (key, None) for a delete."""
    wire = KvWire()
    for key, value in changes:
        answer = await wire.ask("DELETE" if value is None else "PUT", f"/key/{key}", (value or "").encode())
        assert answer.status == 200
    return wire


async def compact(wire: KvWire, revision: object) -> Answer:
    return await wire.ask("POST", "/compact", json.dumps({"revision": revision}).encode())


def lines_of(answer: Answer) -> list[dict[str, Any]]:
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.body.endswith(b"\n")
    return [json.loads(line) for line in answer.body.splitlines()]


async def pages_of(wire: KvWire, url: str) -> list[dict[str, Any]]:
    pages = []
    while url:
        answer = await wire.ask("GET", url)
        assert answer.status == 200, answer.body
        pages.append(json.loads(answer.body))
        url = pages[-1]["next_url"] or ""
    return pages


async def read_on(wire: KvWire) -> None:
    """Let the client read all that is written, until nothing comes any more."""
    before = -1
    while before != len(wire.received):
        before = len(wire.received)
        wire.transport.take(before)
        await wire.settle()


async def test_key_at_a_past_revision_is_as_it_was() -> None:
    wire = await written(("a", "1"), ("b", "x"), ("a", "2"), ("a", None), ("a", "3"))
    expected = {
        1: (200, b"1", '"1"'),
        2: (200, b"1", '"1"'),
        3: (200, b"2", '"3"'),
        4: (404, None, None),
        5: (200, b"3", '"5"'),
    }
    for revision, (status, value, etag) in expected.items():
        answer = await wire.ask("GET", f"/key/a?revision={revision}")
        assert (answer.status, answer.headers.get("etag")) == (status, etag)
        assert value is None or answer.body == value
        assert answer.headers["syncline-revision"] == "5"
    by_query = await wire.ask("GET", "/key?key=a&revision=1")
    assert by_query.body == b"1"
    assert (await wire.ask("GET", "/key/a?revision=3", b"", 'If-None-Match: "3"')).status == 304
    assert (await wire.ask("HEAD", "/key/a?revision=1")).headers["content-length"] == "1"


@pytest.mark.parametrize("revision", ["0", "-1", "x", "", "1.5", "99999999999999999999", "9223372036854775808"])
@pytest.mark.parametrize("path", ["/key/a", "/keys"])
async def test_read_at_a_revision_that_is_none_is_400(path: str, revision: str) -> None:
    wire = await written(("a", "1"))
    answer = await wire.ask("GET", f"{path}?revision={revision}")
    assert (answer.status, error_in(answer)["code"]) == (400, "bad_request")
    assert "revision" in error_in(answer)["message"]


async def test_read_at_a_compacted_revision_names_the_oldest() -> None:
    wire = await written(("a", "1"), ("a", "2"), ("a", "3"))
    answer = await compact(wire, 2)
    assert json.loads(answer.body) == {"status": "success", "oldest": 2}
    for path in ("/key/a?revision=1", "/keys?revision=1", "/keys?revision=1&count"):
        refused = await wire.ask("GET", path)
        assert (refused.status, error_in(refused)["code"]) == (410, "compacted")
        assert error_in(refused)["details"] == {"oldest": 2}
    streamed = await wire.ask("GET", "/keys?revision=1", b"", NDJSON)
    assert (streamed.status, error_in(streamed)["details"]) == (410, {"oldest": 2})
    assert (await wire.ask("GET", "/key/a?revision=2")).body == b"2"


async def test_read_at_a_later_revision_waits_for_it() -> None:
    wire = await written(("a", "1"))
    wire.send(b"GET /key/a?revision=3 HTTP/1.1\r\nHost: x\r\n\r\n")
    await wire.settle()
    before = len(wire.received)
    for value, ended in ((b"2", False), (b"3", True)):
        wire.backend.propose(encode_command(Put(b"a", value)), 1.0, lambda _, error: None)
        await wire.settle()
        assert (len(wire.received) > before) == ended
    answer = wire.next_answer()
    assert (answer.status, answer.body, answer.headers["syncline-revision"]) == (200, b"3", "3")


async def test_read_at_a_later_revision_ends_at_its_deadline() -> None:
    wire = await written(("a", "1"))
    wire.send(b"GET /key/a?revision=9&timeout=20ms HTTP/1.1\r\nHost: x\r\n\r\n")
    before = len(wire.received)
    async with asyncio.timeout(5):
        while len(wire.received) == before:  # noqa: ASYNC110 - a poll until the deadline
            await asyncio.sleep(0.005)
    answer = wire.next_answer()
    assert (answer.status, error_in(answer)["code"], error_in(answer)["outcome"]) == (
        504,
        "deadline_exceeded",
        "not_applied",
    )
    assert "revision 9" in error_in(answer)["message"]
    for change in range(2, 12):  # its wait is over: later revisions tell it nothing
        await wire.ask("PUT", "/key/a", str(change).encode())


async def test_read_at_a_later_revision_with_a_bad_condition_does_not_wait() -> None:
    wire = await written(("a", "1"))
    answer = await wire.ask("GET", "/key/a?revision=9", b"", "If-Match: nonsense")
    assert (answer.status, error_in(answer)["code"]) == (400, "bad_request")


async def test_read_at_a_later_revision_has_a_limit_of_waits() -> None:
    wire = await written(("a", "1"))
    answers: list[BaseException | None] = []
    waits: RevisionWaits[None] = RevisionWaits(wire.backend, faulted=lambda _, fault: answers.append(fault))
    loop = asyncio.get_running_loop()
    for _ in range(MAX_WAITING + 1):
        waits.reached(2, loop.time() + 60, lambda _, __, error: answers.append(error), None, None, None)
    (refused,) = answers
    assert "limit" in str(refused)
    await wire.ask("PUT", "/key/a", b"2")
    await wire.settle()
    assert answers[1:] == [None] * MAX_WAITING


async def test_read_at_a_later_revision_that_can_not_be_confirmed_says_why() -> None:
    wire = await written(("a", "1"))
    wire.backend.read_error = DeadlineExceeded("no quorum")
    answer = await wire.ask("GET", "/key/a?revision=5")
    assert (answer.status, error_in(answer)["message"]) == (504, "no quorum")


async def test_listing_pages_keep_the_revision_that_was_asked_for() -> None:
    wire = await written(("a", "1"), ("b", "1"), ("c", "1"))
    first = json.loads((await wire.ask("GET", "/keys?limit=1&revision=3")).body)
    await wire.ask("PUT", "/key/aa", b"late")
    await wire.ask("DELETE", "/key/c")
    pages = [first, *await pages_of(wire, first["next_url"])]
    assert [item["key"] for page in pages for item in page["keys"]] == ["a", "b", "c"]
    assert {(page["revision"], page["count"]) for page in pages} == {(3, 3)}


async def test_listing_with_consistent_names_its_revision_in_next_url() -> None:
    wire = await written(("a", "1"), ("b", "1"))
    first = json.loads((await wire.ask("GET", "/keys?limit=1&consistent=true")).body)
    assert first["next_url"] == "/keys?limit=1&consistent=true&revision=2&after=a"
    await wire.ask("PUT", "/key/aa", b"late")
    (second,) = await pages_of(wire, first["next_url"])
    assert [item["key"] for item in second["keys"]] == ["b"]
    plain = json.loads((await wire.ask("GET", "/keys?limit=1")).body)
    assert "revision" not in plain["next_url"]


CHANGES = st.lists(
    st.tuples(st.sampled_from(["a", "aa", "ab", "b"]), st.one_of(st.none(), st.sampled_from(["", "1", "2"]))),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(changes=CHANGES, reverse=st.booleans(), prefix=st.sampled_from(["", "a"]), floor=st.integers(1, 12))
async def test_listing_at_each_revision_is_as_it_was(
    changes: list[tuple[str, str | None]], reverse: bool, prefix: str, floor: int
) -> None:
    """Against a list of all states: pages, the stream, counts and single keys say the same, or `compacted`."""
    wire, states = KvWire(), [dict[str, str]()]
    for key, value in changes:
        state = dict(states[-1])
        if value is None:
            if state.pop(key, None) is None:
                continue
        else:
            state[key] = value
        states.append(state)
        await wire.ask("DELETE" if value is None else "PUT", f"/key/{key}", (value or "").encode())
    if floor < len(states):
        assert (await compact(wire, floor)).status == 200
    for revision, state in list(enumerate(states))[1:]:
        query = f"prefix={prefix}&revision={revision}"
        if floor < len(states) and revision < floor:
            assert (await wire.ask("GET", f"/keys?{query}")).status == 410
            continue
        expected = [one for one in sorted(state.items(), reverse=reverse) if one[0].startswith(prefix)]
        pages = await pages_of(wire, f"/keys?{query}&values=true&limit=2&reverse={str(reverse).lower()}")
        assert [(item["key"], item["value"]) for page in pages for item in page["keys"]] == expected
        *items, end = lines_of(
            await wire.ask("GET", f"/keys?{query}&values=true&reverse={str(reverse).lower()}", b"", NDJSON)
        )
        assert [(item["key"], item["value"]) for item in items] == expected
        assert end == {"end": {"revision": revision, "keys": len(expected)}}
        counted = json.loads((await wire.ask("GET", f"/keys?{query}&count")).body)
        assert counted == {"revision": revision, "count": len(expected)}
        for key in ("a", "b"):
            found = await wire.ask("GET", f"/key/{key}?revision={revision}")
            assert (found.body.decode() if found.status == 200 else None) == state.get(key)


async def test_whole_listing_is_one_revision_while_writes_go_on() -> None:
    wire = KvWire()
    for number in range(8 * PIECE_KEYS):
        wire.backend.store.put(b"k%05d" % number, b"v", 0, number + 1)
    wire.transport.reads_all = False
    wire.send(f"GET /keys HTTP/1.1\r\nHost: x\r\n{NDJSON}\r\n\r\n".encode())
    await wire.settle()
    assert b'"end"' not in wire.received, "the client reads nothing, so it is not made as a whole"
    store = wire.backend.store
    for number in range(8 * PIECE_KEYS):
        store.delete(b"k%05d" % number, store.revision + 1)
    await read_on(wire)
    *items, end = lines_of(wire.next_answer())
    assert [item["key"] for item in items] == [f"k{number:05}" for number in range(8 * PIECE_KEYS)]
    assert end == {"end": {"revision": 8 * PIECE_KEYS, "keys": 8 * PIECE_KEYS}}


async def test_whole_listing_whose_revision_is_compacted_ends_with_the_error() -> None:
    wire = KvWire()
    for number in range(8 * PIECE_KEYS):
        wire.backend.store.put(b"k%05d" % number, b"v", 0, number + 1)
    wire.transport.reads_all = False
    wire.send(f"GET /keys HTTP/1.1\r\nHost: x\r\n{NDJSON}\r\n\r\n".encode())
    await wire.settle()
    store = wire.backend.store
    store.put(b"z", b"", 0, store.revision + 1)
    store.compact(store.revision)
    await read_on(wire)
    *items, last = lines_of(wire.next_answer())
    assert 0 < len(items) < 8 * PIECE_KEYS
    assert (last["error"]["code"], last["error"]["details"]) == ("compacted", {"oldest": store.revision})


async def test_whole_listing_takes_limit_and_after() -> None:
    wire = await written(("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"))
    *items, end = lines_of(await wire.ask("GET", "/keys?after=a&limit=2&values=base64", b"", NDJSON))
    assert [(item["key"], item["value_base64"]) for item in items] == [("b", "Mg=="), ("c", "Mw==")]
    assert end["end"]["keys"] == 2
    assert lines_of(await KvWire().ask("GET", "/keys", b"", NDJSON)) == [{"end": {"revision": 0, "keys": 0}}]


# --- compaction


async def test_compact_below_the_oldest_changes_nothing() -> None:
    wire = await written(("a", "1"), ("a", "2"), ("a", "3"))
    assert json.loads((await compact(wire, 3)).body)["oldest"] == 3
    digest = wire.backend.store.digest
    answer = await compact(wire, 1)
    assert (json.loads(answer.body)["oldest"], answer.headers["syncline-revision"]) == (3, "3")
    assert wire.backend.store.digest == digest
    assert wire.backend.freeing[-1], "it may use the reserve of the disk"


async def test_compact_above_the_store_is_refused() -> None:
    wire = await written(("a", "1"))
    answer = await compact(wire, 2)
    assert (answer.status, error_in(answer)["code"], error_in(answer)["outcome"]) == (
        400,
        "future_revision",
        "not_applied",
    )
    assert wire.backend.store.oldest == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is not a compaction"),
        (b"7", "Expected `object`"),
        (b"{}", "`revision`"),
        (b'{"revision":0}', "$.revision"),
        (b'{"revision":-1}', "$.revision"),
        (b'{"revision":"7"}', "$.revision"),
        (b'{"revision":1.5}', "$.revision"),
        (b'{"revision":true}', "$.revision"),
        (b'{"revision":99999999999999999999}', "$.revision"),
        (b'{"revision":1,"physical":true}', "`physical`"),
        (b'{"revision":1,"revision":2}', "'revision' is given twice"),
    ],
)
async def test_compact_body_that_can_not_be_read_changes_nothing(body: bytes, words: str) -> None:
    wire = await written(("a", "1"), ("a", "2"))
    answer = await wire.ask("POST", "/compact", body)
    assert (answer.status, error_in(answer)["code"]) == (400, "bad_request")
    assert words in error_in(answer)["message"]
    assert wire.backend.store.oldest == 1


async def test_compact_body_above_its_limit_is_413() -> None:
    answer = await KvWire().ask("POST", "/compact", b'{"revision":1' + b" " * 1024 + b"}")
    assert (answer.status, error_in(answer)["code"]) == (413, "too_large")


async def test_value_of_the_default_limit_is_taken_by_each_route() -> None:
    """1.5 MiB, as etcd takes it: alone, in a batch and in a transaction, where base64 makes it larger."""
    wire = KvWire(max_value_bytes=DEFAULT_MAX_VALUE_BYTES)
    value = b"\xff" * DEFAULT_MAX_VALUE_BYTES
    assert (await wire.ask("PUT", "/key/a", value)).status == 200
    put = {"op": "put", "key": "b", "value_base64": base64.b64encode(value).decode()}
    assert (await wire.ask("POST", "/txn", json.dumps({"then": [put]}).encode())).status == 200
    assert (await wire.ask("POST", "/batch", json.dumps({"ops": [put]}).encode())).status == 200
    assert (await wire.ask("PUT", "/key/a", value + b"x")).status == 413
    assert ServerConfig(name="a", data_dir="a").max_value_bytes == DEFAULT_MAX_VALUE_BYTES == 1_572_864
