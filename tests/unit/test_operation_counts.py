"""Limits of the number of operations: checked before they are read, also in batches that take no entry of the log."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from syncline.client import GetOp, TxnOp
from syncline.client.packed_schemas import PackedBatchBody
from syncline.client.schemas import BatchBody
from syncline.errors import OperationError, TooLarge
from tests.helpers.http_wire import Answer
from tests.helpers.kv_node import KvWire, error_in
from tests.helpers.store_node import one_store

GET = {"op": "get", "key": "a"}
PUT = {"op": "put", "key": "a", "value": "1"}
NO_KEY = {"op": "get"}
PACKED = "Content-Type: application/msgpack"
DEPTHS = (5, 300, 400)
"""Just above the limit; what a batch of reads once carried out; what once met the recursion limit of Python."""


def nested(depth: int, innermost: bytes) -> bytes:
    """JSON of transactions inside one another, and an operation in the last one."""
    return b'{"op":"txn","then":[' * depth + innermost + b"]}" * depth


def packed_nested(depth: int, innermost: bytes) -> bytes:
    """The same in MessagePack."""
    return b"\x82\xa2op\xa3txn\xa4then\x91" * depth + innermost


async def ask(wire: KvWire, path: str, body: object) -> Answer:
    return await wire.ask("POST", path, json.dumps(body).encode())


@pytest.mark.parametrize("depth", DEPTHS)
async def test_txn_nested_too_deep_is_413_at_any_depth(depth: int) -> None:
    answer = await KvWire().ask("POST", "/txn", b'{"then":[%s]}' % nested(depth, b'{"op":"get","key":"a"}'))
    assert (answer.status, error_in(answer)["code"]) == (413, "too_large")
    assert "nested deeper than 4" in error_in(answer)["message"]


@pytest.mark.parametrize("depth", DEPTHS)
async def test_batch_txn_nested_too_deep_is_refused_alone(depth: int) -> None:
    wire, get, put = KvWire(), b'{"op":"get","key":"a"}', b'{"op":"put","key":"a","value":"1"}'
    for body in (b"%s,%s" % (nested(depth, get), get), b"%s,%s" % (nested(depth, put), get)):
        answer = await wire.ask("POST", "/batch", b'{"ops":[%s]}' % body)
        assert [one["status"] for one in json.loads(answer.body)["results"]] == [413, 200]
    assert wire.backend.store.revision == 0

    packed_get = msgspec.msgpack.encode({"op": "get", "key": b"a"})
    body = b"\x81\xa3ops\x92%s%s" % (packed_nested(depth, packed_get), packed_get)
    answer = await wire.ask("POST", "/batch", body, PACKED, "Accept: application/json")
    assert [one["status"] for one in json.loads(answer.body)["results"]] == [413, 200]


async def test_batch_of_reads_has_the_limits_of_transactions() -> None:
    """Such a batch takes no command, so nothing that makes a command checks it."""
    many, deep = {"op": "txn", "then": [GET] * 129}, GET
    for _ in range(5):
        deep = {"op": "txn", "then": [deep]}  # type: ignore[dict-item]
    compares = {"op": "txn", "compare": [{"key": "a", "number": 0}] * 129}
    answer = await ask(KvWire(), "/batch", {"ops": [many, GET, compares, deep]})
    first, second, third, fourth = json.loads(answer.body)["results"]
    assert (first["status"], second["status"], third["status"], fourth["status"]) == (413, 200, 413, 413)
    assert first["error"]["message"] == "the transaction has 129 operations; the limit is 128"
    assert third["error"]["message"] == "the transaction has 129 compares; the limit is 128"


async def test_batch_of_reads_all_refused_is_answered() -> None:
    answer = await ask(KvWire(), "/batch", {"ops": [{"op": "txn", "then": [GET] * 129}]})
    assert [one["status"] for one in json.loads(answer.body)["results"]] == [413]


async def test_store_batch_of_reads_has_the_limits_of_transactions(tmp_path: Path) -> None:
    async with one_store(tmp_path) as store:
        many, sound = await store.batch([TxnOp(then=(GetOp(b"a"),) * 129), GetOp(b"a")])
        assert isinstance(many, TooLarge)
        assert not isinstance(sound, OperationError)


@pytest.mark.parametrize(
    "body",
    [
        {"then": [NO_KEY] * 129},
        {"else": [NO_KEY] * 129},
        {"compare": [{"number": 1}] * 129},
        {"then": [{"op": "txn", "then": [NO_KEY] * 128}]},
        {"then": [{"op": "txn", "compare": [{"number": 1}] * 129}]},
    ],
)
async def test_txn_is_counted_before_it_is_read(body: dict[str, object]) -> None:
    """To read 100,000 operations takes longer than an election: the leader would lose its leadership."""
    answer = await ask(KvWire(), "/txn", body)
    assert (answer.status, error_in(answer)["code"]) == (413, "too_large")
    assert "129" in error_in(answer)["message"]


@pytest.mark.parametrize("keyed", [False, True])
async def test_batch_is_counted_before_it_is_read(keyed: bool) -> None:
    """With sessions each operation is a command of its own, and no other check counts them together."""
    wire = KvWire()
    keys = [{"session": f"{7:016x}", "sequence": place} if keyed else {} for place in range(1, 1001)]
    ops = [{"op": "txn", "then": [PUT, NO_KEY, NO_KEY, NO_KEY], **key} for key in keys]
    answer = await ask(wire, "/batch", {"ops": ops})
    assert (answer.status, error_in(answer)["code"]) == (413, "too_large")
    assert error_in(answer)["message"] == "the batch has 5000 operations; the limit is 4000"
    assert wire.backend.store.revision == 0


async def test_batch_of_many_compares_is_refused_as_a_whole() -> None:
    ops = [{"op": "txn", "compare": [{"key": "a", "number": 0}] * 100, "then": [GET]} for _ in range(41)]
    answer = await ask(KvWire(), "/batch", {"ops": ops})
    assert (answer.status, error_in(answer)["message"]) == (413, "the batch has 4100 compares; the limit is 4000")


def test_bodies_of_empty_transactions_hold_no_lists() -> None:
    """Each empty list is an object for the garbage collector: with a million of them decoding takes over a second."""
    [text] = msgspec.json.decode(b'{"ops":[{"op":"txn"}]}', type=BatchBody).ops
    packed_body = msgspec.msgpack.encode({"ops": [{"op": "txn"}]})
    [packed] = msgspec.msgpack.decode(packed_body, type=PackedBatchBody).ops
    for one in (text, packed):
        assert (one.compare, one.then, one.else_) == ((), (), ())  # type: ignore[union-attr]
