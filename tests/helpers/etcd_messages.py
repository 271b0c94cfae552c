"""Random messages of etcd's interface, by the table."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from syncline.server.etcd.messages import ENUMS, MESSAGES, SCALARS, Message, MessageField

__all__ = ["messages"]

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.just(True),
    "bytes": st.binary(min_size=1, max_size=20),
    "string": st.text(min_size=1, max_size=20),
    "int64": st.integers(-(2**63), 2**63 - 1).filter(bool),
    "uint64": st.integers(1, 2**64 - 1),
    "uint32": st.integers(1, 2**32 - 1),
}
"""By type, values that are not the default."""


def values(field: MessageField, depth: int) -> st.SearchStrategy[Any]:
    """Values of a field that are not its default."""
    one: st.SearchStrategy[Any]
    if field.type in SCALARS:
        one = VALUES[field.type]
    elif field.type in ENUMS:
        one = st.sampled_from([number for number in ENUMS[field.type].values() if number] or [0])
    else:
        one = messages(field.type, depth - 1)
    return st.lists(one, min_size=1, max_size=3) if field.repeated else one


def messages(name: str, depth: int = 3) -> st.SearchStrategy[Message]:
    """Messages of one kind, with messages in them to a depth."""
    fields = [one for one in MESSAGES[name].values() if depth > 0 or one.type in SCALARS or one.type in ENUMS]
    return st.fixed_dictionaries({}, optional={field.name: values(field, depth) for field in fields})
