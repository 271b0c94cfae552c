"""The id of a node, as callers of the library see it."""

from __future__ import annotations

__all__ = ["NodeId"]


class NodeId(int):
    """The id of a node: a positive integer below 2**63, shown as hexadecimal digits.

    As text it has sixteen digits, as in log lines and in the command's output. Everywhere else it is an integer. For
    an encoder that knows plain integers alone, such as msgspec's, write `int(node_id)`.

        >>> NodeId(255)
        0xff
        >>> print(NodeId(255))
        00000000000000ff
        >>> NodeId(255) == 255
        True
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return hex(self)

    def __str__(self) -> str:
        return f"{self:016x}"
