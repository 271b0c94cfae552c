"""The JSON of the HTTP API: its bytes stay, and the client reads what the server writes."""

from __future__ import annotations

from syncline.client.connection import ClientResponse
from syncline.client.txn import Compare, DeleteOp, DeletePrefixOp, GetOp, Operation, PutOp, txn_body
from syncline.client.wire import error_from, key_page, txn_result
from syncline.errors import NoLeader, NotLeader, Outcome, RequestFailed
from tests.helpers.http_wire import Answer
from tests.helpers.kv_node import KvWire

THEN: list[Operation] = [PutOp(b"a", b"1"), DeleteOp(b"q"), DeletePrefixOp(b"z"), GetOp(b"a")]
BODY = (
    b'{"compare":[{"key_base64":"/w==","op":"==","target":"mod_revision","number":0},'
    b'{"key":"a","op":"!=","target":"value","value_base64":"/g=="}],'
    b'"then":[{"op":"put","key":"a","value_base64":"MQ=="},{"op":"delete","key":"q"},'
    b'{"op":"delete_range","prefix":"z"},{"op":"get","key":"a"}],'
    b'"else":[{"op":"get","key_base64":"/w=="}]}'
)
ANSWER = (
    b'{"status":"success","succeeded":true,"revision":1,"results":[{"op":"put","revision":1,"created":true},'
    b'{"op":"delete","deleted":0,"revision":1},{"op":"delete_range","deleted":0,"more":false,"revision":1},'
    b'{"op":"get","found":true,"key":"a","url":"/key/a","mod_revision":1,"create_revision":1,"version":1,'
    b'"size_bytes":1,"value":"1"}]}\n'
)


def response(answer: Answer) -> ClientResponse:
    return ClientResponse(answer.status, answer.headers, answer.body)


def test_schemas_transaction_body_keeps_its_bytes() -> None:
    compares = [Compare(b"\xff"), Compare(b"a", op="!=", value=b"\xfe")]
    assert txn_body(compares, THEN, [GetOp(b"\xff")]) == BODY


async def test_schemas_transaction_answer_keeps_its_bytes() -> None:
    answer = response(await KvWire().ask("POST", "/txn", txn_body([Compare(b"a")], THEN, [])))
    assert answer.body == ANSWER
    put, _, deleted, got = txn_result(answer).results
    assert (put.op, put.revision, deleted.op, deleted.deleted) == ("put", 1, "delete_range", 0)
    assert (got.found, got.key, got.value, got.mod_revision) == (True, b"a", b"1", 1)


async def test_schemas_page_of_keys_keeps_its_bytes() -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/%FE", b"\xfd")
    answer = response(await wire.ask("GET", "/keys?values=true"))
    assert answer.body == (
        b'{"revision":1,"keys":[{"key_base64":"/g==","url":"/key/%FE","mod_revision":1,"create_revision":1,'
        b'"version":1,"size_bytes":1,"value_base64":"/Q=="}],"count":1,"more":false,"next":null,"next_url":null}\n'
    )
    (item,) = key_page(answer).items
    assert (item.key, item.value, item.lease) == (b"\xfe", b"\xfd", 0)


async def test_schemas_error_keeps_its_bytes_and_its_class() -> None:
    wire = KvWire()
    wire.backend.propose_error = NotLeader("node b leads", leader=0x2222)
    wire.backend.leader_name = "b"
    answer = response(await wire.ask("PUT", "/key/a", b"1"))
    assert answer.body == (
        b'{"error":{"code":"not_leader","message":"node b leads","outcome":"not_applied",'
        b'"leader":{"id":"0000000000002222","name":"b","http":"http://b:8080"}}}\n'
    )
    error = error_from(answer)
    assert isinstance(error, NotLeader)
    assert error.leader == 0x2222


def test_schemas_error_without_an_outcome_is_unknown() -> None:
    """A gateway may answer in this form, and can't know what became of the request."""
    error = error_from(ClientResponse(502, {}, b'{"error":{"code":"upstream","message":"no answer"}}'))
    assert isinstance(error, RequestFailed)
    assert error.outcome is Outcome.UNKNOWN


def test_schemas_error_whose_leader_has_no_id_keeps_its_class_and_outcome() -> None:
    body = b'{"error":{"code":"no_leader","message":"m","outcome":"not_applied","leader":{"name":"b","zone":1}}}'
    error = error_from(ClientResponse(503, {}, body))
    assert isinstance(error, NoLeader)
    assert (error.outcome, error.leader) == (Outcome.NOT_APPLIED, None)
