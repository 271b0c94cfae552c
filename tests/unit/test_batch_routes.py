"""`POST /batch`: independent operations in one round, each with its own result; JSON and MessagePack say the same."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.errors import DeadlineExceeded, NoLeader, Outcome
from syncline.server.api.errors import RequestError
from syncline.server.http.packed import check_packed_members
from tests.helpers.http_wire import Answer
from tests.helpers.kv_node import KvWire, error_in

PACKED = ("Content-Type: application/msgpack",)


async def batch(wire: KvWire, *ops: object, fields: tuple[str, ...] = ()) -> Answer:
    return await wire.ask("POST", "/batch", json.dumps({"ops": ops}).encode(), *fields)


async def results(wire: KvWire, *ops: object) -> list[dict[str, Any]]:
    answer = await batch(wire, *ops)
    assert answer.status == 200, answer.body
    found = json.loads(answer.body)["results"]
    assert isinstance(found, list)
    return found


async def packed(wire: KvWire, *ops: object, fields: tuple[str, ...] = PACKED) -> Answer:
    return await wire.ask("POST", "/batch", msgspec.msgpack.encode({"ops": ops}), *fields)


async def test_batch_each_operation_has_its_own_revision_and_result() -> None:
    wire = KvWire()
    answer = await batch(
        wire,
        {"op": "put", "key": "a", "value": "1"},
        {"op": "put", "key": "b", "value": "2", "if_absent": True},
        {"op": "put", "key": "a", "value": "3", "if_revision": 7},
        {"op": "put", "key": "c", "value": "4", "if_present": True},
        {"op": "get", "key": "a"},
        {"op": "delete", "key": "a", "if_revision": 1, "prev": True},
        {"op": "increment", "key": "n", "by": 5, "initial": 10},
        {"op": "range", "prefix": "", "values": True},
        {"op": "delete_range", "prefix": "b", "prev": True},
        {"op": "txn", "compare": [{"key": "n", "target": "value", "value": "15"}], "then": [{"op": "get", "key": "n"}]},
    )
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["syncline-revision"] == "5"
    first, second, third, fourth, got, deleted, number, listed, ranged, ran = json.loads(answer.body)["results"]
    assert first == {"status": 200, "op": "put", "revision": 1, "created": True}
    assert second == {"status": 200, "op": "put", "revision": 2, "created": True}
    assert (third["status"], third["error"]["code"], third["error"]["outcome"]) == (
        412,
        "precondition_failed",
        "not_applied",
    )
    assert third["error"]["details"] == {"revision": 1, "store_revision": 2}
    assert (fourth["status"], fourth["error"]["details"]["revision"]) == (412, 0)
    assert (got["status"], got["found"], got["value"], got["mod_revision"]) == (200, True, "1", 1)
    assert (deleted["deleted"], deleted["revision"], deleted["prev"]["value"]) == (1, 3, "1")
    assert number == {"status": 200, "op": "increment", "value": 15, "revision": 4}
    assert [(item["key"], item["value"]) for item in listed["keys"]] == [("b", "2"), ("n", "15")]
    assert (ranged["deleted"], [item["value"] for item in ranged["prev"]]) == (1, ["2"])
    assert (ran["succeeded"], ran["results"][0]["value"]) == (True, "15")
    assert wire.backend.index == 1, "it is one entry of the log"


async def test_batch_reads_alone_need_no_entry_of_the_log() -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"1")
    entries, reads = wire.backend.index, wire.backend.reads
    found = await results(
        wire, {"op": "get", "key": "a"}, {"op": "get", "key": "b"}, {"op": "range", "prefix": ""},
        {"op": "txn", "then": [{"op": "get", "key": "a"}], "else": [{"op": "range", "start": "a", "end": "b"}]},
    )  # fmt: skip
    assert [one["status"] for one in found] == [200] * 4
    assert (found[0]["value"], found[1]["found"]) == ("1", False)
    assert (wire.backend.index, wire.backend.reads) == (entries, reads + 1)


async def test_batch_with_one_write_goes_through_the_log_as_a_whole() -> None:
    wire = KvWire()
    found = await results(
        wire, {"op": "get", "key": "a"}, {"op": "put", "key": "a", "value": "1"}, {"op": "get", "key": "a"}
    )
    assert [one.get("found") for one in found] == [False, None, True]
    assert (wire.backend.index, wire.backend.reads) == (1, 0)


async def test_batch_of_nothing_is_answered_at_once() -> None:
    wire = KvWire()
    assert await results(wire) == []
    assert (wire.backend.index, wire.backend.reads) == (0, 0)


@pytest.mark.parametrize(
    ("bad", "status", "code", "words"),
    [
        ({"op": "put", "key": "", "value": "1"}, 400, "bad_request", "the key is empty"),
        ({"op": "put", "key": "k" * 101, "value": "1"}, 413, "too_large", "the key has 101 bytes"),
        ({"op": "put", "key": "k", "value": "v" * 1001}, 413, "too_large", "the value has 1001 bytes"),
        ({"op": "put", "key": "k"}, 400, "bad_request", "value"),
        ({"op": "put", "key": "k", "key_base64": "aw==", "value": "1"}, 400, "bad_request", "key"),
        ({"op": "put", "key": "k", "value": "1", "if_absent": True, "if_present": True},
         400, "bad_request", "if_absent"),
        ({"op": "put", "key": "k", "value": "1", "if_revision": 3, "if_absent": True},
         400, "bad_request", "if_revision"),
        ({"op": "put", "key": "k", "value": "1", "ttl": "0s"}, 400, "bad_request", "ttl"),
        ({"op": "put", "key": "k", "value": "1", "ttl": "1s"}, 400, "bad_request", "ttl"),
        ({"op": "put", "key": "k", "value": "1", "ttl": "99999999h"}, 400, "bad_request", "ttl"),
        ({"op": "put", "key": "k", "value": "1", "ttl": "soon"}, 400, "bad_request", "ttl"),
        ({"op": "put", "key": "k", "value": "1", "lease": "7"}, 400, "bad_request", "lease"),
        ({"op": "put", "key": "k", "value": "1", "lease": "0" * 16}, 400, "bad_request", "lease"),
        ({"op": "put", "key": "k", "value": "1", "lease": "0" * 15 + "7", "ttl": "5s"}, 400, "bad_request", "lease"),
        ({"op": "put", "key": "k", "value": "1", "lease": "0" * 15 + "7"}, 404, "lease_not_found", "lease"),
        ({"op": "touch", "key": "k", "ttl": "5s"}, 404, "not_found", "key"),
        ({"op": "touch", "key": "k", "ttl": ""}, 400, "bad_request", "ttl"),
        ({"op": "increment", "key": "text"}, 409, "not_a_number", "number"),
        ({"op": "delete_range"}, 400, "bad_request", "prefix"),
        ({"op": "range", "prefix": "a", "start": "b"}, 400, "bad_request", "prefix"),
        ({"op": "range", "prefix": "p" * 102}, 413, "too_large", "prefix"),
        ({"op": "get", "key": "k", "revision": 999}, 400, "future_revision", "999"),
        ({"op": "txn", "then": [{"op": "put", "key": "a", "value": ""}, {"op": "delete", "key": "a"}]},
         400, "bad_command", "twice"),
        ({"op": "txn", "then": [{"op": "put", "key": "a", "value": "", "if_absent": True}]},
         400, "bad_request", "if_absent"),
        ({"op": "txn", "compare": [{"key": "a", "number": -1}]}, 400, "bad_request", "number"),
        ({"op": "txn", "then": [{"op": "get", "key": "a"}] * 129}, 413, "too_large", "128"),
    ],
)  # fmt: skip
async def test_batch_operation_that_is_refused_leaves_the_others(
    bad: dict[str, object], status: int, code: str, words: str
) -> None:
    """Operations that a client gathered have nothing to do with each other."""
    wire = KvWire()
    await wire.ask("PUT", "/key/text", b"text")
    first, middle, last = await results(
        wire, {"op": "put", "key": "x", "value": "1"}, bad, {"op": "put", "key": "y", "value": "1"}
    )
    assert (first["status"], last["status"], first["revision"] < last["revision"]) == (200, 200, True)
    assert (middle["status"], middle["error"]["code"], middle["error"]["outcome"]) == (status, code, "not_applied")
    assert words in middle["error"]["message"]
    assert wire.backend.store.revision == 3
    assert len(wire.backend.store) == 3


async def test_batch_whose_operations_are_all_refused_proposes_nothing() -> None:
    wire = KvWire()
    twice = {"op": "txn", "then": [{"op": "put", "key": "a", "value": ""}, {"op": "delete", "key": "a"}]}
    found = await results(wire, twice, {"op": "put", "key": "", "value": ""}, twice)
    assert [one["status"] for one in found] == [400, 400, 400]
    assert (wire.backend.index, wire.backend.freeing) == (0, [])


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "the body is not a batch"),
        (b"{", 400, "the body is not a batch"),
        (b"[]", 400, "Expected `object`"),
        (b'{"ops":[{"op":"put","key":"a","value":"\\ud800"}]}', 400, "a surrogate without its other half"),
        (b"{}", 400, "`ops`"),
        (b'{"ops":{}}', 400, "$.ops"),
        (b'{"ops":[],"more":1}', 400, "`more`"),
        (b'{"ops":[],"ops":[]}', 400, "'ops' is given twice"),
        (b'{"ops":[{"op":"put","key":"a","key":"b","value":""}]}', 400, "'key' is given twice"),
        (b'{"ops":[{"op":"put","key":"a","value":""},{"op":"put","key":"a","value":"","value":"v"}]}', 400, "'value'"),
        (b'{"ops":[{"op":"put","key":"a","value":"","prev":true,"prev":false}]}', 400, "'prev' is given twice"),
        (b'{"ops":[{"op":"put","key":"a","value":"v\\""},{"op":"put","op":"put","key":"a","value":""}]}', 400, "'op'"),
        (b'{"ops":[{"op":"put","key":"a","value":"v\n"}]}', 400, "not"),
        (b'{"ops":[{"key":"a"}]}', 400, "`op`"),
        (b'{"ops":[{"op":"move","key":"a"}]}', 400, "'move'"),
        (b'{"ops":[{"op":"put","key":"a","value":1}]}', 400, "$.ops[0].value"),
        (b'{"ops":[{"op":"get","key":"a"},{"op":"put","key":"a","value":"","if_revision":"1"}]}',
         400, "$.ops[1].if_revision"),
        (b'{"ops":[{"op":"put","key":"a","value":"","if_revision":-1}]}', 400, "$.ops[0].if_revision"),
        (b'{"ops":[{"op":"put","key":"a","value":"","if_revision":99999999999999999999}]}',
         400, "$.ops[0].if_revision"),
        (b'{"ops":[{"op":"put","key":"a","value":"","if_revision":1e400}]}', 400, "$.ops[0].if_revision"),
        (b'{"ops":[{"op":"increment","key":"a","by":1.5}]}', 400, "$.ops[0].by"),
        (b'{"ops":[{"op":"increment","key":"a","by":9223372036854775808}]}', 400, "$.ops[0].by"),
        (b'{"ops":[{"op":"get","key":"a","revision":0}]}', 400, "$.ops[0].revision"),
        (b'{"ops":[{"op":"range","prefix":"","limit":-1}]}', 400, "$.ops[0].limit"),
        (b'{"ops":[{"op":"put","key":"a","value":"","ttl":30}]}', 400, "$.ops[0].ttl"),
        (b'{"ops":[{"op":"put","key":"a","value":"","surprise":1}]}', 400, "`surprise`"),
        (b'{"ops":[{"op":"put","key_base64":"!","value":""}]}', 400, "$.ops[0].key_base64"),
        (b'{"ops":[' + b'{"op":"txn","then":[' * 3000, 400, "the body is not a batch"),
        (b'{"ops":[' + b",".join([b'{"op":"get","key":"a"}'] * 1001) + b"]}", 413, "'ops' has 1001 operations"),
    ],
)  # fmt: skip
async def test_batch_body_that_can_not_be_read_stores_nothing(body: bytes, status: int, words: str) -> None:
    wire = KvWire()
    answer = await wire.ask("POST", "/batch", body)
    error = error_in(answer)
    assert (answer.status, error["code"]) == (status, "bad_request" if status == 400 else "too_large")
    assert error["outcome"] == "not_applied"
    assert words in error["message"]
    assert (wire.backend.index, wire.backend.reads) == (0, 0)


async def test_batch_of_a_thousand_operations_is_taken() -> None:
    wire = KvWire()
    found = await results(wire, *[{"op": "put", "key": f"k{number}", "value": ""} for number in range(1000)])
    assert [one["revision"] for one in found] == list(range(1, 1001))


async def test_batch_above_4_mib_is_413() -> None:
    wire = KvWire()
    answer = await wire.ask("POST", "/batch", b'{"ops":[]' + b" " * (4 * 1024 * 1024) + b"}")
    assert (answer.status, error_in(answer)["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("path", "field", "status", "words"),
    [
        ("/batch", "Idempotency-Key: a,b", 400, "visible ASCII characters without a comma"),
        ("/batch", 'If-Match: "1"', 400, "If-Match"),
        ("/batch", "Content-Type: application/json; charset=latin-1", 415, "latin-1"),
        ("/batch?ttl=5s", "X: y", 400, "'ttl'"),
        ("/batch?timeout=0", "X: y", 400, "timeout"),
        ("/batch?timeout=1s&timeout=2s", "X: y", 400, "timeout"),
    ],
)
async def test_batch_request_with_a_foreign_field_is_refused(path: str, field: str, status: int, words: str) -> None:
    wire = KvWire()
    answer = await wire.ask("POST", path, b'{"ops":[{"op":"put","key":"a","value":"1"}]}', field)
    assert answer.status == status
    assert words in error_in(answer)["message"]
    assert wire.backend.index == 0


async def test_batch_that_finds_no_leader_is_answered_as_a_whole() -> None:
    wire = KvWire()
    wire.backend.propose_error = NoLeader("no leader")
    wire.backend.read_error = DeadlineExceeded("too late", outcome=Outcome.UNKNOWN)
    written = await batch(wire, {"op": "put", "key": "a", "value": "1"})
    assert (written.status, error_in(written)["code"]) == (503, "no_leader")
    read = await batch(wire, {"op": "get", "key": "a"})
    assert (read.status, error_in(read)["outcome"]) == (504, "not_applied")


async def test_batch_takes_the_deadline_of_the_request() -> None:
    wire = KvWire()
    body = b'{"ops":[{"op":"put","key":"a","value":"1"}]}'
    assert (await wire.ask("POST", "/batch?timeout=250ms", body)).status == 200
    assert wire.backend.timeouts_s == [0.25]


async def test_batch_that_only_deletes_frees_space() -> None:
    wire = KvWire()
    await results(wire, {"op": "delete", "key": "a"}, {"op": "delete_range", "prefix": "b"}, {"op": "get", "key": "a"})
    await results(wire, {"op": "delete", "key": "a"}, {"op": "put", "key": "b", "value": ""})
    assert wire.backend.freeing == [True, False]


# MessagePack


async def test_batch_in_messagepack_is_answered_in_messagepack() -> None:
    wire = KvWire()
    answer = await packed(wire, {"op": "put", "key": b"\xff", "value": b"\xfe"}, {"op": "get", "key": b"\xff"})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/msgpack"
    written, got = msgspec.msgpack.decode(answer.body)["results"]
    assert written == {"status": 200, "op": "put", "revision": 1, "created": True}
    assert (got["key"], got["value"], got["mod_revision"]) == (b"\xff", b"\xfe", 1)


@pytest.mark.parametrize(
    ("sent", "accept", "expected"),
    [
        ("application/msgpack", "*/*", "application/msgpack"),
        ("application/msgpack", "application/json", "application/json"),
        ("application/json", "application/msgpack", "application/msgpack"),
        ("application/json", "application/msgpack, application/json", "application/json"),
        ("application/msgpack", "application/json;q=0.5, application/msgpack", "application/msgpack"),
        ("application/json", "*/*", "application/json"),
    ],
)
async def test_batch_answer_has_the_form_that_is_accepted(sent: str, accept: str, expected: str) -> None:
    body: dict[str, object] = {"ops": [{"op": "increment", "key": b"n"}]}
    if sent == "application/json":
        body = {"ops": [{"op": "increment", "key": "n"}]}
    encoded = msgspec.msgpack.encode(body) if sent == "application/msgpack" else msgspec.json.encode(body)
    answer = await KvWire().ask("POST", "/batch", encoded, f"Content-Type: {sent}", f"Accept: {accept}")
    assert (answer.status, answer.headers["content-type"]) == (200, expected)
    decode = msgspec.msgpack.decode if expected == "application/msgpack" else msgspec.json.decode
    assert decode(answer.body)["results"][0]["value"] == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is not a batch"),
        (b"\xc1", "the body is not a batch"),
        (msgspec.msgpack.encode([]), "Expected `object`"),
        (msgspec.msgpack.encode({"ops": [{"op": "put", "key": "text", "value": b""}]}), "$.ops[0].key"),
        (msgspec.msgpack.encode({"ops": [{"op": "put", "key": b"k", "value": "text"}]}), "$.ops[0].value"),
        (msgspec.msgpack.encode({"ops": [{"op": "put", "key": b"k", "value": b"", "x": 1}]}), "`x`"),
        (msgspec.msgpack.encode({"ops": [{"op": "put", "key": b"k", "value_base64": b""}]}), "value_base64"),
        (msgspec.msgpack.encode({"ops": []}) + b"\x00", "the body is not a batch"),
        (b"\x82\xa3ops\x90\xa3ops\x90", "'ops' is given twice"),
        (b"\x81\xa3ops\x91\x84\xa2op\xa3put\xa3key\xc4\x01a\xa3key\xc4\x01b\xa5value\xc4\x00", "'key' is given twice"),
    ],
)
async def test_batch_in_messagepack_that_can_not_be_read_stores_nothing(body: bytes, words: str) -> None:
    wire = KvWire()
    answer = await wire.ask("POST", "/batch", body, *PACKED)
    assert answer.status == 400
    assert words in error_in(answer)["message"], "errors are JSON in each form"
    assert wire.backend.index == 0


def test_packed_members_in_a_longer_form_are_no_fault() -> None:
    """Some encoders write every length in the longest form; a member that comes twice is found in it too."""
    once = b"\xdf\0\0\0\1\xdb\0\0\0\3ops\xdd\0\0\0\1\xd2\0\0\0\5"
    assert msgspec.msgpack.decode(once) == {"ops": [5]}
    check_packed_members(once)
    with pytest.raises(RequestError, match="'ops' is given twice"):
        check_packed_members(b"\xde\0\2\xdb\0\0\0\3ops\x90\xd9\3ops\x90")


TEXTS = st.text(alphabet="ab", max_size=3)
KEYS = st.sampled_from([b"a", b"b", b"ab", b"\xff", b"\x00"])
FLAGS = st.booleans()
PUTS = st.fixed_dictionaries(
    {"op": st.just("put"), "key": KEYS, "value": st.sampled_from([b"", b"7", b"\xfe"])},
    optional={"prev": FLAGS, "if_absent": FLAGS, "if_revision": st.integers(0, 5)},
)
DELETES = st.fixed_dictionaries({"op": st.just("delete"), "key": KEYS}, optional={"prev": FLAGS, "if_present": FLAGS})
GETS = st.fixed_dictionaries({"op": st.just("get"), "key": KEYS}, optional={"revision": st.integers(1, 4)})
RANGES = st.fixed_dictionaries(
    {"op": st.just("range"), "prefix": KEYS}, optional={"values": FLAGS, "reverse": FLAGS, "limit": st.integers(0, 2)}
)
CLEARS = st.fixed_dictionaries({"op": st.just("delete_range"), "start": KEYS}, optional={"end": KEYS, "prev": FLAGS})
COUNTS = st.fixed_dictionaries(
    {"op": st.just("increment"), "key": KEYS}, optional={"by": st.integers(-9, 9), "prev": FLAGS}
)
SIMPLE = st.one_of(PUTS, DELETES, GETS, RANGES, CLEARS, COUNTS)
TXNS = st.fixed_dictionaries(
    {"op": st.just("txn")},
    optional={
        "compare": st.lists(st.fixed_dictionaries({"key": KEYS, "number": st.integers(0, 3)}), max_size=2),
        "then": st.lists(SIMPLE, max_size=2),
        "else": st.lists(SIMPLE, max_size=2),
    },
)  # fmt: skip
OPERATIONS = st.lists(st.one_of(SIMPLE, TXNS), max_size=8)


def as_json(value: Any) -> Any:
    """The JSON of a request or answer in MessagePack: bytes under two names."""
    if isinstance(value, list):
        return [as_json(one) for one in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for name, one in value.items():
        if not isinstance(one, bytes):
            found[name] = as_json(one)
            continue
        try:
            found[name] = one.decode()
        except UnicodeDecodeError:
            found[f"{name}_base64"] = base64.b64encode(one).decode()
    return found


def without_urls(value: Any) -> Any:
    if isinstance(value, list):
        return [without_urls(one) for one in value]
    if isinstance(value, dict):
        return {name: without_urls(one) for name, one in value.items() if name != "url"}
    return value


@settings(max_examples=150, deadline=None)
@given(OPERATIONS)
async def test_batch_forms_say_the_same_and_as_much_as_single_batches(ops: list[dict[str, object]]) -> None:
    """JSON, MessagePack, and the same operations in a batch each: the results are the same, and so is the state."""
    one, two, three = KvWire(), KvWire(), KvWire()
    in_json = await batch(one, *as_json(ops))
    in_messagepack = await packed(two, *ops)
    alone = [found for op in ops for found in await results(three, as_json(op))]
    assert (in_json.status, in_messagepack.status) == (200, 200)
    expected = json.loads(in_json.body)["results"]
    assert as_json(msgspec.msgpack.decode(in_messagepack.body)["results"]) == without_urls(expected)
    assert alone == expected
    assert one.backend.store.digest == two.backend.store.digest == three.backend.store.digest


@settings(max_examples=100, deadline=None)
@given(OPERATIONS, st.data())
def test_packed_members_that_come_twice_are_found_at_any_place(
    ops: list[dict[str, object]], data: st.DataObject
) -> None:
    """A member of any map of a sound document, written twice."""
    document = msgspec.msgpack.encode({"ops": ops})
    check_packed_members(document)
    maps = [place for place, byte in enumerate(document) if 0x81 <= byte < 0x8F and _is_map(document, place)]
    place = data.draw(st.sampled_from(maps))
    size = document[place + 1] & 0x1F
    twice = document[: place + 1] + document[place + 1 : place + 2 + size] + b"\xc0" + document[place + 1 :]
    twice = twice[:place] + bytes([document[place] + 1]) + twice[place + 1 :]
    with pytest.raises(RequestError, match="given twice"):
        check_packed_members(twice)


def _is_map(document: bytes, place: int) -> bool:
    """Whether a map begins here, and not the middle of a text: the decoder takes it with one member more."""
    try:
        msgspec.msgpack.decode(document[:place] + bytes([document[place] + 1]) + b"\xa1?\xc0" + document[place + 1 :])
    except msgspec.MsgspecError:
        return False
    return 0xA0 <= document[place + 1] < 0xC0
