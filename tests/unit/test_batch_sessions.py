"""Operations of a batch that take effect once: `session` and `sequence`, whatever batch they are sent again in."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from syncline.errors import Dropped, NoLeader, Outcome
from syncline.kv.commands import Delete, Get, Put
from syncline.kv.records import BatchAnswer, GetAnswer, PutAnswer
from syncline.server.api.batch_parts import BatchParts
from syncline.server.api.operation_results import JsonResults
from syncline.sessions.entries import OnceKey
from tests.helpers.kv_node import KvWire, error_in


async def opened(wire: KvWire) -> str:
    answer = await wire.ask("POST", "/session")
    assert answer.status == 200, answer.body
    found = json.loads(answer.body)["id"]
    assert isinstance(found, str)
    return found


async def results(wire: KvWire, *ops: object) -> list[dict[str, Any]]:
    answer = await wire.ask("POST", "/batch", json.dumps({"ops": ops}).encode())
    assert answer.status == 200, answer.body
    found = json.loads(answer.body)["results"]
    assert isinstance(found, list)
    return found


async def test_batch_operation_sent_again_in_other_company_takes_effect_once() -> None:
    wire = KvWire()
    session = await opened(wire)
    increment = {"op": "increment", "key": "n", "session": session, "sequence": 1}
    put = {"op": "put", "key": "a", "value": "1", "if_absent": True, "session": session, "sequence": 2}
    first = await results(wire, increment, {"op": "put", "key": "x", "value": ""}, put, {"op": "get", "key": "n"})
    assert [one["status"] for one in first] == [200, 200, 200, 200]
    assert (first[0]["value"], first[3]["value"]) == (1, "1")
    again = await results(wire, {"op": "increment", "key": "n"}, put, {"op": "delete", "key": "x"}, increment)
    assert again[1] == {**first[2], "replayed": True}
    assert again[3] == {**first[0], "replayed": True}
    assert (again[0]["value"], again[0].get("replayed")) == (2, None)
    packed = msgspec.msgpack.encode({"ops": [{"op": "increment", "key": b"n", "session": session, "sequence": 1}]})
    answer = await wire.ask("POST", "/batch", packed, "Content-Type: application/msgpack")
    assert msgspec.msgpack.decode(answer.body)["results"] == [{**first[0], "replayed": True}]
    assert wire.backend.store.get(b"n").value == b"2"  # type: ignore[union-attr]


async def test_batch_operation_refusal_that_was_recorded_says_so() -> None:
    wire = KvWire()
    session = await opened(wire)
    put = {"op": "put", "key": "a", "value": "1", "if_present": True, "session": session, "sequence": 1}
    [first] = await results(wire, put)
    other = {**put, "value": "2"}
    again, mismatch = await results(wire, put, other)
    assert (first["status"], mismatch["status"]) == (412, 422)
    assert again == {**first, "replayed": True}
    assert ("replayed" in first, "replayed" in mismatch) == (False, False)


async def test_batch_operation_with_a_new_lease_may_be_sent_again() -> None:
    """Each attempt draws another id for the lease: the operation is the same one all the same."""
    wire = KvWire()
    session = await opened(wire)
    put = {"op": "put", "key": "a", "value": "1", "ttl": "30s", "session": session, "sequence": 1}
    inner = {"op": "txn", "then": [{"op": "touch", "key": "a", "ttl": "60s"}], "session": session, "sequence": 2}
    first = await results(wire, put, inner)
    assert await results(wire, put, inner) == [{**one, "replayed": True} for one in first]
    assert len(wire.backend.store.leases) == 1


async def test_batch_operation_of_a_session_that_is_not_open_leaves_the_others() -> None:
    wire = KvWire()
    session = await opened(wire)
    gone, mine, other = await results(
        wire,
        {"op": "put", "key": "a", "value": "1", "session": f"{12345:016x}", "sequence": 1},
        {"op": "put", "key": "b", "value": "1", "session": session, "sequence": 1},
        {"op": "put", "key": "c", "value": "1"},
    )
    assert (gone["status"], gone["error"]["code"]) == (410, "session_expired")
    assert (mine["status"], other["status"]) == (200, 200)
    (mismatch,) = await results(wire, {"op": "put", "key": "b", "value": "2", "session": session, "sequence": 1})
    assert (mismatch["status"], mismatch["error"]["code"]) == (422, "idempotency_mismatch")
    assert wire.backend.store.get(b"b").value == b"1"  # type: ignore[union-attr]


async def test_batch_refusal_of_an_operation_is_recorded_too() -> None:
    wire = KvWire()
    session = await opened(wire)
    put = {"op": "put", "key": "a", "value": "1", "if_revision": 7, "session": session, "sequence": 1}
    (first,) = await results(wire, put)
    await wire.ask("PUT", "/key/a", b"x")
    (again,) = await results(wire, put)
    assert first["status"] == again["status"] == 412
    assert first["error"]["details"] == again["error"]["details"] == {"revision": 0, "store_revision": 0}


SESSION = "0" * 15 + "1"


@pytest.mark.parametrize(
    ("op", "words"),
    [
        ({"op": "put", "key": "a", "value": "", "session": SESSION}, "'session' and 'sequence' go together"),
        ({"op": "put", "key": "a", "value": "", "sequence": 1}, "'session' and 'sequence' go together"),
        ({"op": "put", "key": "a", "value": "", "session": "0" * 16, "sequence": 1}, "'session' is no id"),
        ({"op": "put", "key": "a", "value": "", "session": "f" * 16, "sequence": 1}, "'session' is no id"),
        (
            {"op": "txn", "then": [{"op": "delete", "key": "a", "session": SESSION, "sequence": 1}]},
            "'session' and 'sequence' are for operations of a batch",
        ),
        (
            {"op": "txn", "else": [{"op": "delete_range", "prefix": "a", "session": SESSION, "sequence": 1}]},
            "'session' and 'sequence' are for operations of a batch",
        ),
    ],
)
async def test_batch_session_that_can_not_be_used_is_refused_alone(op: dict[str, object], words: str) -> None:
    wire = KvWire()
    bad, good = await results(wire, op, {"op": "put", "key": "b", "value": ""})
    assert (bad["status"], bad["error"]["code"], good["status"]) == (400, "bad_request", 200)
    assert words in bad["error"]["message"]
    assert len(wire.backend.store) == 1


@pytest.mark.parametrize(
    ("op", "words"),
    [
        ({"op": "put", "key": "a", "value": "", "session": 7, "sequence": 1}, "$.ops[0].session"),
        ({"op": "put", "key": "a", "value": "", "session": "abc", "sequence": 1}, "$.ops[0].session"),
        ({"op": "put", "key": "a", "value": "", "session": SESSION, "sequence": 0}, "$.ops[0].sequence"),
        ({"op": "put", "key": "a", "value": "", "session": SESSION, "sequence": 2**63}, "$.ops[0].sequence"),
        ({"op": "get", "key": "a", "session": SESSION, "sequence": 1}, "`session`"),
        ({"op": "range", "prefix": "a", "session": SESSION, "sequence": 1}, "`session`"),
    ],
)
async def test_batch_session_of_a_wrong_type_refuses_the_batch(op: dict[str, object], words: str) -> None:
    wire = KvWire()
    answer = await wire.ask("POST", "/batch", json.dumps({"ops": [op, {"op": "delete", "key": "b"}]}).encode())
    assert answer.status == 400
    assert words in error_in(answer)["message"]
    assert wire.backend.index == 0


async def test_txn_takes_no_session_in_its_body() -> None:
    body = json.dumps({"then": [{"op": "put", "key": "a", "value": "", "session": SESSION, "sequence": 1}]}).encode()
    answer = await KvWire().ask("POST", "/txn", body)
    assert (answer.status, error_in(answer)["code"]) == (400, "bad_request")


# --- parts that end in different ways


def parts_of_three() -> BatchParts:
    batch = BatchParts(4, JsonResults(""))
    batch.add(0, Put(b"a", b""), None, b"")
    batch.add(1, Get(b"a"), None, b"")
    batch.add(2, Put(b"b", b""), OnceKey(1, 1), b"")
    batch.add(3, Delete(b"a"), None, b"")
    batch.encode()
    return batch


def test_batch_parts_keep_the_order_of_the_operations() -> None:
    assert [part.places for part in parts_of_three().parts] == [[0, 1], [2], [3]]


def test_batch_parts_that_were_not_taken_leave_the_results_of_the_others() -> None:
    batch = parts_of_three()
    first, second, third = batch.parts
    assert not batch.done(first, BatchAnswer((PutAnswer(1, True, 0), GetAnswer(None, 1)), 1), None)
    assert not batch.done(second, None, NoLeader("gone"))
    assert batch.done(third, None, Dropped("gone", outcome=Outcome.UNKNOWN))
    assert batch.failure is None
    kept = json.loads(msgspec.json.encode(batch.results))
    assert [one["status"] for one in kept] == [200, 200, 503, 503]
    assert [one["error"]["outcome"] for one in kept[2:]] == ["not_applied", "unknown"]


def test_batch_parts_that_were_all_not_taken_fail_as_a_whole() -> None:
    """An unknown outcome of one of them is the outcome of the whole."""
    batch = parts_of_three()
    doubt = Dropped("lost", outcome=Outcome.UNKNOWN)
    ends = [
        batch.done(part, None, error)
        for part, error in zip(batch.parts, (NoLeader("a"), doubt, NoLeader("c")), strict=True)
    ]
    assert ends == [False, False, True]
    assert batch.failure is doubt


async def whole(wire: KvWire, key: str, *ops: object, packed: bool = False) -> Any:
    fields = [f"Idempotency-Key: {key}"]
    body = (msgspec.msgpack.encode if packed else msgspec.json.encode)({"ops": ops})
    if packed:
        fields.append("Content-Type: application/msgpack")
    return await wire.ask("POST", "/batch", body, *fields)


async def test_batch_with_a_key_takes_effect_once_as_a_whole() -> None:
    wire = KvWire()
    session = await opened(wire)
    ops = (
        {"op": "increment", "key": b"n"},
        {"op": "put", "key": b"a", "value": b"1", "if_absent": True},
        {"op": "get", "key": b"n"},
        {"op": "put", "key": b"a", "value": b"2", "if_revision": 7},
        {"op": "put", "key": b"t", "value": b"", "ttl": "30s"},
    )
    first = await whole(wire, f"{session}/1", *ops, packed=True)
    again = await whole(wire, f"{session}/1", *ops, packed=True)
    assert (first.status, again.status) == (200, 200)
    assert first.body == again.body
    assert [one["status"] for one in msgspec.msgpack.decode(first.body)["results"]] == [200, 200, 200, 412, 200]
    assert ("idempotency-replayed" in first.headers, again.headers["idempotency-replayed"]) == (False, "true")
    assert wire.backend.store.get(b"n").value == b"1"  # type: ignore[union-attr]
    assert len(wire.backend.store.leases) == 1


async def test_batch_key_of_another_batch_is_a_mismatch() -> None:
    wire = KvWire()
    session = await opened(wire)
    await whole(wire, f"{session}/1", {"op": "put", "key": "a", "value": "1"})
    answer = await whole(wire, f"{session}/1", {"op": "put", "key": "a", "value": "2"})
    assert (answer.status, error_in(answer)["code"]) == (422, "idempotency_mismatch")
    answer = await whole(wire, f"{12345:016x}/1", {"op": "put", "key": "a", "value": "2"})
    assert (answer.status, error_in(answer)["code"]) == (410, "session_expired")
    assert wire.backend.store.get(b"a").value == b"1"  # type: ignore[union-attr]


async def test_batch_key_and_keys_of_its_operations_are_refused() -> None:
    wire = KvWire()
    session = await opened(wire)
    put = {"op": "put", "key": "a", "value": "1", "session": session, "sequence": 1}
    answer = await whole(wire, f"{session}/2", put, {"op": "put", "key": "b", "value": ""})
    assert (answer.status, len(wire.backend.store)) == (400, 0)
    assert "not both" in error_in(answer)["message"]


async def test_batch_key_means_nothing_if_the_batch_only_reads() -> None:
    wire = KvWire()
    session = await opened(wire)
    answer = await whole(wire, f"{session}/1", {"op": "get", "key": "a"})
    await wire.ask("PUT", "/key/a", b"1")
    again = await whole(wire, f"{session}/1", {"op": "get", "key": "a"})
    found = [json.loads(one.body)["results"][0]["found"] for one in (answer, again)]
    assert found == [False, True]


async def test_batch_whose_answer_is_not_kept_is_marked_as_repeated() -> None:
    """As other writes are: the field says that nothing was done now."""
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"v" * 1000)
    ops = ({"op": "increment", "key": b"n"}, *[{"op": "get", "key": b"a"}] * 70)
    first = await whole(wire, "large", *ops, packed=True)
    again = await whole(wire, "large", *ops, packed=True)
    assert (first.status, again.status, error_in(again)["code"]) == (200, 409, "answer_not_kept")
    assert ("idempotency-replayed" in first.headers, again.headers.get("idempotency-replayed")) == (False, "true")
