"""What all connections of a server may have read in one turn of the event loop.

Each connection reads a bounded part of its input and goes on in a later turn. That alone bounds no turn: many
connections could each have their part in the same one. So what they read has a cost, and a turn has a budget. When it
is spent, the others wait in their order.
"""

from __future__ import annotations

from typing import Final

from syncline.platform.turn_budget import TurnBudget

__all__ = ["InputTurns", "fast_cost", "input_cost", "message_cost"]

TURN_COST: Final = 2_048
"""Of all connections in one turn. 1 stands for about 10 us, such as a frame of HTTP/2: so a turn has 20 ms, and what
the last message took. Elections are timed in hundreds of milliseconds."""

BYTES_A_COST: Final = 8
"""Bytes of a message that cost 1: decoding takes a microsecond for each in the worst case, a field of two bytes."""
LARGEST_COST: Final = TURN_COST
"""Of one message. A longer one has long values: the number of fields is limited."""


def message_cost(size_bytes: int) -> int:
    """The cost of decoding a message of this size."""
    return min(size_bytes // BYTES_A_COST, LARGEST_COST)


REQUEST_COST: Final = 6
"""Of one request of HTTP/1.1 with its answer."""
FAST_COST: Final = 3
"""Of one request that a shortcut has taken, with its answer: it spares the parser, and most of the routing."""
REFUSED_COST: Final = 8
"""Besides, of one whose credential was refused. To look at a wrong password takes 150 us in all, beside its scrypt."""
REFUSED_STATUS: Final = frozenset({401, 429})
"""The answers to those."""
HEAD_BYTES_A_COST: Final = 64
"""Bytes of headers that cost 1: a field takes half a microsecond."""
BODY_BYTES_A_COST: Final = 1024
"""Bytes of bodies that cost 1: they are copied."""


def input_cost(size_bytes: int, requests: int, *, is_body: bool) -> int:
    """The cost of input of HTTP/1.1 with so many new requests. `is_body`: it began within a body."""
    return requests * REQUEST_COST + size_bytes // (BODY_BYTES_A_COST if is_body else HEAD_BYTES_A_COST)


def fast_cost(size_bytes: int) -> int:
    """The cost of a request that a shortcut has taken, of so many bytes with its body."""
    return FAST_COST + size_bytes // BODY_BYTES_A_COST


class InputTurns(TurnBudget):
    """The budget of what is read."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(TURN_COST)
