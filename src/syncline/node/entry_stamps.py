"""The leader's stamp on log entries: its wall clock, and the seed of the entry's random numbers.

The stamp is at the end of an entry's data (`envelope.StampedProposal`). A proposer does not make it: the leader adds
it when it appends, to its own proposals and to those of other nodes. So one clock counts in each term. Over a change
of leader the clock may fall; the applier then keeps the newest time so far (`EntryTimes`), which snapshots carry.

Older versions read no stamp. So the leader writes it from feature level 2 on (`levels`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from syncline.node.envelope import LATEST_TIME_S, StampedProposal, decode_proposal, encode

__all__ = ["STAMP_BYTES", "STAMP_LEVEL", "EntryStamps", "EntryTimes"]

STAMP_LEVEL: Final = 2
"""The cluster's feature level from which on the leader stamps entries."""

_PROPOSAL, _PLAIN, _STAMPED = 0x95, b"\x95", b"\x97"
"""How the data of an entry begins in MessagePack: an array of five, or of seven with the stamp."""

_STAMP: Final = struct.Struct(">BdBQ")
"""The two fields of the stamp in MessagePack: a float of 64 bits, and an unsigned integer of 64 bits."""

_FLOAT, _UINT = 0xCB, 0xCF

STAMP_BYTES: Final = _STAMP.size

_JOINED_BYTES: Final = 4096
"""From this size on, `join` copies a payload once. For smaller ones two copies take less time."""


class EntryStamps:
    """Stamps the entries that this node appends while it leads.

    `level` returns the cluster's feature level, `wall_time_s` the seconds since 1970. `seed` is the cluster's id.
    """

    def __init__(self, seed: int, level: Callable[[], int], wall_time_s: Callable[[], float]) -> None:
        self._seed = seed
        self._level = level
        self._wall_time_s = wall_time_s
        self._begun = False
        """Whether the level is high enough. It never falls, so it need not be asked again."""

    def stamped(self, payloads: list[bytes]) -> list[bytes]:
        """The data of proposals, each with a stamp of now; the same list while the cluster's level is too low."""
        if not self._begun:
            if self._level() < STAMP_LEVEL:
                return payloads
            self._begun = True
        time_s = self._wall_time_s()
        if not 0.0 <= time_s <= LATEST_TIME_S:
            # In this order: what is not a number counts as 0. A time out of range would make the entry unreadable.
            time_s = min(LATEST_TIME_S, max(0.0, time_s))
        stamp = _STAMP.pack(_FLOAT, time_s, _UINT, self._seed)
        if max(map(len, payloads)) >= _JOINED_BYTES:
            return [self._with_stamp(payload, time_s, stamp) for payload in payloads]
        return [  # the byte that is replaced is the first one
            payload.replace(_PLAIN, _STAMPED, 1) + stamp
            if payload[0] == _PROPOSAL
            else self._with_stamp(payload, time_s, stamp)
            for payload in payloads
        ]

    def _with_stamp(self, payload: bytes, time_s: float, stamp: bytes) -> bytes:
        if payload[0] == _PROPOSAL:
            return b"".join((_STAMPED, memoryview(payload)[1:], stamp))
        # It has a stamp from an earlier attempt, or another node has encoded it in an unusual way.
        held = decode_proposal(payload)
        return encode(
            StampedProposal(held.kind, held.origin, held.number, held.data, held.extensions, time_s, self._seed)
        )


class EntryTimes:
    """The time of each applied entry: that of its stamp, and never less than that of an entry before it.

    It depends on the log alone, and on the time in the snapshot before it. So it is the same on all nodes.
    """

    __slots__ = ("newest_s",)

    def __init__(self, newest_s: float) -> None:
        self.newest_s: float = newest_s

    def of(self, stamp_s: float) -> float:
        """The time of the next entry in the log."""
        if stamp_s > self.newest_s:
            self.newest_s = stamp_s
        return self.newest_s
