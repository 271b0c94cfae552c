"""Encode values of a declared type so that equal states give equal bytes on every node.

A dict keeps its order: the order of insertion is state. A set has no order of its own, so its elements are sorted.
"""

from __future__ import annotations

import collections.abc
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Final

import msgspec
from msgspec import inspect as types

__all__ = ["Codec", "UnfitType"]

PIECE: Final = 512
"""Elements of a container that are encoded in one call: a call holds the interpreter's lock."""

_PLAIN: Final = msgspec.msgpack.Encoder()
_SORTED: Final = msgspec.msgpack.Encoder(order="deterministic")

_SETS: Final = (types.SetType, types.FrozenSetType)
_PIECED: Final = (types.DictType, types.ListType, *_SETS)


class UnfitType(TypeError):
    """A declared type whose values can't be written and read back."""


class Codec:
    """Writes and reads values of one type.

    Raises:
        UnfitType: values of the type can't be written, or not read back as they were.
    """

    def __init__(self, kind: object, *, any_allowed: bool = False) -> None:
        try:
            self.info: types.Type = types.type_info(kind)
            self._decoder: msgspec.msgpack.Decoder[object] = msgspec.msgpack.Decoder(kind)
        except TypeError as error:
            raise UnfitType(str(error)) from None
        inside = list(_walk(self.info, set()))
        for part in inside:
            if isinstance(part, types.CustomType):
                raise UnfitType(f"values of {_name(part.cls)} can't be encoded")
            if isinstance(part, types.AnyType) and not any_allowed:
                raise UnfitType("`Any` would come back from a snapshot as other types: name the types")
        self._has_sets = any(isinstance(part, _SETS) for part in inside)
        # A struct goes to msgspec as a whole, which sorts either both sets and dicts, or neither.
        if self._has_sets:
            for part in inside:
                if isinstance(part, _RECORDS):
                    held = list(_walk(part, set()))
                    if any(isinstance(one, _SETS) for one in held) and any(
                        isinstance(one, types.DictType | types.AnyType) for one in held
                    ):
                        raise UnfitType(
                            f"{_name(part.cls)} holds both a set and a dict: use a dict in place of the set"
                        )
        self.pieced: bool = isinstance(self.info, _PIECED) and not (self.info.min_length or self.info.max_length)

    def dump(self, value: object) -> bytes:
        """Encode a value. Raises TypeError, ValueError, OverflowError or RecursionError if it can't be encoded."""
        return _PLAIN.encode(_arranged(value)) if self._has_sets else _PLAIN.encode(value)

    def load(self, data: bytes) -> object:
        """Decode a value. Raises msgspec.ValidationError if it is of another type."""
        return self._decoder.decode(data)

    def dump_pieces(self, value: object) -> Iterator[bytes]:
        """Encode a container in pieces, or any other value in one."""
        if not self.pieced or not isinstance(value, Collection) or len(value) <= PIECE:
            yield self.dump(value)
        elif isinstance(value, dict):
            pairs = iter(value.items())
            while piece := dict(islice(pairs, PIECE)):
                yield self.dump(piece)
        else:
            elements = iter(_sorted(value) if isinstance(value, collections.abc.Set) else value)
            while some := list(islice(elements, PIECE)):
                yield self.dump(some)

    def load_pieces(self, pieces: Iterator[bytes]) -> object:
        """Decode what `dump_pieces` made."""
        whole = self.load(next(pieces))
        for piece in pieces:
            part = self.load(piece)
            if isinstance(whole, dict) and isinstance(part, dict):
                whole.update(part)
            elif isinstance(whole, list) and isinstance(part, list):
                whole.extend(part)
            elif isinstance(whole, set | frozenset) and isinstance(part, set | frozenset):
                whole |= part
            else:
                raise msgspec.ValidationError("a value in one piece has a second one")
        return whole


_RECORDS: Final = (types.StructType, types.DataclassType, types.NamedTupleType, types.TypedDictType)


def _walk(info: types.Type, seen: set[object]) -> Iterator[types.Type]:
    """A type and all types inside it; each record once."""
    yield info
    if isinstance(info, _RECORDS):
        if info.cls in seen:
            return
        seen.add(info.cls)
        for field in info.fields:
            yield from _walk(field.type, seen)
    elif isinstance(info, types.DictType):
        yield from _walk(info.key_type, seen)
        yield from _walk(info.value_type, seen)
    elif isinstance(info, types.ListType | types.SetType | types.FrozenSetType | types.VarTupleType):
        yield from _walk(info.item_type, seen)
    elif isinstance(info, types.TupleType):
        for part in info.item_types:
            yield from _walk(part, seen)
    elif isinstance(info, types.UnionType):
        for part in info.types:
            yield from _walk(part, seen)
    elif isinstance(info, types.Metadata):
        yield from _walk(info.type, seen)


def _name(kind: type) -> str:
    return getattr(kind, "__qualname__", str(kind))


def _arranged(value: object) -> object:
    """The value with its sets in an order, and its dicts in theirs."""
    if isinstance(value, dict):
        return {key: _arranged(one) for key, one in value.items()}
    if isinstance(value, collections.abc.Set):
        return _sorted(value)
    if isinstance(value, list) or type(value) is tuple:
        return [_arranged(one) for one in value]
    if value is None or isinstance(value, str | bytes | int | float):
        return value
    return msgspec.Raw(_SORTED.encode(value))  # a record: its fields keep their order, and it holds no dict


def _sorted(elements: collections.abc.Set[object]) -> list[msgspec.Raw]:
    return [msgspec.Raw(one) for one in sorted(map(_SORTED.encode, elements))]
