"""Quorums: decide by the answers of voters (thesis, 3.6.2 and 4.3).

A `MajorityConfig` decides by a majority of its voters. A `JointConfig` decides only if both of its halves do; with
an empty second half it is the first. An empty majority decides everything at once, which makes that work.

Both have two functions: the index up to which a quorum has acknowledged (`committed_index`), and the state of an
election (`vote_result`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Final

from syncline.consensus.types import NodeId

__all__ = ["INFINITE_INDEX", "JointConfig", "MajorityConfig", "VoteResult"]

INFINITE_INDEX: Final[int] = 2**64 - 1
"""The committed index of an empty quorum: everything."""


class VoteResult(IntEnum):
    """The state of an election."""

    PENDING = 1
    """Neither a quorum for nor a quorum against: votes that are missing will decide."""

    LOST = 2
    """The missing votes can't make a quorum any more."""

    WON = 3
    """A quorum of yes."""

    def __str__(self) -> str:
        return f"Vote{self.name.capitalize()}"


class MajorityConfig:
    """Voters that decide by majority. Immutable and compared by value."""

    __slots__ = ("_quorum", "voters")

    def __init__(self, voters: Iterable[NodeId] = ()) -> None:
        self.voters: Final[frozenset[NodeId]] = frozenset(voters)
        self._quorum: Final[int] = len(self.voters) // 2 + 1

    def committed_index(self, acked: Mapping[NodeId, int]) -> int:
        """The highest index that a majority has acknowledged. A voter that is missing from `acked` counts as 0."""
        if not self.voters:
            return INFINITE_INDEX
        known = acked.get
        indexes = sorted([known(voter, 0) for voter in self.voters])
        return indexes[-self._quorum]

    def vote_result(self, votes: Mapping[NodeId, bool]) -> VoteResult:
        """The state of an election if `votes` holds the answers so far. Answers of non-voters do not count."""
        if not self.voters:
            return VoteResult.WON
        granted = missing = 0
        for voter in self.voters:
            vote = votes.get(voter)
            if vote is None:
                missing += 1
            elif vote:
                granted += 1
        if granted >= self._quorum:
            return VoteResult.WON
        if granted + missing >= self._quorum:
            return VoteResult.PENDING
        return VoteResult.LOST

    def describe(self, acked: Mapping[NodeId, int]) -> str:
        """A drawing of the acknowledged indexes: per voter a bar as long as the number of voters it is ahead of."""
        if not self.voters:
            return "<empty majority quorum>"
        return _draw(sorted(self.voters), acked)

    def __iter__(self) -> Iterator[NodeId]:
        return iter(sorted(self.voters))

    def __len__(self) -> int:
        return len(self.voters)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self.voters

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MajorityConfig) and self.voters == other.voters

    def __hash__(self) -> int:
        return hash(self.voters)

    def __str__(self) -> str:
        return f"({' '.join(map(str, self))})"

    def __repr__(self) -> str:
        return f"MajorityConfig{self}"


class JointConfig:
    """Two majorities that must agree: the membership that is being entered, and the one that is being left.

    Outside of a change `outgoing` is empty and `incoming` decides alone.
    """

    __slots__ = ("incoming", "outgoing", "voters")

    def __init__(self, incoming: Iterable[NodeId] = (), outgoing: Iterable[NodeId] = ()) -> None:
        self.incoming: Final = incoming if isinstance(incoming, MajorityConfig) else MajorityConfig(incoming)
        self.outgoing: Final = outgoing if isinstance(outgoing, MajorityConfig) else MajorityConfig(outgoing)
        self.voters: Final[frozenset[NodeId]] = self.incoming.voters | self.outgoing.voters
        """The voters of both halves."""

    @property
    def joint(self) -> bool:
        """Whether there are two halves."""
        return bool(self.outgoing.voters)

    @property
    def singleton(self) -> bool:
        """Whether one voter decides alone."""
        return len(self.incoming.voters) == 1 and not self.outgoing.voters

    def committed_index(self, acked: Mapping[NodeId, int]) -> int:
        """The highest index that both halves have acknowledged."""
        index = self.incoming.committed_index(acked)
        if self.outgoing.voters:
            return min(index, self.outgoing.committed_index(acked))
        return index

    def vote_result(self, votes: Mapping[NodeId, bool]) -> VoteResult:
        """Won if both halves are won, lost if one of them is."""
        incoming = self.incoming.vote_result(votes)
        outgoing = self.outgoing.vote_result(votes)
        if incoming is outgoing:
            return incoming
        if VoteResult.LOST in (incoming, outgoing):
            return VoteResult.LOST
        return VoteResult.PENDING

    def describe(self, acked: Mapping[NodeId, int]) -> str:
        """As `MajorityConfig.describe`, for the voters of both halves."""
        if not self.voters:
            return "<empty majority quorum>"
        return _draw(sorted(self.voters), acked)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JointConfig) and (self.incoming, self.outgoing) == (other.incoming, other.outgoing)

    def __hash__(self) -> int:
        return hash((self.incoming, self.outgoing))

    def __str__(self) -> str:
        return f"{self.incoming}&&{self.outgoing}" if self.joint else str(self.incoming)

    def __repr__(self) -> str:
        return f"JointConfig{self}"


def _draw(voters: list[NodeId], acked: Mapping[NodeId, int]) -> str:
    width = len(voters)
    indexes = sorted(acked.get(voter, 0) for voter in voters)
    lines = [" " * width + "    idx"]
    for voter in voters:
        index = acked.get(voter)
        # Voters at the same index are ahead of the same number of others, so they get bars of the same length.
        ahead_of = indexes.index(index or 0)
        bar = "?" + " " * width if index is None else "x" * ahead_of + ">" + " " * (width - ahead_of)
        lines.append(f"{bar} {index or 0:5d}    (id={voter})")
    return "\n".join(lines) + "\n"
