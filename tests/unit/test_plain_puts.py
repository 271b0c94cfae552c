"""The short way of a batch for plain puts: it reads what the long way reads, or leaves it to that."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from syncline.client.packed_schemas import PackedPut
from syncline.client.schemas import DeleteItem, PutItem
from syncline.errors import RequestFailed, TooLarge
from syncline.kv.commands import Put
from syncline.server.api.errors import RequestError
from syncline.server.api.operations import OperationReader

READER = OperationReader(max_key_bytes=4, max_value_bytes=6, new_lease=lambda: 7)
texts = st.sampled_from(["", "a", "\u00e9\u00e9", "abcde", "\ud800", UNSET, UNSET])
octets = st.sampled_from([b"", b"a", b"\xff", b"abcdefg", UNSET, UNSET])
mostly_unset = st.sampled_from([UNSET, UNSET, UNSET, UNSET, 1])
options = {
    "session": mostly_unset.map(lambda one: one if one is UNSET else "1"),
    "sequence": mostly_unset,
    "lease": mostly_unset.map(lambda one: one if one is UNSET else f"{one:016x}"),
    "ttl": mostly_unset.map(lambda one: one if one is UNSET else "30s"),
    "prev": st.sampled_from([False, False, False, True]),
    "if_revision": mostly_unset,
    "if_absent": st.sampled_from([False, False, False, True]),
    "if_present": st.sampled_from([False, False, False, True]),
}
items = st.one_of(
    st.builds(PutItem, key=texts, key_base64=octets, value=texts, value_base64=octets, **options),
    st.builds(
        PackedPut,
        key_base64=octets.filter(lambda one: one is not UNSET),
        value_base64=octets.filter(lambda one: one is not UNSET),
        **options,
    ),
)


@given(items)
def test_plain_put_is_what_the_long_way_reads(item: PutItem | PackedPut) -> None:
    found = READER.plain_put(item)
    if found is not None:
        assert found == READER.operation(item, "it", conditions=True)
        assert item.session is UNSET
        assert item.sequence is UNSET


@given(items)
def test_plain_put_leaves_only_what_is_more_or_wrong(item: PutItem | PackedPut) -> None:
    """Otherwise it would be no shortcut."""
    if READER.plain_put(item) is not None:
        return
    try:
        command = READER.operation(item, "it", conditions=True)
    except (RequestError, RequestFailed, TooLarge):
        return
    assert isinstance(command, Put)
    mixed = (item.key is not UNSET and item.value is UNSET) or (item.key is UNSET and item.value is not UNSET)
    once = item.session is not UNSET or item.sequence is not UNSET
    assert command != Put(command.key, command.value) or once or mixed


@pytest.mark.parametrize(
    "item",
    [
        PutItem(key="k", value="v"),
        PutItem(key_base64=b"k", value_base64=b"v"),
        PackedPut(key_base64=b"k", value_base64=b"v"),
    ],
)
def test_plain_put_of_a_key_and_a_value_is_read(item: PutItem | PackedPut) -> None:
    assert READER.plain_put(item) == Put(b"k", b"v")


def test_plain_put_is_no_other_operation() -> None:
    assert READER.plain_put(DeleteItem(key="k")) is None


@pytest.mark.parametrize(
    "more",
    [
        {"session": "1"},
        {"sequence": 1},
        {"lease": "1"},
        {"ttl": "30s"},
        {"if_revision": 1},
        {"prev": True},
        {"if_absent": True},
        {"if_present": True},
        {"key_base64": b"k"},
        {"value_base64": b"v"},
        {"key": ""},
        {"key": "abcde"},
        {"value": "abcdefg"},
        {"value": "\ud800"},
    ],
)
def test_plain_put_with_anything_more_or_wrong_is_left_alone(more: dict[str, Any]) -> None:
    """It would lose a condition, a session or a lease, or pass a limit."""
    assert READER.plain_put(PutItem(**{"key": "k", "value": "v", **more})) is None
    if not more.keys() & {"key", "value", "key_base64", "value_base64"}:
        assert READER.plain_put(PackedPut(key_base64=b"k", value_base64=b"v", **more)) is None
