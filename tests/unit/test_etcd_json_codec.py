"""Messages as JSON, by the table: what etcd's gateway accepts, what it refuses, and what its answers look like."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.node.ids import NodeId
from syncline.server.etcd.errors import INVALID_ARGUMENT, EtcdError
from syncline.server.etcd.json_codec import MAX_DEPTH, MAX_PARTS, decode, decode_stream, encode
from syncline.server.etcd.messages import ENUMS, MESSAGES, SCALARS, Message
from syncline.server.etcd.methods import METHODS
from tests.helpers.etcd_messages import messages

PUT, RANGE, TXN = "etcdserverpb.PutRequest", "etcdserverpb.RangeRequest", "etcdserverpb.TxnRequest"


@pytest.mark.parametrize("name", sorted({*(one.request for one in METHODS.values())}))
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_json_message_is_read_as_it_was_written(name: str, data: st.DataObject) -> None:
    message = data.draw(messages(name))
    assert decode(name, encode(name, message)) == message


def test_json_names_are_read_in_both_spellings() -> None:
    assert decode(PUT, b'{"prevKv":true,"ignore_lease":true}') == {"prev_kv": True, "ignore_lease": True}
    assert decode("etcdserverpb.LeaseGrantRequest", b'{"TTL":5,"ID":"7"}') == {"TTL": 5, "ID": 7}


def test_json_null_unknown_and_absent_are_the_default() -> None:
    assert decode(PUT, b'{"key":null,"no_such_field":[1,{}],"lease":null}') == {}
    assert decode(PUT, b"") == decode(PUT, b" \n") == decode(PUT, b"{}") == decode(PUT, b"null") == {}


def test_json_enum_is_read_by_name_and_by_number() -> None:
    assert decode(RANGE, b'{"sort_order":"DESCEND","sort_target":4}') == {"sort_order": 2, "sort_target": 4}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{bad", "is not JSON"),
        (b"[]", "expected an object"),
        (b'"x"', "expected an object"),
        (b"\xff", "is not JSON"),
        (b'{"key":"%%%"}', "base64"),
        (b'{"key":"YQ"}', "base64"),
        (b'{"key":"-_8="}', "base64"),
        (b'{"key":"\xc3\xa4"}', "base64"),
        (b'{"key":1}', "base64"),
        (b'{"lease":"x"}', "lease is not a whole number"),
        (b'{"lease":1.5}', "lease is not a whole number"),
        (b'{"lease":true}', "lease is not a whole number"),
        (b'{"lease":"0x10"}', "lease is not a whole number"),
        (b'{"lease":"9223372036854775808"}', "out of range"),
        (b'{"lease":99999999999999999999999999}', "lease is"),
        (b'{"prev_kv":"true"}', "expected true or false"),
        (b'{"prev_kv":1}', "expected true or false"),
    ],
)
def test_json_of_a_wrong_form_is_refused_with_its_field(body: bytes, why: str) -> None:
    with pytest.raises(EtcdError, match=why) as caught:
        decode(PUT, body)
    assert caught.value.code == INVALID_ARGUMENT


def test_json_unknown_enum_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(EtcdError, match="unknown value 'UP'; there are NONE, ASCEND, DESCEND"):
        decode(RANGE, b'{"sort_order":"UP"}')


def test_json_deeper_than_the_limit_is_refused() -> None:
    """A transaction within transactions takes two messages for each level."""
    inner = b"{}"
    for _ in range(MAX_DEPTH):
        inner = b'{"success":[{"request_txn":%b}]}' % inner
    with pytest.raises(EtcdError, match="nested deeper"):
        decode(TXN, inner)
    with pytest.raises(EtcdError, match="JSON"):
        decode(TXN, b'{"x":' * 100_000)


def test_json_stream_has_several_documents() -> None:
    body = b'{"create_request":{"key":"YQ=="}} \n{"progress_request":{}}{"cancel_request":{"watch_id":"3"}}'
    assert decode_stream("etcdserverpb.WatchRequest", body) == [
        {"create_request": {"key": b"a"}},
        {"progress_request": {}},
        {"cancel_request": {"watch_id": 3}},
    ]
    assert decode_stream("etcdserverpb.WatchRequest", b"") == []
    with pytest.raises(EtcdError, match="JSON"):
        decode_stream("etcdserverpb.WatchRequest", b'{"create_request":{}} {')
    with pytest.raises(EtcdError, match="more than"):
        decode_stream("etcdserverpb.WatchRequest", b"{}" * 1001)


def test_json_answer_leaves_defaults_out_and_keeps_empty_messages() -> None:
    answer = {
        "header": {},
        "deleted": 0,
        "prev_kvs": [],
    }
    assert encode("etcdserverpb.DeleteRangeResponse", answer) == b'{"header":{}}'
    event = {"type": 1, "kv": {"key": b"a", "mod_revision": 2**62, "value": b""}}
    assert json.loads(encode("mvccpb.Event", event)) == {
        "type": "DELETE",
        "kv": {"key": "YQ==", "mod_revision": str(2**62)},
    }
    assert encode("mvccpb.Event", {"type": 0, "kv": {}}) == b'{"kv":{}}'
    hashed: Message = {"hash": 5, "hash_revision": 6}
    assert encode("etcdserverpb.HashKVResponse", hashed) == b'{"hash":5,"hash_revision":"6"}', "32 bits are a number"


def test_json_number_is_decimal_whatever_its_text_is() -> None:
    assert encode("etcdserverpb.Member", {"ID": NodeId(255)}) == b'{"ID":"255"}'


def test_table_names_only_types_that_it_has() -> None:
    for name, fields in MESSAGES.items():
        assert list(fields) == sorted(fields), name
        for field in fields.values():
            assert field.type in SCALARS or field.type in ENUMS or field.type in MESSAGES, (name, field)
    for method in METHODS.values():
        assert method.request in MESSAGES
        assert method.response in MESSAGES


def test_json_body_of_very_many_parts_is_refused() -> None:
    """Each takes a microsecond: 1.5 MiB of them would hold the event loop for a second."""
    for body in (b'{"compare":[' + b"{}," * (MAX_PARTS + 1) + b"{}]}", b"{}," * (MAX_PARTS + 1)):
        for read in (decode, decode_stream):
            with pytest.raises(EtcdError, match=f"more than {MAX_PARTS} fields") as refusal:
                read(TXN, body)
            assert refusal.value.code == INVALID_ARGUMENT
