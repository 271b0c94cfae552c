"""The starts of a node that a data directory knows, and the proof that a directory is an older copy.

Each start of a node has an incarnation: the count of the starts from its data directory, and 32 random bits. A
directory keeps its newest incarnations, this start's before the first greeting. Greetings carry them as the history.

A member receives promises (votes, acknowledgements) only on connections that it has welcomed. Before it welcomes a
start, it records its incarnation durably. Suppose that a directory is restored from an older copy. Then each member
that holds a later promise also knows a start that is not in the copy's history. Further starts do not hide this: each
one lengthens the history of the copy, which still lacks the start that the members know.

    known by the member   presented, with its history     meaning
    5:a                   5:a, or 6:b after 5:a           legitimate
    5:a                   4:c                             older copy, or an older process that still runs
    5:a                   5:d                             older copy that was started again, or two copies
    5:a                   7:e after 6:d, 5:d              the same, some starts later

Two processes on copies of one directory have equal counts too. A member never exchanges one for the other: it may
hold promises of the one that it knows, and the other one has not made them. If two members know different ones, both
copies are refused, unless a quorum of the members without that node knows one of them (`reports`).
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

__all__ = ["MAX_HISTORY", "RANDOM_BITS", "Origin", "are_forked", "judge", "next_incarnation", "start_count"]

RANDOM_BITS: Final = 32
"""They tell two starts with equal counts apart."""

MAX_COUNT: Final = (1 << 31) - 1
"""An incarnation stays below 2**63."""

MAX_HISTORY: Final = 32
"""Incarnations that a directory keeps. A member that missed more starts than these can't judge any more."""


class Origin(Enum):
    """The conclusion from a member's knowledge and a presented history about the data directory."""

    LEGITIMATE = auto()
    """It has lost nothing that the member knows of."""
    OLDER = auto()
    """Its newest start is older than the one that the member knows."""
    FORKED = auto()
    """Its history has another start under the count of the one that the member knows."""


def start_count(incarnation: int) -> int:
    """The count of starts in an incarnation."""
    return incarnation >> RANDOM_BITS


def next_incarnation(history: tuple[int, ...], random_bits: int) -> tuple[int, ...]:
    """The history with a new start in front; `history` has the newest first."""
    assert 0 <= random_bits < 1 << RANDOM_BITS, random_bits
    count = min(start_count(history[0]) + 1 if history else 1, MAX_COUNT)
    return (count << RANDOM_BITS | random_bits, *history)[:MAX_HISTORY]


def judge(known: int, presented: int, history: tuple[int, ...]) -> Origin:
    """Compare the newest incarnation that a member knows of a directory (0: none) with what the directory presents.

    `history` has the earlier incarnations, the newest first.
    """
    if known in (0, presented) or known in history:
        return Origin.LEGITIMATE
    known_count, count = start_count(known), start_count(presented)
    if count < known_count:
        return Origin.OLDER
    oldest = start_count(history[-1]) if history else count
    if oldest > known_count and len(history) + 1 >= MAX_HISTORY:
        return Origin.LEGITIMATE  # the known start is older than what a history holds: nothing contradicts it
    return Origin.FORKED


def are_forked(one: int, other: int) -> bool:
    """Whether two incarnations of a directory have one count, so that at most one of them may take part."""
    return one != other and start_count(one) == start_count(other)
