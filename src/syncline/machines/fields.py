"""The declared state of a machine: its fields, their types and their defaults."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import ClassVar, Final, get_origin

from msgspec import inspect as types

from syncline.errors import ConfigError
from syncline.machines.codec import Codec, UnfitType

__all__ = ["StateField", "is_class_variable"]

WHOLE: Final = 10_000
"""Elements of a container up to which a digest takes them all."""
ENDS: Final = 1_000
"""Elements that a digest takes of each end of a larger container."""

_EMPTY: Final[dict[type[types.Type], Callable[[], object]]] = {
    types.NoneType: lambda: None,
    types.BoolType: bool,
    types.IntType: int,
    types.FloatType: float,
    types.StrType: str,
    types.BytesType: bytes,
    types.ListType: list,
    types.DictType: dict,
    types.SetType: set,
    types.FrozenSetType: frozenset,
    types.VarTupleType: tuple,
}

_REQUIRED: Final = object()


class StateField:
    """One field of the state. `where` names it in errors, such as "Jobs.queue".

    Raises:
        ConfigError: its type can't be written to a snapshot and read back, or its default does not fit the type.
    """

    REQUIRED: ClassVar[object] = _REQUIRED
    """Stands for a default that is not given."""

    def __init__(self, where: str, name: str, kind: object, default: object) -> None:
        self.name = name
        try:
            self.codec: Codec = Codec(kind)
        except UnfitType as error:
            raise ConfigError(f"{where} can't be part of the state: {error}") from None
        try:
            value = self._empty() if default is _REQUIRED else default
            self._default = self.codec.dump(value)
            self.codec.load(self._default)
        except (TypeError, ValueError, OverflowError) as error:
            what = "the empty value" if default is _REQUIRED else f"the default {default!r:.80}"
            raise ConfigError(
                f"{where}: {what} does not fit the annotation ({error}); give a default that does, after ="
            ) from None

    def _empty(self) -> object:
        info = self.codec.info
        if isinstance(info, types.UnionType) and any(isinstance(part, types.NoneType) for part in info.types):
            return None
        make = _EMPTY.get(type(info))
        if make is not None:
            return make()
        if isinstance(info, types.StructType):
            return info.cls()
        raise TypeError("there is no empty value of this type")

    def default(self) -> object:
        """A default of its own for each machine."""
        return self.codec.load(self._default)

    def digest_into(self, digest: hashlib.blake2b, value: object) -> None:
        """Add the value. Of a large container the number of its elements counts, and both ends."""
        digest.update(self.name.encode() + b"\0")
        if not self.codec.pieced or not isinstance(value, list | dict | AbstractSet) or len(value) <= WHOLE:
            digest.update(self.codec.dump(value))
            return
        digest.update(b"%d" % len(value))
        for part in _ends(value):
            digest.update(self.codec.dump(part))


def _ends(value: list[object] | dict[object, object] | AbstractSet[object]) -> Iterator[object]:
    if isinstance(value, list):
        yield value[:ENDS]
        yield value[-ENDS:]
    elif isinstance(value, dict):
        yield dict(islice(value.items(), ENDS))
        yield {key: value[key] for key in islice(reversed(value), ENDS)}
    # A set has no ends: its elements stand in another order on each node.


def is_class_variable(hint: object) -> bool:
    """Whether an annotation is `ClassVar`."""
    return hint is ClassVar or get_origin(hint) is ClassVar
