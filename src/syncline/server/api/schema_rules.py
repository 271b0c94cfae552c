"""Which fields of an operation go together: the part of its schema that types can't tell.

`OperationReader` refuses what these rules refuse; `tests/unit/test_schema_rules.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from syncline.client.schemas import (
    CompareItem,
    DeleteItem,
    DeleteRangeItem,
    GetItem,
    IncrementItem,
    PutItem,
    RangeItem,
    TouchItem,
)
from syncline.server.api.operations import COMPARISONS, TARGETS
from syncline.server.api.parameters import Schema

__all__ = ["RULES"]


def _given(*names: str) -> Schema:
    return {"required": list(names)}


def _one_of(*names: str) -> Schema:
    """Exactly one of these fields."""
    return {"oneOf": [_given(name) for name in names]}


def _any_of(*names: str) -> Schema:
    return {"anyOf": [_given(name) for name in names]}


def _none_of(*names: str) -> Schema:
    return {"not": _any_of(*names)}


def _not_both(*names: str) -> Schema:
    return {"not": _given(*names)}


def _all(*rules: Schema) -> Schema:
    return {"allOf": list(rules)}


def _pair(name: str) -> Schema:
    """Bytes: as a text, or in base64."""
    return _one_of(name, f"{name}_base64")


def _target(name: str) -> Schema:
    return {"properties": {"target": {"const": name}}, **_given("target")}


_PREFIX: Final = ("prefix", "prefix_base64")
_START: Final = ("start", "start_base64")
_END: Final = ("end", "end_base64")
_VALUE: Final = ("value", "value_base64")

_BOUNDS: Final = _all(
    {"oneOf": [_given("prefix"), _given("prefix_base64"), _any_of(*_START, *_END)]},
    _not_both(*_START),
    _not_both(*_END),
)
_OPERAND: Final[Schema] = {
    "if": _target("value"),
    "then": _all(_one_of(*_VALUE), _none_of("number", "lease")),
    "else": {
        "if": _target("lease"),
        "then": _all(_given("lease"), _none_of("number", *_VALUE)),
        "else": _all(_given("number"), _none_of("lease", *_VALUE)),
    },
}
_COMPARE: Final = _all(
    {
        "properties": {
            "target": {"enum": list(TARGETS)},
            "op": {"enum": list(COMPARISONS)},
            "key": {"minLength": 1},
            "key_base64": {"minLength": 1},
        }
    },
    _one_of("key", "key_base64", *_PREFIX),
    _not_both(*_END),
    {"anyOf": [_none_of(*_PREFIX), _none_of(*_END)]},
    _OPERAND,
)

_KEY: Final = _all(_pair("key"), {"properties": {"key": {"minLength": 1}, "key_base64": {"minLength": 1}}})

RULES: Final[Mapping[type, Schema]] = {
    PutItem: _all(_KEY, _pair("value"), _not_both("lease", "ttl")),
    DeleteItem: _KEY,
    GetItem: _KEY,
    IncrementItem: _KEY,
    TouchItem: _KEY,
    DeleteRangeItem: _BOUNDS,
    RangeItem: _BOUNDS,
    CompareItem: _COMPARE,
}
"""By struct: what is added to its schema."""
