"""The rules of `/openapi.json` about fields that go together are those by which operations are read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, combinations

import msgspec
import pytest
from openapi_schema_validator import OAS31Validator

from syncline.client.schemas import BatchBody, TxnBody
from syncline.errors import RequestFailed
from syncline.server.api.errors import RequestError
from syncline.server.api.openapi import document
from syncline.server.api.operations import OperationReader
from tests.helpers.kv_node import KvWire

READER = OperationReader(max_key_bytes=100, max_value_bytes=100, new_lease=lambda: 7)

TEXT: dict[str, object] = dict.fromkeys(("key", "prefix", "start", "end", "value"), "a")
ENCODED: dict[str, object] = {f"{name}_base64": "YQ==" for name in TEXT}
WORDS: dict[str, object] = {**TEXT, **ENCODED, "number": 1, "lease": "00000000000000aa", "ttl": "5s"}
KEY, PREFIX = ("key", "key_base64"), ("prefix", "prefix_base64")
END, VALUE = ("end", "end_base64"), ("value", "value_base64")
BOUNDS = (*PREFIX, "start", "start_base64", *END)


def validator(root: str) -> OAS31Validator:
    """Of one struct of the document."""
    made = json.loads(msgspec.json.encode(document(KvWire().site.router.declared)))
    return OAS31Validator({"$ref": f"#/components/schemas/{root}", "components": made["components"]})


def subsets(names: tuple[str, ...]) -> Iterator[dict[str, object]]:
    for chosen in chain.from_iterable(combinations(names, count) for count in range(len(names) + 1)):
        yield {name: WORDS[name] for name in chosen}


def read(body: object) -> bool:
    """Whether the server takes the first operation or compare of a body."""
    encoded = json.dumps(body).encode()
    try:
        if isinstance(body, dict) and "ops" in body:
            READER.batch_operation(msgspec.json.decode(encoded, type=BatchBody).ops[0], "the operation")
        else:
            READER.txn(msgspec.json.decode(encoded, type=TxnBody), "the transaction")
    except (RequestError, RequestFailed, msgspec.ValidationError):
        return False
    return True


@pytest.mark.parametrize(
    ("op", "names", "always"),
    [
        ("put", (*KEY, *VALUE, "lease", "ttl"), {}),
        ("get", KEY, {}),
        ("delete", KEY, {}),
        ("increment", KEY, {}),
        ("touch", KEY, {"ttl": "5s"}),
        ("range", BOUNDS, {}),
        ("delete_range", BOUNDS, {}),
    ],
)
def test_operation_is_read_if_its_schema_allows_it(op: str, names: tuple[str, ...], always: dict[str, object]) -> None:
    allowed = validator("BatchBody")
    taken = 0
    for fields in subsets(names):
        body = {"ops": [{"op": op, **fields, **always}]}
        assert allowed.is_valid(body) == read(body), body
        taken += read(body)
    assert taken


@pytest.mark.parametrize("target", [None, "mod_revision", "version", "value", "lease", "bogus"])
def test_compare_is_read_if_its_schema_allows_its_operand(target: str | None) -> None:
    allowed = validator("TxnBody")
    named: dict[str, object] = {} if target is None else {"target": target}
    for fields in subsets((*VALUE, "number", "lease")):
        body = {"compare": [{"key": "a", **named, **fields}]}
        assert allowed.is_valid(body) == read(body), body


def test_compare_is_read_if_its_schema_allows_its_keys() -> None:
    allowed = validator("TxnBody")
    for fields in subsets((*KEY, *PREFIX, *END)):
        body = {"compare": [{"number": 1, **fields}]}
        assert allowed.is_valid(body) == read(body), body
    for field in ({"op": "~"}, {"op": "<"}, {"key": ""}):
        body = {"compare": [{"key": "a", "number": 1, **field}]}
        assert allowed.is_valid(body) == read(body), body
